//! `syshold policy check` and `explain`: what a policy file says, without a daemon.
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use syshold_protocol::decision::Scope;

use crate::names::{HostName, Names, look_up, parse_resolv_conf};
use crate::policy::{Agent, Policy, PolicyError, Rule, Selector, load};
use crate::request::{Action, Actions, AgentId, Classes, Object, Request, Transport};
use crate::rules::{BuiltIn, Facts, Fallback, Judgement, Terms, judge};

/// `EX_CONFIG` of sysexits: the file is wrong.
const EXIT_CONFIG: u8 = 78;
/// The command line is wrong, as clap says it.
const EXIT_USAGE: u8 = 2;
const DEFAULT_FILE: &str = "/etc/syshold/agent.toml";

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a policy file and show what it says; exit code 78 when it is wrong
    Check {
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a policy file answers to one request, and which rule does
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Explain {
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
    json: bool,
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
enum ExplainError {
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
    Runtime(std::io::Error),
}

pub fn run(args: PolicyArgs) -> ExitCode {
    match args.command {
        Command::Check { file, json } => check(&file, json),
        Command::Explain(explain) => match answers(&explain) {
            Ok(answers) => {
                show(&answers.text(explain.json));
                ExitCode::SUCCESS
            }
            Err(error) => {
                complain(&error.to_string());
                match error {
                    ExplainError::Policy(_) => ExitCode::from(EXIT_CONFIG),
                    _ => ExitCode::from(EXIT_USAGE),
                }
            }
        },
    }
}

fn check(file: &Path, json: bool) -> ExitCode {
    match load(file) {
        Ok(policy) => {
            for warning in policy.warnings().iter().filter(|_| !json) {
                complain(&warning.to_string());
            }
            let text = if json {
                pretty(&as_json(&policy, file))
            } else {
                summary(&policy, file)
            };
            show(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            if json {
                show(&pretty(&failed(file, &error)));
            } else {
                complain(&error.to_string());
            }
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn summary(policy: &Policy, file: &Path) -> String {
    let mut text = format!("OK {}\nsha256 {}\n", file.display(), policy.digest());
    let agents = policy.agents().iter().map(|agent| {
        let model = agent.model.clone().unwrap_or_default();
        [
            agent.name.clone(),
            agent.owner.to_string(),
            model,
            selected_by(agent),
        ]
    });
    table(&mut text, ["AGENT", "OWNER", "MODEL", "GOVERNED"], agents);
    let classes = policy.classes().iter().map(|class| {
        let paths: Vec<String> = class.globs.iter().map(ToString::to_string).collect();
        [class.name.clone(), class.class.clone(), paths.join("\n")]
    });
    table(&mut text, ["PROTECTED", "CLASS", "PATHS"], classes);
    let rules = policy.rules().iter().map(|rule| {
        let how = match &rule.verdict {
            crate::policy::Verdict::Ask(terms) => describe(terms),
            _ => String::new(),
        };
        [
            rule.name.clone(),
            agents_of(policy, rule).join("\n"),
            rule.actions.to_string(),
            objects_of(policy, rule).join("\n"),
            rule.verdict.name().to_owned(),
            how,
        ]
    });
    table(
        &mut text,
        ["RULE", "AGENTS", "ACTION", "ON", "VERDICT", "HOW"],
        rules,
    );
    let _ = write!(
        text,
        "\nEverything else: connect and send are asked, protected paths are asked, the rest is allowed.\n"
    );
    let failure = policy.failure();
    let fallbacks = [
        ("nobody answers in time", failure.on_timeout),
        ("the gateway cannot be reached", failure.on_unreachable),
        ("the daemon is lost", failure.on_daemon_loss),
    ];
    for (when, fallback) in fallbacks {
        let _ = writeln!(text, "When {when}: {}", word(fallback));
    }
    match policy.warnings().len() {
        0 => {}
        1 => text.push_str("1 warning\n"),
        n => {
            let _ = writeln!(text, "{n} warnings");
        }
    }
    text
}

fn table<const N: usize>(
    text: &mut String,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    if table.row_iter().next().is_some() {
        let _ = writeln!(text, "\n{}", table.trim_fmt());
    }
}

fn selected_by(agent: &Agent) -> String {
    if agent.selectors.is_empty() {
        return format!("syshold run --agent {}", agent.name);
    }
    let selectors: Vec<String> = agent.selectors.iter().map(selector).collect();
    selectors.join("\n")
}

fn selector(selector: &Selector) -> String {
    match selector {
        Selector::Unit(unit) => format!("unit {unit}"),
        Selector::Cgroup(path) => format!("cgroup {path}"),
        Selector::User(user) => format!("user {user}"),
        Selector::Exe(path) => format!("exe {}", path.display()),
    }
}

fn agents_of(policy: &Policy, rule: &Rule) -> Vec<String> {
    let ids = (0..).map(AgentId);
    let of: Vec<String> = policy
        .agents()
        .iter()
        .zip(ids)
        .filter(|(_, id)| rule.applies_to(*id))
        .map(|(agent, _)| agent.name.clone())
        .collect();
    if of.len() == policy.agents().len() {
        vec!["all".to_owned()]
    } else {
        of
    }
}

/// What a rule is about: addresses, protected sets, or all of them.
fn objects_of(policy: &Policy, rule: &Rule) -> Vec<String> {
    if let Some(to) = &rule.to {
        return to.iter().map(ToString::to_string).collect();
    }
    let mut objects = Vec::new();
    if rule.covers_action(Action::Connect) || rule.covers_action(Action::Send) {
        objects.push("any address".to_owned());
    }
    if rule.covers_action(Action::Read) || rule.covers_action(Action::Write) {
        objects.extend(policy.class_names(rule.data).map(str::to_owned));
    }
    objects
}

fn describe(terms: &Terms) -> String {
    let scopes: Vec<String> = terms.scopes.iter().map(Scope::to_string).collect();
    let people = match terms.quorum {
        1 => "1 person".to_owned(),
        n => format!("{n} people"),
    };
    let group = match &terms.approvers {
        Some(group) => format!(" of {group}"),
        None => String::new(),
    };
    format!(
        "{people}{group}; {}; held {}",
        scopes.join(", "),
        span(terms.hold)
    )
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

fn word(fallback: Fallback) -> &'static str {
    match fallback {
        Fallback::Deny => "deny",
        Fallback::Allow => "allow",
    }
}

fn as_json(policy: &Policy, file: &Path) -> Value {
    let agents: Vec<Value> = policy
        .agents()
        .iter()
        .map(|agent| {
            let selectors: Vec<String> = agent.selectors.iter().map(selector).collect();
            json!({
                "name": agent.name,
                "owner": agent.owner.as_str(),
                "model": agent.model,
                "selectors": selectors,
            })
        })
        .collect();
    let classes: Vec<Value> = policy
        .classes()
        .iter()
        .map(|class| {
            let paths: Vec<String> = class.globs.iter().map(ToString::to_string).collect();
            json!({ "name": class.name, "class": class.class, "paths": paths })
        })
        .collect();
    let rules: Vec<Value> = policy
        .rules()
        .iter()
        .map(|rule| {
            let actions: Vec<&str> = rule.actions.iter().map(Action::name).collect();
            json!({
                "name": rule.name,
                "line": rule.line,
                "agents": agents_of(policy, rule),
                "actions": actions,
                "on": objects_of(policy, rule),
                "verdict": rule.verdict.name(),
                "terms": match &rule.verdict {
                    crate::policy::Verdict::Ask(terms) => terms_json(terms),
                    _ => Value::Null,
                },
            })
        })
        .collect();
    let failure = policy.failure();
    json!({
        "ok": true,
        "file": file.display().to_string(),
        "sha256": policy.digest().to_string(),
        "agents": agents,
        "classes": classes,
        "rules": rules,
        "failure": {
            "on_timeout": word(failure.on_timeout),
            "on_unreachable": word(failure.on_unreachable),
            "on_daemon_loss": word(failure.on_daemon_loss),
        },
        "warnings": policy.warnings(),
    })
}

fn terms_json(terms: &Terms) -> Value {
    json!({
        "approvers": terms.approvers,
        "scopes": terms.scopes,
        "quorum": terms.quorum,
        "hold_s": terms.hold.as_secs(),
        "on_timeout": word(terms.on_timeout),
        "on_unreachable": word(terms.on_unreachable),
    })
}

fn failed(file: &Path, error: &PolicyError) -> Value {
    let problems = match error {
        PolicyError::Invalid(problems) => json!(problems),
        PolicyError::Read { .. } => json!([{ "message": error.to_string() }]),
    };
    json!({ "ok": false, "file": file.display().to_string(), "problems": problems })
}

/// What the policy answers to each object that was meant.
#[derive(Debug)]
struct Answers {
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

fn answers(explain: &Explain) -> Result<Answers, ExplainError> {
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
        if crate::policy::PathNames::of(path.as_bytes()).is_none() {
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

    fn text(&self, json: bool) -> String {
        if json {
            let list: Vec<Value> = self.list.iter().map(Answer::json).collect();
            return pretty(&json!({ "agent": self.agent, "notes": self.notes, "answers": list }));
        }
        let mut text = String::new();
        for answer in &self.list {
            let _ = writeln!(text, "{} {} {}", self.agent, answer.action, answer.object);
            if !answer.classes.is_empty() {
                let _ = writeln!(text, "  protected as {}", answer.classes.join(", "));
            }
            let reason = answer.judgement.reason();
            let _ = writeln!(
                text,
                "  {} by {}: {}",
                answer.word(),
                reason.rule,
                reason.why
            );
            if let Judgement::Ask(_, terms) = &answer.judgement {
                let _ = writeln!(text, "  approvers: {}", describe(terms));
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
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

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Whoever reads us may have gone; that is no error.
fn show(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
