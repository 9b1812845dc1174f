//! Requests of before, for people who look for them.
use std::iter;

use rusqlite::types::Value;
use syshold_protocol::{RequestId, RequestPhase, UnixMs};

use super::requests::{Filed, SELECT, filed, raw};
use super::{StoreError, Transaction, ms, revocations};

/// The newest requests that hold every one of `words`, in what was asked, its host or what was decided.
pub fn search(tx: &Transaction<'_>, words: &[String], most: u32) -> Result<Vec<Filed>, StoreError> {
    // So many are looked through: a word that nothing holds must not read years.
    const DEPTH: u32 = 20_000;
    let like = |at: usize| {
        let like = |text| format!("lower({text}) LIKE lower(?{}) ESCAPE '\\'", at + 2);
        format!(
            "AND ({} OR {} OR {} OR EXISTS (SELECT 1 FROM decision WHERE decision.request_id = request.request_id AND {}))",
            like("request.body"),
            like("host.name"),
            like("phase"),
            like("decision.body")
        )
    };
    let all: Vec<_> = (0..words.len()).map(like).collect();
    let all = all.join(" ");
    let sql = format!(
        "{SELECT} WHERE request_id IN (SELECT request_id FROM request ORDER BY received_at DESC LIMIT {DEPTH})
         {all} ORDER BY received_at DESC, request_id DESC LIMIT ?1"
    );
    let pattern = |word: &String| {
        let escaped = word.replace('\\', "\\\\").replace('%', "\\%");
        Value::from(format!("%{}%", escaped.replace('_', "\\_")))
    };
    let params: Vec<_> = iter::once(Value::from(most))
        .chain(words.iter().map(pattern))
        .collect();
    let found = tx.all(&sql, params, raw(tx))?;
    found.into_iter().map(filed).collect()
}

/// A request of before, in a line.
#[derive(Debug, Clone)]
pub struct Past {
    pub id: RequestId,
    pub title: String,
    pub phase: RequestPhase,
    /// It was approved, and that was taken back.
    pub revoked: bool,
    pub received_at: UnixMs,
}

/// What the same agent asked on the same host before, newest first.
pub fn before(tx: &Transaction<'_>, than: &Filed, most: u32) -> Result<Vec<Past>, StoreError> {
    let sql = format!(
        "{SELECT} WHERE agent = ?1 AND host_id = ?2 AND received_at <= ?3 AND request_id <> ?4
         ORDER BY received_at DESC LIMIT ?5"
    );
    let request = &than.request;
    let which = (
        &request.agent.name,
        request.host_id.as_str(),
        ms(than.received_at),
        request.request_id.to_string(),
        most,
    );
    let found = tx.all(&sql, which, raw(tx))?;
    found
        .into_iter()
        .map(|row| {
            let filed = filed(row)?;
            Ok(Past {
                id: filed.request.request_id,
                title: crate::render::title(&filed.request),
                phase: filed.phase,
                revoked: revocations::is_any(tx, filed.request.request_id)?,
                received_at: filed.received_at,
            })
        })
        .collect()
}
