//! `syshold-approver delegate` and `roster`: who answers for whom, and who is asked now.
use clap::Subcommand;
use serde_json::json;

use super::{Failure, Out, note, open};
use crate::config::{Config, milliseconds};
use crate::host_api::now;
use crate::store::delegations::LONGEST_MS;

#[derive(Debug, Subcommand)]
pub(super) enum Delegate {
    /// Let a person answer where another one may, for some time
    Add {
        /// Whose place it is
        #[arg(long, value_name = "NAME")]
        from: String,
        /// Who answers
        #[arg(long, value_name = "NAME")]
        to: String,
        /// For how long, such as 12h or 14d, at most 90d
        #[arg(long = "for", value_name = "TIME")]
        time: String,
        #[command(flatten)]
        out: Out,
    },
    /// List every delegation
    List {
        #[command(flatten)]
        out: Out,
    },
    /// End a delegation, at once
    End {
        /// As `list` shows it
        id: i64,
        #[command(flatten)]
        out: Out,
    },
}

pub(super) fn delegate(config: &Config, verb: Delegate) -> Result<(), Failure> {
    let (_, store) = open(config)?;
    match verb {
        Delegate::Add {
            from,
            to,
            time,
            out,
        } => {
            let life = milliseconds(&time).filter(|ms| (1..=LONGEST_MS).contains(ms));
            let life = life.ok_or(Failure::Time(time))?;
            if from.eq_ignore_ascii_case(&to) {
                return Err(Failure::OwnPlace(from));
            }
            let at = now();
            let until = at.plus(life);
            let id = store.delegate(&from, &to, until, at)?;
            let id = id.ok_or_else(|| Failure::NoAccount(format!("{from} or {to}")))?;
            out.print(
                &json!({"id": id, "from": from, "to": to, "until": until}),
                &format!("{to} may answer where {from} may, until {until}"),
            )?;
            note(
                "not for agents that are either one's own; end it with `syshold-approver delegate end`",
            )
        }
        Delegate::List { out } => {
            let all = store.delegations()?;
            let at = now();
            let rows = all.iter().map(|one| {
                let state = match one.ended_at {
                    Some(ended) => format!("ended {ended}"),
                    None if one.until <= at => format!("over since {}", one.until),
                    None => format!("until {}", one.until),
                };
                vec![one.id.to_string(), one.from.clone(), one.to.clone(), state]
            });
            out.table(&all, &["id", "in place of", "answers", "state"], rows)
        }
        Delegate::End { id, out } => {
            if !store.end_delegation(id, now())? {
                return Err(Failure::NoDelegation(id));
            }
            out.print(
                &json!({"id": id, "ended": true}),
                &format!("{id} has ended"),
            )
        }
    }
}

/// Every group with its members, its turn, and who is asked when nobody answers.
pub(super) fn roster(config: &Config, out: &Out) -> Result<(), Failure> {
    let (_, store) = open(config)?;
    let accounts = store.accounts()?;
    let accounts: Vec<_> = accounts
        .iter()
        .filter(|a| a.disabled_at.is_none())
        .collect();
    let mut names: Vec<&str> = config
        .roster
        .groups
        .iter()
        .map(|group| group.name.as_str())
        .collect();
    names.extend(
        accounts
            .iter()
            .flat_map(|a| a.groups.iter().map(String::as_str)),
    );
    names.sort_unstable();
    names.dedup();
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for name in names {
        let members: Vec<&str> = accounts
            .iter()
            .filter(|a| a.groups.iter().any(|group| group == name))
            .map(|a| a.name.as_str())
            .collect();
        let group = config.roster.groups.iter().find(|group| group.name == name);
        let turn = group.and_then(|group| group.on_call.as_ref()?.at(now()));
        let escalate = group.and_then(|group| group.escalate.as_ref());
        rows.push(vec![
            name.to_owned(),
            members.join(" "),
            turn.map_or_else(String::new, |(who, until)| format!("{who} until {until}")),
            escalate.map_or_else(String::new, |e| {
                format!("{} after {} s", e.to.join(" "), e.after_ms / 1000)
            }),
        ]);
        values.push(json!({
            "group": name,
            "members": members,
            "on_call": turn.map(|(who, until)| json!({"name": who, "until": until})),
            "escalate": escalate.map(|e| json!({"to": e.to, "after_ms": e.after_ms})),
        }));
        let strangers = group.and_then(|group| group.on_call.as_ref());
        for name in strangers.iter().flat_map(|turn| &turn.people) {
            if !accounts.iter().any(|a| a.name.eq_ignore_ascii_case(name)) {
                note(&format!(
                    "{name} is on call and has no account: nobody would be, then"
                ))?;
            }
        }
    }
    out.table(
        &values,
        &["group", "members", "on call", "when nobody answers"],
        rows.into_iter(),
    )
}
