//! A sample ledger.
use std::path::Path;

use serde_json::json;
use syshold_ledger::leaf::{
    Action, Agent, Approver, DecidedBy, Decision, Object, Outcome, Policy, Verdict,
};
use syshold_ledger::{Draft, Kind, Ledger, Options};
use uuid::Uuid;

use super::{POLICY, policy};

const NASTY: &str = "/srv/pii/=cmd()\u{202e}<script>alert(1)</script>\u{1b}[2J.csv";

struct Story<'a> {
    ledger: &'a Ledger,
}

impl Story<'_> {
    fn say(&self, draft: Draft) -> u64 {
        self.ledger.append(draft).wait().unwrap().idx
    }

    fn about(&self, kind: Kind, op: &str, object: &Object, rule: &str) -> Draft {
        Draft::new(kind)
            .agent(&Agent {
                name: "support-bot".into(),
                owner: Some("alice@example.com".into()),
                model: Some("claude-sonnet".into()),
                ..Agent::default()
            })
            .action(&Action {
                op: op.into(),
                ..Action::default()
            })
            .object(object)
            .policy(&Policy {
                sha256: POLICY.into(),
                rule: Some(rule.into()),
                why: Some("customer data leaves the room".into()),
            })
            .field("pid", &4711)
            .field("comm", "python3")
    }

    fn decide(
        &self,
        op: &str,
        object: &Object,
        verdict: Verdict,
        by: DecidedBy,
        who: &[(&str, &str)],
    ) {
        let rule = if by == DecidedBy::Policy && verdict == Verdict::Deny {
            "default"
        } else {
            "pii-read"
        };
        let id = Uuid::now_v7();
        if by == DecidedBy::Human {
            self.say(self.about(Kind::Request, op, object, rule).request(id));
        }
        let approvers: Vec<_> = who
            .iter()
            .map(|(subject, comment)| Approver {
                subject: (*subject).into(),
                channel: "web".into(),
                method: "passkey".into(),
                comment: Some((*comment).into()),
                ..Approver::default()
            })
            .collect();
        let decision = Decision {
            verdict,
            by,
            cause: (by == DecidedBy::Timeout).then(|| "expired".into()),
            id: None,
            grant: (!who.is_empty()).then(|| json!({"lifespan": "single", "max_uses": 1})),
            expires: None,
        };
        let hold = id.simple().to_string();
        let draft = self
            .about(Kind::Decision, op, object, rule)
            .request(id)
            .hold(&hold);
        self.say(draft.decision(&decision).approvers(&approvers));
        if verdict == Verdict::Allow {
            let outcome = Outcome {
                result: "resumed".into(),
                errno: Some(0),
                held_ms: Some(8_123),
            };
            self.say(
                Draft::new(Kind::Outcome)
                    .request(id)
                    .hold(&hold)
                    .outcome(&outcome),
            );
        }
    }
}

fn file(path: &str) -> Object {
    Object {
        kind: "file".into(),
        path: Some(path.into()),
        dev: Some("65024".into()),
        ino: Some("131".into()),
        labels: vec!["pii".into()],
        ..Object::default()
    }
}

fn socket() -> Object {
    Object {
        kind: "socket".into(),
        addr: Some("203.0.113.9:443".into()),
        host: Some("paste.example".into()),
        ..Object::default()
    }
}

/// A small story, with values that would hurt a terminal, a spreadsheet or a page, and some of what
/// goes wrong.
pub(crate) fn story(path: &Path) {
    let options = Options {
        openable: vec!["process.argv".into(), "approvers.comment".into()],
        ..Options::default()
    };
    let ledger = Ledger::open_with(path, "web-1".parse().unwrap(), options).unwrap();
    let story = Story { ledger: &ledger };
    story.say(Draft::new(Kind::Start));
    story.say(policy());
    for _ in 0..7 {
        story.decide(
            "read",
            &file("/srv/pii/customers.csv"),
            Verdict::Allow,
            DecidedBy::Human,
            &[("dave@example.com", "ticket 4711")],
        );
        story.decide(
            "connect",
            &socket(),
            Verdict::Deny,
            DecidedBy::Human,
            &[("erin@example.com", "not there")],
        );
        story.decide("connect", &socket(), Verdict::Allow, DecidedBy::Policy, &[]);
        story.decide(
            "write",
            &file(NASTY),
            Verdict::Deny,
            DecidedBy::Timeout,
            &[],
        );
        story.decide("send", &socket(), Verdict::Deny, DecidedBy::Policy, &[]);
    }
    story.decide(
        "exec",
        &file("/usr/bin/sudo"),
        Verdict::Allow,
        DecidedBy::Human,
        &[("alice@example.com", "my own bot"), ("bob@example.com", "")],
    );
    story.say(Draft::new(Kind::Degraded).field("degraded", &json!({"cause": "the disk is full"})));
    story.say(Draft::new(Kind::Gap).field("gap", &json!({"lost": 3, "cause": "the disk is full"})));
    story.say(Draft::new(Kind::Stop));
}
