// Checks our checkpoints and proofs with Go's sumdb packages, and makes some for us to check.
// Reads one JSON question from standard input, writes one JSON answer.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type proof struct {
	At, Size  int64
	Root, Old string
	Proof     []string
}

type question struct {
	Notes []struct {
		Note string
		Keys []string
	}
	Inclusion, Consistency []proof
	Leaves                 []string
	Sizes                  []int64
}

type answer struct {
	Errors                 []string
	Notes                  int
	Inclusion, Consistency int
	Key                    string
	Checkpoints            []string
	Theirs                 []proof
	TheirTrees             []proof
}

type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s[x]
	}
	return out, nil
}

func hash(text string) tlog.Hash {
	var h tlog.Hash
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != len(h) {
		panic("not a hash: " + text)
	}
	copy(h[:], raw)
	return h
}

func hashes(texts []string) []tlog.Hash {
	out := []tlog.Hash{}
	for _, text := range texts {
		out = append(out, hash(text))
	}
	return out
}

func texts(hashes []tlog.Hash) []string {
	out := []string{}
	for _, h := range hashes {
		out = append(out, base64.StdEncoding.EncodeToString(h[:]))
	}
	return out
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var q question
	var a answer
	must(json.NewDecoder(os.Stdin).Decode(&q))
	for _, n := range q.Notes {
		verifiers := []note.Verifier{}
		for _, key := range n.Keys {
			v, err := note.NewVerifier(key)
			must(err)
			verifiers = append(verifiers, v)
		}
		opened, err := note.Open([]byte(n.Note), note.VerifierList(verifiers...))
		if err != nil || len(opened.Sigs) != len(n.Keys) {
			a.Errors = append(a.Errors, fmt.Sprintf("note %q: %v", n.Note, err))
			continue
		}
		a.Notes++
	}
	for _, p := range q.Inclusion {
		err := tlog.CheckRecord(hashes(p.Proof), p.Size, hash(p.Root), p.At, hash(p.Old))
		if err != nil {
			a.Errors = append(a.Errors, fmt.Sprintf("leaf %d of %d: %v", p.At, p.Size, err))
			continue
		}
		a.Inclusion++
	}
	for _, p := range q.Consistency {
		err := tlog.CheckTree(hashes(p.Proof), p.Size, hash(p.Root), p.At, hash(p.Old))
		if err != nil {
			a.Errors = append(a.Errors, fmt.Sprintf("tree %d in %d: %v", p.At, p.Size, err))
			continue
		}
		a.Consistency++
	}
	var s stored
	for n, leaf := range q.Leaves {
		more, err := tlog.StoredHashes(int64(n), []byte(leaf), s)
		must(err)
		s = append(s, more...)
	}
	secret, public, err := note.GenerateKey(nil, "go.example/log")
	must(err)
	signer, err := note.NewSigner(secret)
	must(err)
	a.Key = public
	for _, size := range q.Sizes {
		root, err := tlog.TreeHash(size, s)
		must(err)
		text := fmt.Sprintf("go.example/log\n%d\n%s\n", size, root)
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		must(err)
		a.Checkpoints = append(a.Checkpoints, string(signed))
		for _, at := range []int64{0, size / 3, size - 1} {
			p, err := tlog.ProveRecord(size, at, s)
			must(err)
			a.Theirs = append(a.Theirs, proof{At: at, Size: size, Root: root.String(), Proof: texts(p)})
			t, err := tlog.ProveTree(size, at+1, s)
			must(err)
			old, err := tlog.TreeHash(at+1, s)
			must(err)
			a.TheirTrees = append(a.TheirTrees, proof{At: at + 1, Size: size, Root: root.String(), Old: old.String(), Proof: texts(t)})
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(a))
}
