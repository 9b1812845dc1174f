//! docs/approver.md says what the program does.
use std::process::Command;

const PAGE: &str = include_str!("../../../docs/approver.md");
const CONFIG: &str = include_str!("../../../config/approver.toml");

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
        .args(args)
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs of a help text.
fn verbs(help: &str) -> Vec<String> {
    let commands = help
        .split("Commands:")
        .nth(1)
        .unwrap_or_default()
        .split("Options:")
        .next()
        .unwrap_or_default();
    let first = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '));
    first
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_is_on_the_page() {
    let top = verbs(&help(&[]));
    assert!(
        top.contains(&"serve".to_owned()) && top.len() >= 7,
        "{top:?}"
    );
    for verb in top {
        let below = verbs(&help(&[&verb]));
        if below.is_empty() {
            assert!(PAGE.contains(&format!("| `{verb}")), "{verb}");
        }
        for second in below {
            assert!(
                PAGE.contains(&format!("`{verb} {second}")),
                "{verb} {second}"
            );
        }
    }
}

#[test]
fn every_setting_is_on_the_page_with_its_default() {
    let settings = CONFIG
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
        .filter(|(key, _)| !key.contains(' '));
    let mut count = 0;
    for (key, default) in settings {
        let row = PAGE
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")))
            .unwrap_or_else(|| panic!("{key}"));
        if [
            "dir",
            "host_listen",
            "people_listen",
            "max_pending_per_host",
            "max_pending_per_agent",
            "max_prompts_per_agent",
            "auto_deny_after",
        ]
        .contains(&key)
        {
            assert!(
                row.contains(&format!("`{}`", default.trim_matches('"'))),
                "{row}"
            );
        }
        count += 1;
    }
    assert_eq!(count, 42);
}
