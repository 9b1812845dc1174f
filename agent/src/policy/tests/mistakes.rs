//! Every mistake a policy may have: how it is named, what is marked, what would mend it.
use super::super::{Problem, Problems, parse};
use super::{GOOD, problems};

/// What is wrong with the good policy and `more`.
fn only(more: &str) -> Problem {
    let mut list = problems(&format!("{GOOD}\n{more}"));
    assert_eq!(list.len(), 1, "{more}\n{}", Problems(list));
    list.remove(0)
}

#[test]
fn a_problem_is_shown_as_people_expect() {
    let text = "[[govern]]\nname  = \"bot\"\nonwer = \"a\"\nowner = \"a\"\n";
    let error = parse(text, "/etc/syshold/agent.toml").unwrap_err();
    let expected = r#"/etc/syshold/agent.toml:3:1: error: unknown key `onwer`
    onwer = "a"
    ^~~~~
    fix: did you mean `owner`?"#;
    assert_eq!(error.to_string(), expected);
}

/// Where `[[govern]]`, `[[protect]]`, `[[network]]` and `[[rule]]` begin in the table below.
fn table_of(kind: &str, lines: &str) -> String {
    let lines = lines.replace("; ", "\n");
    match kind {
        "govern" => format!("[[govern]]\nname = \"b\"\nowner = \"o\"\n{lines}"),
        "protect" => format!("[[protect]]\nname = \"p\"\n{lines}"),
        "network" => format!("[[network]]\nname = \"n\"\n{lines}"),
        "connect" => format!("[[rule]]\nname = \"r\"\naction = \"connect\"\n{lines}"),
        "exec" => format!(
            "[[rule]]\nname = \"r\"\naction = \"exec\"\nverdict = \"ask\"\nprograms = \"/bin/ls\"\n{lines}"
        ),
        "read" => format!("[[rule]]\nname = \"r\"\naction = \"read\"\n{lines}"),
        "break_glass" => format!("[[break_glass]]\nsubject = \"s@example.com\"\n{lines}"),
        "approver" => format!("[[approver]]\nsubject = \"s@example.com\"\n{lines}"),
        _ => lines,
    }
}

#[test]
fn every_mistake_is_named_and_marked_and_has_a_fix() {
    // Kind of table and its lines, what is marked, the message, the fix.
    #[rustfmt::skip]
    let table = [
        ("", r#"[[rules]]; name = "r""#, "rules", "unknown key `rules`", "`rule`"),
        ("", "x = = 1", "=", "not TOML", "syntax"),
        ("", "[govern2]", "govern2", "unknown key", "`govern`"),
        ("", "[host]; hold = 5", "5", "invalid type", "quotes"),
        ("", r#"[host]; hold = "5""#, r#""5""#, "not a time", "`5m`"),
        ("", r#"[host]; hold = "0s""#, r#""0s""#, "not a time", "`5m`"),
        ("", r#"[host]; hold = "25h""#, r#""25h""#, "not a time", "`5m`"),
        ("", r#"[host]; hold = "+5m""#, r#""+5m""#, "not a time", "`5m`"),
        ("", r#"[host]; hold = "99999999999999999999h""#, r#""9"#, "not a time", "`5m`"),
        ("", r#"[host]; hold = "5é""#, r#""5é""#, "not a time", "`5m`"),
        ("", r#"[host]; dns = "alow""#, r#""alow""#, "not one of", "`allow`"),
        ("", r#"[host]; log = "loud""#, r#""loud""#, "not one of", "use one of"),
        ("", r#"[host]; ledger = "ledger.db""#, r#""ledger"#, "not absolute", "/ledger.db"),
        ("", r#"[host]; ledger = "/var/*.db""#, r#""/var"#, "not a pattern", "whole path"),
        ("", r#"[host]; legder = "/x""#, "legder", "unknown key", "`ledger`"),
        ("", r#"[failure]; on_timeout = "no""#, r#""no""#, "not one of", "use one of"),
        ("", r#"[failure]; on_daemon_loss = "allow""#, r#""allow""#, "not supported yet", "deny"),
        ("", r#"[[govern]]; name = "b""#, "[[govern]]", "`owner` is missing", "owner = "),
        ("", r#"[[govern]]; name = "bot"; owner = "o""#, r#""bot""#, "another agent", "own name"),
        ("", r#"[[govern]]; name = "a b"; owner = "o""#, r#""a b""#, "not a name", "64 letters"),
        ("", r#"[[govern]]; name = "b"; owner = " ""#, r#"" ""#, "not a person", "mail address"),
        ("govern", r#"model = "a\nb""#, r#""a"#, "cannot be shown", "200"),
        ("govern", r#"unit = "x""#, r#""x""#, "full name", "`x.service`"),
        ("govern", r#"unit = "*.service""#, r#""*"#, "not one unit", "wildcards"),
        ("govern", r#"unit = "bot.service""#, r#""bot"#, "already selects", "one agent"),
        ("govern", "unit = []", "[]", "empty", "remove `unit`"),
        ("govern", r#"cgroup = "/sys/fs/cgroup/a""#, r#""/sys"#, "root of its", "`/a`"),
        ("govern", r#"cgroup = "a""#, r#""a""#, "not a cgroup", "from the root"),
        ("govern", r#"user = "root""#, r#""root""#, "whole host", "user of its own"),
        ("govern", r#"user = "0""#, r#""0""#, "whole host", "user of its own"),
        ("govern", r#"user = "a:b""#, r#""a:b""#, "not a user", "name or number"),
        ("govern", r#"exe = "bin/x""#, r#""bin"#, "not absolute", "/bin/x"),
        ("protect", r#"paths = "srv""#, r#""srv""#, "not absolute", "`/srv`"),
        ("protect", r#"paths = "/""#, r#""/""#, "every file", "folders"),
        ("protect", "paths = []", "[]", "empty", "at least one"),
        ("protect", "paths = [1]", "1", "invalid type", "quotes"),
        ("protect", r#"paths = "/p"; class = """#, r#""""#, "not a name", "64 letters"),
        ("network", r#"cidrs = "10.20.0.1/16""#, r#""10"#, "bits set", "`10.20.0.0/16`"),
        ("", r#"[[network]]; name = "n.x"; cidrs = "10.0.0.1""#, r#""n.x""#, "no dot", "`n-x`"),
        ("", r#"[[network]]; name = "eu"; cidrs = "10.0.0.1""#, r#""eu""#, "another network", "own name"),
        ("connect", "", "[[rule]]", "`verdict` is missing", "verdict = "),
        ("", r#"[[rule]]; name = "r"; action = "conect"; verdict = "ask""#, r#""conect""#, "no action", "`connect`"),
        ("", r#"[[rule]]; name = "r"; action = ["read", "privilege"]; verdict = "ask""#, r#"["read""#, "about nothing else", "two rules"),
        ("", r#"[[rule]]; name = "r"; action = "exec"; verdict = "ask""#, r#""exec""#, "which programs", "programs = "),
        ("", r#"[[rule]]; name = "r"; action = "exec"; verdict = "ask"; programs = "ls""#, r#""ls""#, "not absolute", "`/ls`"),
        ("", r#"[[rule]]; name = "r"; action = "exec"; verdict = "ask"; programs = []"#, "[]", "empty", "at least one"),
        ("exec", r#"argv = """#, r#""""#, "not a pattern", "* delete *"),
        ("exec", r#"sha256 = "12""#, r#""12""#, "64", "sha256sum"),
        ("exec", r#"data = "pii""#, r#""pii""#, "about protected files", "read, write, delete"),
        ("exec", r#"after = "pii""#, r#""pii""#, "leaves or changes", "connect, send, listen, write, delete"),
        ("connect", r#"verdict = "ask"; programs = "/bin/ls""#, r#""/bin/ls""#, "programs that are run", "belongs to exec"),
        ("connect", r#"verdict = "ask"; after = "pi""#, r#""pi""#, "no protected set", "`pii`"),
        ("", r#"[[rule]]; name = "r"; action = "privilege"; to = "*"; verdict = "ask""#, r#""*""#, "about connections", "connect, send, listen"),
        ("", r#"[[rule]]; name = "r"; action = "listen"; to = "a.example:80"; verdict = "ask""#, r#""a.ex"#, "own address", "`*:8080`"),
        ("govern", r#"taint = "tree""#, r#""tree""#, "not one of", "use one of"),
        ("govern", r#"sockets = "run/x""#, r#""run/x""#, "not absolute", "`/run/x`"),
        ("govern", r#"sockets = "/run/*.sock""#, r#""/run/*"#, "whole path", "without wildcards"),
        ("govern", r#"sockets = "@""#, r#""@""#, "abstract socket", "107 bytes"),
        ("govern", r#"sockets = "/run/syshold/control.sock""#, r#""/run/sys"#, "reach the daemon", "remove"),
        ("govern", r#"devices = "/srv/x""#, r#""/srv/x""#, "not a device", "below /dev"),
        ("govern", r#"capabilities = "net_admin""#, r#""net_admin""#, "no capability", "`CAP_NET_ADMIN`"),
        ("govern", r#"capabilities = "CAP_NET_ADMN""#, r#""CAP_NET_ADMN""#, "no capability", "`CAP_NET_ADMIN`"),
        ("govern", r#"capabilities = "CAP_KILL""#, r#""CAP_KILL""#, "not taken", "remove"),
        ("govern", r#"allow = "userns""#, r#""userns""#, "not one of", "user-namespaces"),
        ("", r#"[[protect]]; name = "credentials"; paths = "/x""#, r#""credentials""#, "built in", "class = "),
        ("", r#"[[rule]]; name = "r"; action = []; verdict = "ask""#, "[]", "empty", "at least one"),
        ("", r#"[[rule]]; name = "default"; action = "read"; verdict = "ask""#, r#""default""#, "meaning of its own", "another"),
        ("read", r#"verdict = "ask"; after = ["customers"]"#, r#"["cust"#, "leaves or changes", "connect, send, listen, write, delete"),
        ("read", r#"data = "customer"; verdict = "ask""#, r#""customer""#, "no protected set", "`customers`"),
        ("read", r#"to = "*"; verdict = "ask""#, r#""*""#, "about connections", "two rules"),
        ("connect", r#"data = "pii"; verdict = "ask""#, r#""pii""#, "about protected files", "two rules"),
        ("connect", r#"agent = "bto"; verdict = "ask""#, r#""bto""#, "no agent `bto`", "`bot`"),
        ("connect", r#"to = "ue"; verdict = "ask""#, r#""ue""#, "neither a network", "`eu`"),
        ("connect", r#"to = "a.example:x"; verdict = "ask""#, r#""a.ex"#, "not a port", "65535"),
        ("connect", r#"verdict = "maybe""#, r#""maybe""#, "not one of", "use one of"),
        ("connect", r#"verdict = "allow"; quorum = 2"#, "2", "no meaning", "remove"),
        ("connect", r#"verdict = "deny"; assurance = "chat""#, r#""chat""#, "no meaning", "remove"),
        ("connect", r#"verdict = "ask"; assurance = "paskey""#, r#""paskey""#, "not one of", "`passkey`"),
        ("connect", r#"verdict = "ask"; assurance = "passkey""#, r#""passkey""#, "nobody could approve", "[[approver]]"),
        ("", r#"[[approver]]; subject = "a""#, "[[approver]]", "`passkeys` is missing", "passkeys = "),
        ("", r#"[[approver]]; subject = " "; passkeys = "es256:approver.example.com:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#, r#"" ""#, "not a person", "mail address"),
        ("approver", r#"passkeys = ["es256:approver.example.com:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "es256:approver.example.com:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]"#, r#""es256"#, "already, for s@", "one person"),
        ("approver", "passkeys = []", "[]", "empty", "at least one"),
        ("approver", r#"passkeys = "es256:192.0.2.1:AAAA""#, r#""es256"#, "not a passkey", "passkeys list"),
        ("break_glass", r#"keys = "LW82YMa6sUMeCBBp8p4rPBMt1OkxLkBrUFFYSsrmWRM=""#, r#""s@ex"#, "needs 2 people", "another [[break_glass]]"),
        ("break_glass", r#"keys = "AAAA""#, r#""AAAA""#, "Ed25519 public key", "break-glass key"),
        ("break_glass", r#"keys = ["LW82YMa6sUMeCBBp8p4rPBMt1OkxLkBrUFFYSsrmWRM=", "LW82YMa6sUMeCBBp8p4rPBMt1OkxLkBrUFFYSsrmWRM="]"#, r#""LW82"#, "already, for s@", "one person"),
        ("break_glass", "keys = []", "[]", "empty", "at least one"),
        ("connect", r#"verdict = "deny"; hold = "1m""#, r#""1m""#, "no meaning", "remove"),
        ("connect", r#"verdict = "ask"; quorum = 0"#, "0", "quorum of 0", "1 to 16"),
        ("connect", r#"verdict = "ask"; quorum = -1"#, "-1", "quorum of -1", "1 to 16"),
        ("connect", r#"verdict = "ask"; scopes = ["1h"]"#, r#""1h""#, "not a scope", "`60m`"),
        ("connect", r#"verdict = "ask"; scopes = ["1441m"]"#, r#""1441m""#, "not a scope", "up to a day"),
        ("connect", r#"verdict = "ask"; scopes = []"#, "[]", "empty", "at least one"),
        ("connect", r#"verdict = "ask"; name = "s""#, "name", "there twice", "one of the two"),
    ];
    for (kind, lines, marked, message, fix) in table {
        let problem = only(&table_of(kind, lines));
        let whole = problem.to_string();
        let shown: String = problem.source.chars().skip(problem.column - 1).collect();
        assert!(
            shown.starts_with(marked),
            "{lines}: marked {shown}\n{whole}"
        );
        assert!(problem.message.contains(message), "{lines}\n{whole}");
        assert!(problem.fix.contains(fix), "{lines}\n{whole}");
        assert!(problem.line > GOOD.lines().count(), "{lines}\n{whole}");
    }
}

#[test]
fn mistakes_are_told_together_and_do_not_breed() {
    let text = r#"[host]
lgo = 1
dns = "x"
[[govern]]
name = "bot"
[[protect]]
name = "p"
path = "/p"
class = "pii"
[[rule]]
name = "r"
action = "connect"
agent = "bot"
verdict = "aks"
[[rule]]
name = "s"
action = "read"
data = ["p", "pii"]
verdict = "ask"
"#;
    let said: Vec<String> = problems(text)
        .into_iter()
        .map(|p| format!("{}:{}", p.line, p.message))
        .collect();
    let expected = [
        "2:unknown key `lgo`",
        "3:`x` is not one of allow, ask",
        "4:`owner` is missing in this table",
        "6:`paths` is missing in this table",
        "8:unknown key `path`",
        "14:`aks` is not one of allow, deny, ask",
    ];
    assert_eq!(said, expected);
}
