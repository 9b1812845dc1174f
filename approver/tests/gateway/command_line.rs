//! The program as people run it.
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
        .args(["--dir", &dir.display().to_string()])
        .args(args)
        .env_remove("SYSHOLD_LOG")
        .output()
        .unwrap()
}

fn good(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and the one message.
fn bad(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = run(dir, args);
    assert!(output.stdout.is_empty());
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_gateway_is_set_up_by_hand() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = &scratch.path().join("gw");
    let (code, error) = bad(dir, &["accounts", "list"]);
    assert!(
        code == 1 && error.contains("syshold-approver init"),
        "{error}"
    );
    let made: Value =
        serde_json::from_str(&good(dir, &["init", "--name", "gw.example.com", "--json"])).unwrap();
    let again: Value = serde_json::from_str(&good(dir, &["init", "--json"])).unwrap();
    assert_eq!(made, again, "twice is once");

    let token = good(
        dir,
        &[
            "accounts",
            "add",
            "bob",
            "--email",
            "bob@example.com",
            "--group",
            "privacy",
        ],
    );
    assert!(
        token.starts_with("sypat_") && token.trim().len() > 40,
        "the token alone, for a pipe"
    );
    let list = good(dir, &["accounts", "list"]);
    assert!(list.contains("bob@example.com") && !list.contains(token.trim()));
    let list: Value = serde_json::from_str(&good(dir, &["accounts", "list", "--json"])).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["groups"][0]),
        (&"bob".into(), &"privacy".into())
    );
    let enrol: Value = serde_json::from_str(&good(dir, &["enrol-token", "--json"])).unwrap();
    let text = enrol["token"].as_str().unwrap();
    assert!(text.starts_with("shenrol_") && text.ends_with(made["ca_sha256"].as_str().unwrap()));

    let files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let holds = |secret: &str| {
            bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes())
        };
        assert!(
            !holds(token.trim()) && !holds(&text[8..51]),
            "{}: only digests are kept",
            file.display()
        );
    }
    for (args, code, fix) in [
        (
            &["accounts", "add", "bob", "--email", "b@example.com"][..],
            1,
            "exists",
        ),
        (
            &["accounts", "add", "eve", "--email", "BOB@example.com"],
            1,
            "exists",
        ),
        (
            &["accounts", "add", "a b", "--email", "x@example.com"],
            2,
            "account name",
        ),
        (
            &["accounts", "add", "eve", "--email", "nobody"],
            2,
            "alice@example.com",
        ),
        (
            &[
                "accounts",
                "add",
                "eve",
                "--email",
                "b\u{043e}b@example.com",
            ],
            2,
            "alice@example.com",
        ),
        (&["accounts", "disable", "nobody"], 1, "accounts list"),
        (&["hosts", "disable", "nobody"], 1, "hosts list"),
        (&["init", "--name", "a b"], 2, "host name"),
        (&["enrol-token", "--minutes", "61"], 2, "60"),
        (&["surprise"], 2, "surprise"),
    ] {
        let (got, error) = bad(dir, args);
        assert!(
            got == code && error.contains(fix),
            "{args:?}: {got} {error}"
        );
    }
}

#[test]
fn configuration_mistakes_end_with_78_and_name_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("approver.toml");
    let path = file.display().to_string();
    std::fs::write(&file, "# a comment\nmax_pending_per_host = \"many\"\n").unwrap();
    for verb in ["serve", "check"] {
        let (code, error) = bad(dir.path(), &["--config", &path, verb]);
        assert_eq!(code, 78);
        assert!(
            error.contains(&format!("{path}:2:24:"))
                && error.contains("^~~")
                && error.contains("fix:"),
            "{error}"
        );
    }
    std::fs::write(&file, "host_listen = \"127.0.0.1:0\"\npeople_listen = \"127.0.0.1:0\"\n[channel.ops]\nkind = \"slack-webhook\"\nurl_file = \"/nonexistent/url\"\n").unwrap();
    let (code, error) = bad(dir.path(), &["--config", &path, "serve"]);
    assert!(code == 78 && error.contains("/nonexistent/url"), "{error}");
    let (code, error) = bad(dir.path(), &["--config", "/nonexistent.toml", "serve"]);
    assert!(code == 78 && error.contains("--config"), "{error}");
}
