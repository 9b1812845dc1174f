//! `syshold approvals`: a person's answers from a terminal.
mod watch;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use syshold_protocol::{RequestId, Scope};

use super::Outcome;
use super::daemon::{DaemonError, call_once};
use super::failure::{Exit, Failure, Output};
use super::people::{Answered, Approval, People, phase};
use super::show::{self, FAINT, GOOD, NOTE, safe, styled};
use crate::control::{Call, Refusal};

#[derive(Debug, Args)]
pub(super) struct ApprovalsArgs {
    #[command(subcommand)]
    verb: Verb,
}

/// The gateway, token and CA come from ~/.config/syshold/approvals.toml (`url`, `token_file`,
/// `ca_file`) or from SYSHOLD_GATEWAY, SYSHOLD_TOKEN_FILE and SYSHOLD_CA_FILE.
#[derive(Debug, Subcommand)]
enum Verb {
    /// List what waits for an answer
    List {
        #[arg(long, value_enum, default_value_t = Which::Pending)]
        state: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask about each request as it comes, until Ctrl-C
    Watch,
    /// Show one request in full
    Show {
        /// The request's id, or its short code while it waits
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a request and approve it
    Approve {
        /// The request's id, or its short code
        id: String,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Why, for the ledger
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Do not ask again on a terminal
        #[arg(short, long)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Deny a request
    Deny {
        /// The request's id, or its short code
        id: String,
        /// Why, for the agent's owner and the ledger
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take an approval back: what is left of it ends
    Revoke {
        /// The request's id
        id: RequestId,
        /// Why, for the ledger
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    Pending,
    All,
    Waiting,
    Late,
    Approved,
    Denied,
    Expired,
    Withdrawn,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::All => "all",
            Self::Waiting => "waiting",
            Self::Late => "late",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// How far an approval goes; once unless something else is said.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct ScopeArgs {
    /// The calls that wait now, and no more (the default)
    #[arg(long)]
    once: bool,
    /// Until the process ends
    #[arg(long)]
    process: bool,
    /// Until the agent's process tree ends
    #[arg(long)]
    session: bool,
    /// For some minutes from now, such as 10m
    #[arg(long = "for", value_name = "MINUTES", value_parser = minutes)]
    minutes: Option<Scope>,
}

impl ScopeArgs {
    fn scope(&self) -> Scope {
        match (self.minutes, self.process, self.session) {
            (Some(scope), _, _) => scope,
            (None, true, _) => Scope::Process,
            (None, false, true) => Scope::Session,
            (None, false, false) => Scope::Once,
        }
    }
}

fn minutes(text: &str) -> Result<Scope, String> {
    match text.parse() {
        Ok(scope @ Scope::For(_)) => Ok(scope),
        _ => Err("give minutes, such as 10m (at most 1440m)".to_owned()),
    }
}

/// What taking back does, and what not.
const LEFT: &str = "What it had let through stays done. What is left of it ends on the host, and the same is asked again.";

#[derive(Debug, thiserror::Error)]
enum ApprovalsError {
    #[error("a governed process cannot approve; use another terminal")]
    Governed,
    #[error("nothing that waits is called {0}; see `syshold approvals list`")]
    Unknown(String),
    #[error("{0} is the code of several requests; use the id from `syshold approvals list`")]
    Ambiguous(String),
    #[error("you cannot approve this: {0}")]
    NotYours(String),
    #[error("not approved")]
    Unconfirmed,
    #[error("cannot ask on this terminal: {0}")]
    Terminal(io::Error),
}

impl Failure for ApprovalsError {
    fn exit(&self) -> Exit {
        match self {
            Self::Governed | Self::NotYours(_) => Exit::Permission,
            _ => Exit::Failure,
        }
    }
}

pub(super) fn run(socket: &Path, args: ApprovalsArgs) -> Outcome {
    refuse_governed(socket)?;
    let people = People::open()?;
    match args.verb {
        Verb::List { state, json } => {
            let approvals = people.list(state.name())?;
            if json {
                show::json(&approvals)?;
            } else {
                list(&approvals)?;
            }
        }
        Verb::Watch => return watch::run(&people),
        Verb::Show { id, json } => {
            let approval = find(&people, &id)?;
            if json {
                show::json(&approval)?;
            } else {
                show::print(&approval.page())?;
            }
        }
        Verb::Approve {
            id,
            scope,
            reason,
            yes,
            json,
        } => {
            let seen = find(&people, &id)?;
            if !seen.may_approve {
                let why = seen
                    .why_not
                    .as_deref()
                    .unwrap_or("the gateway does not say why");
                return Err(ApprovalsError::NotYours(safe(why)).into());
            }
            // JSON goes to programs; a person is shown what is approved all the same.
            if !json {
                show::print(&seen.page())?;
            }
            let scope = scope.scope();
            if !yes && io::stdin().is_terminal() {
                confirm(&seen, scope)?;
            }
            let answered = people.approve(&seen, scope, reason.as_deref())?;
            report(&answered, json, &format!("Approved ({scope})."))?;
        }
        Verb::Deny { id, reason, json } => {
            let seen = find(&people, &id)?;
            let answered = people.deny(seen.id, &reason)?;
            report(&answered, json, &format!("Denied: {}", safe(&seen.title)))?;
        }
        Verb::Revoke { id, reason, json } => {
            let revoked = people.revoke(id, &reason)?;
            if json {
                show::json(&revoked)?;
            } else {
                let by = format!("Taken back by {}.", safe(revoked.by.as_str()));
                show::print(&format!("{}\n{LEFT}", styled(GOOD, &by)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Early, for a clear error; the kernel keeps governed processes from the gateway anyway.
fn refuse_governed(socket: &Path) -> Result<(), ApprovalsError> {
    match call_once(socket, &Call::Status) {
        Err(DaemonError::Refused(refused)) if refused.cause == Refusal::Governed => {
            Err(ApprovalsError::Governed)
        }
        // EPERM is what the kernel answers a governed process; file modes answer EACCES.
        Err(DaemonError::Permission { source, .. })
            if source.raw_os_error() == Some(nix::errno::Errno::EPERM as i32) =>
        {
            Err(ApprovalsError::Governed)
        }
        _ => Ok(()),
    }
}

fn find(people: &People, id: &str) -> Result<Approval, Box<dyn Failure>> {
    if let Ok(id) = id.parse::<RequestId>() {
        return Ok(people.show(id)?);
    }
    let mut matching: Vec<_> = people
        .list(Which::Pending.name())?
        .into_iter()
        .filter(|approval| approval.code.eq_ignore_ascii_case(id))
        .collect();
    match (matching.pop(), matching.is_empty()) {
        (Some(approval), true) => Ok(approval),
        (Some(_), false) => Err(ApprovalsError::Ambiguous(safe(id)).into()),
        (None, _) => Err(ApprovalsError::Unknown(safe(id)).into()),
    }
}

fn confirm(seen: &Approval, scope: Scope) -> Result<(), ApprovalsError> {
    let question = format!(
        "Approve {scope} for {}{}? [y/N] ",
        safe(&seen.agent),
        match seen.waiting {
            0 | 1 => String::new(),
            many => format!(" ({many} identical calls)"),
        }
    );
    let mut ask = anstream::stderr();
    write!(ask, "{}", styled(NOTE, &question))
        .and_then(|()| ask.flush())
        .map_err(ApprovalsError::Terminal)?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(ApprovalsError::Terminal)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(ApprovalsError::Unconfirmed),
    }
}

fn report(answered: &Answered, json: bool, decided: &str) -> Result<(), Output> {
    if json {
        show::json(answered)
    } else if answered.decided {
        show::print(&styled(GOOD, decided))
    } else {
        show::print(&format!(
            "Counted: {} of {} people have approved.",
            answered.have, answered.need
        ))
    }
}

fn list(approvals: &[Approval]) -> Result<(), Output> {
    if approvals.is_empty() {
        return show::print(&styled(FAINT, "Nothing waits for an answer."));
    }
    let mut table = show::table(&[
        "code", "since", "left", "host", "what", "state", "people", "id",
    ]);
    for approval in approvals {
        table.add_row([
            safe(&approval.code),
            show::ago(show::at(approval.created_at)),
            show::until(show::at(approval.expires_at)),
            safe(&approval.host),
            show::cut(&safe(&approval.title), 70),
            match approval.revoked {
                Some(_) => "taken back",
                None => phase(approval.state),
            }
            .to_owned(),
            format!("{}/{}", approval.have, approval.need),
            approval.id.to_string(),
        ]);
    }
    show::print(&table.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    fn scope(args: &[&str]) -> Option<Scope> {
        let words = ["x", "approve", "id"].iter().chain(args);
        match Line::try_parse_from(words).ok()?.verb {
            Verb::Approve { scope, .. } => Some(scope.scope()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_approval_is_for_once_unless_more_is_said() {
        assert_eq!(scope(&[]), Some(Scope::Once));
        assert_eq!(scope(&["--once"]), Some(Scope::Once));
        assert_eq!(scope(&["--process"]), Some(Scope::Process));
        assert_eq!(scope(&["--for", "10m"]), "10m".parse().ok());
        for bad in [
            &["--once", "--process"][..],
            &["--for", "once"],
            &["--for", "2000m"],
            &["--for", "10"],
        ] {
            assert_eq!(scope(bad), None, "{bad:?}");
        }
        assert!(
            Line::try_parse_from(["x", "deny", "id"]).is_err(),
            "a denial needs a reason"
        );
        let id = "01938d5e-7000-7000-8000-000000000001";
        for bad in [
            &["x", "revoke", id][..],
            &["x", "revoke", "K7QX2A", "--reason", "r"],
        ] {
            assert!(Line::try_parse_from(bad).is_err(), "{bad:?}");
        }
        assert!(Line::try_parse_from(["x", "revoke", id, "--reason", "r"]).is_ok());
    }
}
