//! `syshold status`: what is enforced now, as the daemon has seen it work.
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::Outcome;
use super::daemon::{DaemonError, call_once};
use super::failure::Exit;
use super::show::{self, BAD, FAINT, GOOD, NOTE, STRONG, ago, safe, styled};
use crate::control::{Call, Gateway, Ledger, Reply, Status};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(socket: &Path, args: &StatusArgs) -> Outcome {
    let Reply::Status(status) = call_once(socket, &Call::Status)? else {
        return Err(DaemonError::Other.into());
    };
    if args.json {
        show::json(&status)?;
    } else {
        show::print(&page(&status))?;
    }
    Ok(if problems(&status).is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Failure.into()
    })
}

/// What keeps this from being a healthy daemon, one sentence each.
pub(super) fn problems(status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    if !status.canary.ok {
        let why = status
            .canary
            .problem
            .as_deref()
            .unwrap_or("it has not run yet");
        problems.push(format!("enforcement is not proven: {}", safe(why)));
    }
    for hook in status.kernel.hooks.iter().filter(|hook| !hook.attached) {
        problems.push(format!("hook {} is not attached", safe(&hook.name)));
    }
    if !status.ledger.ok {
        let why = status.ledger.problem.as_deref().unwrap_or("unknown");
        problems.push(format!(
            "the ledger cannot be written, so held calls are denied: {}",
            safe(why)
        ));
    }
    if let Some(trouble) = status
        .ledger
        .witness
        .as_ref()
        .and_then(|witness| witness.trouble.as_deref())
    {
        problems.push(format!(
            "the newest leaves of the ledger were not witnessed: {}",
            safe(trouble)
        ));
    }
    match &status.gateway {
        None => {
            problems.push("this host is not enrolled, so what must be asked is denied".to_owned());
        }
        Some(Gateway {
            reachable: false,
            trouble,
            ..
        }) => problems.push(format!(
            "the gateway is not reachable: {}",
            safe(trouble.as_deref().unwrap_or("no answer yet"))
        )),
        Some(_) => {}
    }
    if let Some(problem) = &status.policy.problem {
        problems.push(format!(
            "the policy file was not taken: {}",
            safe(problem.lines().next().unwrap_or_default())
        ));
    }
    problems
}

fn page(status: &Status) -> String {
    let mut page = String::new();
    let problems = problems(status);
    let head = if !status.canary.ok {
        styled(BAD, "not enforcing")
    } else if problems.is_empty() {
        styled(GOOD, "enforcing")
    } else {
        styled(NOTE, "enforcing, with problems")
    };
    let mut line = |label: &str, value: String| {
        let _infallible = writeln!(page, "{} {value}", styled(FAINT, &format!("{label:9}")));
    };
    line("syshold", format!("{} {head}", safe(&status.version)));
    for problem in &problems {
        line("problem", styled(BAD, problem));
    }
    line(
        "daemon",
        format!("pid {}, started {}", status.pid, ago(status.started)),
    );
    line("kernel", kernel(status));
    line(
        "policy",
        format!(
            "{}, loaded {}, sha256 {}",
            safe(&status.policy.path.to_string_lossy()),
            ago(status.policy.loaded_at),
            status.policy.sha256.get(..16).unwrap_or_default()
        ),
    );
    let fallback = status.parking.why.as_deref();
    line(
        "waiting",
        match fallback {
            None => safe(&status.parking.mode),
            Some(why) => styled(
                NOTE,
                &format!("{} ({})", safe(&status.parking.mode), safe(why)),
            ),
        },
    );
    line("dns", safe(&status.dns));
    line("gateway", gateway(status));
    line(
        "ledger",
        format!(
            "{}, {} leaves, {}",
            safe(&status.ledger.path.to_string_lossy()),
            status.ledger.leaves,
            witnessed(&status.ledger)
        ),
    );
    line(
        "canary",
        match status.canary.at {
            Some(at) => format!("last {}", ago(at)),
            None => "not yet".to_owned(),
        },
    );
    for relaxed in &status.relaxed {
        line("relaxed", styled(NOTE, &safe(relaxed)));
    }
    let counts = &status.counts;
    line(
        "holds",
        format!(
            "{} pending; since the start {} asked, {} allowed, {} denied",
            styled(STRONG, &counts.pending.to_string()),
            counts.asked,
            counts.allowed,
            counts.denied
        ),
    );
    if !status.agents.is_empty() {
        let mut table = show::table(&["agent", "owner", "processes"]);
        for agent in &status.agents {
            table.add_row([
                safe(&agent.name),
                agent
                    .owner
                    .as_deref()
                    .map_or_else(|| "unknown".to_owned(), safe),
                agent.processes.to_string(),
            ]);
        }
        let _infallible = writeln!(page, "\n{table}");
    }
    page
}

fn kernel(status: &Status) -> String {
    let hooks = &status.kernel.hooks;
    let attached = hooks.iter().filter(|hook| hook.attached).count();
    let live = hooks.iter().filter(|hook| hook.live).count();
    format!(
        "{}, {attached} of {} hooks attached, {live} seen at work",
        safe(&status.kernel.release),
        hooks.len()
    )
}

fn witnessed(ledger: &Ledger) -> String {
    match &ledger.witness {
        None => "not witnessed".to_owned(),
        Some(witness) => match witness.cosigned {
            Some((size, at)) => format!("{size} witnessed {}", ago(at)),
            None => "none witnessed yet".to_owned(),
        },
    }
}

fn gateway(status: &Status) -> String {
    match &status.gateway {
        None => "none; enrol with `syshold enrol`".to_owned(),
        Some(gateway) => {
            let seen = gateway.last_ok.map_or_else(
                || "never answered".to_owned(),
                |at| format!("answered {}", ago(at)),
            );
            format!("{}, {seen}", safe(&gateway.url))
        }
    }
}
