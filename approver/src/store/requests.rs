//! Requests, the votes on them, the decisions made and what became of them.
use rusqlite::{OptionalExtension as _, Row, Transaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use syshold_protocol::{
    Approver, Decision, DecisionId, Digest, LATE_APPROVAL_MS, Outcome, Request, RequestId,
    RequestPhase, UnixMs,
};

use super::{StoreError, digest, ms, time};
use crate::judge::Vote;

/// A request as filed.
#[derive(Debug, Clone)]
pub struct Filed {
    pub request: Request,
    pub request_sha256: Digest,
    pub host_name: String,
    pub phase: RequestPhase,
    pub received_at: UnixMs,
    pub late_until: UnixMs,
}

/// A decision as filed; `recorded` once the ledger has it.
#[derive(Debug, Clone)]
pub struct Made {
    pub decision: Decision,
    pub envelope: Vec<u8>,
    pub recorded: bool,
}

/// What became of a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filing {
    New,
    /// The same bytes again.
    Known,
    /// Other bytes under that id, or a nonce used before.
    Conflict,
    TooMany,
}

/// How many outcomes a request may have: `expired`, `late`, and what the retry came to, with room.
const MAX_OUTCOMES: i64 = 8;

/// Files a request of `host`, of which at most `most` may be undecided.
pub fn file(
    tx: &Transaction<'_>,
    request: &Request,
    sha256: Digest,
    envelope: &[u8],
    most: u32,
    now: UnixMs,
) -> Result<Filing, StoreError> {
    let known: Option<(String, Vec<u8>)> = tx
        .query_row(
            "SELECT host_id, request_sha256 FROM request WHERE request_id = ?1 OR (host_id = ?2 AND nonce = ?3)
             ORDER BY request_id = ?1 DESC",
            (request.request_id.to_string(), request.host_id.as_str(), request.nonce.to_string()),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    if let Some((host, known)) = known {
        let same = host == request.host_id.as_str() && digest(known)? == sha256;
        return Ok(if same {
            Filing::Known
        } else {
            Filing::Conflict
        });
    }
    let pending: u32 = tx.query_row(
        "SELECT count(*) FROM request WHERE host_id = ?1 AND phase = 'waiting'",
        [request.host_id.as_str()],
        |row| row.get(0),
    )?;
    if pending >= most {
        return Ok(Filing::TooMany);
    }
    tx.execute(
        "INSERT INTO request (request_id, host_id, nonce, envelope, body, request_sha256, phase, received_at, hold_until, late_until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'waiting', ?7, ?8, ?9)",
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
        ),
    )?;
    Ok(Filing::New)
}

/// The request of that id.
pub fn by_id(tx: &Transaction<'_>, id: RequestId) -> Result<Option<Filed>, StoreError> {
    let sql = format!("{SELECT} WHERE request_id = ?1");
    tx.query_row(&sql, [id.to_string()], raw)
        .optional()?
        .map(filed)
        .transpose()
}

/// The newest requests in one of `phases`, newest first; none given: in any.
pub fn list(
    tx: &Transaction<'_>,
    phases: &[RequestPhase],
    most: u32,
) -> Result<Vec<Filed>, StoreError> {
    let words: Vec<_> = phases.iter().copied().map(word).collect();
    let sql = format!(
        "{SELECT} WHERE ?1 = '[]' OR phase IN (SELECT value FROM json_each(?1)) ORDER BY received_at DESC, request_id DESC LIMIT ?2"
    );
    let mut all = tx.prepare_cached(&sql)?;
    all.query_map((json(&words)?, most), raw)?
        .map(|row| filed(row?))
        .collect()
}

/// Requests whose hold (`waiting`) or late time (`late`) is over.
pub fn due(tx: &Transaction<'_>, now: UnixMs) -> Result<Vec<Filed>, StoreError> {
    let sql = format!(
        "{SELECT} WHERE (phase = 'waiting' AND hold_until <= ?1) OR (phase = 'late' AND late_until <= ?1) ORDER BY hold_until"
    );
    let mut all = tx.prepare_cached(&sql)?;
    all.query_map([ms(now)], raw)?
        .map(|row| filed(row?))
        .collect()
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
    let mut all = tx.prepare_cached(
        "SELECT scope, rendered_sha256, approver FROM vote WHERE request_id = ?1 ORDER BY rowid",
    )?;
    let rows = all.query_map([id.to_string()], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get(1)?,
            row.get::<_, String>(2)?,
        ))
    })?;
    rows.map(|row| {
        let (scope, rendered, approver) = row?;
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
    tx.execute(
        "INSERT OR REPLACE INTO vote (request_id, account, scope, rendered_sha256, approver) VALUES (?1, ?2, ?3, ?4, ?5)",
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
        "INSERT INTO decision (decision_id, request_id, body, envelope) VALUES (?1, ?2, ?3, ?4)",
        (
            decision.decision_id.to_string(),
            decision.request_id.to_string(),
            json(decision)?,
            envelope,
        ),
    )?;
    Ok(())
}

/// The newest decision on a request.
pub fn decision(tx: &Transaction<'_>, id: RequestId) -> Result<Option<Made>, StoreError> {
    let sql = "SELECT body, envelope, recorded FROM decision WHERE request_id = ?1 ORDER BY seq DESC LIMIT 1";
    tx.prepare_cached(sql)?
        .query_row([id.to_string()], raw_made)
        .optional()?
        .map(made)
        .transpose()
}

/// What the ledger does not have yet, oldest first.
#[derive(Debug)]
pub struct Unrecorded {
    pub requests: Vec<Filed>,
    pub decisions: Vec<(Filed, Made)>,
}

impl Unrecorded {
    /// Whether the ledger has everything.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.decisions.is_empty()
    }
}

/// See [`Unrecorded`]; so many at a time.
pub fn unrecorded(tx: &Transaction<'_>) -> Result<Unrecorded, StoreError> {
    let mut open = tx.prepare_cached(&format!(
        "{SELECT} WHERE recorded = 0 ORDER BY received_at LIMIT 256"
    ))?;
    let requests: Vec<_> = open
        .query_map([], raw)?
        .map(|row| filed(row?))
        .collect::<Result<_, StoreError>>()?;
    let sql =
        "SELECT body, envelope, recorded FROM decision WHERE recorded = 0 ORDER BY seq LIMIT 256";
    let mut open = tx.prepare_cached(sql)?;
    let made: Vec<_> = open
        .query_map([], raw_made)?
        .map(|row| made(row?))
        .collect::<Result<_, StoreError>>()?;
    let with_request = made.into_iter().map(|made| {
        let filed = by_id(tx, made.decision.request_id)?.ok_or(StoreError::Corrupt("decision"))?;
        Ok((filed, made))
    });
    Ok(Unrecorded {
        requests,
        decisions: with_request.collect::<Result<_, StoreError>>()?,
    })
}

/// The ledger has these: requests, and decisions, which may now be handed out.
pub fn set_recorded(
    tx: &Transaction<'_>,
    recorded: &[(RequestId, Option<DecisionId>)],
) -> Result<(), StoreError> {
    for (request, decision) in recorded {
        match decision {
            Some(decision) => tx
                .prepare_cached("UPDATE decision SET recorded = 1 WHERE decision_id = ?1")?
                .execute([decision.to_string()])?,
            None => tx
                .prepare_cached("UPDATE request SET recorded = 1 WHERE request_id = ?1")?
                .execute([request.to_string()])?,
        };
    }
    Ok(())
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
    let (same, count): (i64, i64) = tx.query_row(
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
    let body: Option<String> = tx
        .prepare_cached(sql)?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()?;
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

const SELECT: &str = "SELECT body, request_sha256, host.name, phase, received_at, late_until FROM request JOIN host USING (host_id)";

type Raw = (String, Vec<u8>, String, String, i64, i64);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
    ))
}

fn filed(
    (body, sha256, host_name, phase, received_at, late_until): Raw,
) -> Result<Filed, StoreError> {
    Ok(Filed {
        request: parse(&body, "request")?,
        request_sha256: digest(sha256)?,
        host_name,
        phase: parse(&format!("\"{phase}\""), "phase")?,
        received_at: time(received_at),
        late_until: time(late_until),
    })
}

fn raw_made(row: &Row<'_>) -> rusqlite::Result<(String, Vec<u8>, bool)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn made((body, envelope, recorded): (String, Vec<u8>, bool)) -> Result<Made, StoreError> {
    Ok(Made {
        decision: parse(&body, "decision")?,
        envelope,
        recorded,
    })
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt("value"))
}

fn parse<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt(what))
}
