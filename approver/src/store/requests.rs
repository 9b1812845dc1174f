//! Requests, the votes on them, the decisions made and what became of them.
use serde::Serialize;
use serde::de::DeserializeOwned;
use syshold_protocol::{
    Approver, Decision, Digest, LATE_APPROVAL_MS, Outcome, Request, RequestId, RequestPhase, UnixMs,
};

use super::{Row, StoreError, Transaction, digest, ms, time};
use crate::judge::Vote;
use crate::limits::{AUTO_DENY_MS, DENIALS_MS, Limits};

/// A request as filed.
#[derive(Debug, Clone)]
pub struct Filed {
    pub request: Request,
    pub request_sha256: Digest,
    pub host_name: String,
    pub phase: RequestPhase,
    pub received_at: UnixMs,
    pub late_until: UnixMs,
    /// Whether it is this gateway's ledger that has it, and not another replica's.
    pub here: bool,
}

/// A decision as filed; `recorded` once the ledger has it.
#[derive(Debug, Clone)]
pub struct Made {
    pub decision: Decision,
    pub envelope: Vec<u8>,
    pub recorded: bool,
    /// As in [`Filed`].
    pub here: bool,
}

/// What became of a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filing {
    New,
    /// The same bytes again.
    Known,
    /// Other bytes under that id, or a nonce used before.
    Conflict,
    /// The host, or this agent of it, has too many undecided ones.
    TooMany,
    /// People denied the same lately, again and again: nobody is asked.
    Fatigue,
}

/// How many outcomes a request may have: `expired`, `late`, and what the retry came to, with room.
const MAX_OUTCOMES: i64 = 8;

/// Files a request within `limits`.
pub fn file(
    tx: &Transaction<'_>,
    request: &Request,
    sha256: Digest,
    envelope: &[u8],
    limits: Limits,
    now: UnixMs,
) -> Result<Filing, StoreError> {
    let known: Option<(String, Vec<u8>)> = tx.first(
            "SELECT host_id, request_sha256 FROM request WHERE request_id = ?1 OR (host_id = ?2 AND nonce = ?3)
             ORDER BY request_id = ?1 DESC",
            (request.request_id.to_string(), request.host_id.as_str(), request.nonce.to_string()),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
    if let Some((host, known)) = known {
        let same = host == request.host_id.as_str() && digest(known)? == sha256;
        return Ok(if same {
            Filing::Known
        } else {
            Filing::Conflict
        });
    }
    let pending: u32 = tx.one(
        "SELECT count(*) FROM request WHERE host_id = ?1 AND phase = 'waiting'",
        [request.host_id.as_str()],
        |row| row.get(0),
    )?;
    let agent = request.agent.name.as_str();
    let of_agent: u32 = tx.one(
        "SELECT count(*) FROM request WHERE host_id = ?1 AND agent = ?2 AND phase = 'waiting'",
        [request.host_id.as_str(), agent],
        |row| row.get(0),
    )?;
    let tired = is_fatigue(tx, request, limits.auto_deny_after, now)?;
    if !tired && (pending >= limits.pending_per_host || of_agent >= limits.pending_per_agent) {
        return Ok(Filing::TooMany);
    }
    tx.execute(
        "INSERT INTO request (request_id, host_id, nonce, envelope, body, request_sha256, phase, received_at, hold_until, late_until, agent, question, keeper)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'waiting', ?7, ?8, ?9, ?10, ?11, ?12)",
        (
            request.request_id.to_string(),
            request.host_id.as_str(),
            request.nonce.to_string(),
            envelope,
            json(request)?,
            sha256.0,
            ms(now),
            ms(request.hold_until),
            ms(request.hold_until.plus(LATE_APPROVAL_MS)),
            agent,
            &request.coalesce_key,
            tx.keeper(),
        ),
    )?;
    Ok(if tired { Filing::Fatigue } else { Filing::New })
}

/// Whether people denied the same question of the same agent `after` times in a row, lately.
fn is_fatigue(
    tx: &Transaction<'_>,
    request: &Request,
    after: u32,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let newest: Vec<(String, i64)> = tx.all(
        "SELECT phase, answered_at FROM request WHERE host_id = ?1 AND agent = ?2 AND question = ?3 AND answered_at IS NOT NULL
         ORDER BY answered_at DESC LIMIT ?4",
        (
            request.host_id.as_str(),
            request.agent.name.as_str(),
            &request.coalesce_key,
            after,
        ),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut denied = Vec::new();
    for (phase, at) in newest {
        if phase != "denied" {
            return Ok(false);
        }
        denied.push(time(at));
    }
    let enough = after > 0 && denied.len() == after as usize;
    let within = |at: Option<&UnixMs>, ms| at.is_some_and(|at| now.since(*at) < ms);
    Ok(enough && within(denied.first(), AUTO_DENY_MS) && within(denied.last(), DENIALS_MS))
}

/// When people, not time or a rule, decided a request.
pub fn set_answered(tx: &Transaction<'_>, id: RequestId, now: UnixMs) -> Result<(), StoreError> {
    let sql = "UPDATE request SET answered_at = ?2 WHERE request_id = ?1";
    tx.execute(sql, (id.to_string(), ms(now)))?;
    Ok(())
}

/// What a scrape of the metrics wants to know.
#[derive(Debug)]
pub struct Counts {
    pub undecided: [(&'static str, i64); 2],
    /// At most 768.
    pub unrecorded: i64,
}

/// See [`Counts`].
pub fn counts(tx: &Transaction<'_>) -> Result<Counts, StoreError> {
    let of = |sql: &str| tx.one(sql, (), |row| row.get::<i64>(0));
    let phase = |word| {
        of(&format!(
            "SELECT count(*) FROM request WHERE phase = '{word}' AND phase IN ('waiting', 'late')"
        ))
    };
    let behind = |which| {
        of(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM {which} LIMIT 256) AS behind"
        ))
    };
    Ok(Counts {
        undecided: [("waiting", phase("waiting")?), ("late", phase("late")?)],
        unrecorded: behind("request WHERE recorded = 0")?
            + behind("decision WHERE recorded = 0")?
            + behind("revocation WHERE n IS NULL")?,
    })
}

/// The request of that id.
pub fn by_id(tx: &Transaction<'_>, id: RequestId) -> Result<Option<Filed>, StoreError> {
    let sql = format!("{SELECT} WHERE request_id = ?1");
    tx.first(&sql, [id.to_string()], raw(tx))?
        .map(filed)
        .transpose()
}

/// The newest requests in one of `phases`, newest first; none given: in any.
pub fn list(
    tx: &Transaction<'_>,
    phases: &[RequestPhase],
    most: u32,
) -> Result<Vec<Filed>, StoreError> {
    let words: Vec<_> = phases
        .iter()
        .map(|phase| format!("'{}'", word(*phase)))
        .collect();
    let which = if words.is_empty() {
        String::new()
    } else {
        format!("WHERE phase IN ({})", words.join(", "))
    };
    let sql = format!("{SELECT} {which} ORDER BY received_at DESC, request_id DESC LIMIT ?1");
    let found = tx.all(&sql, [most], raw(tx))?;
    found.into_iter().map(filed).collect()
}

/// Moves a request on if it is still in `from`: whoever does this first has decided.
#[must_use = "false: somebody else was first"]
pub fn advance(
    tx: &Transaction<'_>,
    id: RequestId,
    from: RequestPhase,
    to: RequestPhase,
) -> Result<bool, StoreError> {
    let sql = "UPDATE request SET phase = ?3 WHERE request_id = ?1 AND phase = ?2";
    Ok(tx.execute(sql, (id.to_string(), word(from), word(to)))? == 1)
}

/// The approvals of a request so far.
pub fn votes(tx: &Transaction<'_>, id: RequestId) -> Result<Vec<(Vote, Approver)>, StoreError> {
    let sql =
        "SELECT scope, rendered_sha256, approver FROM vote WHERE request_id = ?1 ORDER BY rowid";
    let rows: Vec<(String, Vec<u8>, String)> = tx.all(sql, [id.to_string()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    rows.into_iter()
        .map(|(scope, rendered, approver)| {
            let approver: Approver = parse(&approver, "approver")?;
            let scope = scope.parse().map_err(|_| StoreError::Corrupt("scope"))?;
            Ok((
                Vote {
                    subject: approver.subject.clone(),
                    scope,
                    rendered: digest(rendered)?,
                },
                approver,
            ))
        })
        .collect()
}

/// Adds an approval; one by the same person for what was shown before makes way.
pub fn add_vote(
    tx: &Transaction<'_>,
    id: RequestId,
    account: &str,
    vote: &Vote,
    approver: &Approver,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM vote WHERE request_id = ?1 AND account = ?2";
    tx.execute(sql, (id.to_string(), account))?;
    tx.execute(
        "INSERT INTO vote (request_id, account, scope, rendered_sha256, approver) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id.to_string(), account, vote.scope.to_string(), vote.rendered.0, json(approver)?),
    )?;
    Ok(())
}

/// Files a decision, not recorded yet.
pub fn add_decision(
    tx: &Transaction<'_>,
    decision: &Decision,
    envelope: &[u8],
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO decision (decision_id, request_id, body, envelope, keeper) VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            decision.decision_id.to_string(),
            decision.request_id.to_string(),
            json(decision)?,
            envelope,
            tx.keeper(),
        ),
    )?;
    Ok(())
}

/// The newest decision on a request.
pub fn decision(tx: &Transaction<'_>, id: RequestId) -> Result<Option<Made>, StoreError> {
    let sql = format!("{MADE} WHERE request_id = ?1 ORDER BY seq DESC LIMIT 1");
    tx.first(&sql, [id.to_string()], raw_made(tx))?
        .map(made)
        .transpose()
}

/// Whether one more outcome fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Free,
    /// The same bytes are there.
    Known,
    Full,
}

/// See [`Room`].
pub fn outcome_room(
    tx: &Transaction<'_>,
    id: RequestId,
    sha256: Digest,
) -> Result<Room, StoreError> {
    let (same, count): (i64, i64) = tx.one(
        "SELECT count(*) FILTER (WHERE sha256 = ?2), count(*) FROM outcome WHERE request_id = ?1",
        (id.to_string(), sha256.0),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(match (same, count) {
        (1.., _) => Room::Known,
        (_, MAX_OUTCOMES..) => Room::Full,
        _ => Room::Free,
    })
}

/// Files an outcome.
pub fn add_outcome(
    tx: &Transaction<'_>,
    outcome: &Outcome,
    sha256: Digest,
    now: UnixMs,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO outcome (request_id, seq, sha256, body, received_at)
         VALUES (?1, (SELECT count(*) FROM outcome WHERE request_id = ?1), ?2, ?3, ?4)",
        (
            outcome.request_id.to_string(),
            sha256.0,
            json(outcome)?,
            ms(now),
        ),
    )?;
    Ok(())
}

/// The latest outcome of a request.
pub fn outcome(tx: &Transaction<'_>, id: RequestId) -> Result<Option<Outcome>, StoreError> {
    let sql = "SELECT body FROM outcome WHERE request_id = ?1 ORDER BY seq DESC LIMIT 1";
    let body: Option<String> = tx.first(sql, [id.to_string()], |row| row.get(0))?;
    body.map(|body| parse(&body, "outcome")).transpose()
}

/// A phase as it is stored and shown.
pub fn word(phase: RequestPhase) -> &'static str {
    match phase {
        RequestPhase::Waiting => "waiting",
        RequestPhase::Late => "late",
        RequestPhase::Approved => "approved",
        RequestPhase::Denied => "denied",
        RequestPhase::Expired => "expired",
        RequestPhase::Withdrawn => "withdrawn",
    }
}

pub(super) const SELECT: &str = "SELECT body, request_sha256, host.name, phase, received_at, late_until, keeper FROM request JOIN host USING (host_id)";
pub(super) const MADE: &str = "SELECT body, envelope, recorded, keeper FROM decision";

pub(super) type Raw = (String, Vec<u8>, String, String, i64, i64, bool);

pub(super) fn raw(tx: &Transaction<'_>) -> impl Fn(&Row) -> rusqlite::Result<Raw> {
    let own = tx.keeper();
    move |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
            row.get::<i64>(6)? == own,
        ))
    }
}

pub(super) fn filed(
    (body, sha256, host_name, phase, received_at, late_until, here): Raw,
) -> Result<Filed, StoreError> {
    Ok(Filed {
        request: parse(&body, "request")?,
        request_sha256: digest(sha256)?,
        host_name,
        phase: parse(&format!("\"{phase}\""), "phase")?,
        received_at: time(received_at),
        late_until: time(late_until),
        here,
    })
}

pub(super) type RawMade = (String, Vec<u8>, bool, bool);

pub(super) fn raw_made(tx: &Transaction<'_>) -> impl Fn(&Row) -> rusqlite::Result<RawMade> {
    let own = tx.keeper();
    move |row| {
        let here = row.get::<i64>(3)? == own;
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, here))
    }
}

pub(super) fn made((body, envelope, recorded, here): RawMade) -> Result<Made, StoreError> {
    Ok(Made {
        decision: parse(&body, "decision")?,
        envelope,
        recorded,
        here,
    })
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt("value"))
}

pub(super) fn parse<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt(what))
}
