//! What can be said on the command line.
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::prune::RETENTION_DAYS;
use crate::query::{Query, QueryError};

/// Read and prove the ledger.
#[derive(Debug, Clone, Args)]
pub struct LedgerArgs {
    /// The ledger file [default: the one of this installation]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) db: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// Print the last leaves
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
        lines: u64,
        /// Go on with new leaves as they are committed
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        only: Only,
        /// One leaf a line, exactly as it was hashed
        #[arg(long)]
        json: bool,
    },
    /// Print every leaf that fits, oldest first
    Query {
        #[command(flatten)]
        only: Only,
        /// How
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
        /// One leaf a line, exactly as it was hashed: --format jsonl
        #[arg(long, conflicts_with = "format")]
        json: bool,
    },
    /// Print one leaf in full
    Show {
        /// Its index
        idx: u64,
        /// Exactly as it was hashed
        #[arg(long)]
        json: bool,
    },
    /// Prove that no leaf was changed: exit 0 clean, 1 tampered, 2 warnings only, 3 unreadable
    Verify {
        #[command(flatten)]
        trust: Known,
        /// The report as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print a proof that a leaf is in the ledger (C2SP tlog-proof)
    Prove {
        /// Its index
        idx: u64,
    },
    /// Print the latest checkpoint (C2SP signed note)
    Checkpoint,
    /// Copy the ledger to a file that any SQLite may open
    Snapshot {
        /// A file that does not exist yet
        to: PathBuf,
    },
    /// Write leaves for other programs
    Export {
        /// As what
        #[arg(long, value_enum, default_value_t = Export::Jsonl)]
        format: Export,
        /// Go on with new leaves as they are committed
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        only: Only,
    },
    /// Write a report for auditors: one HTML file
    Report {
        #[command(flatten)]
        only: Only,
        #[command(flatten)]
        trust: Known,
        /// The file to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write records with their proofs, keys and report: one ZIP file
    Evidence {
        #[command(flatten)]
        only: Only,
        #[command(flatten)]
        trust: Known,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Make committed values of a leaf unreadable for good; every proof still holds. A daemon that
    /// runs is asked to do it
    Redact {
        /// The leaf
        idx: u64,
        /// The field, such as process.argv; may be repeated [default: all that the leaf commits to]
        #[arg(long, value_name = "PATH")]
        field: Vec<String>,
        /// Why; it is recorded
        #[arg(long)]
        reason: String,
    },
    /// Remove old leaves that a witness has seen; their hashes stay
    Prune {
        /// Keep leaves of this many days
        #[arg(long, default_value_t = RETENTION_DAYS, value_name = "DAYS")]
        keep: u32,
        #[command(flatten)]
        trust: Known,
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Record that leaves were reviewed, by whom and what was found. A daemon that runs is asked to
    /// do it
    Review {
        /// What was found
        #[arg(long, value_name = "TEXT")]
        note: String,
        /// The first leaf
        #[arg(long, default_value_t = 0, value_name = "IDX")]
        from: u64,
        /// The last leaf [default: the newest]
        #[arg(long, value_name = "IDX")]
        to: Option<u64>,
    },
    /// Begin a new epoch: replace the signing key and erase the old one (the daemon does this
    /// itself every 1,024 leaves)
    RotateKey,
}

/// How to print what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    Table,
    Jsonl,
    Csv,
}

/// For whom to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Export {
    /// Leaves as they were hashed
    Jsonl,
    /// For spreadsheets
    Csv,
    /// OCSF 1.8.0 events, one a line
    Ocsf,
}

impl Export {
    /// The word on the command line.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
        }
    }
}

/// What whoever verifies knows from elsewhere.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Known {
    /// The log's identity key, or a file with it
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// The key of a witness, or a file with it; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(super) witness: Vec<String>,
    /// The key that the gateway signs decisions with, or a file with it; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(super) gateway_key: Vec<String>,
    /// The offline key of somebody who may break the glass, or a file with it; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(super) break_glass_key: Vec<String>,
    /// A file with the latest checkpoint that a witness has of this log
    #[arg(long, value_name = "FILE")]
    pub(super) witnessed: Option<PathBuf>,
}

/// Which leaves.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Only {
    /// Only leaves of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only leaves about this agent
    #[arg(long)]
    agent: Option<String>,
    /// Only leaves under this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only decisions with this verdict
    #[arg(long, value_parser = ["allow", "deny"])]
    verdict: Option<String>,
    /// Only decisions made so
    #[arg(long, value_parser = ["policy", "human", "grant", "break_glass", "timeout", "unreachable", "error"])]
    by: Option<String>,
    /// Only leaves about this action
    #[arg(long, value_name = "ACTION")]
    op: Option<String>,
    /// Only leaves about data of this class
    #[arg(long, value_name = "CLASS")]
    label: Option<String>,
    /// Only leaves that support this control, such as AC-6(9) or 8.12
    #[arg(long, value_name = "ID")]
    control: Option<String>,
    /// Only leaves of this request
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only leaves of this hold
    #[arg(long, value_name = "ID")]
    hold: Option<String>,
    /// Only what this person decided
    #[arg(long, value_name = "PERSON")]
    approver: Option<String>,
    /// Only leaves of this year, month or day (UTC): 2026, 2026-05, 2026-05-01
    #[arg(long, value_name = "PERIOD", conflicts_with_all = ["since", "until"])]
    during: Option<String>,
    /// Only leaves from this time on: 2026-05-01, 2026-05-01T10:00:00Z, or 7d, 24h, 30m ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only leaves before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Only {
    pub(super) fn query(&self, now: Timestamp) -> Result<Query, QueryError> {
        let mut query = Query::default();
        let mut plain = |name: &str, said: &Option<String>| {
            if let Some(value) = said {
                query.say(name, value);
            }
            said.clone()
        };
        let mut filter = crate::reader::Filter {
            kind: plain("kind", &self.kind),
            agent: plain("agent", &self.agent),
            rule: plain("rule", &self.rule),
            verdict: plain("verdict", &self.verdict),
            by: plain("by", &self.by),
            op: plain("action", &self.op),
            label: plain("data class", &self.label),
            request: plain("request", &self.request),
            hold: plain("hold", &self.hold),
            approver: plain("approver", &self.approver),
            ..Default::default()
        };
        std::mem::swap(&mut query.filter, &mut filter);
        if let Some(id) = &self.control {
            query.control(id)?;
        }
        if let Some(period) = &self.during {
            query.during(period)?;
        }
        if let Some(time) = &self.since {
            query.since(time, now)?;
        }
        if let Some(time) = &self.until {
            query.until(time, now)?;
        }
        Ok(query)
    }
}
