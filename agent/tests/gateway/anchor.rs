//! The ledger before its witness, over real TLS: cosigned as it grows, and believed no more when it
//! is less than what the gateway saw.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Method;
use syshold_agent::anchor::{Anchor, Standing};
use syshold_agent::approver::Approver;
use syshold_approver::store::Store;
use syshold_ledger::note::{NoteSigner, Role, VerifierKey, parse_checkpoint};
use syshold_ledger::witness::Submission;
use syshold_ledger::{Draft, Exit, Kind, Ledger, Options, Reader, Trust, verify_with};
use syshold_protocol::{LogClaim, LogState, SigningKey, dsse};
use tokio::sync::mpsc;

use super::real::World;
use super::request;
use super::scripted::{Ca, Say, Scripted, say};

const PATIENCE: Duration = Duration::from_secs(20);

/// A ledger in a folder of its own, which can be copied.
fn open(world: &World, name: &str) -> (Ledger, PathBuf) {
    let dir = world.path(name);
    if !dir.exists() {
        fs::create_dir(&dir).unwrap();
    }
    let path = dir.join("ledger.db");
    let options = || Options {
        epoch_leaves: 8,
        ..Options::default()
    };
    // The one before is closed by a task that has ended, or is about to.
    for _ in 0..100 {
        match Ledger::open_with(&path, "web-1".parse().unwrap(), options()) {
            Ok(ledger) => return (ledger, path),
            Err(syshold_ledger::OpenError::InUse { .. }) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{} stays in use", path.display());
}

async fn grow(ledger: &Ledger, leaves: u32) -> u64 {
    let mut size = 0;
    for _ in 0..leaves {
        size = ledger.append(Draft::new(Kind::Review)).await.unwrap().idx + 1;
    }
    size
}

fn copy(from: &Path, to: &Path) {
    let _fresh = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Waits until so many leaves are witnessed, nudging as round trips do.
async fn cosigned(anchor: &Anchor, least: u64) -> Standing {
    let done = async {
        loop {
            let standing = anchor.standing();
            if standing.cosigned.is_some_and(|(size, _)| size >= least) {
                return standing;
            }
            anchor.nudge();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.unwrap()
}

fn witnessed(world: &World) -> VerifierKey {
    let keys = syshold_approver::keys::Keys::open(&world.path("gateway")).unwrap();
    keys.witness.verifier()
}

/// A run of the daemon that ends well; gives the size at its end.
async fn run(world: &World, name: &str, leaves: u32) -> u64 {
    let (ledger, path) = open(world, name);
    let (approver, _events) = world.client();
    let mut anchor = Anchor::start(approver.log(), ledger.clone(), path).unwrap();
    anchor.compared(PATIENCE).await.unwrap();
    let size = grow(&ledger, leaves).await;
    cosigned(&anchor, size).await;
    // The leaf that names the witness may come last of all.
    anchor.last(PATIENCE).await;
    let size = ledger.published().borrow().as_ref().unwrap().size;
    drop((anchor, approver, ledger));
    closed(&world.path(name).join("ledger.db")).await;
    size
}

/// Waits until whoever wrote it has closed it: SQLite writes, and removes its log, until then.
async fn closed(path: &Path) {
    let lock = fs::File::open(path.with_extension("lock")).unwrap();
    let done = async {
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_is_cosigned_and_can_then_be_pruned() {
    let world = World::start().await;
    let size = run(&world, "host", 30).await;
    let path = world.path("host/ledger.db");
    let report = verify_with(&path, &Trust::default(), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{report:?}");
    let seen = report.cosigned.as_ref().unwrap();
    assert_eq!(seen.size, size);
    let key = witnessed(&world);
    assert_eq!(seen.witness, key.name(), "the ledger names it itself");

    // Who says whose word counts is believed; the ledger's own witness does not, then.
    let stranger = NoteSigner::new("stranger", Role::Witness, &[3; 32]).unwrap();
    let pinned = |key| Trust {
        witnesses: vec![key],
        ..Trust::default()
    };
    let other = verify_with(&path, &pinned(stranger.verifier()), |_, _| {}).unwrap();
    assert_eq!(other.cosigned, None);
    let db = path.to_str().unwrap();
    let shown = world
        .syshold(&[
            "ledger",
            "verify",
            "--db",
            db,
            "--witness",
            &key.to_string(),
        ])
        .await;
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success(), "{text}");
    assert!(
        text.contains(&format!("{size}")) && text.contains(key.name()),
        "{text}"
    );

    // What `prune` refused on hosts that nobody witnessed.
    let words = ["ledger", "prune", "--db", db, "--keep", "0"];
    let pruned = world.syshold(&words).await;
    assert!(pruned.status.success(), "{pruned:?}");
    let report = verify_with(&path, &Trust::default(), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{report:?}");
    assert!(report.first >= 16, "{report:?}");
    assert_eq!(report.cosigned.unwrap().size, size);
    // And what is left goes on being witnessed.
    let more = run(&world, "host", 3).await;
    assert!(more > size);
    let report = verify_with(&path, &Trust::default(), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{report:?}");
    assert_eq!(report.cosigned.unwrap().size, more);
}

/// Well before the minute that leaves may wait otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_takes_the_newest_leaves_along() {
    let world = World::start().await;
    let (ledger, path) = open(&world, "led");
    let (mut approver, _events) = world.client();
    let mut anchor = Anchor::start(approver.log(), ledger.clone(), path).unwrap();
    anchor.compared(PATIENCE).await.unwrap();
    let size = grow(&ledger, 1).await;
    cosigned(&anchor, size + 1).await;
    let size = grow(&ledger, 3).await;
    let request = request(&approver.gateway().host_id, PATIENCE);
    approver.ask(&request).unwrap();
    let seen = || {
        anchor
            .standing()
            .cosigned
            .is_some_and(|(seen, _)| seen >= size)
    };
    let soon = async {
        while !seen() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, soon).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_put_back_is_refused_at_start() {
    let world = World::start().await;
    let early = run(&world, "led", 12).await;
    copy(&world.path("led"), &world.path("kept"));
    let late = run(&world, "led", 12).await;
    assert!(late > early);

    // Root puts the old copy back, keys and all: by itself it is a good ledger.
    copy(&world.path("kept"), &world.path("led"));
    let path = world.path("led/ledger.db");
    let report = verify_with(&path, &Trust::default(), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{report:?}");
    let (ledger, path) = open(&world, "led");
    let (approver, _events) = world.client();
    let mut anchor = Anchor::start(approver.log(), ledger, path).unwrap();
    let alarm = anchor.compared(PATIENCE).await.unwrap_err();
    assert!(alarm.starts_with("E_ROLLBACK"), "{alarm}");
    let both = format!("expected {late} leaves");
    assert!(
        alarm.contains(&both) && alarm.contains("new-ledger"),
        "{alarm}"
    );
    assert_eq!(anchor.alarm().await, alarm);
    drop(anchor);
    assert_eq!(
        Reader::open(&world.path("led/ledger.db"))
            .unwrap()
            .size()
            .unwrap(),
        early,
        "nothing was added to it"
    );
    // The gateway has it on record, whatever the host says.
    let gateway = Reader::open(&world.path("gateway/ledger.db")).unwrap();
    let leaves = gateway.tail(100).unwrap();
    let told = format!("E_ROLLBACK: {early} leaves of {late}");
    assert!(
        leaves
            .iter()
            .any(|leaf| leaf.value()["log"]["alarm"] == *told),
        "{leaves:?}"
    );

    // Grown beyond what was seen, where nobody could see it: another history.
    let (ledger, path) = open(&world, "led");
    grow(&ledger, 40).await;
    let mut anchor = Anchor::start(approver.log(), ledger, path).unwrap();
    let alarm = anchor.compared(PATIENCE).await.unwrap_err();
    assert!(alarm.starts_with("E_FORK"), "{alarm}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ledger_is_refused_until_the_gateway_allows_it() {
    let world = World::start().await;
    run(&world, "led", 5).await;
    let (ledger, path) = open(&world, "new");
    let (approver, _events) = world.client();
    let mut anchor = Anchor::start(approver.log(), ledger, path).unwrap();
    let alarm = anchor.compared(PATIENCE).await.unwrap_err();
    assert!(alarm.starts_with("E_ROLLBACK"), "{alarm}");
    assert!(alarm.contains("hosts new-ledger"), "{alarm}");
    drop(anchor);
    let store = Store::open(&world.path("gateway")).unwrap();
    assert!(store.forget_log(&approver.gateway().host_id).unwrap());
    run(&world, "new", 5).await;
}

/// A gateway that answers with what a test says; `state` and `line` are about the ledger.
fn liar(
    ca: &Ca,
    decides: SigningKey,
    seen: impl Fn(&LogClaim) -> Option<String> + Send + Sync + 'static,
    line: impl Fn(&Submission) -> Say + Send + Sync + 'static,
) -> Scripted {
    Scripted::start(ca.tls("localhost", ca), move |call, _| {
        if call.method == Method::PUT {
            let envelope: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
            let claim = envelope["payload"].as_str().unwrap();
            let claim = base64(claim);
            let claim: LogClaim = serde_json::from_slice(&claim).unwrap();
            let state = LogState {
                v: 1,
                host_id: claim.host_id.clone(),
                nonce: claim.nonce,
                seen: seen(&claim),
            };
            say(200, dsse::seal(&state, &decides).unwrap().envelope)
        } else if call.path == "/add-checkpoint" {
            let text = std::str::from_utf8(&call.body).unwrap();
            line(&text.parse().unwrap())
        } else {
            say(204, "")
        }
    })
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

fn witness(secret: u8) -> NoteSigner {
    NoteSigner::new("gw", Role::Witness, &[secret; 32]).unwrap()
}

struct Lied {
    standing: Standing,
    kept: bool,
}

/// What a host makes of such a gateway.
async fn believe(pinned: &NoteSigner, decides: &SigningKey, server: &Scripted, ca: &Ca) -> Lied {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    let key = SigningKey::generate();
    let mut gateway = server.gateway(ca, &key, decides);
    gateway.witness = pinned.verifier().to_string();
    let (to, _events) = mpsc::channel(8);
    let approver = Approver::start(gateway, key, to).unwrap();
    let mut anchor = Anchor::start(approver.log(), ledger.clone(), path.clone()).unwrap();
    assert_eq!(
        anchor.compared(PATIENCE).await,
        Ok(()),
        "no lie is an alarm"
    );
    grow(&ledger, 3).await;
    let settled = async {
        loop {
            let standing = anchor.standing();
            if standing.trouble.is_some() || standing.cosigned.is_some() {
                return standing;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let standing = tokio::time::timeout(PATIENCE, settled).await.unwrap();
    let trust = Trust {
        witnesses: vec![pinned.verifier()],
        ..Trust::default()
    };
    let report = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(report.error_count, 0, "{report:?}");
    Lied {
        standing,
        kept: report.cosigned.is_some(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_witness_is_not_believed() {
    let ca = Ca::new();
    let by = |signer: NoteSigner| {
        move |submission: &Submission| {
            let (note, _) = parse_checkpoint(&submission.note).unwrap();
            say(200, format!("{}\n", signer.sign(&note.text, 1_800_000_000)))
        }
    };
    let decides = SigningKey::generate;
    let (pinned, truth) = (witness(1), decides());

    let server = liar(&ca, truth.clone(), |_| None, by(witness(1)));
    let honest = believe(&pinned, &truth, &server, &ca).await;
    assert!(
        honest.kept && honest.standing.trouble.is_none(),
        "the control"
    );

    // Another witness, another text, no signature at all, too much of it.
    let other_text = |_: &Submission| {
        let line = witness(1).sign("web-1\n1\nAAAA\n", 1_800_000_000);
        say(200, format!("{line}\n"))
    };
    type Lie = Box<dyn Fn(&Submission) -> Say + Send + Sync>;
    let lies: [Lie; 6] = [
        Box::new(by(witness(2))),
        Box::new(other_text),
        Box::new(|_| say(200, "")),
        Box::new(|_| say(200, vec![0xff; 100])),
        Box::new(|_| say(200, "x\n".repeat(100_000))),
        Box::new(|_| say(409, "1000000\n").header("content-type", "text/x.tlog.size")),
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let server = liar(&ca, truth.clone(), |_| None, lie);
        let lied = believe(&pinned, &truth, &server, &ca).await;
        assert!(!lied.kept && lied.standing.trouble.is_some(), "lie {n}");
        assert_eq!(lied.standing.cosigned, None, "lie {n}");
    }

    // It says it saw what this ledger never signed, or says so with another key.
    let forged = |claim: &LogClaim| {
        let (mut note, _) = parse_checkpoint(&claim.checkpoint).unwrap();
        note.text = note.text.replacen("\n1\n", "\n1000\n", 1);
        note.signatures.push(
            NoteSigner::new("gw", Role::Witness, &[1; 32])
                .unwrap()
                .sign(&note.text, 1_800_000_000),
        );
        Some(note.to_string())
    };
    let server = liar(&ca, truth.clone(), forged, by(witness(1)));
    let lied = believe(&pinned, &truth, &server, &ca).await;
    assert!(!lied.kept && lied.standing.trouble.is_some());
    let server = liar(&ca, decides(), |_| None, by(witness(1)));
    let lied = believe(&pinned, &truth, &server, &ca).await;
    assert!(!lied.kept && !lied.standing.compared);
}
