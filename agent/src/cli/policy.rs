//! `syshold policy check` and `explain`: what a policy file says, without a daemon.
mod explain;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use syshold_protocol::decision::{Assurance, Scope};

use self::explain::{Explain, ExplainError, answers};
use super::failure::Output;
use super::show;
use crate::policy::{Agent, Class, Kind, Policy, PolicyError, Rule, Selector, Verdict, load};
use crate::request::{Action, AgentId};
use crate::rules::{Fallback, Terms};

/// `EX_CONFIG` of sysexits: the file is wrong.
const EXIT_CONFIG: u8 = 78;
/// The command line is wrong, as clap says it.
const EXIT_USAGE: u8 = 2;
const DEFAULT_FILE: &str = "/etc/syshold/agent.toml";

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
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
    Explain(Box<Explain>),
}

pub(super) fn run(args: PolicyArgs) -> ExitCode {
    let done = match args.command {
        Command::Check { file, json } => check(&file, json),
        Command::Explain(explain) => match answers(&explain) {
            Ok(answers) if explain.json => show::json(&answers.json()).map(|()| ExitCode::SUCCESS),
            Ok(answers) => show::print(&answers.text()).map(|()| ExitCode::SUCCESS),
            Err(error) => {
                complain(&error.to_string());
                Ok(match error {
                    ExplainError::Policy(_) => ExitCode::from(EXIT_CONFIG),
                    _ => ExitCode::from(EXIT_USAGE),
                })
            }
        },
    };
    // Whoever read us has gone; there is nobody to tell.
    done.unwrap_or(ExitCode::FAILURE)
}

fn check(file: &Path, json: bool) -> Result<ExitCode, Output> {
    match load(file) {
        Ok(policy) if json => show::json(&as_json(&policy, file))?,
        Ok(policy) => {
            for warning in policy.warnings() {
                complain(&warning.to_string());
            }
            show::print(&summary(&policy, file))?;
        }
        Err(error) => {
            if json {
                show::json(&failed(file, &error))?;
            } else {
                complain(&error.to_string());
            }
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    }
    Ok(ExitCode::SUCCESS)
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
            may(agent).join("\n"),
        ]
    });
    let header = ["agent", "owner", "model", "governed", "exceptions"];
    table(&mut text, header, agents);
    let classes = sets(policy).map(|class| {
        let paths = match class.built_in {
            true => format!("built in: {} paths", class.globs.len() + class.homes.len()),
            false => paths_of(class).join("\n"),
        };
        [class.name.clone(), class.class.clone(), paths]
    });
    table(&mut text, ["protected", "class", "paths"], classes);
    let rules = policy.rules().iter().map(|rule| {
        let how = match &rule.verdict {
            Verdict::Ask(terms) => describe(terms),
            _ => String::new(),
        };
        [
            rule.name.clone(),
            match agents_of(policy, rule) {
                all if all.len() == policy.agents().len() => "all".to_owned(),
                some => some.join("\n"),
            },
            rule.actions.to_string(),
            objects_of(policy, rule).join("\n"),
            policy
                .class_names(rule.after)
                .collect::<Vec<_>>()
                .join("\n"),
            rule.verdict.name().to_owned(),
            how,
        ]
    });
    table(
        &mut text,
        ["rule", "agents", "action", "on", "after", "verdict", "how"],
        rules,
    );
    let _infallible = write!(
        text,
        "\nEverything else: connect, send and listen are asked, protected paths are asked (reading configuration is not), privileges are asked, the rest is allowed.\n"
    );
    let failure = policy.failure();
    let fallbacks = [
        ("nobody answers in time", failure.on_timeout),
        ("the gateway cannot be reached", failure.on_unreachable),
        ("the daemon is lost", failure.on_daemon_loss),
    ];
    for (when, fallback) in fallbacks {
        let _infallible = writeln!(text, "When {when}: {}", word(fallback));
    }
    match policy.warnings().len() {
        0 => {}
        1 => text.push_str("1 warning\n"),
        n => {
            let _infallible = writeln!(text, "{n} warnings");
        }
    }
    text
}

fn table<const N: usize>(
    text: &mut String,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut table = show::table(&header);
    table.add_rows(rows);
    if !table.is_empty() {
        let _infallible = writeln!(text, "\n{}", table.trim_fmt());
    }
}

fn selected_by(agent: &Agent) -> String {
    if agent.selectors.is_empty() {
        return format!("syshold run --agent {}", agent.name);
    }
    let selectors: Vec<String> = agent.selectors.iter().map(selector).collect();
    selectors.join("\n")
}

/// What it may do that is otherwise denied, and whose reading counts.
fn may(agent: &Agent) -> Vec<String> {
    let mut may = agent.exceptions.describe();
    if agent.shared_taint {
        may.push("taint of the whole agent".to_owned());
    }
    may
}

/// Protected paths; programs are told with their rules.
fn sets(policy: &Policy) -> impl Iterator<Item = &Class> {
    let classes = policy.classes().iter();
    classes.filter(|class| class.kind != Kind::Programs)
}

fn paths_of(class: &Class) -> Vec<String> {
    let homes = class.homes.iter().map(|home| format!("~/{}", home.name()));
    class
        .globs
        .iter()
        .map(ToString::to_string)
        .chain(homes)
        .collect()
}

fn selector(selector: &Selector) -> String {
    match selector {
        Selector::Unit(unit) => format!("unit {unit}"),
        Selector::Cgroup(path) => format!("cgroup {path}"),
        Selector::User(user) => format!("user {user}"),
        Selector::Exe(path) => format!("exe {}", path.display()),
    }
}

fn agents_of<'p>(policy: &'p Policy, rule: &Rule) -> Vec<&'p str> {
    policy
        .agents()
        .iter()
        .zip((0..).map(AgentId))
        .filter(|(_, id)| rule.applies_to(*id))
        .map(|(agent, _)| agent.name.as_str())
        .collect()
}

/// What a rule is about: addresses, protected sets, programs, or all of them.
fn objects_of(policy: &Policy, rule: &Rule) -> Vec<String> {
    if let Some(to) = &rule.to {
        return to.iter().map(ToString::to_string).collect();
    }
    if let Some(run) = &rule.run {
        let programs = policy
            .classes()
            .iter()
            .filter(|class| class.bits().0 & run.programs.0 != 0);
        let argv = run.argv.iter().map(|words| format!("arguments {words}"));
        let files = run.sha256.iter().map(|digest| format!("sha256 {digest}"));
        return programs
            .flat_map(paths_of)
            .chain(argv)
            .chain(files)
            .collect();
    }
    let covers = |actions: &[Action]| actions.iter().any(|action| rule.covers_action(*action));
    let mut objects = Vec::new();
    if covers(&[Action::Connect, Action::Send, Action::Listen]) {
        objects.push("any address".to_owned());
    }
    if covers(&[Action::Read, Action::Write, Action::Delete]) {
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
    let sure = match terms.assurance {
        Assurance::Chat => String::new(),
        Assurance::Passkey => ", each with their own passkey".to_owned(),
        other => format!(", by {other} or better"),
    };
    format!(
        "{people}{group}{sure}; {}; held {}",
        scopes.join(", "),
        show::span(terms.hold)
    )
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
                "exceptions": agent.exceptions.describe(),
                "taint": if agent.shared_taint { "agent" } else { "process" },
            })
        })
        .collect();
    let classes: Vec<Value> = sets(policy)
        .map(|class| {
            let paths = paths_of(class);
            json!({ "name": class.name, "class": class.class, "built_in": class.built_in, "paths": paths })
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
                "after": policy.class_names(rule.after).collect::<Vec<_>>(),
                "verdict": rule.verdict.name(),
                "terms": match &rule.verdict {
                    Verdict::Ask(terms) => terms_json(terms),
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
        "approvers": policy.passkeys().iter().map(|(subject, pin)| json!({ "subject": subject, "passkey": pin })).collect::<Vec<_>>(),
        "warnings": policy.warnings(),
    })
}

fn terms_json(terms: &Terms) -> Value {
    json!({
        "approvers": terms.approvers,
        "scopes": terms.scopes,
        "quorum": terms.quorum,
        "assurance": terms.assurance,
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

fn complain(text: &str) {
    // With nobody to read it, the exit code has to do.
    let _nobody = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse;

    const POLICY: &str = r#"
[failure]
on_timeout = "allow"

[[govern]]
name = "all"
owner = "alice@example.com"
user = "bot"

[[govern]]
name = "b"
owner = "bob@example.com"

[[protect]]
name = "customers"
paths = ["/srv/pii"]

[[rule]]
name = "pii"
action = ["read", "write"]
agent = "b"
verdict = "ask"
scopes = ["once", "10m"]

[[rule]]
name = "out"
action = "connect"
verdict = "deny"
"#;

    #[test]
    fn the_summary_names_everything() {
        let policy = parse(POLICY, "agent.toml").unwrap();
        let text = summary(&policy, Path::new("agent.toml"));
        let lines = [
            "OK agent.toml",
            "all alice@example.com user bot",
            "b bob@example.com syshold run --agent b",
            "customers customers /srv/pii",
            "pii b read+write customers ask 1 person; once, 10m; held 5 min",
            "out all connect any address deny",
            "When nobody answers in time: allow",
            "When the daemon is lost: deny",
            "1 warning",
        ];
        let squeezed: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for line in lines {
            assert!(squeezed.iter().any(|l| l == line), "no {line:?} in\n{text}");
        }
        assert!(text.contains(&policy.digest().to_string()));
    }

    #[test]
    fn the_json_is_exact() {
        let policy = parse(POLICY, "agent.toml").unwrap();
        let value = as_json(&policy, Path::new("agent.toml"));
        assert_eq!(value["ok"], true);
        assert_eq!(value["rules"][0]["agents"], json!(["b"]));
        assert_eq!(value["rules"][1]["agents"], json!(["all", "b"]));
        assert_eq!(value["rules"][0]["terms"]["scopes"], json!(["once", "10m"]));
        assert_eq!(value["warnings"][0]["line"], 3);
        let error = parse("[host]\nlgo = 1\n", "agent.toml").unwrap_err();
        let value = failed(Path::new("agent.toml"), &error);
        assert_eq!(value["ok"], false);
        let problem = &value["problems"][0];
        assert_eq!(
            (&problem["line"], &problem["column"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(problem["fix"], "did you mean `log`?");
    }
}
