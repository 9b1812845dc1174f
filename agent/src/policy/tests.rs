//! Policy files: what is read, what is refused and how that is said.
mod mistakes;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use syshold_abi::MAX_AGENTS;
use syshold_protocol::ids::Digest;

use super::govern::MOST_SETS;
use super::*;

const GOOD: &str = r#"
[[govern]]
name = "bot"
owner = "alice@example.com"
unit = ["bot.service", "bot@1.service"]
user = "bot"

[[protect]]
name = "customers"
paths = ["/srv/pii", "/home/*/exports/*.csv"]
class = "pii"

[[network]]
name = "eu"
cidrs = ["10.20.0.0/16"]

[[rule]]
name = "egress"
action = "connect"
to = "eu"
verdict = "ask"
"#;

fn problems(text: &str) -> Vec<Problem> {
    match parse(text, "agent.toml") {
        Err(PolicyError::Invalid(Problems(list))) => list,
        Err(error) => panic!("{error}"),
        Ok(_) => Vec::new(),
    }
}

#[test]
fn a_good_policy_says_what_was_written() {
    let policy = parse(GOOD, "agent.toml").unwrap();
    assert_eq!(policy.digest(), Digest::of(GOOD.as_bytes()));
    assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
    let host = policy.host();
    assert_eq!(host.ledger, Path::new("/var/lib/syshold/ledger.db"));
    assert_eq!(
        (host.hold, host.dns),
        (Duration::from_secs(300), Dns::Allow)
    );
    let failure = policy.failure();
    let fallbacks = [
        failure.on_timeout,
        failure.on_unreachable,
        failure.on_daemon_loss,
    ];
    assert_eq!(fallbacks, [Fallback::Deny; 3]);
    let bot = policy.agent(AgentId(0)).unwrap();
    assert_eq!(policy.agent_id("bot"), Some(AgentId(0)));
    let selectors = [
        Selector::Unit("bot.service".into()),
        Selector::Unit("bot@1.service".into()),
        Selector::User("bot".into()),
    ];
    assert_eq!(bot.selectors, selectors);
    let [rule] = policy.rules() else { panic!() };
    assert_eq!((rule.name.as_str(), rule.line), ("egress", 18));
    assert_eq!(rule.verdict, Verdict::Ask(policy.default_terms()));
}

#[test]
fn what_is_odd_is_a_warning() {
    let rule = |lines: &str| format!("[[rule]]\nname = \"r\"\nverdict = \"deny\"\n{lines}");
    let odd = [
        (
            "[failure]\non_timeout = \"allow\"\n".to_owned(),
            "nobody has approved",
        ),
        (
            rule("action = \"connect\"\nto = \"10.20.1.0/24:80\"\n"),
            "`r` never matters: rules above",
        ),
    ];
    for (more, expected) in odd {
        let policy = parse(&format!("{GOOD}{more}"), "agent.toml").unwrap();
        let [warning] = policy.warnings() else {
            panic!("{more}: {:?}", policy.warnings());
        };
        assert_eq!(warning.severity, Severity::Warning);
        assert!(warning.message.contains(expected), "{warning}");
    }
    // Another action, a wider target, files beside connections: they do matter.
    let quiet = [
        "action = \"send\"\nto = \"10.20.1.0/24\"\n",
        "action = \"connect\"\nto = [\"10.20.1.0/24\", \"10.0.0.0/8\"]\n",
        "action = [\"connect\", \"read\"]\n",
    ];
    for more in quiet {
        let policy = parse(&format!("{GOOD}{}", rule(more)), "agent.toml").unwrap();
        assert!(
            policy.warnings().is_empty(),
            "{more}: {:?}",
            policy.warnings()
        );
    }
    // One agent's rule does not hide another's.
    let second = "[[govern]]\nname = \"second\"\nowner = \"o\"\n";
    let of_one = rule("action = \"connect\"\nagent = \"bot\"\n");
    let of_all = "[[rule]]\nname = \"s\"\nverdict = \"allow\"\naction = \"connect\"\n";
    let policy = parse(&format!("{GOOD}{second}{of_one}{of_all}"), "agent.toml").unwrap();
    assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
    let nothing = parse("", "agent.toml").unwrap();
    assert_eq!(nothing.warnings().len(), 1);
}

#[test]
fn there_are_bounds() {
    let many =
        |count: usize, line: &dyn Fn(usize) -> String| -> String { (0..count).map(line).collect() };
    let list = |count: usize, word: &dyn Fn(usize) -> String| {
        let words: Vec<String> = (0..count).map(|i| format!("\"{}\"", word(i))).collect();
        format!("[{}]", words.join(", "))
    };
    let cidrs = list(300, &|i| format!("10.{}.{}.0/24", i / 256, i % 256));
    let table = [
        (
            many(65, &|i| {
                format!("[[govern]]\nname = \"a{i}\"\nowner = \"o\"\n")
            }),
            "at most 64 agents",
        ),
        (
            many(MOST_SETS + 1, &|i| {
                format!("[[protect]]\nname = \"c{i}\"\npaths = \"/c{i}\"\n")
            }),
            "at most 60 sets",
        ),
        (
            format!(
                "[[network]]\nname = \"n\"\ncidrs = {cidrs}\n[[rule]]\nname = \"r\"\naction = \"connect\"\nto = {}\nverdict = \"ask\"\n",
                list(10_000, &|_| "n".to_owned())
            ),
            "4096 targets",
        ),
        (
            format!(
                "[[protect]]\nname = \"p\"\npaths = {}\n",
                list(1025, &|i| format!("/p/{i}"))
            ),
            "at most 1024 paths",
        ),
        (
            many(1025, &|i| {
                format!("[[rule]]\nname = \"r{i}\"\naction = \"connect\"\nverdict = \"ask\"\n")
            }),
            "1024 rules",
        ),
    ];
    for (text, expected) in table {
        let list = problems(&text);
        assert_eq!(list.len(), 1, "{}", Problems(list));
        assert!(list[0].message.contains(expected), "{}", list[0]);
    }
    assert_eq!(problems(&many(200, &|i| format!("k{i} = 1\n"))).len(), 50);
    let keys = many(200, &|i| format!("k{i} = 1\n"));
    assert!(problems(&format!("[host]\n{keys}")).len() <= 50);
}

#[test]
fn all_agents_and_classes_can_be_used() {
    let mut text = String::new();
    for i in 0..MAX_AGENTS {
        text.push_str(&format!("[[govern]]\nname = \"a{i}\"\nowner = \"o\"\n"));
    }
    for i in 0..MOST_SETS {
        text.push_str(&format!(
            "[[protect]]\nname = \"c{i}\"\npaths = \"/c{i}\"\n"
        ));
    }
    text.push_str("[[rule]]\nname = \"r\"\naction = \"read\"\nverdict = \"deny\"\n");
    let policy = parse(&text, "agent.toml").unwrap();
    let [rule] = policy.rules() else { panic!() };
    assert_eq!(
        (rule.agent_bits(), rule.data),
        (u64::MAX, Classes(u64::MAX >> (64 - MOST_SETS)))
    );
    assert!(rule.applies_to(AgentId(63)) && !rule.applies_to(AgentId(64)));
}

#[test]
fn files_are_read_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let error = || load(&path).unwrap_err().to_string();
    assert!(error().contains("agent.toml: cannot be read") && error().contains("fix:"));
    std::fs::write(&path, b"[host]\nlog = \"\xff\"\n").unwrap();
    assert!(
        error().contains(":2:8: error: this is not UTF-8"),
        "{}",
        error()
    );
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(error().contains("1 MiB"));
    assert!(load(folder.path()).is_err());
    std::fs::write(&path, GOOD).unwrap();
    assert!(load(&path).is_ok());
}

#[test]
fn paths_have_classes() {
    let policy = parse(
        r#"
[[govern]]
name = "a"
owner = "o"
[[protect]]
name = "pii"
paths = ["/srv/pii", "/home/*/exports/*.csv"]
[[protect]]
name = "keys"
paths = "/home/*/.ssh"
[[protect]]
name = "all-keys"
paths = "/srv/**/*.key"
"#,
        "agent.toml",
    )
    .unwrap();
    let (pii, ssh, keys, all) = (1, 2, 4, 7);
    let long = format!("/srv/pii/{}", "a/".repeat(2000));
    let table = [
        ("/srv/pii/a", pii),
        ("/srv/pii-public/a", 0),
        ("/srv/pii/x.key", pii | keys),
        ("/srv/x.key", keys),
        ("/srv/x.key (deleted)", keys),
        ("/home/bob/exports/a.csv", pii),
        ("/home/bob/exports/a.txt", 0),
        ("/home/bob/.ssh/id", ssh),
        ("/srv/", 0),
        (long.as_str(), pii),
        // What may be anything is everything.
        ("/srv/x/../pii/a", all),
        ("srv/pii/a", all),
        ("(unreachable)/srv/x", all),
        ("", all),
    ];
    for (path, expected) in table {
        assert_eq!(policy.classes_of_path(path), Classes(expected), "{path}");
    }
    // Candidates of the kernel; what is seen at another place stays a candidate.
    let table = [
        (pii | ssh, "/home/bob/exports/a.csv", pii),
        (pii | ssh, "/home/bob/b.csv", 0),
        (pii, "/mnt/exports/a.txt", pii),
        (keys, "/srv/a.txt", 0),
        (keys, "", keys),
        (pii, "/srv/x.key", pii),
    ];
    for (candidates, path, expected) in table {
        let settled = policy.settle_globs(Classes(candidates), path);
        assert_eq!(settled, Classes(expected), "{candidates} {path}");
    }
}

#[test]
fn roots_are_what_patterns_say_together() {
    let text = r#"
[[protect]]
name = "a"
paths = ["/srv/pii", "/home/*/*.csv"]
[[protect]]
name = "b"
paths = ["/home/*/*.csv", "/srv/**/*.key", "/srv/pii/**"]
[[protect]]
name = "c"
paths = ["/srv/*.pem", "/opt"]
"#;
    let policy = parse(text, "agent.toml").unwrap();
    let roots: Vec<_> = policy
        .roots(&[])
        .into_iter()
        .map(|r| {
            let suffix = String::from_utf8(r.suffix).unwrap();
            (
                r.path.display().to_string(),
                r.classes.0,
                r.glob_classes.0,
                suffix,
            )
        })
        .collect();
    let expected = [
        ("/home", 0, 0b011, ".csv"),
        ("/opt", 0b100, 0, ""),
        // Two suffixes: none.
        ("/srv", 0, 0b110, ""),
        ("/srv/pii", 0b011, 0, ""),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(path, sure, glob, suffix)| ((*path).to_owned(), *sure, *glob, (*suffix).to_owned()))
        .collect();
    assert_eq!(roots, expected);
}

#[test]
fn a_suffix_is_compared_as_the_kernel_does() {
    let fits = |root: &syshold_abi::Root, name: &str| {
        let mut padded = [b'x'; 16].to_vec();
        padded.extend(name.as_bytes());
        let tail: [u8; 16] = padded[padded.len() - 16..].try_into().unwrap();
        let tail = u128::from_le_bytes(tail);
        let tail = [tail as u64, (tail >> 64) as u64];
        let off = (0..2).fold(0, |off, i| {
            off | ((tail[i] ^ root.suffix[i]) & root.mask[i])
        });
        name.len() as u64 >= root.min_len && off == 0
    };
    let text = "[[protect]]\nname = \"a\"\npaths = [\"/a/*.csv\", \"/b/*.a-very-long-extension\", \"/c/*\"]\n";
    let policy = parse(text, "agent.toml").unwrap();
    let [a, b, c] = policy.roots(&[]).try_into().unwrap();
    let table = [
        (&a, "x.csv", true),
        (&a, ".csv", true),
        (&a, "csv", false),
        (&a, "x.csv.gz", false),
        (&a, "a-much-longer-name.csv", true),
        (&b, "x.a-very-long-extension", true),
        (&b, "x.a-very-long-extensio", false),
        (&c, "", true),
        (&c, "anything", true),
    ];
    for (root, name, expected) in table {
        assert_eq!(fits(&root.to_abi(), name), expected, "{name} {root:?}");
    }
}

#[test]
fn the_shipped_policy_loads_with_and_without_its_examples() {
    let text = include_str!("../../../config/agent.toml");
    parse(text, "config/agent.toml").unwrap_or_else(|error| panic!("{error}"));
    // A `#` before a key or a table is an example, before a blank it is prose.
    let examples: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(example) if !example.starts_with([' ', '#']) => format!("{example}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let policy = parse(&examples, "config/agent.toml").unwrap_or_else(|error| panic!("{error}"));
    assert!(!policy.agents().is_empty() && !policy.rules().is_empty());
    assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
}

#[test]
fn every_example_of_the_reference_parses() {
    let text = include_str!("../../../docs/policy.md");
    let blocks: Vec<&str> = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 5, "{}", blocks.len());
    for block in &blocks {
        parse(block, "docs/policy.md").unwrap_or_else(|error| panic!("{error}"));
    }
    // Together they name every key there is.
    let keys = [
        "ledger",
        "hold",
        "dns",
        "log",
        "on_timeout",
        "on_unreachable",
        "on_daemon_loss",
        "name",
        "owner",
        "model",
        "unit",
        "cgroup",
        "user",
        "exe",
        "paths",
        "class",
        "cidrs",
        "action",
        "agent",
        "to",
        "data",
        "verdict",
        "approvers",
        "scopes",
        "quorum",
        "assurance",
        "subject",
        "passkeys",
        "keys",
        "taint",
        "sockets",
        "devices",
        "capabilities",
        "allow",
        "after",
        "programs",
        "argv",
        "sha256",
    ];
    for key in keys {
        let used = blocks.iter().any(|block| {
            block
                .lines()
                .any(|line| line.split(['=', ' ']).next() == Some(key))
        });
        assert!(used, "no example of docs/policy.md uses `{key}`");
        assert!(
            text.contains(&format!("`{key}`")),
            "docs/policy.md does not explain `{key}`"
        );
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = parse(&text, "agent.toml").map_err(|error| error.to_string());
    }

    /// Texts that look like policies: their words at random places.
    #[test]
    fn no_near_policy_makes_it_panic(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "[[rule]]", "[[govern]]", "[[protect]]", "[[network]]", "[host]", "[failure]",
            "\n", "\n", "\n", "name = ", "action = ", "to = ", "data = ", "verdict = ",
            "agent = ", "quorum = ", "scopes = ", "hold = \"1h\"", "paths = ", "after = ",
            "\"a\"", "\"ask\"", "\"connect\"", "\"read\"", "[\"*:1\", \"::/0\"]", "[]", "{}",
            "1", "-1", "1.5", "1979-05-27", "true", "\"/a/**\"", "\"é\u{202e}\"", "'''", "\t", "#",
        ]), 0..60),
    ) {
        let _ = parse(&words.concat(), "agent.toml").map_err(|error| error.to_string());
    }

    /// One byte changed, removed or added in a good policy; a refusal is always a good one.
    #[test]
    fn no_slip_makes_it_panic(at in 0..GOOD.len(), byte in any::<u8>(), how in 0..3) {
        let mut bytes = GOOD.as_bytes().to_vec();
        match how {
            0 => bytes[at] = byte,
            1 => { bytes.remove(at); }
            _ => bytes.insert(at, byte),
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = load(&path) {
            let text = error.to_string();
            prop_assert!(text.contains("fix: ") && text.contains("agent.toml:"), "{}", text);
        }
    }
}
