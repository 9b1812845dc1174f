//! `GET /v1/revocations`: a host hears which of its approvals were taken back.
//!
//! Numbers count a host's own list, from 1, in the order of recording. The answer comes at once when
//! the list goes on after `since`, or ends before it (the gateway's state is from a backup: the host
//! starts again from 0), and otherwise when it grows or `wait` is over, then empty. A list that is
//! longer than one answer goes on after its last number. Two such calls of one host may wait at once.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts as _, Query, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use syshold_protocol::HostId;
use syshold_protocol::revocation::MAX_NUMBER;
use tokio::time::Instant;

use crate::host_api::{DSSE, HostApi, MAX_WAIT_S, caller, now};
use crate::http::Fault;

/// One, and one that a host which has lost its connection still seems to have.
const MOST: u8 = 2;

/// How many calls of each host wait.
#[derive(Debug, Default)]
pub struct Polls(Mutex<HashMap<HostId, u8>>);

/// One that waits.
struct Seat {
    polls: Arc<Polls>,
    host: HostId,
}

impl Polls {
    fn enter(self: &Arc<Self>, host: &HostId) -> Option<Seat> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(host.clone()).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        Some(Seat {
            polls: Arc::clone(self),
            host: host.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.polls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.host);
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    since: u64,
    wait: Option<u64>,
}

pub(crate) async fn poll(
    State(mut api): State<HostApi>,
    request: HttpRequest,
) -> Result<Response, Fault> {
    let (mut parts, _) = request.into_parts();
    let host = caller(&api.desk, &parts).await?;
    let Query(Since { since, wait }) = Query::from_request_parts(&mut parts, &())
        .await
        .ok()
        .filter(|Query(asked): &Query<Since>| asked.since <= MAX_NUMBER)
        .ok_or_else(|| Fault::malformed("query: since is a number of the list, wait is seconds"))?;
    let _seat = api.polls.enter(&host.id).ok_or_else(|| {
        Fault::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-polls",
            "This host waits for revocations already",
        )
        .retry(5)
    })?;
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(25).min(MAX_WAIT_S));
    loop {
        let wake = api.desk.watch_host(host.id.clone());
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let mut list = api.desk.revocations(host.id.clone(), since, now()).await?;
        let quiet = list.latest == since && !*api.stopping.borrow();
        let woke = quiet
            && tokio::select! {
                biased;
                () = woken => true,
                _ = api.stopping.wait_for(|stopping| *stopping) => false,
                () = tokio::time::sleep_until(until) => false,
            };
        if !woke {
            // Whatever adds to a list wakes those who wait for it: it is what it was.
            list.issued_at = now();
            let sealed = api.desk.seal(&list)?;
            return Ok(([(header::CONTENT_TYPE, DSSE)], sealed.envelope).into_response());
        }
    }
}
