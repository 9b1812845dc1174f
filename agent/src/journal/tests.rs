//! With a layer in the journal's place that keeps what it is given.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use serde_json::json;
use syshold_ledger::leaf::{
    Action, Agent, Approver, DecidedBy, Decision, Object, Outcome, Policy, Verdict,
};
use syshold_ledger::{Draft, Kind};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use uuid::Uuid;

use super::*;

type Line = (Level, BTreeMap<&'static str, String>);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = (*event.metadata().level(), fields.0);
        self.0.lock().unwrap().push(line);
    }
}

fn decision(comment: &str) -> Draft {
    Draft::new(Kind::Decision)
        .request(Uuid::nil())
        .hold("7")
        .agent(&Agent {
            name: "support-bot".into(),
            owner: Some("alice@example.com".into()),
            ..Agent::default()
        })
        .action(&Action {
            op: "read".into(),
            ..Action::default()
        })
        .object(&Object {
            kind: "file".into(),
            path: Some("/srv/pii/a\u{1b}[2J.csv".into()),
            labels: vec!["pii".into(), "eu".into()],
            ..Object::default()
        })
        .policy(&Policy {
            sha256: "0".repeat(64),
            rule: Some("pii-read".into()),
            why: Some("customer data".into()),
        })
        .decision(&Decision {
            verdict: Verdict::Deny,
            by: DecidedBy::Human,
            cause: None,
            id: None,
            grant: None,
            expires: None,
        })
        .approvers(&[Approver {
            subject: "dave@example.com".into(),
            comment: Some(comment.into()),
            ..Approver::default()
        }])
}

#[test]
fn every_leaf_is_a_line_with_the_fields_of_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let options = syshold_ledger::Options {
        openable: vec!["approvers.comment".into()],
        ..Default::default()
    };
    let ledger = Ledger::open_with(&path, "web-1".parse().unwrap(), options).unwrap();
    let mut next = 1;
    for draft in [
        decision("a name that may have to go"),
        Draft::new(Kind::Outcome).hold("7").outcome(&Outcome {
            result: "denied".into(),
            errno: Some(1),
            held_ms: Some(8123),
        }),
        Draft::new(Kind::Gap).field("gap", &json!({"lost": 3, "cause": "disk full"})),
    ] {
        ledger.append(draft).wait().unwrap();
    }
    let lines = Lines::default();
    let registry = tracing_subscriber::registry().with(lines.clone());
    tracing::subscriber::with_default(registry, || copy(&path, &mut next)).unwrap();
    assert_eq!(next, 4);
    let lines = lines.0.lock().unwrap();
    let [(level, decided), (_, outcome), (warning, gap)] = &lines[..] else {
        panic!("{lines:?}");
    };
    let leaf = &Reader::open(&path).unwrap().tail(3).unwrap()[0];
    let record = Record::of(leaf);
    // Whatever CSV has is there under its name, but what people wrote and may have to go.
    for (name, value) in Record::COLUMNS.into_iter().zip(record.fields()) {
        let name = if name == "idx" { "leaf" } else { name };
        let expected = Some(&value).filter(|value| name != "comments" && !value.is_empty());
        assert_eq!(decided.get(name), expected, "{name}");
    }
    assert_eq!((*level, *warning), (Level::INFO, Level::WARN));
    assert_eq!(decided["why"], "customer data");
    assert_eq!(outcome["held_ms"], "8123");
    assert_eq!((gap["kind"].as_str(), gap.get("agent")), ("gap", None));
    assert_eq!(gap["detail"], "3 not recorded: disk full");
    let text = &decided["message"];
    assert!(
        text.starts_with("leaf 1: decision deny read of /srv/pii/a")
            && text.ends_with(", agent support-bot, rule pii-read, by human: dave@example.com"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    assert!(!format!("{lines:?}").contains("a name that may have to go"));
}

#[test]
fn what_is_committed_at_the_end_is_copied_too_and_nothing_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    ledger.append(decision("before")).wait().unwrap();
    let lines = Lines::default();
    let registry = tracing_subscriber::registry().with(lines.clone());
    // The copying is on a thread of its own, so this test has the log of the whole program.
    tracing::subscriber::set_global_default(registry).unwrap();
    let journal = Journal::start(&ledger, path).unwrap();
    for _ in 0..MOST + 3 {
        drop(ledger.append(decision("during")));
    }
    ledger.append(Draft::new(Kind::Stop)).wait().unwrap();
    journal.finish();
    let lines = lines.0.lock().unwrap();
    // Other tests of this program may say something meanwhile, but not of leaves.
    let leaves: Vec<(usize, &str)> = lines
        .iter()
        .filter_map(|(_, fields)| Some((fields.get("leaf")?.parse().ok()?, &*fields["kind"])))
        .collect();
    let last = MOST + 5;
    let expected = (2..last).map(|idx| (idx, "decision"));
    assert_eq!(leaves, expected.chain([(last, "stop")]).collect::<Vec<_>>());
}
