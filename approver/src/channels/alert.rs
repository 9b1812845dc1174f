//! What is said in one message in place of many, or beside one that is there.
use std::fmt;

use syshold_protocol::{UnixMs, display};

/// One message in place of many, or beside one that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alert {
    /// So many wait at once.
    Flood(usize),
    TooOften {
        agent: String,
        host: String,
    },
    /// A host lets an agent through without asking. Every text is escaped.
    BreakGlass {
        host: String,
        agent: String,
        until: UnixMs,
        signers: String,
        reason: String,
    },
    /// The channel has the message; now it is for another group too.
    Escalated {
        code: String,
        /// Escaped.
        title: String,
        group: String,
    },
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flood(count) => write!(f, "{count} requests are waiting at once"),
            Self::TooOften { agent, host } => write!(
                f,
                "{} on {} asks too often: for now its requests are in the inbox only",
                display::shown(agent, 80).text,
                display::shown(host, 100).text
            ),
            Self::BreakGlass {
                host,
                agent,
                until,
                signers,
                reason,
            } => write!(
                f,
                "BREAK-GLASS on {host}: what {agent} asks is let through without you until {until}, \
                 by order of {signers}. Reason: {reason}. A review is due in the inbox."
            ),
            Self::Escalated { code, title, group } => {
                write!(
                    f,
                    "{code}: nobody has answered, {group} is asked now: {title}"
                )
            }
        }
    }
}
