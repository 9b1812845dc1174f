//! Others check what we make, and we check what they make: Go's `sumdb` packages, the test vectors
//! of transparency-dev, PyPI's rfc8785. What a machine lacks is listed as not run; in CI that is an
//! error.
#![expect(clippy::expect_used, reason = "tests with a main of their own")]
mod common;
#[path = "peers/schema.rs"]
mod schema;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use common::place;
use schema::Schema;
use serde_json::{Value, json};
use signed_note::{StandardVerifier, VerifierList};
use syshold_ledger::note::{VerifierKey, parse_checkpoint};
use syshold_ledger::query::Query;
use syshold_ledger::tree::{self, Frontier, Place};
use syshold_ledger::{
    Draft, Kind, Ledger, Options, Reader, TreeHash, evidence, leaf_hash, ocsf, verify,
};

/// What a machine may lack, and how to get it.
enum Verdict {
    Run,
    /// Something that `cargo xtask setup` installs: an error in CI.
    Missing(String),
    /// Public data that is not part of the project: listed as not run.
    Elsewhere(String),
}

fn main() -> ExitCode {
    type Test = (&'static str, fn() -> Verdict);
    let tests: [Test; 5] = [
        ("go_and_signed_note_agree", go_and_signed_note_agree),
        (
            "the_vectors_of_transparency_dev",
            the_vectors_of_transparency_dev,
        ),
        ("go_checks_a_bundle", go_checks_a_bundle),
        (
            "events_fit_the_schema_of_ocsf",
            events_fit_the_schema_of_ocsf,
        ),
        (
            "rfc8785_spells_leaves_the_same",
            rfc8785_spells_leaves_the_same,
        ),
    ];
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let (mut run, mut skipped, mut elsewhere, total) = (0, 0, 0, tests.len());
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        match test() {
            Verdict::Run => {
                println!("test {name} ... ok");
                run += 1;
            }
            Verdict::Missing(what) => {
                assert!(std::env::var_os("CI").is_none(), "{name}: {what}");
                println!("test {name} ... ignored, {what}");
                skipped += 1;
            }
            Verdict::Elsewhere(what) => {
                println!("test {name} ... not run: {what}");
                elsewhere += 1;
            }
        }
    }
    let filtered = total - run - skipped - elsewhere;
    println!(
        "\ntest result: ok. {run} passed; 0 failed; {skipped} ignored; 0 measured; {filtered} filtered out"
    );
    ExitCode::SUCCESS
}

fn text(hash: TreeHash) -> String {
    BASE64_STANDARD.encode(hash.0)
}

fn hash(value: &Value) -> TreeHash {
    let bytes = BASE64_STANDARD.decode(value.as_str().expect("a hash"));
    TreeHash(bytes.expect("base64").try_into().expect("32 bytes"))
}

fn proof(value: &Value) -> Vec<TreeHash> {
    let list = value.as_array().into_iter().flatten();
    list.map(hash).collect()
}

/// A real ledger with some epochs; every checkpoint it ever published, and its keys.
fn published(path: &Path) -> (Vec<String>, Vec<String>) {
    let options = Options {
        epoch_leaves: 16,
        ..Options::default()
    };
    let ledger = Ledger::open_with(path, "web-1".parse().expect("a name"), options);
    let ledger = ledger.expect("a ledger");
    let mut notes = Vec::new();
    for n in 0..100 {
        let draft = Draft::new(Kind::Review).field("n", &n);
        ledger.append(draft).wait().expect("recorded");
        let latest = ledger.published().borrow().clone();
        notes.push(latest.expect("a checkpoint").note.to_string());
    }
    drop(ledger);
    let keys = Reader::open(path)
        .expect("a ledger")
        .tail(1000)
        .expect("leaves")
        .iter()
        .flat_map(|leaf| {
            let keys = leaf.value()["keys"].clone();
            [keys["identity"].clone(), keys["epoch"].clone()]
        })
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect();
    (notes, keys)
}

fn go_and_signed_note_agree() -> Verdict {
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/peer.go");
    if !go_is_there() {
        return Verdict::Missing("needs golang-go and golang-golang-x-mod-dev".into());
    }
    let (dir, path) = place();
    let (notes, keys) = published(&path);
    let verifiers: Vec<VerifierKey> = keys
        .iter()
        .map(|key| key.parse().expect("our own key"))
        .collect();
    assert!(verifiers.len() > 5, "{} keys", verifiers.len());
    let mut asked = Vec::new();
    for raw in &notes {
        let (note, _) = parse_checkpoint(raw).expect("our own checkpoint");
        let by = |key: &&VerifierKey| {
            note.signatures
                .iter()
                .any(|line| line.verify(key, &note.text).is_some())
        };
        let signers: Vec<_> = verifiers
            .iter()
            .filter(by)
            .map(ToString::to_string)
            .collect();
        assert_eq!(signers.len(), 2, "{raw}");
        let known = signers.iter().map(|key| {
            let verifier = StandardVerifier::new(key).expect("a key for signed_note");
            Box::new(verifier) as Box<dyn signed_note::Verifier>
        });
        let theirs = signed_note::Note::from_bytes(raw.as_bytes()).expect("a note to signed_note");
        let (verified, unknown) = theirs
            .verify(&VerifierList::new(known.collect()))
            .expect("verified by signed_note");
        assert_eq!((verified.len(), unknown.len()), (2, 0));
        tlog_tiles::Checkpoint::from_bytes(note.text.as_bytes())
            .expect("a checkpoint to tlog_tiles");
        asked.push(json!({"Note": raw, "Keys": signers}));
    }

    const LEAVES: u64 = 1025;
    let mut nodes = std::collections::HashMap::new();
    let (mut edge, mut edges) = (Frontier::default(), vec![Frontier::default()]);
    for n in 0..LEAVES {
        let leaf = leaf_hash(format!("leaf {n}").as_bytes());
        nodes.insert(Place { level: 0, n }, leaf);
        edge.push(leaf, |place, hash| {
            nodes.insert(place, hash);
        });
        edges.push(edge.clone());
    }
    let at = |place: Place| Ok::<_, Infallible>(nodes[&place]);
    let (mut inclusion, mut consistency) = (Vec::new(), Vec::new());
    for size in 1..=LEAVES {
        let root = text(edges[size as usize].root());
        for idx in [0, size / 3, size / 2, size - 1] {
            let Ok(steps) = tree::inclusion(idx, size, at);
            let leaf = text(nodes[&Place { level: 0, n: idx }]);
            let steps: Vec<_> = steps.into_iter().map(text).collect();
            inclusion
                .push(json!({"At": idx, "Size": size, "Root": root, "Old": leaf, "Proof": steps}));
            let Ok(steps) = tree::consistency(idx + 1, size, at);
            let old = text(edges[idx as usize + 1].root());
            let steps: Vec<_> = steps.into_iter().map(text).collect();
            consistency.push(
                json!({"At": idx + 1, "Size": size, "Root": root, "Old": old, "Proof": steps}),
            );
        }
    }
    let question = json!({
        "Notes": asked,
        "Inclusion": inclusion,
        "Consistency": consistency,
        "Leaves": (0..LEAVES).map(|n| format!("leaf {n}")).collect::<Vec<_>>(),
        "Sizes": (1..=LEAVES).collect::<Vec<_>>(),
    });
    let answer = ask_go(&peer, dir.path(), &question);
    assert_eq!(answer["Errors"], Value::Null);
    assert_eq!(answer["Notes"], 100);
    let all = (inclusion.len(), consistency.len());
    assert_eq!(
        (&answer["Inclusion"], &answer["Consistency"]),
        (&all.0.into(), &all.1.into())
    );

    let key: VerifierKey = answer["Key"]
        .as_str()
        .expect("a key")
        .parse()
        .expect("Go's key");
    for raw in answer["Checkpoints"].as_array().expect("checkpoints") {
        let (note, theirs) = parse_checkpoint(raw.as_str().expect("a note")).expect("Go's note");
        assert_eq!(note.signatures[0].verify(&key, &note.text), Some(0));
        assert_eq!(
            theirs.root,
            edges[theirs.size as usize].root(),
            "size {}",
            theirs.size
        );
        assert_eq!(
            note.to_string(),
            raw.as_str().expect("a note"),
            "the same bytes again"
        );
    }
    let number = |value: &Value| value.as_u64().expect("a number");
    for theirs in answer["Theirs"].as_array().expect("proofs") {
        let (idx, size) = (number(&theirs["At"]), number(&theirs["Size"]));
        let leaf = nodes[&Place { level: 0, n: idx }];
        assert!(tree::included(
            leaf,
            idx,
            size,
            &proof(&theirs["Proof"]),
            hash(&theirs["Root"])
        ));
    }
    for theirs in answer["TheirTrees"].as_array().expect("proofs") {
        let (old, size) = (number(&theirs["At"]), number(&theirs["Size"]));
        let (before, root) = (hash(&theirs["Old"]), hash(&theirs["Root"]));
        assert!(tree::consistent(
            old,
            before,
            size,
            root,
            &proof(&theirs["Proof"])
        ));
    }
    println!(
        "figure: Go verified {} checkpoints, {} inclusion and {} consistency proofs of ours; we verified {} checkpoints and {} proofs of its",
        asked.len(),
        all.0,
        all.1,
        LEAVES,
        LEAVES * 6
    );
    Verdict::Run
}

fn go_is_there() -> bool {
    let packages = Path::new("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog");
    packages.exists() && Command::new("go").arg("version").output().is_ok()
}

fn ask_go(peer: &Path, scratch: &Path, question: &Value) -> Value {
    let input = scratch.join("question.json");
    std::fs::write(&input, question.to_string()).expect("written");
    let output = Command::new("go")
        .args(["run".as_ref(), peer.as_os_str()])
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", scratch.join("cache"))
        .stdin(std::fs::File::open(&input).expect("the question"))
        .stderr(Stdio::inherit())
        .output()
        .expect("go");
    assert!(output.status.success(), "go run: {}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON from Go")
}

/// Beside the project, or where `SYSHOLD_VECTORS` says.
fn vectors() -> PathBuf {
    std::env::var_os("SYSHOLD_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
        PathBuf::from,
    )
}

fn json_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder of vectors") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(json_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            found.push(path);
        }
    }
    found
}

fn the_vectors_of_transparency_dev() -> Verdict {
    let root = vectors().join("rfc6962/testdata");
    if !root.is_dir() {
        let at = vectors();
        return Verdict::Elsewhere(format!(
            "no vectors in {}; see SYSHOLD_VECTORS",
            at.display()
        ));
    }
    let mut checked = [0, 0];
    for (n, kind) in ["inclusion", "consistency"].into_iter().enumerate() {
        for file in json_files(&root.join(kind)) {
            let raw = std::fs::read(&file).expect("readable");
            let vector: Value = serde_json::from_slice(&raw).expect("JSON");
            let number = |name: &str| vector[name].as_u64();
            let bytes = |value: &Value| {
                let text = value.as_str().unwrap_or_default();
                let bytes = BASE64_STANDARD.decode(text).expect("base64");
                // Some only have to be the same or not, and are no hashes; nothing is none at all.
                match <[u8; 32]>::try_from(bytes) {
                    Ok(bytes) => Some(TreeHash(bytes)),
                    Err(short) => (!short.is_empty()).then(|| leaf_hash(&short)),
                }
            };
            let steps: Option<Vec<_>> = vector["proof"]
                .as_array()
                .into_iter()
                .flatten()
                .map(bytes)
                .collect();
            // What is no number or hash is refused when it is read.
            let holds = (|| {
                let steps = steps?;
                Some(if kind == "inclusion" {
                    let leaf = bytes(&vector["leafHash"])?;
                    let (idx, size) = (number("leafIdx")?, number("treeSize")?);
                    tree::included(leaf, idx, size, &steps, bytes(&vector["root"])?)
                } else {
                    let (old, size) = (number("size1")?, number("size2")?);
                    let (before, after) = (bytes(&vector["root1"])?, bytes(&vector["root2"])?);
                    tree::consistent(old, before, size, after, &steps)
                })
            })();
            let fails = vector["wantErr"].as_bool().expect("wantErr");
            assert_eq!(holds.unwrap_or(false), !fails, "{}", file.display());
            checked[n] += 1;
        }
    }
    println!(
        "figure: transparency-dev: {} of 196 vectors answered as they say",
        checked[0] + checked[1]
    );
    assert_eq!(checked, [98, 98]);

    let log = vectors().join("tlog/testdata/log");
    let key: VerifierKey =
        "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
            .parse()
            .expect("the log's key");
    let words =
        "one two three four five six seven eit nain ten ileven twelf threeten fourten fivten";
    let mut edge = Frontier::default();
    let mut verified = 0;
    for word in words.split(' ') {
        edge.push(leaf_hash(word.as_bytes()), |_, _| {});
        let raw = std::fs::read_to_string(log.join(format!("checkpoint.{}", edge.size())));
        let Ok(raw) = raw else { continue };
        let (note, checkpoint) = parse_checkpoint(&raw).expect("a checkpoint");
        assert!(
            note.signatures
                .iter()
                .any(|line| line.verify(&key, &note.text).is_some())
        );
        assert_eq!(
            (checkpoint.size, checkpoint.root),
            (edge.size(), edge.root())
        );
        verified += 1;
    }
    assert!(verified > 10, "{verified} checkpoints");
    Verdict::Run
}

/// In a virtual environment of its own, kept between runs.
fn python_with_rfc8785() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rfc8785");
    let python = venv.join("bin/python3");
    let ready = venv.join("ready");
    if ready.exists() {
        return Ok(python);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output();
        match done {
            Ok(done) if done.status.success() => Ok(()),
            _ => Err(format!(
                "{} {arguments:?}: needs python3 with venv, and PyPI",
                program.display()
            )),
        }
    };
    let at = venv.display().to_string();
    run(Path::new("python3"), &["-m", "venv", "--clear", &at])?;
    run(
        &python,
        &["-m", "pip", "install", "--quiet", "rfc8785==0.1.4"],
    )?;
    std::fs::write(ready, "").map_err(|error| error.to_string())?;
    Ok(python)
}

fn rfc8785_spells_leaves_the_same() -> Verdict {
    const CHECK: &str = "
import json, sys, rfc8785
n = 0
for line in sys.stdin.buffer:
    line = line.rstrip(b'\\n')
    assert rfc8785.dumps(json.loads(line)) == line, line
    n += 1
print(n)
";
    let python = match python_with_rfc8785() {
        Ok(python) => python,
        Err(what) => return Verdict::Missing(what),
    };
    let (dir, path) = place();
    let ledger = common::open(&path);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let pending: Vec<_> = (0..10_000)
        .map(|_| {
            let any: String = (0..next() % 24)
                .filter_map(|_| char::from_u32((next() % 0x11_0000) as u32))
                .collect();
            let number = (next() >> 11) as i64 - (1 << 52);
            let value =
                json!({"text": any, &any: number, "list": [true, null, {"z": 1, "a": any}]});
            ledger.append(Draft::new(Kind::Review).field("any", &value))
        })
        .collect();
    for one in pending {
        one.wait().expect("recorded");
    }
    drop(ledger);
    let lines: String = Reader::open(&path)
        .expect("a ledger")
        .tail(100_000)
        .expect("leaves")
        .iter()
        .map(|leaf| leaf.body.clone() + "\n")
        .collect();
    let input = dir.path().join("leaves.jsonl");
    std::fs::write(&input, &lines).expect("written");
    let output = Command::new(&python)
        .args(["-c", CHECK])
        .stdin(std::fs::File::open(&input).expect("leaves"))
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(said, lines.lines().count().to_string());
    println!("figure: {said} leaves byte-equal with PyPI rfc8785");
    Verdict::Run
}

/// The program in every bundle, on a bundle: as an auditor would.
fn go_checks_a_bundle() -> Verdict {
    if !go_is_there() {
        return Verdict::Missing("needs golang-go and golang-golang-x-mod-dev".into());
    }
    let (dir, path) = place();
    common::filled(&path, 40);
    let reader = Reader::open(&path).expect("a ledger");
    let proof = verify(&path, |_, _| {}).expect("a report");
    let mut query = Query::default();
    query.filter.kind = Some("decision".into());
    let file = dir.path().join("bundle.zip");
    let out = std::fs::File::create(&file).expect("a file");
    let now = jiff::Timestamp::now();
    evidence::write(&reader, &query, &proof, now, out).expect("a bundle");
    let bundle = dir.path().join("bundle");
    let opened = std::fs::File::open(&file).expect("the bundle");
    let mut zip = zip::ZipArchive::new(opened).expect("a ZIP");
    zip.extract(&bundle).expect("extracted");
    let run = || {
        Command::new("go")
            .args(["run", "verify.go"])
            .current_dir(&bundle)
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", dir.path().join("cache"))
            .output()
            .expect("go")
    };
    let output = run();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.starts_with("40 records are in the log"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // With OpenSSL, as VERIFY.md says.
    let guide = std::fs::read_to_string(bundle.join("VERIFY.md")).expect("a guide");
    let commands: String = guide
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("sed ") || line.starts_with("openssl "))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let signed = Command::new("sh")
        .args(["-ec", &commands])
        .current_dir(&bundle)
        .output();
    let signed = signed.expect("a shell");
    assert!(
        signed.status.success(),
        "{commands}{}",
        String::from_utf8_lossy(&signed.stderr)
    );
    assert!(String::from_utf8_lossy(&signed.stdout).contains("Verified Successfully"));
    let records = bundle.join("records.jsonl");
    let changed = std::fs::read_to_string(&records)
        .expect("records")
        .replacen("dave", "dora", 1);
    std::fs::write(&records, changed).expect("changed");
    assert!(!run().status.success(), "a changed record is not proven");
    Verdict::Run
}

fn events_fit_the_schema_of_ocsf() -> Verdict {
    let schema = Schema(vectors().join("ocsf-1.8.0"));
    if !schema.0.is_dir() {
        return Verdict::Elsewhere(format!(
            "no schema in {}; see SYSHOLD_VECTORS",
            schema.0.display()
        ));
    }
    let (_dir, path) = place();
    common::story::story(&path);
    let mut checked = std::collections::BTreeMap::new();
    for leaf in Reader::open(&path)
        .expect("a ledger")
        .tail(1000)
        .expect("leaves")
    {
        let event = ocsf::event(&leaf);
        let profiles: Vec<String> = event["metadata"]["profiles"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        let class = match event["class_uid"].as_u64() {
            Some(1001) => "file_activity",
            Some(1007) => "process_activity",
            Some(4001) => "network_activity",
            _ => "base_event",
        };
        let attributes = schema.attributes("events", class, &profiles);
        schema.check(class, &event, &attributes, &profiles);
        let number = |name: &str| event[name].as_u64().expect("a number");
        let (category, uid) = match class {
            "file_activity" | "process_activity" => (
                "system",
                schema.read(&format!("events/system/{class}.json")),
            ),
            "network_activity" => (
                "network",
                schema.read(&format!("events/network/{class}.json")),
            ),
            _ => ("", None),
        };
        let uid = uid.map_or(0, |class| class["uid"].as_u64().expect("a uid"));
        let categories = schema.read("categories.json").expect("categories");
        let category = categories["attributes"][category]["uid"]
            .as_u64()
            .unwrap_or(0);
        assert_eq!(
            (number("category_uid"), number("class_uid")),
            (category, category * 1000 + uid)
        );
        assert_eq!(
            number("type_uid"),
            number("class_uid") * 100 + number("activity_id")
        );
        *checked.entry(class).or_insert(0) += 1;
    }
    println!("figure: events that fit the schema of OCSF 1.8.0: {checked:?}");
    assert_eq!(checked.len(), 4);
    Verdict::Run
}
