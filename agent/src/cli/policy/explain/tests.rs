//! Each kind of request, and what is said to those that make no sense.
use clap::Parser;

use super::*;

const POLICY: &str = r#"
[[govern]]
name = "bot"
owner = "alice@example.com"

[[protect]]
name = "customers"
paths = ["/srv/pii", "/home/*/exports/*.csv"]

[[rule]]
name = "api"
action = "connect"
to = ["api.example.com:443", "10.0.0.0/8"]
verdict = "allow"

[[rule]]
name = "pii"
action = "read"
data = "customers"
verdict = "ask"
approvers = "privacy"
quorum = 2

[[rule]]
name = "no-delete"
action = "exec"
programs = "/usr/bin/kubectl"
argv = "* delete *"
verdict = "deny"

[[rule]]
name = "leak"
action = ["connect", "delete"]
after = "customers"
verdict = "deny"

[[rule]]
name = "web"
action = "listen"
to = "*:80"
verdict = "allow"

[[rule]]
name = "loopback"
action = ["connect", "send"]
to = ["127.0.0.1", "::1"]
verdict = "deny"
"#;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    explain: Explain,
}

/// What the command line in `words` is answered with.
fn explained(words: &str) -> Result<String, ExplainError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, POLICY).unwrap();
    let file = file.display().to_string();
    let line = ["explain", &file].into_iter().chain(words.split(' '));
    let line = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
    answers(&line.explain).map(|answers| answers.text())
}

#[test]
fn each_kind_of_request_is_answered() {
    let table = [
        ("--connect 10.1.2.3:80", "allow by api"),
        ("--connect [::ffff:10.1.2.3]:80", "allow by api"),
        ("--connect 203.0.113.7:80", "ask by default"),
        ("--connect api.example.com:443", "allow by api"),
        ("--connect api.example.com:80", "ask by default"),
        ("--send 127.0.0.1:9", "deny by loopback"),
        ("--read /srv/pii/a", "ask by pii"),
        ("--read /srv/pii/a", "approvers: 2 people of privacy"),
        ("--read /home/bob/exports/a.csv", "protected as customers"),
        ("--write /srv/pii/a", "ask by default"),
        ("--read /etc/hostname", "allow by default"),
        ("--delete /srv/pii/a", "ask by default"),
        ("--after customers --delete /srv/pii/a", "deny by leak"),
        ("--after customers --connect 203.0.113.7:80", "deny by leak"),
        ("--listen 0.0.0.0:80", "allow by web"),
        ("--listen [::]:81", "ask by default"),
        ("--listen 127.0.0.1:81", "allow by built-in"),
        ("--exec /usr/bin/kubectl", "allow by default"),
        ("--exec /usr/bin/kubectl -- get pods", "allow by default"),
        (
            "--exec /usr/bin/kubectl -- delete ns x",
            "deny by no-delete",
        ),
        ("--privilege", "ask by default"),
    ];
    for (words, expected) in table {
        let text = explained(&format!("--offline --agent bot {words}")).unwrap();
        assert!(text.contains(expected), "{words}\n{text}");
    }
}

#[test]
fn names_are_resolved_unless_told_not_to() {
    let text = explained("--agent bot --connect localhost:80").unwrap();
    assert!(
        text.contains("(localhost)") && text.contains("deny by loopback"),
        "{text}"
    );
    let text = explained("--offline --agent bot --connect localhost:80").unwrap();
    assert!(
        text.contains("by its name alone") && text.contains("ask by default"),
        "{text}"
    );
}

#[test]
fn what_makes_no_sense_is_said() {
    let error = explained("--agent bto --read /x").unwrap_err().to_string();
    assert!(
        error.contains("no agent `bto`") && error.contains("it has: bot"),
        "{error}"
    );
    let error = explained("--agent bot --read /srv/../x")
        .unwrap_err()
        .to_string();
    assert!(error.contains("not an absolute path"), "{error}");
    let error = explained("--agent bot --after customer --read /x")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no protected set or class `customer`"),
        "{error}"
    );
    let two = ["explain", "--agent", "bot", "--read", "/x", "--write", "/x"];
    assert!(Line::try_parse_from(two).is_err());
    assert!(Line::try_parse_from(["explain", "--agent", "bot"]).is_err());
    for peer in [
        "example.com",
        "example.com:x",
        ":80",
        "a b:80",
        "::1:80:x",
        "example.com:99999",
    ] {
        assert!(peer.parse::<Peer>().is_err(), "{peer}");
    }
}
