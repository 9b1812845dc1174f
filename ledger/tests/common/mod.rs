//! What the ledger's tests share: a directory that a ledger accepts, drafts, and a forger.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]
pub(crate) mod story;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use serde_json::Value;
use syshold_ledger::leaf::{
    Action, Agent, Approver, DecidedBy, Decision, Object, Outcome, Policy, Verdict,
};
use syshold_ledger::note::{Checkpoint, Note, NoteSigner};
use syshold_ledger::tree::Frontier;
use syshold_ledger::{Draft, Kind, Ledger, TreeHash, leaf_hash};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const POLICY: &str =
    "ababababababababababababababababababababababababababababababababab";

/// A directory that only its owner can write, and the ledger's path in it.
pub(crate) fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o700))
        .tempdir()
        .unwrap();
    let path = dir.path().join("ledger.db");
    (dir, path)
}

pub(crate) fn open(path: &Path) -> Ledger {
    Ledger::open(path, "web-1".parse().unwrap()).unwrap()
}

pub(crate) fn policy() -> Draft {
    Draft::new(Kind::Policy).policy(&Policy {
        sha256: POLICY.into(),
        ..Policy::default()
    })
}

fn about(kind: Kind, request: Uuid) -> Draft {
    Draft::new(kind)
        .request(request)
        .agent(&Agent {
            name: "support-bot".into(),
            owner: Some("alice@example.com".into()),
            ..Agent::default()
        })
        .action(&Action {
            op: "connect".into(),
            ..Action::default()
        })
        .object(&Object {
            kind: "socket".into(),
            addr: Some("192.0.2.7:443".into()),
            ..Object::default()
        })
}

pub(crate) fn request(id: Uuid) -> Draft {
    about(Kind::Request, id).policy(&Policy {
        sha256: POLICY.into(),
        rule: Some("egress".into()),
        why: None,
    })
}

pub(crate) fn decision(id: Uuid, verdict: Verdict, by: DecidedBy) -> Draft {
    let policy = Policy {
        sha256: POLICY.into(),
        rule: Some("egress".into()),
        why: Some("no rule allows it".into()),
    };
    let draft = about(Kind::Decision, id)
        .hold(&id.simple().to_string())
        .policy(&policy)
        .decision(&Decision {
            verdict,
            by,
            cause: None,
            id: None,
            grant: None,
            expires: None,
        });
    if by != DecidedBy::Human {
        return draft;
    }
    let person = |subject: &str| Approver {
        subject: subject.into(),
        channel: "cli".into(),
        method: "token".into(),
        ..Approver::default()
    };
    draft.approvers(&[person("dave@example.com"), person("erin@example.com")])
}

pub(crate) fn outcome(id: Uuid) -> Draft {
    about(Kind::Outcome, id)
        .hold(&id.simple().to_string())
        .outcome(&Outcome {
            result: "resumed".into(),
            errno: Some(0),
            held_ms: Some(12),
        })
}

/// A ledger of `4 + 3 × holds` leaves with every relation that `verify` looks at; closed.
pub(crate) fn filled(path: &Path, holds: usize) {
    let ledger = open(path);
    ledger.append(Draft::new(Kind::Start)).wait().unwrap();
    ledger.append(policy()).wait().unwrap();
    for _ in 0..holds {
        let id = Uuid::now_v7();
        ledger.append(request(id)).wait().unwrap();
        ledger
            .append(decision(id, Verdict::Allow, DecidedBy::Human))
            .wait()
            .unwrap();
        ledger.append(outcome(id)).wait().unwrap();
    }
    ledger.append(Draft::new(Kind::Stop)).wait().unwrap();
}

/// Anyone's connection to the file: no lock, no check.
pub(crate) fn forger(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

/// The same without the table's own guards (STRICT, CHECK, columns computed from the body), as if
/// written by another program; the schema looks untouched afterwards.
pub(crate) fn unguarded(path: &Path, forge: impl FnOnce(&Connection)) {
    let swap = |from: &str, to: &str| {
        let conn = forger(path);
        conn.execute_batch("PRAGMA writable_schema = ON").unwrap();
        let changed = conn
            .execute(
                "UPDATE sqlite_schema SET sql = ?2 WHERE sql = ?1",
                [from, to],
            )
            .unwrap();
        assert_eq!(changed, 1, "the schema was swapped");
    };
    let guarded: String = forger(path)
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'leaf'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let plain = "CREATE TABLE leaf (idx INTEGER PRIMARY KEY, body, hash)";
    swap(&guarded, plain);
    forge(&forger(path));
    swap(plain, &guarded);
}

/// Rewrites the ledger with every hash and link made right again, and a new checkpoint over it all:
/// what root can do with the live keys.
pub(crate) fn rewrite(conn: &Connection, mut change: impl FnMut(u64, &mut Value)) {
    let mut statement = conn.prepare("SELECT body FROM leaf ORDER BY idx").unwrap();
    let bodies: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut prev = "0".repeat(64);
    for (idx, body) in bodies.iter().enumerate() {
        let mut leaf: Value = serde_json::from_str(body).unwrap();
        change(idx as u64, &mut leaf);
        leaf["prev"] = prev.into();
        let body = serde_json_canonicalizer::to_string(&leaf).unwrap();
        let hash = leaf_hash(body.as_bytes());
        conn.execute(
            "UPDATE leaf SET body = ?2, hash = ?3 WHERE idx = ?1",
            params![idx as u64, body, hash.0],
        )
        .unwrap();
        prev = hash.to_string();
    }
    drop(statement);
    resign(conn);
}

/// The tree and the latest checkpoint anew, over whatever leaves there are; older checkpoints that
/// do not fit any more go.
pub(crate) fn resign(conn: &Connection) {
    let path = PathBuf::from(conn.path().unwrap());
    let key = |extension: &str| {
        let text = std::fs::read_to_string(path.with_extension(extension)).unwrap();
        NoteSigner::from_secret_text(&text).unwrap()
    };
    conn.execute("DELETE FROM node WHERE level > 0", [])
        .unwrap();
    let mut edge = Frontier::default();
    let mut statement = conn.prepare("SELECT hash FROM leaf ORDER BY idx").unwrap();
    let hashes: Vec<[u8; 32]> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for hash in hashes {
        edge.push(TreeHash(hash), |place, hash| {
            conn.execute(
                "INSERT INTO node (level, n, hash) VALUES (?1, ?2, ?3)",
                params![place.level, place.n, hash.0],
            )
            .unwrap();
        });
    }
    let identity = key("identity");
    let checkpoint = Checkpoint {
        origin: identity.verifier().name().to_owned(),
        size: edge.size(),
        root: edge.root(),
    };
    let text = checkpoint.to_string();
    let signatures = vec![identity.sign(&text, 0), key("epoch").sign(&text, 0)];
    let note = Note { text, signatures }.to_string();
    conn.execute("DELETE FROM checkpoint", []).unwrap();
    conn.execute(
        "INSERT INTO checkpoint (size, note) VALUES (?1, ?2)",
        params![edge.size(), note],
    )
    .unwrap();
}
