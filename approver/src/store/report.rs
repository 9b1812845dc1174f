//! How each person approves: what [`crate::cli`] prints as `report approvers`.
use std::collections::BTreeMap;

use serde::Serialize;
use syshold_protocol::{Channel, Decision, DecisionVerdict, RequestId, UnixMs};

use super::{StoreError, Transaction, ms, time};

/// An approval sooner than this after it could first be read was not read.
pub const READ_MS: u64 = 5000;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// One person's answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Habit {
    pub subject: String,
    pub approvals: u32,
    pub denials: u32,
    /// From a request's arrival to this person's approval.
    pub median_seconds_to_approve: Option<f64>,
    /// In the busiest sixty minutes.
    pub most_approvals_in_an_hour: u32,
    /// See [`READ_MS`].
    pub approved_unread: u32,
    /// Of the approvals, 0 to 1.
    pub share_unread: Option<f64>,
}

#[derive(Default)]
struct Answers {
    approved_at: Vec<u64>,
    took: Vec<u64>,
    denials: u32,
    unread: u32,
}

/// That `account` was shown the whole of a request.
pub fn seen(
    tx: &Transaction<'_>,
    id: RequestId,
    account: &str,
    now: UnixMs,
) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO seen (request_id, account, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    tx.execute(sql, (id.to_string(), account, ms(now)))?;
    Ok(())
}

/// Everybody who decided something since `since`, most approvals first.
pub fn approvers(tx: &Transaction<'_>, since: UnixMs) -> Result<Vec<Habit>, StoreError> {
    let mut people: BTreeMap<String, Answers> = BTreeMap::new();
    let rows: Vec<(String, i64, Option<i64>)> = tx.all(
        "SELECT decision.body, request.received_at,
                (SELECT min(notice.at) FROM notice WHERE notice.request_id = request.request_id AND notice.place_ts IS NOT NULL)
         FROM decision JOIN request USING (request_id) WHERE request.received_at >= ?1",
        [ms(since)],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    for (body, received, told) in rows {
        let decision: Decision =
            serde_json::from_str(&body).map_err(|_| StoreError::Corrupt("decision"))?;
        let (received, told) = (time(received), told.map(time));
        for approver in &decision.approvers {
            let answers = people.entry(approver.subject.to_string()).or_default();
            match decision.verdict {
                DecisionVerdict::Deny => answers.denials += 1,
                DecisionVerdict::Approve | DecisionVerdict::ApproveModified => {
                    let opened = opened(tx, decision.request_id, approver.subject.as_str())?;
                    let chat = matches!(approver.channel, Channel::Slack | Channel::Teams);
                    let first = opened.into_iter().chain(told.filter(|_| chat)).min();
                    let read = first.is_some_and(|first| approver.at.since(first) >= READ_MS);
                    answers.unread += u32::from(!read);
                    answers.approved_at.push(approver.at.ms());
                    answers.took.push(approver.at.since(received));
                }
                DecisionVerdict::Expired | DecisionVerdict::Withdrawn => {}
            }
        }
    }
    let mut habits: Vec<_> = people
        .into_iter()
        .map(|(subject, answers)| habit(subject, answers))
        .collect();
    habits.sort_by(|a, b| {
        b.approvals
            .cmp(&a.approvals)
            .then_with(|| a.subject.cmp(&b.subject))
    });
    Ok(habits)
}

/// When a person first opened a request, in the inbox, the API or by command line.
fn opened(tx: &Transaction<'_>, id: RequestId, email: &str) -> Result<Option<UnixMs>, StoreError> {
    let sql = "SELECT min(at) FROM seen JOIN account ON account.name = seen.account WHERE request_id = ?1 AND email = ?2";
    let at: Option<i64> = tx.one(sql, (id.to_string(), email), |row| row.get(0))?;
    Ok(at.map(time))
}
fn habit(subject: String, mut answers: Answers) -> Habit {
    answers.approved_at.sort_unstable();
    answers.took.sort_unstable();
    let approvals = count(answers.approved_at.len());
    Habit {
        subject,
        approvals,
        denials: answers.denials,
        median_seconds_to_approve: median(&answers.took).map(|ms| ms / 1000.0),
        most_approvals_in_an_hour: busiest(&answers.approved_at),
        approved_unread: answers.unread,
        share_unread: (approvals > 0).then(|| f64::from(answers.unread) / f64::from(approvals)),
    }
}
fn median(sorted: &[u64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)? as f64;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((*sorted.get(middle - 1)? as f64 + upper) / 2.0)
}

/// The most in any hour.
fn busiest(sorted: &[u64]) -> u32 {
    let mut first = 0;
    let mut most = 0;
    for (last, at) in sorted.iter().enumerate() {
        while at - sorted[first] >= HOUR_MS {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    count(most)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A channel as it is called in JSON.
pub(crate) fn channel_word(channel: Channel) -> &'static str {
    match channel {
        Channel::Api => "api",
        Channel::Cli => "cli",
        Channel::Slack => "slack",
        Channel::Teams => "teams",
        Channel::Web => "web",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_the_busiest_hour() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3]), Some(3.0));
        assert_eq!(median(&[1, 2, 10]), Some(2.0));
        assert_eq!(median(&[1, 2, 4, 10]), Some(3.0));
        let minute = 60_000;
        assert_eq!(busiest(&[]), 0);
        assert_eq!(busiest(&[0, 59 * minute, 60 * minute, 61 * minute]), 3);
        assert_eq!(busiest(&[0, 60 * minute, 120 * minute]), 1, "an hour apart");
    }
}
