//! What the gateway answers: who decided what, and how far it reaches.
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{DecisionId, Digest, HostId, Nonce, ParseError, RequestId, Subject, UnixMs};
use crate::passkey::Proof;
use crate::request::ActionObject;

/// A decision as the gateway signs it. Absent options are left out of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub v: u32,
    pub decision_id: DecisionId,
    pub request_id: RequestId,
    /// Of the request's payload bytes, as the host signed them.
    pub request_sha256: Digest,
    pub host_id: HostId,
    pub nonce: Nonce,
    pub verdict: DecisionVerdict,
    /// Present exactly when the verdict approves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// Empty when nobody decided: expired, withdrawn, or denied by the gateway's own rule.
    pub approvers: Vec<Approver>,
    /// The policy of the request.
    pub policy_sha256: Digest,
    /// Of what the approvers were shown; absent when nobody decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_sha256: Option<Digest>,
    pub issued_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<DecisionLedgerRef>,
}

/// How a request ended at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionVerdict {
    Approve,
    /// Approved, but for less than was asked.
    ApproveModified,
    Deny,
    Expired,
    Withdrawn,
}

impl DecisionVerdict {
    /// Whether a grant comes with it.
    pub const fn approves(self) -> bool {
        matches!(self, Self::Approve | Self::ApproveModified)
    }

    /// The word of the JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::ApproveModified => "approve_modified",
            Self::Deny => "deny",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for DecisionVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An approval and its scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Each one an object of the request.
    pub objects: Vec<ActionObject>,
    pub lifespan: Lifespan,
    /// Needed for `until`; counted from the decision's `issued_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMs>,
    /// Needed for `single`: at most the request's `waiting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
}

/// How long a grant lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifespan {
    Single,
    Process,
    Session,
    Until,
}

/// One person who approved or denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approver {
    pub subject: Subject,
    pub channel: Channel,
    /// The chat workspace or tenant, for chat channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    /// The account in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    pub assurance: Assurance,
    pub at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By what right, where it is not membership of the group that was asked: `on call`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// The person's own signature on this approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// Where the person answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    Api,
    Cli,
    Slack,
    Teams,
    Web,
}

/// How surely it was that person, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// A linked chat account.
    Chat,
    /// A personal API token.
    Token,
    /// A logged-in web session.
    Session,
    /// A passkey used for this very decision.
    Passkey,
}

impl Assurance {
    /// The word of the policy and of the JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Token => "token",
            Self::Session => "session",
            Self::Passkey => "passkey",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The gateway's witness signature over the host's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionLedgerRef {
    pub cosignature: String,
}

/// How far an approval may reach, as policy and people write it: `once`, `process`, `session`, `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    Once,
    Process,
    Session,
    /// Minutes, from the approval; at most a day.
    For(NonZeroU16),
}

/// The longest time scope. "Forever" is an edit of the policy.
pub const MAX_MINUTES: u16 = 24 * 60;

impl Scope {
    /// The grant that an approval with this scope makes.
    pub fn grant(self, objects: Vec<ActionObject>, issued_at: UnixMs, waiting: u32) -> Grant {
        let (lifespan, expires_at, max_uses) = match self {
            Self::Once => (Lifespan::Single, None, Some(waiting)),
            Self::Process => (Lifespan::Process, None, None),
            Self::Session => (Lifespan::Session, None, None),
            Self::For(minutes) => (
                Lifespan::Until,
                Some(issued_at.plus(minutes_ms(minutes))),
                None,
            ),
        };
        Grant {
            objects,
            lifespan,
            expires_at,
            max_uses,
        }
    }

    /// Whether whoever may choose one of `allowed` may choose this: `once` always, a process within
    /// a session, fewer minutes within more.
    pub fn within(self, allowed: &[Self]) -> bool {
        match self {
            Self::Once => true,
            Self::Process => allowed
                .iter()
                .any(|scope| matches!(scope, Self::Process | Self::Session)),
            Self::Session => allowed.contains(&Self::Session),
            Self::For(minutes) => allowed
                .iter()
                .any(|scope| matches!(scope, Self::For(most) if minutes <= *most)),
        }
    }
}

pub(crate) fn minutes_ms(minutes: NonZeroU16) -> u64 {
    u64::from(minutes.get()) * 60_000
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once => f.write_str("once"),
            Self::Process => f.write_str("process"),
            Self::Session => f.write_str("session"),
            Self::For(minutes) => write!(f, "{minutes}m"),
        }
    }
}

impl FromStr for Scope {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || {
            ParseError::new(
                "a scope: once, process, session or minutes such as 10m (at most 1440m)",
                text,
            )
        };
        match text {
            "once" => Ok(Self::Once),
            "process" => Ok(Self::Process),
            "session" => Ok(Self::Session),
            _ => {
                let digits = text
                    .strip_suffix('m')
                    .filter(|d| !d.starts_with(['+', '0']))
                    .ok_or_else(wrong)?;
                let minutes: NonZeroU16 = digits.parse().map_err(|_| wrong())?;
                if minutes.get() <= MAX_MINUTES {
                    Ok(Self::For(minutes))
                } else {
                    Err(wrong())
                }
            }
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_one_spelling() {
        for good in ["once", "process", "session", "1m", "10m", "1440m"] {
            assert_eq!(good.parse::<Scope>().unwrap().to_string(), good);
        }
        for bad in [
            "", "Once", "forever", "0m", "010m", "+5m", "-5m", "1441m", "99999m", "10", "10 m",
            "1h",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn which_scope_is_within_which() {
        let parse = |text: &str| -> Vec<Scope> {
            text.split(' ').map(|word| word.parse().unwrap()).collect()
        };
        let table = [
            ("once", "10m", true),
            ("process", "once 10m", false),
            ("process", "session", true),
            ("session", "process 60m", false),
            ("5m", "10m", true),
            ("11m", "10m", false),
            ("5m", "once process session", false),
        ];
        for (scope, allowed, expected) in table {
            assert_eq!(
                parse(scope)[0].within(&parse(allowed)),
                expected,
                "{scope} within {allowed}"
            );
        }
    }
}
