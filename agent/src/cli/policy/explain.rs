//! `syshold policy explain`: what a policy answers to one request, and which rule does.
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use syshold_protocol::ids::Digest;

use super::{DEFAULT_FILE, describe, terms_json};
use crate::names::{HostName, Names, look_up, parse_resolv_conf};
use crate::policy::{Kind, PathNames, Policy, PolicyError, load};
use crate::request::{
    Action, Actions, AgentId, Classes, Exec, Object, Privilege, Request, Transport,
};
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
    /// After the process has read this protected set or class; may be given several times
    #[arg(long, value_name = "SET")]
    after: Vec<String>,
    /// With --exec, after `--`: the arguments behind the program's name
    #[arg(last = true, requires = "exec")]
    args: Vec<String>,
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
    /// Write this file, or create it
    #[arg(long, value_name = "PATH")]
    write: Option<String>,
    /// Delete this file, or give it another name
    #[arg(long, value_name = "PATH")]
    delete: Option<String>,
    /// Listen at this own address
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Run this program; its own name is taken for its first argument
    #[arg(long, value_name = "PATH")]
    exec: Option<String>,
    /// Become another user, gain a capability, run a set-user-id program
    #[arg(long)]
    privilege: bool,
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
    #[error("there is no protected set or class `{name}` in {}; it has: {known}", file.display())]
    Set {
        name: String,
        known: String,
        file: PathBuf,
    },
    #[error("names cannot be resolved here: {0}; use --offline")]
    Runtime(io::Error),
}

/// What the policy answers to each object that was meant.
#[derive(Debug)]
pub(super) struct Answers {
    agent: String,
    taint: Classes,
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
        taint: Classes(0),
        notes: Vec::new(),
        list: Vec::new(),
    };
    let what = &explain.what;
    answers.taint = taint(&policy, explain)?;
    let peers = [(Action::Connect, &what.connect), (Action::Send, &what.send)];
    for (action, peer) in peers {
        if let Some(peer) = peer {
            answers.ask_about_peer(&policy, agent, action, peer, explain.offline)?;
        }
    }
    if let Some(at) = what.listen {
        answers.ask_about_listening(&policy, agent, at);
    }
    let paths = [
        (Action::Read, &what.read),
        (Action::Write, &what.write),
        (Action::Delete, &what.delete),
        (Action::Exec, &what.exec),
    ];
    for (action, path) in paths {
        if let Some(path) = path {
            let exec = (action == Action::Exec).then(|| answers.would_run(path, &explain.args));
            answers.ask_about_file(&policy, agent, action, path, exec)?;
        }
    }
    if what.privilege {
        answers.ask_about_privilege(&policy, agent);
    }
    Ok(answers)
}

fn taint(policy: &Policy, explain: &Explain) -> Result<Classes, ExplainError> {
    let mut taint = 0;
    for name in &explain.after {
        let meant = policy.classes_of(|class| {
            class.kind != Kind::Programs && (class.name == *name || class.class == *name)
        });
        if meant == Classes(0) {
            let known: Vec<_> = policy.class_names(policy.all_classes()).collect();
            return Err(ExplainError::Set {
                name: name.clone(),
                known: known.join(", "),
                file: explain.file.clone(),
            });
        }
        taint |= meant.0;
    }
    // What nobody remembers makes no difference to a process that has read it.
    Ok(Classes(taint & policy.taints().0))
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
                taint: self.taint,
                exec: None,
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
        exec: Option<Exec>,
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
                onto: 0,
                path: Some(path.to_owned()),
            },
            classes,
            taint: self.taint,
            exec: exec.map(Arc::new),
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

    fn ask_about_listening(&mut self, policy: &Policy, agent: AgentId, at: SocketAddr) {
        let object = Object::Socket {
            cookie: 0,
            transport: Transport::Tcp,
            to: at,
        };
        self.ask(policy, agent, Action::Listen, object, at.to_string());
    }

    fn ask_about_privilege(&mut self, policy: &Policy, agent: AgentId) {
        let object = Object::Privilege(Privilege::User { uid: 0, gid: 0 });
        self.ask(
            policy,
            agent,
            Action::Privilege,
            object,
            "of any kind".to_owned(),
        );
    }

    fn ask(
        &mut self,
        policy: &Policy,
        agent: AgentId,
        action: Action,
        object: Object,
        shown: String,
    ) {
        let request = Request {
            agent,
            actions: Actions::from(action),
            object,
            classes: Classes(0),
            taint: self.taint,
            exec: None,
        };
        let facts = Facts {
            names: &Names::default(),
            builtin: &BuiltIn::default(),
        };
        self.list.push(Answer {
            action,
            object: shown,
            classes: Vec::new(),
            judgement: judge(policy, &request, &facts),
        });
    }

    /// The program with its arguments, and the digest of its file if it can be read here.
    fn would_run(&mut self, path: &str, args: &[String]) -> Exec {
        let argv = std::iter::once(path).chain(args.iter().map(String::as_str));
        let argv: Vec<Vec<u8>> = argv.map(|arg| arg.as_bytes().to_vec()).collect();
        let sha256 = match std::fs::read(path) {
            Ok(bytes) => Some(Digest::of(&bytes)),
            Err(error) => {
                self.notes.push(format!(
                    "{path} cannot be read here, so its digest is not known: {error}"
                ));
                None
            }
        };
        Exec {
            argv_sha256: Digest::of(&argv.join(&0)),
            argv,
            whole: true,
            sha256,
        }
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
mod tests;
