//! What an approver is shown of a request, made from kernel facts by us and escaped. The inbox, the
//! API and the digest a decision carries are all made from one [`Rendered`].
use serde::Serialize;
use syshold_protocol::canonical::{self, CanonicalError};
use syshold_protocol::{
    ActionObject, Assurance, Digest, Reading, Request, RequestId, RequestPhase, Risk, Scope,
    Subject, display,
};

use crate::judge::{Case, need, offered};

/// A request as shown. Everything in it is safe to show and nothing is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// Such as `support-bot wants to connect to example.com (192.0.2.7:443)`.
    pub title: String,
    pub facts: Vec<Fact>,
    /// What the agent says about itself. Shown last, labelled as unverified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
    /// What an approval can be given for.
    pub scopes: Vec<Scope>,
    /// How many identical holds one approval covers.
    pub waiting: u32,
    /// How many people have to approve.
    pub need: u32,
    /// What an approval has to be proven by, if the rule says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
    /// The hold is over: an approval is for one retry.
    pub late: bool,
    pub request_sha256: Digest,
}

/// One line of facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub label: &'static str,
    pub value: String,
}

impl Rendered {
    /// Shows `request`, sent by the host called `host_name`.
    pub fn new(
        request: &Request,
        request_sha256: Digest,
        host_name: &str,
        phase: RequestPhase,
    ) -> Self {
        let case = Case {
            request,
            phase,
            votes: &[],
            rendered: Digest([0; 32]),
        };
        Self {
            title: title(request),
            facts: facts(request, host_name),
            unverified: request.agent_reason.as_deref().map(display::escape),
            scopes: offered(&case),
            waiting: request.waiting,
            need: need(request),
            assurance: request.assurance,
            late: phase == RequestPhase::Late,
            request_sha256,
        }
    }

    /// What a decision says its approvers were shown.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        Ok(Digest::of(&canonical::to_vec(self)?))
    }
}

/// One line that says who wants what.
pub fn title(request: &Request) -> String {
    let agent = display::escape(&request.agent.name);
    let preposition = match request.action.kind.as_str() {
        verb @ ("connect" | "send") => format!("{verb} to"),
        "listen" => "listen on".to_owned(),
        "privilege" => "gain a privilege:".to_owned(),
        "exec" => "run".to_owned(),
        verb => verb.to_owned(),
    };
    let object = match &request.action.exec {
        Some(exec) if !exec.argv.is_empty() => command(&exec.argv),
        _ => object(&request.action.object),
    };
    let after = match &request.taint {
        Some(taint) => format!(
            " after reading {}",
            display::escape(&taint.classes.join(", "))
        ),
        None => String::new(),
    };
    format!("{agent} wants to {preposition} {object}{after}")
}

/// Whether the host has left something out of what is asked, because a request is too small for it.
pub fn is_cut(request: &Request) -> bool {
    let (process, object) = (&request.process, &request.action.object);
    let exec = request.action.exec.as_ref();
    exec.is_some_and(|exec| !exec.whole)
        || [&process.exe, &process.cwd, &object.requested]
            .into_iter()
            .chain(&object.resolved)
            .chain(&process.argv)
            .any(|value| display::is_cut(value))
}

/// A command line; arguments with blanks in them are quoted.
pub fn command(argv: &[String]) -> String {
    let argv: Vec<_> = argv.iter().map(|argument| quoted(argument)).collect();
    argv.join(" ")
}

/// What was read, by whom, when, and who let it.
pub fn reading(reading: &Reading) -> String {
    let leave = match (&reading.rule, reading.approved_by.as_slice()) {
        (Some(rule), []) => format!("allowed by the rule {rule}"),
        (None, []) => "allowed by a rule".to_owned(),
        (_, people) => {
            let people: Vec<_> = people.iter().map(Subject::as_str).collect();
            format!("approved by {}", people.join(", "))
        }
    };
    let code = match reading.request_id {
        Some(id) => format!(" ({})", code(id)),
        None => String::new(),
    };
    let Reading {
        what,
        classes,
        program,
        pid,
        at,
        ..
    } = reading;
    let text = format!(
        "{what} ({}), by {program} (pid {pid}) at {at}, {leave}{code}",
        classes.join(", ")
    );
    display::escape(&text)
}

/// The object in one line: the name with the address really used, or the path the kernel found.
pub fn object(object: &ActionObject) -> String {
    match (object.ip, object.port) {
        (Some(ip), Some(port)) => display::endpoint(name_of(object), ip, port),
        _ => display::escape(object.resolved.as_deref().unwrap_or(&object.requested)),
    }
}

/// The name the process looked up, unless what it named is the address itself.
fn name_of(object: &ActionObject) -> Option<&str> {
    let requested = object.requested.as_str();
    let is_address = requested.parse::<std::net::IpAddr>().is_ok()
        || requested.parse::<std::net::SocketAddr>().is_ok();
    (!is_address).then_some(requested)
}

/// A short name for a request that people can say aloud: the random end of its id.
pub fn short_code(request: &Request) -> String {
    code(request.request_id)
}

fn code(id: RequestId) -> String {
    let id = id.to_string();
    id[id.len() - 6..].to_uppercase()
}

/// The word people read for a risk.
pub fn risk(risk: Risk) -> &'static str {
    match risk {
        Risk::Low => "low",
        Risk::Medium => "medium",
        Risk::High => "high",
    }
}

/// A scope in words.
pub fn scope(scope: Scope, waiting: u32) -> String {
    match scope {
        Scope::Once if waiting > 1 => format!("once, for the {waiting} holds waiting"),
        Scope::Once => "once".to_owned(),
        Scope::Process => "for this process".to_owned(),
        Scope::Session => "for this session".to_owned(),
        Scope::For(minutes) if minutes.get() == 1 => "for 1 minute".to_owned(),
        Scope::For(minutes) => format!("for {minutes} minutes"),
    }
}

fn facts(request: &Request, host_name: &str) -> Vec<Fact> {
    let Request {
        agent,
        process,
        action,
        data,
        policy,
        ..
    } = request;
    let object = &action.object;
    let mut facts = Facts::default();
    facts.add("Why it is held", &policy.why);
    facts.add("Rule", &format!("{} ({})", policy.title, policy.rule));
    facts.add("Risk", risk(request.risk));
    facts.add("Agent", &agent.name);
    facts.maybe("Model", agent.model.as_deref());
    facts.add(
        "Owner",
        agent
            .owner
            .as_ref()
            .map_or("unknown: two people have to approve", Subject::as_str),
    );
    facts.maybe(
        "Launched by",
        agent.launched_by.as_ref().map(Subject::as_str),
    );
    facts.add("Host", &format!("{host_name} ({})", request.host_id));
    facts.add("Action", action.kind.as_str());
    facts.add("Requested", &object.requested);
    facts.maybe("Resolved", object.resolved.as_deref());
    facts.maybe(
        "Address",
        object
            .ip
            .zip(object.port)
            .map(|(ip, port)| display::endpoint(None, ip, port))
            .as_deref(),
    );
    facts.maybe(
        "File",
        object
            .dev
            .zip(object.inode)
            .map(|(dev, inode)| format!("device {dev}, inode {inode}"))
            .as_deref(),
    );
    if let Some(exec) = &action.exec {
        facts.escaped("Would run", command(&exec.argv));
        if !exec.whole {
            facts.add(
                "Arguments",
                "NOT ALL OF THEM ARE HERE: what is left out is not shown anywhere",
            );
        }
        facts.maybe(
            "SHA-256 of what would run",
            exec.sha256.map(|digest| digest.to_string()).as_deref(),
        );
    }
    if let Some(taint) = &request.taint {
        facts.add("Has read", &taint.classes.join(", "));
        for item in &taint.readings {
            facts.escaped("Read before", reading(item));
        }
        if taint.more > 0 {
            facts.add("Read before", &format!("and {} more", taint.more));
        }
        if taint.readings.is_empty() {
            facts.add(
                "Read before",
                "not remembered by the host's daemon; its ledger has it",
            );
        }
    }
    facts.maybe(
        "Data classes",
        (!data.classes.is_empty())
            .then(|| data.classes.join(", "))
            .as_deref(),
    );
    facts.maybe(
        "Size",
        data.size.map(|size| format!("{size} bytes")).as_deref(),
    );
    facts.add("Program", &process.exe);
    facts.maybe(
        "Program SHA-256",
        process
            .exe_sha256
            .map(|digest| digest.to_string())
            .as_deref(),
    );
    facts.escaped("Command line", command(&process.argv));
    facts.add("Folder", &process.cwd);
    facts.add(
        "Process",
        &format!("pid {}, uid {}", process.pid, process.uid),
    );
    facts.add("Control group", &process.cgroup);
    let ancestry: Vec<_> = process
        .ancestry
        .iter()
        .map(|a| format!("{} ({})", display::escape(&a.exe), a.pid))
        .collect();
    if !ancestry.is_empty() {
        facts.escaped("Started by", ancestry.join(" ← "));
    }
    facts.maybe("Asked of", policy.approvers.as_deref());
    facts.add("Identical holds", &request.waiting.to_string());
    facts.add("Held since", &request.created_at.to_string());
    facts.add("Held until", &request.hold_until.to_string());
    facts.add("Policy SHA-256", &policy.sha256.to_string());
    facts.0
}

/// An argument with blanks in it must not look like two.
fn quoted(argument: &str) -> String {
    let escaped = display::escape(argument);
    if argument.is_empty() || argument.contains([' ', '\'', '"']) {
        format!("'{}'", escaped.replace('\'', "\\'"))
    } else {
        escaped
    }
}

#[derive(Default)]
struct Facts(Vec<Fact>);

impl Facts {
    fn add(&mut self, label: &'static str, raw: &str) {
        self.escaped(label, display::escape(raw));
    }

    fn maybe(&mut self, label: &'static str, raw: Option<&str>) {
        if let Some(raw) = raw {
            self.add(label, raw);
        }
    }

    fn escaped(&mut self, label: &'static str, value: String) {
        self.0.push(Fact { label, value });
    }
}

#[cfg(test)]
mod tests {
    use syshold_protocol::{Exec, Taint};

    use super::*;
    use crate::sample;

    fn rendered(request: &Request) -> Rendered {
        Rendered::new(request, Digest([7; 32]), "web-1", RequestPhase::Waiting)
    }

    fn tainted() -> Taint {
        Taint {
            classes: vec!["customers".to_owned()],
            readings: vec![Reading {
                what: "/srv/pii/a\u{202e}.csv".to_owned(),
                classes: vec!["customers".to_owned()],
                pid: 40,
                program: "cat\n".to_owned(),
                at: syshold_protocol::UnixMs::new(1_700_000_000_000),
                rule: Some("pii-read".to_owned()),
                request_id: Some("01938d5e-6b2a-7c3d-8e4f-0123456789ab".parse().unwrap()),
                approved_by: vec!["bob@example.com".parse().unwrap()],
            }],
            more: 2,
        }
    }

    #[test]
    fn what_was_read_before_is_shown_with_who_let_it() {
        let mut request = sample::request();
        request.taint = Some(tainted());
        assert!(title(&request).ends_with(" after reading customers"));
        let facts = rendered(&request).facts;
        let lines = |label| -> Vec<String> {
            let facts = facts.iter().filter(|fact| fact.label == label);
            facts.map(|fact| fact.value.clone()).collect()
        };
        assert_eq!(lines("Has read"), ["customers"]);
        assert_eq!(
            lines("Read before"),
            [
                "/srv/pii/a\\u{202e}.csv (customers), by cat\\u{a} (pid 40) at \
                 2023-11-14T22:13:20.000Z, approved by bob@example.com (6789AB)",
                "and 2 more"
            ]
        );
        let reading = &mut request.taint.as_mut().unwrap().readings[0];
        reading.approved_by.clear();
        assert!(super::reading(reading).ends_with("allowed by the rule pii-read (6789AB)"));
        reading.rule = None;
        reading.request_id = None;
        assert!(super::reading(reading).ends_with("allowed by a rule"));
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_run() {
        let mut request = sample::request();
        request.action.kind = syshold_protocol::ActionKind::Exec;
        request.action.exec = Some(Exec {
            argv: vec!["kubectl".into(), "delete".into(), "a b\u{202e}".into()],
            whole: false,
            argv_sha256: Digest([1; 32]),
            sha256: Some(Digest([2; 32])),
        });
        assert_eq!(
            title(&request),
            "support-bot wants to run kubectl delete 'a b\\u{202e}'"
        );
        let facts = rendered(&request).facts;
        let has = |label, value: &str| {
            let mut facts = facts.iter();
            facts.any(|fact| fact.label == label && fact.value.contains(value))
        };
        assert!(has("Would run", "kubectl delete 'a b") && has("Arguments", "NOT ALL"));
        assert!(has("SHA-256 of what would run", "0202"));
        assert!(is_cut(&request));
        request.action.exec.as_mut().unwrap().whole = true;
        assert!(!is_cut(&request));
        let mark = display::not_shown(9, "arguments");
        type Place = fn(&mut Request) -> &mut String;
        let places: [Place; 4] = [
            |request| &mut request.process.exe,
            |request| &mut request.process.cwd,
            |request| &mut request.process.argv[0],
            |request| &mut request.action.object.requested,
        ];
        for place in places {
            let mut cut = request.clone();
            place(&mut cut).push_str(&mark);
            assert!(is_cut(&cut));
        }
    }

    #[test]
    fn nothing_an_agent_controls_can_hide_or_reorder() {
        let mut request = sample::request();
        let nasty = "a\u{202e}b\nc\u{200b}\u{1b}[2J";
        request.process.argv = vec![nasty.to_owned(), "two words".to_owned(), String::new()];
        request.process.exe = nasty.to_owned();
        request.action.object.requested = nasty.to_owned();
        request.agent_reason = Some(nasty.to_owned());
        request.process.ancestry[0].exe = nasty.to_owned();
        let shown = serde_json::to_string(&rendered(&request)).unwrap();
        for hidden in ['\u{202e}', '\u{200b}', '\u{1b}'] {
            assert!(!shown.contains(hidden), "{hidden:?} got through");
        }
        assert!(
            shown.contains("\\\\u{202e}") && !shown.contains("b\\nc"),
            "{shown}"
        );
        let line = rendered(&request)
            .facts
            .into_iter()
            .find(|fact| fact.label == "Command line")
            .unwrap()
            .value;
        assert!(line.ends_with("'two words' ''"), "{line}");
    }

    #[test]
    fn every_difference_shown_changes_the_digest() {
        let request = sample::request();
        let digest = rendered(&request).digest().unwrap();
        assert_eq!(rendered(&request).digest().unwrap(), digest);
        let mut other = request.clone();
        other.process.cwd.push('x');
        assert_ne!(rendered(&other).digest().unwrap(), digest);
        let mut other = request.clone();
        other.taint = Some(tainted());
        let first = rendered(&other).digest().unwrap();
        assert_ne!(first, digest);
        other.taint.as_mut().unwrap().readings[0].what.push('x');
        assert_ne!(rendered(&other).digest().unwrap(), first);
        let late = Rendered::new(&request, Digest([7; 32]), "web-1", RequestPhase::Late);
        assert_ne!(
            late.digest().unwrap(),
            digest,
            "a late approval is for something else"
        );
        let twin = Rendered::new(&request, Digest([8; 32]), "web-1", RequestPhase::Waiting);
        assert_ne!(twin.digest().unwrap(), digest, "it belongs to one request");
    }

    #[test]
    fn titles_name_the_address_really_used() {
        assert_eq!(
            title(&sample::request()),
            "support-bot wants to connect to example.com (192.0.2.7:443)"
        );
    }
}
