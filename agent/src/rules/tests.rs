//! Rule by state gives the decision, and what holds for every policy.
mod acts;

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::policy::testing::{self, World, parsed};
use crate::request::{Actions, AgentId, Transport};

const POLICY: &str = r#"
[host]
hold = "2m"

[[govern]]
name = "bot"
owner = "alice@example.com"

[[govern]]
name = "other"
owner = "bob@example.com"

[[protect]]
name = "customers"
paths = "/srv/pii"
class = "pii"

[[protect]]
name = "keys"
paths = "/srv/keys"

[[protect]]
name = "notes"
paths = "/srv/notes"

[[rule]]
name = "api"
action = "connect"
to = ["api.example.com:443", "10.0.0.0/8:8000-8999"]
verdict = "allow"

[[rule]]
name = "metadata"
action = ["connect", "send"]
to = "169.254.169.254"
verdict = "deny"

[[rule]]
name = "other-only"
action = "connect"
agent = "other"
verdict = "allow"

[[rule]]
name = "pii"
action = ["read", "write"]
data = "pii"
verdict = "ask"
approvers = "privacy"
scopes = ["once", "10m"]
quorum = 2
hold = "10m"

[[rule]]
name = "keys"
action = "write"
data = "keys"
verdict = "deny"

[[rule]]
name = "readable"
action = "read"
data = ["keys", "notes"]
verdict = "allow"
"#;

const CONNECT: u32 = 1;
const SEND: u32 = 2;
const LISTEN: u32 = 4;
const READ: u32 = 8;
const WRITE: u32 = 16;
const DELETE: u32 = 32;
const EXEC: u32 = 64;
const PRIVILEGE: u32 = 128;
const PII: u64 = 1;
const KEYS: u64 = 2;
const NOTES: u64 = 4;

fn world() -> World {
    let mut names = Names::default();
    let api = "api.example.com".parse().unwrap();
    names.learn(&api, ["192.0.2.10".parse().unwrap()], Instant::now());
    World {
        names,
        builtin: BuiltIn {
            deny: vec![
                "10.0.0.5:8443".parse().unwrap(),
                "127.0.0.1:8443".parse().unwrap(),
            ],
            resolvers: vec!["10.0.0.2".parse().unwrap()],
        },
    }
}

fn socket(agent: u32, actions: u32, to: &str) -> Request {
    Request {
        agent: AgentId(agent),
        actions: Actions(actions),
        object: Object::Socket {
            cookie: 7,
            transport: Transport::Tcp,
            to: to.parse().unwrap(),
        },
        classes: Classes(0),
        taint: Classes(0),
        exec: None,
    }
}

fn file(agent: u32, actions: u32, classes: u64) -> Request {
    Request {
        agent: AgentId(agent),
        actions: Actions(actions),
        object: Object::File {
            dev: 1,
            ino: 2,
            generation: 3,
            onto: 0,
            path: Some("/srv/x".to_owned()),
        },
        classes: Classes(classes),
        taint: Classes(0),
        exec: None,
    }
}

fn said(judgement: &Judgement) -> String {
    let verdict = match judgement {
        Judgement::Allow(_) => "allow",
        Judgement::Deny(_) => "deny",
        Judgement::Ask(..) => "ask",
    };
    format!("{verdict} {}", judgement.reason().rule)
}

#[test]
fn rule_by_state_gives_the_decision() {
    let table = [
        // A name, while it resolves there; its port only; mapped is the same.
        (socket(0, CONNECT, "192.0.2.10:443"), "allow api"),
        (socket(0, CONNECT, "[::ffff:192.0.2.10]:443"), "allow api"),
        (socket(0, CONNECT, "192.0.2.10:80"), "ask default"),
        (socket(0, CONNECT, "192.0.2.11:443"), "ask default"),
        // The action counts.
        (socket(0, SEND, "192.0.2.10:443"), "ask default"),
        // A range of ports.
        (socket(0, CONNECT, "10.1.2.3:8000"), "allow api"),
        (socket(0, CONNECT, "10.1.2.3:8999"), "allow api"),
        (socket(0, CONNECT, "10.1.2.3:9000"), "ask default"),
        // Built in, before any rule, for all.
        (socket(0, CONNECT, "10.0.0.5:8443"), "deny built-in"),
        (socket(1, CONNECT, "10.0.0.5:8443"), "deny built-in"),
        (socket(1, SEND, "[::ffff:10.0.0.5]:8443"), "deny built-in"),
        (socket(1, CONNECT, "0.0.0.0:8443"), "deny built-in"),
        (socket(0, SEND, "10.0.0.2:53"), "allow built-in"),
        (socket(0, SEND, "10.0.0.2:54"), "ask default"),
        (socket(0, SEND, "10.0.0.3:53"), "ask default"),
        // First match wins; agents differ.
        (socket(0, CONNECT, "169.254.169.254:80"), "deny metadata"),
        (socket(1, CONNECT, "169.254.169.254:80"), "deny metadata"),
        (socket(1, CONNECT, "203.0.113.1:1"), "allow other-only"),
        (socket(0, CONNECT, "203.0.113.1:1"), "ask default"),
        // The strictest of several actions.
        (socket(1, CONNECT | SEND, "203.0.113.1:1"), "ask default"),
        (socket(1, LISTEN, "203.0.113.1:1"), "ask default"),
        (socket(0, 0, "203.0.113.1:1"), "ask default"),
        (socket(9, CONNECT, "192.0.2.10:443"), "deny built-in"),
        // Files: by class.
        (file(0, READ, 0), "allow default"),
        (file(0, READ, PII), "ask pii"),
        (file(0, READ, NOTES), "allow readable"),
        (file(0, WRITE, NOTES), "ask default"),
        (file(0, READ, KEYS), "allow readable"),
        (file(0, WRITE, KEYS), "deny keys"),
        // The strictest of several classes and actions.
        (file(0, READ | WRITE, KEYS), "deny keys"),
        (file(0, READ, PII | NOTES), "ask pii"),
        (file(0, WRITE, PII | KEYS), "deny keys"),
        (file(0, READ | WRITE, NOTES), "ask default"),
        // A class that no policy names: nobody knows what it is.
        (file(0, READ, 1 << 50), "ask default"),
        (file(0, READ, u64::MAX >> 2), "ask pii"),
        // Our own files; our programs may be read and run.
        (file(0, READ, 1 << 63), "deny built-in"),
        (file(0, EXEC, 1 << 63), "deny built-in"),
        (file(0, READ, u64::MAX), "deny built-in"),
        (file(0, READ, 1 << 62), "allow default"),
        (file(0, EXEC, 1 << 62), "allow default"),
        (file(0, WRITE, 1 << 62), "deny built-in"),
        (file(0, DELETE, 1 << 62), "deny built-in"),
        (file(9, READ, 0), "deny built-in"),
        (file(0, 0, PII), "ask default"),
        (file(0, CONNECT, 0), "ask default"),
    ];
    let policy = parsed(POLICY);
    let world = world();
    for (request, expected) in table {
        let judgement = judge(&policy, &request, &world.facts());
        assert_eq!(said(&judgement), expected, "{request:?}");
    }
}

#[test]
fn dns_is_asked_when_the_policy_says_so() {
    let policy = parsed(&POLICY.replace("[host]", "[host]\ndns = \"ask\""));
    let judgement = judge(&policy, &socket(0, SEND, "10.0.0.2:53"), &world().facts());
    assert_eq!(said(&judgement), "ask default");
}

#[test]
fn terms_are_the_rules_or_the_hosts() {
    let policy = parsed(POLICY);
    let world = world();
    let terms = |request| match judge(&policy, &request, &world.facts()) {
        Judgement::Ask(_, terms) => terms,
        other => panic!("{other:?}"),
    };
    let pii = terms(file(0, READ, PII));
    assert_eq!(pii.approvers.as_deref(), Some("privacy"));
    assert_eq!((pii.quorum, pii.hold.as_secs()), (2, 600));
    assert_eq!(
        pii.scopes,
        ["once".parse().unwrap(), "10m".parse().unwrap()]
    );
    let default = terms(socket(0, CONNECT, "203.0.113.1:1"));
    assert_eq!(
        (default.approvers, default.quorum, default.hold.as_secs()),
        (None, 1, 120)
    );
    assert_eq!(
        (default.on_timeout, default.on_unreachable),
        (Fallback::Deny, Fallback::Deny)
    );
    // Both at once: the group of the one, the narrower of everything else.
    let both = terms(file(0, READ, PII | 1 << 50));
    assert_eq!(both.approvers.as_deref(), Some("privacy"));
    assert_eq!((both.quorum, both.hold.as_secs()), (2, 120));
    assert_eq!(both.scopes, [Scope::Once]);
}

/// The request as several, each of one action and at most one class; a program's classes are looked
/// at together.
fn parts(request: &Request) -> Vec<Request> {
    let mut classes: Vec<Classes> = request
        .classes
        .iter()
        .map(|bit| Classes(1 << bit))
        .collect();
    if classes.is_empty() {
        classes.push(Classes(0));
    }
    let one = |action: Action, classes| Request {
        actions: action.into(),
        classes,
        ..request.clone()
    };
    let actions = request.actions.iter();
    actions
        .flat_map(|action| {
            let all = vec![request.classes];
            let each = if action == Action::Exec {
                all
            } else {
                classes.clone()
            };
            each.into_iter().map(move |class| (action, class))
        })
        .map(|(action, class)| one(action, class))
        .collect()
}

#[test]
fn a_rule_that_asks_is_named_before_the_default() {
    let policy = parsed(
        "[[govern]]\nname = \"a\"\nowner = \"o\"\n\
         [[protect]]\nname = \"first\"\npaths = \"/a\"\n[[protect]]\nname = \"second\"\npaths = \"/b\"\n\
         [[rule]]\nname = \"r\"\naction = \"read\"\ndata = \"second\"\nverdict = \"ask\"\n",
    );
    let judgement = judge(&policy, &file(0, READ, 0b11), &world().facts());
    assert_eq!(said(&judgement), "ask r");
}

#[test]
fn of_two_ask_rules_the_narrower_terms_count() {
    let first = Terms {
        approvers: None,
        scopes: vec![Scope::Process, "60m".parse().unwrap()],
        quorum: 1,
        assurance: Assurance::Chat,
        hold: Duration::from_secs(60),
        on_timeout: Fallback::Allow,
        on_unreachable: Fallback::Allow,
    };
    let second = Terms {
        approvers: Some("privacy".to_owned()),
        scopes: vec![Scope::Session],
        quorum: 3,
        assurance: Assurance::Passkey,
        hold: Duration::from_secs(30),
        on_timeout: Fallback::Deny,
        on_unreachable: Fallback::Allow,
    };
    let expected = Terms {
        approvers: Some("privacy".to_owned()),
        scopes: vec![Scope::Process],
        quorum: 3,
        assurance: Assurance::Passkey,
        hold: Duration::from_secs(30),
        on_timeout: Fallback::Deny,
        on_unreachable: Fallback::Allow,
    };
    assert_eq!(first.clone().stricter(second.clone()), expected);
    let other_way = second.stricter(first);
    assert_eq!(other_way.scopes, [Scope::Once]);
    assert_eq!((other_way.quorum, other_way.hold.as_secs()), (3, 30));
}

fn rank(judgement: &Judgement) -> u8 {
    match judgement {
        Judgement::Allow(_) => 0,
        Judgement::Ask(..) => 1,
        Judgement::Deny(_) => 2,
    }
}

proptest! {
    #[test]
    fn a_rule_at_the_end_changes_only_what_none_answered(
        text in testing::policy_text(0..12),
        rule in testing::rule(),
        world in testing::world(),
        request in testing::request(),
    ) {
        let longer = parsed(&format!("{text}[[rule]]\nname = \"last\"\n{rule}"));
        let shorter = parsed(&text);
        // What only the last rule speaks of is a class that the shorter policy does not know.
        let known = request.classes.iter().filter(|bit| {
            shorter.class(*bit).is_some() || longer.class(*bit).is_none()
        });
        let classes = Classes(known.map(|bit| 1 << bit).sum());
        for part in parts(&Request { classes, ..request }) {
            let before = judge(&shorter, &part, &world.facts());
            if before.reason().rule != "default" {
                prop_assert_eq!(judge(&longer, &part, &world.facts()), before);
            }
        }
    }

    #[test]
    fn the_strictest_part_wins(
        policy in testing::policy(0..12),
        world in testing::world(),
        request in testing::request(),
    ) {
        let whole = rank(&judge(&policy, &request, &world.facts()));
        let parts = parts(&request);
        let ranks = parts.iter().map(|part| rank(&judge(&policy, part, &world.facts())));
        prop_assert_eq!(Some(whole), ranks.max());
    }

    #[test]
    fn nothing_unmatched_is_allowed(world in testing::world(), request in testing::request()) {
        let policy = parsed(&POLICY[..POLICY.find("[[rule]]").unwrap()]);
        let judgement = judge(&policy, &request, &world.facts());
        // Running what no rule names, reading our programs.
        let free = match request.actions.0 {
            EXEC => 0b111 | 1 << 62,
            act if act & !(READ | EXEC) == 0 => 1 << 62,
            _ => 0,
        };
        let unprotected = matches!(request.object, Object::File { .. }) && request.classes.0 & !free == 0;
        if let Judgement::Allow(reason) = &judgement {
            prop_assert!(unprotected || reason.rule == "built-in", "{:?}", request);
        }
    }

    #[test]
    fn an_agent_that_is_none_is_denied(
        policy in testing::policy(0..12),
        world in testing::world(),
        request in testing::request(),
        agent in 3_u32..,
    ) {
        let request = Request { agent: AgentId(agent), ..request };
        prop_assert_eq!(rank(&judge(&policy, &request, &world.facts())), 2);
    }
}
