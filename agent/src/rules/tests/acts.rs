//! What is run, what follows a read, who listens and what is gained.
use std::sync::Arc;

use syshold_protocol::ids::Digest;

use super::*;
use crate::request::{Exec, Privilege};

/// Adds rules for programs, what follows a read, listening, privileges.
const MORE: &str = r#"
[[protect]]
name = "settings"
paths = "/etc/app"
class = "config"

[[rule]]
name = "leak"
action = ["connect", "listen"]
after = ["pii", "keys"]
verdict = "deny"

[[rule]]
name = "web"
action = ["connect", "listen"]
to = ["*:80", "10.0.0.0/8:8080", "0.0.0.0:8080"]
verdict = "allow"

[[rule]]
name = "scribble"
action = ["write", "delete"]
data = "notes"
after = "pii"
verdict = "deny"

[[rule]]
name = "notes"
action = ["write", "delete"]
data = "notes"
verdict = "allow"

[[rule]]
name = "build"
action = "exec"
programs = "/opt/build"
sha256 = ["0101010101010101010101010101010101010101010101010101010101010101"]
verdict = "allow"

[[rule]]
name = "no-delete"
action = "exec"
programs = ["/bin/kubectl"]
argv = ["* delete *", "* drain *"]
verdict = "deny"

[[rule]]
name = "kubectl"
action = "exec"
programs = ["/bin/kubectl"]
verdict = "allow"

[[rule]]
name = "any-bin"
action = "exec"
programs = ["/bin/*"]
verdict = "deny"

[[rule]]
name = "any-build"
action = "exec"
programs = "/opt/build"
verdict = "deny"

[[rule]]
name = "root"
action = "privilege"
agent = "other"
verdict = "allow"
"#;

const BUILD: u64 = 1 << 59;
const KUBECTL: u64 = 1 << 58;
const BINARIES: u64 = 1 << 57;
const SETTINGS: u64 = 8;

fn run(classes: u64, line: &str) -> Request {
    let argv = line.split(' ').map(|arg| arg.as_bytes().to_vec());
    Request {
        exec: Some(Arc::new(Exec {
            argv: argv.collect(),
            whole: true,
            argv_sha256: Digest::of(line.as_bytes()),
            sha256: Some(Digest([u8::from(line.contains("build")); 32])),
        })),
        ..file(0, EXEC, classes)
    }
}

fn after(taint: u64, request: Request) -> Request {
    Request {
        taint: Classes(taint),
        ..request
    }
}

fn become_root(agent: u32) -> Request {
    Request {
        object: Object::Privilege(Privilege::User { uid: 0, gid: 0 }),
        ..file(agent, PRIVILEGE, 0)
    }
}

#[test]
fn what_follows_a_read_what_is_run_and_what_is_gained() {
    let blind = |request: Request| Request {
        exec: None,
        ..request
    };
    let cut = |request: Request| {
        let mut exec = Exec::clone(request.exec.as_ref().unwrap());
        exec.whole = false;
        exec.sha256 = None;
        Request {
            exec: Some(Arc::new(exec)),
            ..request
        }
    };
    let table = [
        // After a read of any of them, and only then; the rules above it come first all the same.
        (socket(0, CONNECT, "203.0.113.1:80"), "allow web"),
        (
            after(PII, socket(0, CONNECT, "203.0.113.1:80")),
            "deny leak",
        ),
        (
            after(KEYS | NOTES, socket(0, CONNECT, "203.0.113.1:80")),
            "deny leak",
        ),
        (
            after(NOTES, socket(0, CONNECT, "203.0.113.1:80")),
            "allow web",
        ),
        (
            after(PII, socket(0, CONNECT, "192.0.2.10:443")),
            "allow api",
        ),
        (after(PII, socket(0, SEND, "203.0.113.1:80")), "ask default"),
        (file(0, WRITE, NOTES), "allow notes"),
        (file(0, DELETE, NOTES), "allow notes"),
        (after(PII, file(0, DELETE, NOTES)), "deny scribble"),
        (after(KEYS, file(0, DELETE, NOTES)), "allow notes"),
        (after(PII, file(0, READ, NOTES)), "allow readable"),
        (file(0, DELETE, PII), "ask default"),
        // Listening: the own address, as it is; for this host alone it is nobody's business.
        (socket(0, LISTEN, "0.0.0.0:80"), "allow web"),
        (socket(0, LISTEN, "[::]:80"), "allow web"),
        (socket(0, LISTEN, "10.1.1.1:8080"), "allow web"),
        (socket(0, LISTEN, "0.0.0.0:8080"), "allow web"),
        (socket(0, LISTEN, "[::]:8080"), "ask default"),
        (socket(0, LISTEN, "192.0.2.1:8080"), "ask default"),
        (socket(0, LISTEN, "127.0.0.1:8080"), "allow built-in"),
        (
            after(PII, socket(0, LISTEN, "[::1]:8080")),
            "allow built-in",
        ),
        (after(PII, socket(0, LISTEN, "0.0.0.0:80")), "deny leak"),
        // Configuration may be read.
        (file(0, READ, SETTINGS), "allow default"),
        (file(0, WRITE, SETTINGS), "ask default"),
        (file(0, READ | WRITE, SETTINGS), "ask default"),
        (file(0, READ, SETTINGS | PII), "ask pii"),
        // Programs: the first rule that matches, whichever of the classes it is about.
        (file(0, EXEC, 0), "allow default"),
        (file(0, EXEC, PII), "allow default"),
        (run(KUBECTL | BINARIES, "kubectl get pods"), "allow kubectl"),
        (
            run(KUBECTL | BINARIES, "kubectl delete ns x"),
            "deny no-delete",
        ),
        (
            run(KUBECTL | BINARIES, "kubectl drain x y"),
            "deny no-delete",
        ),
        (run(BINARIES, "ls"), "deny any-bin"),
        (run(BUILD, "build all"), "allow build"),
        (run(BUILD, "other all"), "deny any-build"),
        // What is not known is asked, unless no rule wants to know it. Arguments that are only half
        // known are denied: nobody could approve what runs.
        (blind(run(KUBECTL, "kubectl get pods")), "ask default"),
        (cut(run(KUBECTL, "kubectl get pods")), "deny built-in"),
        (blind(run(BUILD, "build")), "ask default"),
        (cut(run(BUILD, "build")), "deny built-in"),
        (blind(run(BINARIES, "ls")), "deny any-bin"),
        (run(BINARIES | 1 << 50, "ls"), "deny any-bin"),
        (run(KUBECTL | 1 << 50, "kubectl get pods"), "ask default"),
        // Reading and writing a program is not running it.
        (file(0, READ | WRITE | DELETE, BINARIES), "allow default"),
        (become_root(0), "ask default"),
        (become_root(1), "allow root"),
    ];
    let policy = parsed(&format!("{POLICY}{MORE}"));
    let world = world();
    for (request, expected) in table {
        let judgement = judge(&policy, &request, &world.facts());
        assert_eq!(said(&judgement), expected, "{request:?}");
    }
    let tainted = after(PII, socket(0, CONNECT, "203.0.113.1:80"));
    let why = judge(&policy, &tainted, &world.facts())
        .reason()
        .why
        .clone();
    assert!(
        why.ends_with("says deny after reading customers or keys"),
        "{why}"
    );
}
