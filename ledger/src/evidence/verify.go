// Checks this bundle with Go's sumdb packages, which the makers of the ledger did not write:
//
//	go mod init check && go get golang.org/x/mod && go run verify.go [VERIFIER_KEY]
//
// Give the verifier key that you were told by somebody other than the sender of the bundle.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func read(name string) []byte {
	data, err := os.ReadFile(name)
	if err != nil {
		log.Fatal(err)
	}
	return data
}

func main() {
	key := strings.TrimSpace(string(read("keys/identity.vkey")))
	if len(os.Args) > 1 {
		key = os.Args[1]
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		log.Fatal(err)
	}
	checkpoint := read("checkpoint")
	opened, err := note.Open(checkpoint, note.VerifierList(verifier))
	if err != nil {
		log.Fatal(err)
	}
	var origin, root64 string
	var size int64
	if _, err := fmt.Sscanf(opened.Text, "%s\n%d\n%s\n", &origin, &size, &root64); err != nil {
		log.Fatal(err)
	}
	root, err := tlog.ParseHash(root64)
	if err != nil {
		log.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(read("records.jsonl")))
	lines.Buffer(nil, 1<<20)
	proven := 0
	for lines.Scan() {
		var leaf struct{ Idx int64 }
		if err := json.Unmarshal(lines.Bytes(), &leaf); err != nil {
			log.Fatal(err)
		}
		head, signed, _ := strings.Cut(string(read(fmt.Sprintf("proofs/%d.tlog-proof", leaf.Idx))), "\n\n")
		if signed != string(checkpoint) {
			log.Fatalf("leaf %d: proven against another checkpoint", leaf.Idx)
		}
		var proof tlog.RecordProof
		for _, line := range strings.Split(head, "\n")[2:] {
			raw, err := base64.StdEncoding.DecodeString(line)
			if err != nil || len(raw) != tlog.HashSize {
				log.Fatalf("leaf %d: not a hash: %s", leaf.Idx, line)
			}
			proof = append(proof, tlog.Hash(*(*[tlog.HashSize]byte)(raw)))
		}
		if err := tlog.CheckRecord(proof, size, root, leaf.Idx, tlog.RecordHash(lines.Bytes())); err != nil {
			log.Fatalf("leaf %d: %v", leaf.Idx, err)
		}
		proven++
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d records are in the log %s of %d leaves, signed by %s\n", proven, origin, size, key)
}
