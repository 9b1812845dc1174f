//! `syshold-approver report`: how people use the gateway.
use clap::Subcommand;
use syshold_protocol::UnixMs;

use super::{Failure, Out, open};
use crate::config::Config;
use crate::host_api::now;
use crate::store::report;

#[derive(Debug, Subcommand)]
pub(super) enum Report {
    /// Who approves how much, how fast, and how often without reading
    Approvers {
        /// How far back
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        #[command(flatten)]
        out: Out,
    },
}

/// Runs one report.
pub(super) fn run(config: &Config, verb: Report) -> Result<(), Failure> {
    let Report::Approvers { days, out } = verb;
    let (_, store) = open(config)?;
    let since = UnixMs::new(now().ms().saturating_sub(days * 24 * 60 * 60 * 1000));
    let habits = store.write(|tx| report::approvers(tx, since))?;
    let dash = || "-".to_owned();
    let rows = habits.iter().map(|habit| {
        vec![
            habit.subject.clone(),
            habit.approvals.to_string(),
            habit.denials.to_string(),
            habit
                .median_seconds_to_approve
                .map_or_else(dash, |s| format!("{s:.0} s")),
            habit.most_approvals_in_an_hour.to_string(),
            habit
                .share_unread
                .map_or_else(dash, |share| format!("{:.0} %", share * 100.0)),
        ]
    });
    let header = [
        "person",
        "approved",
        "denied",
        "median",
        "most in an hour",
        "unread",
    ];
    out.table(&habits, &header, rows)
}
