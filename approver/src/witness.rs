//! The witness of the hosts' ledgers: it cosigns a checkpoint only of a tree that grew from the one
//! it saw before (C2SP tlog-witness), so no host, nor root on it, can take leaves back unseen.
//!
//! | Call | Proof of the host | Answers |
//! |---|---|---|
//! | `PUT /v1/log` | body: DSSE of `LogClaim` | 200 DSSE of `LogState`, by the decision key · 400 `malformed` · 401 `bad-signature`, `clock-skew` · 403 `host-disabled` · 409 `other-log` (this host has another ledger: `hosts new-ledger`) · 422 `unacceptable` |
//! | `POST /add-checkpoint` (C2SP tlog-witness) | the checkpoint's signature by the ledger's key | 200 the cosignature line · 400 `malformed` · 403 `not-signed` · 404 `unknown-log` · 409 the size last seen, as `text/x.tlog.size` · 422 `inconsistent` |
//!
//! What was seen is stored before a cosignature leaves. A ledger that shrank or forked is in the
//! gateway's own ledger, once for each way it did, whatever the host says about itself.
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use syshold_ledger::note::{Note, Role, VerifierKey, parse_checkpoint};
use syshold_ledger::tree::TreeHash;
use syshold_ledger::witness::{Refusal, Submission, cosign};
use syshold_protocol::{HostId, LogClaim, LogState, UnixMs, VERSION};

use crate::host_api::{AUTH_SKEW_MS, DSSE, HostApi, now, open};
use crate::http::{self, Fault};
use crate::store::StoreError;
use crate::store::logs::{self, Log};

/// The content type of a size, in C2SP tlog-witness.
const TLOG_SIZE: &str = "text/x.tlog.size";

/// What a claim is worth.
enum Claimed {
    /// `new`: it was not this host's until now.
    Done {
        log: Log,
        new: bool,
    },
    /// The ledger that is this host's.
    Other(Log),
    OtherKey,
}

pub(crate) async fn claim(State(api): State<HostApi>, body: Body) -> Result<Response, Fault> {
    let bytes = http::body(body).await?;
    let (host, opened) = open::<LogClaim>(&api.desk, &bytes).await?;
    let claim = opened.value;
    let now = now();
    if claim.v != VERSION {
        return Err(Fault::unacceptable(
            "v: update the older of host and gateway",
        ));
    }
    if claim.at.since(now).max(now.since(claim.at)) > AUTH_SKEW_MS {
        return Err(Fault::new(
            StatusCode::UNAUTHORIZED,
            "clock-skew",
            "The claim is from another time",
        )
        .detail(format!("made at {}, now {now}", claim.at)));
    }
    let (key, size, root) = proven(&claim)?;
    let (id, wanted) = (host.id.clone(), key.clone());
    let claimed = api
        .desk
        .store
        .run(move |tx| take(tx, &wanted, &id, now))
        .await?;
    let log = match claimed {
        Claimed::Done { log, new } => {
            if new {
                tracing::info!(host = %host.id, ledger = %key, "the ledger of a host");
                let said = json!({"host_id": host.id, "key": key.to_string(), "size": size});
                api.desk.record_log(&said).await?;
            }
            log
        }
        Claimed::Other(log) => {
            let text = format!("E_ROLLBACK: another ledger, {}", key.name());
            alarm(&api, &host.id, &log, &text).await?;
            let detail = format!(
                "it has {}; start it with that one, or run `syshold-approver hosts new-ledger {}` on the gateway",
                seen(&log),
                host.id
            );
            return Err(Fault::new(
                StatusCode::CONFLICT,
                "other-log",
                "The gateway knows this host by another ledger",
            )
            .detail(detail));
        }
        Claimed::OtherKey => {
            return Err(Fault::unacceptable(
                "key: the gateway knows a ledger of that name by another key",
            ));
        }
    };
    if let Some(wrong) = taken_back(&log, size, root) {
        alarm(&api, &host.id, &log, &wrong).await?;
    }
    let state = LogState {
        v: VERSION,
        host_id: host.id,
        nonce: claim.nonce,
        seen: log.seen.map(|seen| seen.note),
    };
    let sealed = api.desk.seal(&state)?;
    Ok(([(header::CONTENT_TYPE, DSSE)], sealed.envelope).into_response())
}

/// The key of a claim, which signed its checkpoint, and what that is of.
fn proven(claim: &LogClaim) -> Result<(VerifierKey, u64, TreeHash), Fault> {
    let bad = |what: &str| Fault::unacceptable(what);
    let key: VerifierKey = claim
        .key
        .parse()
        .map_err(|error| bad(&format!("key: {error}")))?;
    if key.role() != Role::Log {
        return Err(bad("key: not a ledger's"));
    }
    let (note, checkpoint) = parse_checkpoint(&claim.checkpoint)
        .map_err(|error| bad(&format!("checkpoint: {error}")))?;
    let signed = note
        .signatures
        .iter()
        .any(|line| line.verify(&key, &note.text).is_some());
    if checkpoint.origin != key.name() || checkpoint.size == 0 || !signed {
        return Err(bad("checkpoint: not signed by that key, or of no leaf"));
    }
    Ok((key, checkpoint.size, checkpoint.root))
}

/// A ledger that is nobody's, or of an earlier enrolment, is the claimer's: it can sign with its key.
fn take(
    tx: &crate::store::Transaction<'_>,
    key: &VerifierKey,
    host: &HostId,
    now: UnixMs,
) -> Result<Claimed, StoreError> {
    let known = logs::of_origin(tx, key.name())?;
    if known.as_ref().is_some_and(|log| log.key != *key) {
        return Ok(Claimed::OtherKey);
    }
    match (known, logs::of_host(tx, host)?) {
        (Some(log), _) if log.host.as_ref() == Some(host) => Ok(Claimed::Done { log, new: false }),
        (_, Some(other)) => Ok(Claimed::Other(other)),
        (_, None) => {
            logs::give(tx, key, host, now)?;
            let log = logs::of_host(tx, host)?.ok_or(StoreError::Corrupt("ledger"))?;
            Ok(Claimed::Done { log, new: true })
        }
    }
}

fn seen(log: &Log) -> String {
    let size = log.seen.as_ref().map_or(0, |seen| seen.checkpoint.size);
    format!("{} with {size} leaves", log.key.name())
}

/// Whether a ledger is less than, or other than, what was seen of it.
fn taken_back(log: &Log, size: u64, root: TreeHash) -> Option<String> {
    let last = &log.seen.as_ref()?.checkpoint;
    if size < last.size {
        Some(format!("E_ROLLBACK: {size} leaves of {}", last.size))
    } else if size == last.size && root != last.root {
        Some(format!("E_FORK: another tree of {size} leaves"))
    } else {
        None
    }
}

/// Said and recorded once, until it is another one or all is well again.
async fn alarm(api: &HostApi, host: &HostId, log: &Log, text: &str) -> Result<(), Fault> {
    if log.alarm.as_deref() == Some(text) {
        return Ok(());
    }
    tracing::error!(%host, ledger = log.key.name(), text, "the ledger of a host is not what it was");
    let said = json!({"host_id": host, "key": log.key.to_string(), "alarm": text});
    api.desk.record_log_alarm(&said).await?;
    let (origin, text) = (log.key.name().to_owned(), text.to_owned());
    api.desk
        .store
        .run(move |tx| logs::set_alarm(tx, &origin, &text))
        .await?;
    Ok(())
}

/// What came of a submission.
enum Judged {
    Cosigned(String),
    /// With the ledger it is about, when it is known.
    Refused(Refusal, Option<Box<Log>>),
}

pub(crate) async fn add_checkpoint(
    State(api): State<HostApi>,
    body: Body,
) -> Result<Response, Fault> {
    let bytes = http::body(body).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Fault::malformed("not UTF-8"))?;
    let submission: Submission = match text.parse() {
        Ok(submission) => submission,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    let (signer, now) = (api.witness.clone(), now());
    let asked = submission.clone();
    let judged = api
        .desk
        .store
        .run(move |tx| judge(tx, &signer, &asked, now))
        .await?;
    match judged {
        Judged::Cosigned(line) => {
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], line).into_response())
        }
        Judged::Refused(refusal, log) => {
            if let Some((log, text)) = log.and_then(|log| {
                let text = forked(&log, &refusal, &submission)?;
                Some((log, text))
            }) && let Some(host) = &log.host
            {
                alarm(&api, host, &log, &text).await?;
            }
            Ok(refused(&refusal))
        }
    }
}

/// In one transaction: what two submissions at once say of the same ledger cannot both be cosigned.
fn judge(
    tx: &crate::store::Transaction<'_>,
    signer: &syshold_ledger::note::NoteSigner,
    submission: &Submission,
    now: UnixMs,
) -> Result<Judged, StoreError> {
    let (note, checkpoint) = match parse_checkpoint(&submission.note) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(Judged::Refused(error.into(), None)),
    };
    let Some(log) = logs::of_origin_believed(tx, &checkpoint.origin)? else {
        return Ok(Judged::Refused(Refusal::UnknownLog, None));
    };
    let last = log.seen.as_ref().map(|seen| &seen.checkpoint);
    let seen = match cosign(signer, &log.key, last, submission, now.ms() / 1000) {
        Ok(seen) => seen,
        Err(refusal) => return Ok(Judged::Refused(refusal, Some(Box::new(log)))),
    };
    // Its own signature and ours; whatever else stood there is nobody's concern.
    let own = note
        .signatures
        .iter()
        .filter(|line| line.verify(&log.key, &note.text).is_some())
        .take(1)
        .cloned();
    let kept = Note {
        signatures: own.chain([seen.cosignature.clone()]).collect(),
        text: note.text.clone(),
    };
    logs::set_seen(tx, &checkpoint.origin, &kept.to_string(), now)?;
    Ok(Judged::Cosigned(format!("{}\n", seen.cosignature)))
}

/// Signed by the ledger's key, and not what was seen: two histories.
fn forked(log: &Log, refusal: &Refusal, submission: &Submission) -> Option<String> {
    let (_, checkpoint) = parse_checkpoint(&submission.note).ok()?;
    match refusal {
        Refusal::Inconsistent => Some(format!(
            "E_FORK: {} leaves that are no continuation of {}",
            checkpoint.size, submission.old
        )),
        Refusal::Conflict(size) if *size == checkpoint.size => {
            taken_back(log, checkpoint.size, checkpoint.root)
        }
        _ => None,
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let word = match refusal {
        Refusal::Conflict(size) => {
            let size = format!("{size}\n");
            return (status, [(header::CONTENT_TYPE, TLOG_SIZE)], size).into_response();
        }
        Refusal::Malformed(_) => "malformed",
        Refusal::NotSigned => "not-signed",
        Refusal::UnknownLog => "unknown-log",
        Refusal::Inconsistent => "inconsistent",
    };
    Fault::new(status, word, "The checkpoint is not cosigned")
        .detail(refusal.to_string())
        .into_response()
}

/// What `hosts list` says of a host's ledger.
pub(crate) fn brief(log: Option<&Log>) -> String {
    match log {
        None => "none".to_owned(),
        Some(Log {
            alarm: Some(alarm), ..
        }) => alarm.clone(),
        Some(Log {
            seen: Some(seen), ..
        }) => format!("{} leaves, {}", seen.checkpoint.size, seen.at),
        Some(_) => "none seen yet".to_owned(),
    }
}
