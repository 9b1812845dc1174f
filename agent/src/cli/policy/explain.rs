//! `syshold policy explain`: what a policy answers to one request, and which rule does.
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::{DEFAULT_FILE, describe, terms_json};
use crate::names::{HostName, Names, look_up, parse_resolv_conf};
use crate::policy::{PathNames, Policy, PolicyError, load};
use crate::request::{Action, Actions, AgentId, Classes, Object, Request, Transport};
use crate::rules::{BuiltIn, Facts, Judgement, judge};

#[derive(Debug, Args)]
pub(super) struct Explain {
    #[arg(default_value = DEFAULT_FILE)]
    file: PathBuf,
    /// The agent that tries it, by its name in the file
    #[arg(long)]
    agent: String,
    #[command(flatten)]
    what: What,
    /// Do not resolve names: what depends on them does not match
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Connect to this host or address
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<Peer>,
    /// Send a datagram to this host or address
    #[arg(long, value_name = "HOST:PORT")]
    send: Option<Peer>,
    /// Read this file; its name alone counts, symbolic links are not followed
    #[arg(long, value_name = "PATH")]
    read: Option<String>,
    /// Write this file
    #[arg(long, value_name = "PATH")]
    write: Option<String>,
}

/// A host and a port, as they are typed.
#[derive(Clone, Debug)]
enum Peer {
    Address(SocketAddr),
    Name(HostName, u16),
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("{0}")]
    Policy(#[from] PolicyError),
    #[error("there is no agent `{name}` in {}; it has: {known}", file.display())]
    Agent {
        name: String,
        known: String,
        file: PathBuf,
    },
    #[error("`{0}` is not an absolute path without `.` and `..`; write the path that is meant")]
    Path(String),
    #[error("names cannot be resolved here: {0}; use --offline")]
    Runtime(io::Error),
}

/// What the policy answers to each object that was meant.
#[derive(Debug)]
pub(super) struct Answers {
    agent: String,
    notes: Vec<String>,
    list: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    action: Action,
    object: String,
    classes: Vec<String>,
    judgement: Judgement,
}

pub(super) fn answers(explain: &Explain) -> Result<Answers, ExplainError> {
    let policy = load(&explain.file)?;
    let agent = policy.agent_id(&explain.agent).ok_or_else(|| {
        let known: Vec<&str> = policy.agents().iter().map(|a| a.name.as_str()).collect();
        ExplainError::Agent {
            name: explain.agent.clone(),
            known: known.join(", "),
            file: explain.file.clone(),
        }
    })?;
    let mut answers = Answers {
        agent: explain.agent.clone(),
        notes: Vec::new(),
        list: Vec::new(),
    };
    let what = &explain.what;
    let peers = [(Action::Connect, &what.connect), (Action::Send, &what.send)];
    for (action, peer) in peers {
        if let Some(peer) = peer {
            answers.ask_about_peer(&policy, agent, action, peer, explain.offline)?;
        }
    }
    let paths = [(Action::Read, &what.read), (Action::Write, &what.write)];
    for (action, path) in paths {
        if let Some(path) = path {
            answers.ask_about_file(&policy, agent, action, path)?;
        }
    }
    Ok(answers)
}

impl Answers {
    fn ask_about_peer(
        &mut self,
        policy: &Policy,
        agent: AgentId,
        action: Action,
        peer: &Peer,
        offline: bool,
    ) -> Result<(), ExplainError> {
        let mut names = Names::default();
        let mut hosts = policy.host_names();
        if let Peer::Name(name, _) = peer
            && !hosts.contains(name)
        {
            hosts.push(name.clone());
        }
        if !offline {
            self.resolve(&hosts, &mut names)?;
        }
        let addresses: Vec<SocketAddr> = match peer {
            Peer::Address(to) => vec![*to],
            Peer::Name(name, port) => {
                if names.addresses(name).next().is_none() {
                    // Documentation's own network: no other rule means it by address.
                    let stand_in = IpAddr::from([192, 0, 2, 1]);
                    names.learn(name, [stand_in], Instant::now());
                    self.notes
                        .push(format!("{name} is judged by its name alone, as {stand_in}"));
                }
                names
                    .addresses(name)
                    .map(|ip| SocketAddr::new(ip, *port))
                    .collect()
            }
        };
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let builtin = BuiltIn {
            deny: Vec::new(),
            resolvers: parse_resolv_conf(&resolv_conf),
        };
        let facts = Facts {
            names: &names,
            builtin: &builtin,
        };
        let transport = match action {
            Action::Send => Transport::Udp,
            _ => Transport::Tcp,
        };
        for to in addresses {
            let request = Request {
                agent,
                actions: Actions::from(action),
                object: Object::Socket {
                    cookie: 0,
                    transport,
                    to,
                },
                classes: Classes(0),
            };
            let known: Vec<&str> = names.names_of(to.ip()).map(HostName::as_str).collect();
            let object = match known.as_slice() {
                [] => to.to_string(),
                known => format!("{to} ({})", known.join(", ")),
            };
            self.list.push(Answer {
                action,
                object,
                classes: Vec::new(),
                judgement: judge(policy, &request, &facts),
            });
        }
        Ok(())
    }

    fn resolve(&mut self, hosts: &[HostName], names: &mut Names) -> Result<(), ExplainError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ExplainError::Runtime)?;
        for (host, answer) in runtime.block_on(look_up(hosts)) {
            match answer {
                Ok(ips) => {
                    names.learn(&host, ips, Instant::now());
                }
                Err(error) => self
                    .notes
                    .push(format!("{host} does not resolve here: {error}")),
            }
        }
        // A look-up that hangs in libc must not keep the answer waiting.
        runtime.shutdown_background();
        Ok(())
    }

    fn ask_about_file(
        &mut self,
        policy: &Policy,
        agent: AgentId,
        action: Action,
        path: &str,
    ) -> Result<(), ExplainError> {
        if PathNames::of(path.as_bytes()).is_none() {
            return Err(ExplainError::Path(path.to_owned()));
        }
        let classes = policy.classes_of_path(path);
        let request = Request {
            agent,
            actions: Actions::from(action),
            object: Object::File {
                dev: 0,
                ino: 0,
                generation: 0,
                path: Some(path.to_owned()),
            },
            classes,
        };
        let facts = Facts {
            names: &Names::default(),
            builtin: &BuiltIn::default(),
        };
        self.list.push(Answer {
            action,
            object: path.to_owned(),
            classes: policy.class_names(classes).map(str::to_owned).collect(),
            judgement: judge(policy, &request, &facts),
        });
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let list: Vec<Value> = self.list.iter().map(Answer::json).collect();
        json!({ "agent": self.agent, "notes": self.notes, "answers": list })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for answer in &self.list {
            let _infallible = writeln!(text, "{} {} {}", self.agent, answer.action, answer.object);
            if !answer.classes.is_empty() {
                let _infallible = writeln!(text, "  protected as {}", answer.classes.join(", "));
            }
            let reason = answer.judgement.reason();
            let _infallible = writeln!(
                text,
                "  {} by {}: {}",
                answer.word(),
                reason.rule,
                reason.why
            );
            if let Judgement::Ask(_, terms) = &answer.judgement {
                let _infallible = writeln!(text, "  approvers: {}", describe(terms));
            }
        }
        for note in &self.notes {
            let _infallible = writeln!(text, "note: {note}");
        }
        text
    }
}

impl Answer {
    fn word(&self) -> &'static str {
        match self.judgement {
            Judgement::Allow(_) => "allow",
            Judgement::Deny(_) => "deny",
            Judgement::Ask(..) => "ask",
        }
    }

    fn json(&self) -> Value {
        let reason = self.judgement.reason();
        json!({
            "action": self.action.name(),
            "object": self.object,
            "classes": self.classes,
            "verdict": self.word(),
            "rule": reason.rule,
            "why": reason.why,
            "terms": match &self.judgement {
                Judgement::Ask(_, terms) => terms_json(terms),
                Judgement::Allow(_) | Judgement::Deny(_) => Value::Null,
            },
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("write host:port, 192.0.2.1:443 or [2001:db8::1]:443")]
struct NotAPeer;

impl std::str::FromStr for Peer {
    type Err = NotAPeer;

    fn from_str(text: &str) -> Result<Self, NotAPeer> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (name, port) = text.split_once(':').ok_or(NotAPeer)?;
        let name = name.parse().map_err(|_| NotAPeer)?;
        Ok(Self::Name(name, port.parse().map_err(|_| NotAPeer)?))
    }
}

#[cfg(test)]
mod tests {
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
}
