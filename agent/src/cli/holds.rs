//! `syshold holds`: what is held, and with `--follow` what happens to it.
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::Outcome;
use super::daemon::{DaemonError, call};
use super::failure::Failure;
use super::show::{self, BAD, FAINT, GOOD, NOTE, STRONG, safe, styled};
use crate::control::{Call, Hold, Over, Reply, State};

#[derive(Debug, Args)]
pub(super) struct HoldsArgs {
    /// Go on with every change
    #[arg(short, long)]
    follow: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(socket: &Path, args: &HoldsArgs) -> Outcome {
    let mut replies = call(
        socket,
        &Call::Holds {
            follow: args.follow,
        },
    )?;
    if args.follow {
        replies = replies.patient()?;
        for reply in replies {
            let reply = reply?;
            match &reply {
                _ if args.json => show::json(&reply)?,
                Reply::Hold(hold) => show::print(&line(hold))?,
                Reply::Over(over) => show::print(&over_line(over))?,
                _ => return Err(DaemonError::Other.into()),
            }
        }
        // Nobody ends this but the daemon: it stops, or this reader was too slow for it.
        return Err(DaemonError::Ended.into());
    }
    let mut holds = Vec::new();
    for reply in replies {
        match reply? {
            reply @ Reply::Hold(_) if args.json => show::json(&reply)?,
            Reply::Hold(hold) => holds.push(hold),
            _ => return Err(DaemonError::Other.into()),
        }
    }
    if !args.json {
        list(&holds)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(holds: &[Box<Hold>]) -> Result<(), Box<dyn Failure>> {
    if holds.is_empty() {
        show::print(&styled(FAINT, "Nothing is held."))?;
        return Ok(());
    }
    let mut table = show::table(&[
        "since", "expires", "agent", "process", "action", "object", "rule", "state", "id",
    ]);
    for hold in holds {
        table.add_row([
            show::ago(hold.since),
            hold.expires.map_or_else(|| "–".to_owned(), show::until),
            safe(&hold.agent),
            format!("{} {}", hold.pid, safe(&hold.comm)),
            safe(&hold.action),
            show::cut(&safe(&hold.object), 60),
            safe(&hold.rule),
            styled(colour(hold.state), &hold.state.to_string()),
            hold.request_id
                .as_deref()
                .map_or_else(|| format!("{:x}", hold.id), safe),
        ]);
    }
    Ok(show::print(&table.to_string())?)
}

fn colour(state: State) -> anstyle::Style {
    match state {
        State::Unreachable => BAD,
        State::Waiting | State::Asking => NOTE,
        State::Describing | State::Recording | State::Deciding => FAINT,
    }
}

fn line(hold: &Hold) -> String {
    format!(
        "{:x}  {}  {} {} ({})  {} {}  rule {}",
        hold.id,
        styled(
            colour(hold.state),
            &format!("{:11}", hold.state.to_string())
        ),
        safe(&hold.agent),
        hold.pid,
        safe(&hold.comm),
        safe(&hold.action),
        styled(STRONG, &safe(&hold.object)),
        safe(&hold.rule),
    )
}

fn over_line(over: &Over) -> String {
    let style = match over.verdict.as_str() {
        "allow" => GOOD,
        "deny" => BAD,
        _ => FAINT,
    };
    format!(
        "{:x}  {}  {}",
        over.id,
        styled(style, &format!("{:11}", safe(&over.verdict))),
        safe(&over.cause)
    )
}
