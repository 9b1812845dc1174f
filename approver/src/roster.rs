//! Who is asked, and by what right: members of the group, whoever is on call for it, another group
//! once nobody has answered for a while, and whoever one of those has named in their place. Pure: the
//! time and the delegations come in.
//!
//! None of it makes the owner or the launcher an approver; nor does the word of one of them.
use std::fmt;

use serde::Serialize;
use syshold_protocol::{Request, UnixMs};

use crate::judge::is_own_agent;
use crate::store::people::Account;

/// What the configuration says of groups; the accounts know their members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    pub groups: Vec<Group>,
}

/// `[[group]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub on_call: Option<Rotation>,
    pub escalate: Option<Escalation>,
}

/// People in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Account names; never empty.
    pub people: Vec<String>,
    /// How long a turn is; never 0.
    pub turn_ms: u64,
    /// When the first one's first turn begins.
    pub from: UnixMs,
}

/// Who is asked as well, once nobody has decided for that long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    pub after_ms: u64,
    /// Groups; never empty.
    pub to: Vec<String>,
}

/// Why somebody may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Of the group that is asked, or nobody in particular is.
    Member,
    OnCall,
    /// Of that group, which is asked because nobody has answered.
    Fallback(String),
    /// In that person's place.
    Delegate {
        of: String,
        until: UnixMs,
    },
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member => f.write_str("member"),
            Self::OnCall => f.write_str("on call"),
            Self::Fallback(group) => write!(f, "of {group}, asked because nobody had answered"),
            Self::Delegate { of, until } => write!(f, "in place of {of}, until {until}"),
        }
    }
}

/// How it stands at one moment.
#[derive(Debug, Clone)]
pub struct Now<'a> {
    pub at: UnixMs,
    /// Whoever may be answered for, by whom, until when.
    pub delegations: &'a [(Account, String, UnixMs)],
    /// When the request came.
    pub received_at: UnixMs,
}

impl Rotation {
    /// Whose turn it is, and until when.
    pub fn at(&self, now: UnixMs) -> Option<(&str, UnixMs)> {
        if now < self.from {
            return None;
        }
        let turn = now.since(self.from) / self.turn_ms;
        let people = u64::try_from(self.people.len()).ok()?;
        let index = usize::try_from(turn.checked_rem(people)?).ok()?;
        let until = self.from.plus((turn + 1).saturating_mul(self.turn_ms));
        self.people.get(index).map(|name| (name.as_str(), until))
    }
}

impl Roster {
    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// By what right `who` may answer `request`; `None`: by none.
    pub fn standing(&self, request: &Request, who: &Account, now: &Now<'_>) -> Option<Standing> {
        let Some(asked) = &request.policy.approvers else {
            return Some(Standing::Member);
        };
        if let Some(standing) = self.own_standing(asked, who, now) {
            return Some(standing);
        }
        let in_place = now.delegations.iter().filter(|(of, to, until)| {
            to.eq_ignore_ascii_case(&who.name)
                && *until > now.at
                // An owner who may not approve may not name somebody who does, either.
                && !is_own_agent(request, of)
                && self.own_standing(asked, of, now).is_some()
        });
        in_place
            .max_by_key(|(_, _, until)| *until)
            .map(|(of, _, until)| Standing::Delegate {
                of: of.name.clone(),
                until: *until,
            })
    }

    fn own_standing(&self, asked: &str, who: &Account, now: &Now<'_>) -> Option<Standing> {
        let group = self.group(asked);
        let rotation = group.and_then(|group| group.on_call.as_ref());
        let turn = rotation.and_then(|rotation| rotation.at(now.at));
        if turn.is_some_and(|(name, _)| name.eq_ignore_ascii_case(&who.name)) {
            return Some(Standing::OnCall);
        }
        if who.groups.iter().any(|group| group == asked) {
            return Some(Standing::Member);
        }
        let escalation = group.and_then(|group| group.escalate.as_ref())?;
        let due = now.at >= now.received_at.plus(escalation.after_ms);
        let fallback = escalation
            .to
            .iter()
            .find(|group| who.groups.contains(group));
        fallback
            .filter(|_| due)
            .map(|group| Standing::Fallback(group.clone()))
    }

    /// Who is asked as well when nobody answers.
    pub fn fallback(&self, request: &Request) -> Option<&Escalation> {
        let asked = request.policy.approvers.as_deref()?;
        self.group(asked)?.escalate.as_ref()
    }

    /// Those groups, and the ones that are asked when nobody of them answers.
    pub fn with_fallbacks(&self, groups: &[String]) -> Vec<String> {
        let mut all = groups.to_vec();
        for name in groups {
            let escalate = self.group(name).and_then(|group| group.escalate.as_ref());
            all.extend(
                escalate
                    .into_iter()
                    .flat_map(|escalate| escalate.to.clone()),
            );
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whom a request is with, in words; `None`: anybody.
    pub fn asked(&self, request: &Request, now: &Now<'_>) -> Option<String> {
        let asked = request.policy.approvers.as_deref()?;
        let mut words = asked.to_owned();
        let Some(group) = self.group(asked) else {
            return Some(words);
        };
        if let Some((name, _)) = group.on_call.as_ref().and_then(|turn| turn.at(now.at)) {
            words.push_str(&format!(" (on call: {name})"));
        }
        if let Some(Escalation { after_ms, to }) = &group.escalate {
            let from = now.received_at.plus(*after_ms);
            let since = if now.at >= from { "since" } else { "from" };
            words.push_str(&format!(", {since} {from} also {}", to.join(", ")));
        }
        Some(words)
    }
}

#[cfg(test)]
mod tests;
