//! The host API, on its own listener. No route on it can decide anything.
//!
//! # The wire contract
//! TLS 1.2 or 1.3. The server sends its certificate *and* the CA's; a host pins the SHA-256 of the
//! CA's DER (it is in the enrolment token) and from then on trusts that CA only. Bodies are JSON,
//! at most 64 KiB, UTF-8, `Content-Type: application/json` or `application/vnd.dsse.envelope.v1+json`;
//! unknown fields are refused. Errors are RFC 9457 `application/problem+json` whose `type` ends in one of the words below.
//!
//! | Call | Proof of the host | Answers |
//! |---|---|---|
//! | `POST /v1/enrol` `EnrolRequest` | the token | 201 `EnrolResponse` · 400 `malformed` · 401 `bad-token` · 403 `host-disabled` · 422 `unacceptable` |
//! | `PUT /v1/requests/{uuidv7}` | body: DSSE of `Request` | 201 new · 200 the same bytes again · 400 `malformed` · 401 `bad-signature` · 403 `host-disabled` · 409 `conflict` · 413 `too-large` · 422 `unacceptable` · 429 `too-many-pending` + Retry-After |
//! | `GET /v1/requests/{id}/decision?wait=25[&after=DECISION_ID]` | `Syshold-Auth` | 200 DSSE of `Decision` · 202 `RequestState` · 401 · 403 · 404 |
//! | `DELETE /v1/requests/{id}` | `Syshold-Auth` | 204 withdrawn (also when it was already) · 401 · 403 · 404 · 409 `decided` (approved, denied or expired: post the outcome instead) |
//! | `POST /v1/requests/{id}/outcome` | body: DSSE of `Outcome` | 204 (also the same bytes again) · 400 · 401 · 403 · 404 · 409 `conflict` (more than 8 of them) · 422 |
//! | `POST /v1/break-glass` | body: DSSE of `break_glass::Notice` | 204 (also the same order again) · 400 · 401 · 403 · 422 · 429 `too-many-orders` + Retry-After |
//! | `GET /v1/revocations?since=N[&wait=25]` | `Syshold-Auth` | 200 DSSE of `Revocations` · 400 · 401 · 403 · 429 `too-many-polls` + Retry-After: [`crate::revocations`] |
//! | `PUT /v1/log`, `POST /add-checkpoint` | | the witness of hosts' ledgers: [`crate::witness`] |
//! | `GET /v1/health` | none | 204 |
//!
//! Any call may also answer 503 `busy` or `ledger` + Retry-After (retry with back-off, 1 to 30 s with
//! jitter), 408 when a body comes too slowly, 405 and 404 for other methods and paths.
//!
//! `wait` is whole seconds, 0 to 55, 25 when absent. With `after`, a decision of that id does not end
//! the wait: that is how a host that was told `expired` hears of a late approval, until
//! `hold_until` + 30 min. A request of another host is 404, as if it did not exist. A `decision` is
//! in the gateway's ledger before it is handed out.
//!
//! ## `Syshold-Auth`
//! For calls without a signed body: standard base64 (with padding) of the DSSE envelope of
//! [`Call`](syshold_protocol::dsse::Call), sealed with the host key, one header line, at most 4 KiB:
//! `{"v":1,"host_id":"…","method":"GET","path":"/v1/requests/…/decision?wait=25","at":1700000000000}`
//! `method` is upper case, `path` is the request target exactly as sent, query included, and `at` is
//! within ±120 s of the gateway's clock. A header that is replayed in that time repeats a call that
//! changes nothing the second time. 401 words: `no-auth`, `bad-auth` (malformed), `bad-signature`
//! (also for an unknown host), `auth-mismatch` (method or path), `clock-skew` (the answer's `Date`
//! has the gateway's time). A problem's `type` is `urn:syshold:problem:` and one of these words.
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, Request as HttpRequest, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE};
use serde::{Deserialize, Serialize};
use syshold_ledger::note::NoteSigner;
use syshold_protocol::break_glass::{MAX_REASON, MAX_RULES, Notice};
use syshold_protocol::dsse::{self, Call, DsseError, Opened, Payload};
use syshold_protocol::{
    DecisionId, EnrolRequest, EnrolResponse, HostId, LogClaim, Outcome, PinnedKeys, PublicKey,
    Request, RequestId, UnixMs, VERSION,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::desk::{Desk, Look};
use crate::http::{self, Fault};
use crate::revocations::{self, Polls};
use crate::store::break_glass::Told;
use crate::store::hosts::{Enrolment, Host};
use crate::store::requests::Filing;
use crate::witness;

/// The header of calls without a signed body.
pub const AUTH: &str = "syshold-auth";
/// How far a host's clock may be from the gateway's in [`AUTH`].
pub(crate) const AUTH_SKEW_MS: u64 = 120_000;
/// How far ahead a hold may end, and how far in the future a request may have been made.
const MAX_HOLD_MS: u64 = 24 * 60 * 60 * 1000;
const MAX_AHEAD_MS: u64 = 5 * 60 * 1000;
/// So that a decision with everybody's reasons fits into an envelope and a leaf.
const MAX_QUORUM: u32 = 10;
pub(crate) const MAX_WAIT_S: u64 = 55;

/// What the routes need.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "holds the desk with its key")]
pub struct HostApi {
    pub desk: Arc<Desk>,
    pub ca_pem: Arc<str>,
    pub key: PublicKey,
    /// Cosigns the ledgers of hosts.
    pub witness: Arc<NoteSigner>,
    /// Turns true when the gateway stops: long-polls end.
    pub stopping: watch::Receiver<bool>,
    /// How many wait for revocations.
    pub polls: Arc<Polls>,
    /// Called with each new request.
    pub filed: tokio::sync::mpsc::Sender<RequestId>,
}

/// The routes.
pub fn routes(api: HostApi) -> Router {
    Router::new()
        .route("/v1/health", get(|| async { StatusCode::NO_CONTENT }))
        .route("/v1/enrol", post(enrol))
        .route("/v1/requests/{id}", put(file).delete(withdraw))
        .route("/v1/requests/{id}/decision", get(decision))
        .route("/v1/requests/{id}/outcome", post(outcome))
        .route("/v1/break-glass", post(break_glass))
        .route("/v1/revocations", get(revocations::poll))
        .route("/v1/log", put(witness::claim))
        .route("/add-checkpoint", post(witness::add_checkpoint))
        .fallback(http::no_path)
        .method_not_allowed_fallback(http::no_method)
        .with_state(api)
}

async fn enrol(State(api): State<HostApi>, body: Body) -> Result<Response, Fault> {
    let bytes = http::body(body).await?;
    // The text of the error may repeat the token.
    let asked: EnrolRequest =
        serde_json::from_slice(&bytes).map_err(|_| Fault::malformed("not an enrolment"))?;
    let name = asked.host_name.trim();
    if name.is_empty() || name.len() > 253 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Fault::unacceptable(
            "host_name: 1 to 253 printing ASCII characters",
        ));
    }
    let lookup = asked.token.lookup();
    match api
        .desk
        .store
        .enrol(lookup, asked.public_key, name.to_owned(), now())
        .await?
    {
        Enrolment::Done(host_id) => {
            tracing::info!(%host_id, name, key = %asked.public_key.keyid(), "host enrolled");
            let answer = EnrolResponse {
                host_id,
                ca_pem: api.ca_pem.to_string(),
                gateway_keys: vec![api.key],
                witness: api.witness.verifier().to_string(),
            };
            Ok((StatusCode::CREATED, json(&answer)).into_response())
        }
        Enrolment::BadToken => {
            tracing::warn!(name, "enrolment refused: bad token");
            Err(Fault::new(
                StatusCode::UNAUTHORIZED,
                "bad-token",
                "The token is wrong, used or too old",
            )
            .detail("make a new one on the gateway: syshold-approver enrol-token"))
        }
        Enrolment::Disabled => Err(disabled()),
    }
}

async fn file(State(api): State<HostApi>, Id(id): Id, body: Body) -> Result<StatusCode, Fault> {
    let bytes = http::body(body).await?;
    let (host, opened) = open::<Request>(&api.desk, &bytes).await?;
    let request = opened.value;
    request
        .check()
        .map_err(|fault| Fault::unacceptable(fault.to_string()))?;
    let now = now();
    if request.request_id != id {
        return Err(Fault::unacceptable("request_id is not the id of the path"));
    }
    if request.quorum > MAX_QUORUM {
        return Err(Fault::unacceptable("quorum is more than 10"));
    }
    if request.created_at.since(now) > MAX_AHEAD_MS {
        return Err(Fault::unacceptable(
            "created_at lies in the future: set the clocks of host and gateway",
        ));
    }
    if request.hold_until.since(now) > MAX_HOLD_MS {
        return Err(Fault::unacceptable("hold_until is more than a day away"));
    }
    let known = api
        .desk
        .file(request.clone(), opened.payload_sha256, bytes.to_vec(), now)
        .await?;
    match known {
        Filing::New => {
            tracing::info!(%id, host = %host.id, agent = request.agent.name, rule = request.policy.rule, "request filed");
            // A full queue drops a notification, never a request.
            if api.filed.try_send(id).is_err() {
                tracing::warn!(%id, "no notification: too many at once");
            }
            Ok(StatusCode::CREATED)
        }
        Filing::Fatigue => {
            tracing::info!(%id, host = %host.id, agent = request.agent.name, rule = request.policy.rule, "denied without asking: people denied the same three times");
            Ok(StatusCode::CREATED)
        }
        Filing::Known => Ok(StatusCode::OK),
        Filing::Conflict => Err(Fault::new(
            StatusCode::CONFLICT,
            "conflict",
            "That id or nonce was used for another request",
        )),
        Filing::TooMany => Err(Fault::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-pending",
            "This host, or this agent, has too many undecided requests",
        )
        .retry(5)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    wait: Option<u64>,
    after: Option<DecisionId>,
}

async fn decision(
    State(mut api): State<HostApi>,
    Id(id): Id,
    request: HttpRequest,
) -> Result<Response, Fault> {
    let (mut parts, _) = request.into_parts();
    let host = caller(&api.desk, &parts).await?;
    let Query(Wait { wait, after }) = Query::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| Fault::malformed("query: wait is seconds, after is a decision id"))?;
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(25).min(MAX_WAIT_S));
    loop {
        let wake = api.desk.watch(id);
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let now = now();
        let look = api.desk.look(id, host.id.clone(), after, now).await?;
        let state = match look {
            Look::Unknown => return Err(Fault::not_found()),
            Look::Decided(envelope) => {
                return Ok(([(header::CONTENT_TYPE, DSSE)], envelope).into_response());
            }
            Look::Unrecorded => None,
            Look::Open(state) => Some(state),
        };
        if Instant::now() >= until || *api.stopping.borrow() {
            return match state {
                Some(state) => Ok((StatusCode::ACCEPTED, json(&state)).into_response()),
                None => Err(Fault::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "ledger",
                    "Decided, and not yet in the gateway's ledger",
                )
                .retry(2)),
            };
        }
        // What time ends, this very poll notices.
        let ends = state
            .as_ref()
            .map_or(1000, |state| state.expires_at.since(now) + 1);
        let pause = until.min(Instant::now() + Duration::from_millis(ends));
        let woke = tokio::select! {
            biased;
            () = woken => true,
            _ = api.stopping.wait_for(|stopping| *stopping) => true,
            () = tokio::time::sleep_until(pause) => false,
        };
        // Whatever changes a request wakes those who wait for it: it is where it was.
        if let (false, Some(state), true) = (woke, state, pause == until) {
            return Ok((StatusCode::ACCEPTED, json(&state)).into_response());
        }
    }
}

async fn withdraw(
    State(api): State<HostApi>,
    Id(id): Id,
    request: HttpRequest,
) -> Result<StatusCode, Fault> {
    let (parts, _) = request.into_parts();
    let host = caller(&api.desk, &parts).await?;
    api.desk.withdraw(id, host.id, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn outcome(State(api): State<HostApi>, Id(id): Id, body: Body) -> Result<StatusCode, Fault> {
    let bytes = http::body(body).await?;
    let (_, opened) = open::<Outcome>(&api.desk, &bytes).await?;
    if opened.value.v != VERSION || opened.value.request_id != id {
        return Err(Fault::unacceptable(
            "v, or request_id is not the id of the path",
        ));
    }
    api.desk
        .outcome(opened.value, opened.payload_sha256, now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The host has let an agent through by an order; nothing here decides, everybody hears of it.
async fn break_glass(State(api): State<HostApi>, body: Body) -> Result<StatusCode, Fault> {
    let bytes = http::body(body).await?;
    let (host, opened) = open::<Notice>(&api.desk, &bytes).await?;
    let notice = opened.value;
    let order = &notice.order;
    let name = |text: &String| (1..=256).contains(&text.len());
    let good = notice.v == VERSION
        && order.host_id == notice.host_id
        && (1..=MAX_REASON).contains(&order.reason.len())
        && order.rules.len() <= MAX_RULES
        && order.rules.iter().chain([&order.agent]).all(name)
        && notice.signers.len() <= 32
        && notice.groups.len() <= 1024
        && notice.groups.iter().all(name);
    if !good {
        return Err(Fault::unacceptable(
            "v, or an order that is not this host's, or a field that is too long",
        ));
    }
    let (agent, order_id) = (order.agent.clone(), order.order_id);
    match api.desk.break_glass(notice, host.name, now()).await? {
        Told::New => {
            tracing::error!(host = %host.id, agent, %order_id, "BREAK-GLASS: a host lets an agent through without asking");
            Ok(StatusCode::NO_CONTENT)
        }
        Told::Known => Ok(StatusCode::NO_CONTENT),
        Told::TooMany => Err(Fault::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-orders",
            "This host has told of too many orders within a day",
        )
        .retry(3600)),
    }
}

/// Whose [`AUTH`] it is, for this very call, now.
pub(crate) async fn caller(desk: &Desk, parts: &Parts) -> Result<Host, Fault> {
    let unauthorised = |word, title| Fault::new(StatusCode::UNAUTHORIZED, word, title);
    let header = single(&parts.headers, AUTH)
        .ok_or_else(|| unauthorised("no-auth", "Syshold-Auth is missing, or is there twice"))?;
    let bad = || unauthorised("bad-auth", "Syshold-Auth is not base64 of a signed call");
    let envelope = Some(header)
        .filter(|text| text.len() <= 4096)
        .and_then(|text| BASE64.decode(text).ok())
        .ok_or_else(bad)?;
    let (host, opened) = open::<Call>(desk, &envelope).await.map_err(|fault| {
        if fault.status() == StatusCode::BAD_REQUEST {
            bad()
        } else {
            fault
        }
    })?;
    let call = opened.value;
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    if call.v != VERSION || call.method != parts.method.as_str() || call.path != target {
        return Err(unauthorised(
            "auth-mismatch",
            "Syshold-Auth is for another call",
        ));
    }
    let now = now();
    if call.at.since(now).max(now.since(call.at)) > AUTH_SKEW_MS {
        return Err(
            unauthorised("clock-skew", "Syshold-Auth is from another time")
                .detail(format!("made at {}, now {now}", call.at)),
        );
    }
    Ok(host)
}

/// Every payload names its host.
pub(crate) trait FromHost: Payload {
    fn host_id(&self) -> &HostId;
}

impl FromHost for Request {
    fn host_id(&self) -> &HostId {
        &self.host_id
    }
}

impl FromHost for Outcome {
    fn host_id(&self) -> &HostId {
        &self.host_id
    }
}

impl FromHost for Notice {
    fn host_id(&self) -> &HostId {
        &self.host_id
    }
}

impl FromHost for LogClaim {
    fn host_id(&self) -> &HostId {
        &self.host_id
    }
}

impl FromHost for Call {
    fn host_id(&self) -> &HostId {
        &self.host_id
    }
}

/// Opens an envelope with the key of the host it says it is from.
pub(crate) async fn open<T: FromHost>(
    desk: &Desk,
    bytes: &[u8],
) -> Result<(Host, Opened<T>), Fault> {
    let bad_signature = || {
        Fault::new(
            StatusCode::UNAUTHORIZED,
            "bad-signature",
            "Not signed by an enrolled host",
        )
    };
    let claimed = claimed_host(bytes)?;
    let Some(host) = desk.store.host(claimed).await? else {
        return Err(bad_signature());
    };
    let opened =
        dsse::open::<T>(bytes, &PinnedKeys::from(host.key)).map_err(|error| match error {
            DsseError::NoPinnedKey => bad_signature(),
            DsseError::Payload(error) => Fault::unacceptable(error.to_string()),
            error => Fault::malformed(error.to_string()),
        })?;
    if opened.value.host_id() != &host.id {
        return Err(bad_signature());
    }
    if host.disabled_at.is_some() {
        Err(disabled())
    } else {
        Ok((host, opened))
    }
}

/// Who the payload says it is from: which key to try, nothing more.
fn claimed_host(bytes: &[u8]) -> Result<HostId, Fault> {
    #[derive(Deserialize)]
    struct Envelope {
        payload: String,
    }
    #[derive(Deserialize)]
    struct Claim {
        host_id: HostId,
    }
    let envelope: Envelope = serde_json::from_slice(bytes)
        .map_err(|error| Fault::malformed(format!("not a DSSE envelope: {error}")))?;
    let text = &envelope.payload;
    let payload = BASE64
        .decode(text)
        .or_else(|_| URL_SAFE.decode(text))
        .map_err(|_| Fault::malformed("payload is not base64"))?;
    let claim: Claim = serde_json::from_slice(&payload)
        .map_err(|error| Fault::malformed(format!("payload: {error}")))?;
    Ok(claim.host_id)
}

fn disabled() -> Fault {
    Fault::new(
        StatusCode::FORBIDDEN,
        "host-disabled",
        "This host was disabled on the gateway",
    )
}

/// A request id in its one spelling.
pub fn request_id(text: &str) -> Result<RequestId, Fault> {
    let id: Option<RequestId> = text.parse().ok();
    id.filter(|id| id.to_string() == text)
        .ok_or_else(Fault::not_found)
}

/// The request id of a path.
pub(crate) struct Id(pub(crate) RequestId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Fault::not_found())?;
        request_id(&text).map(Self)
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next().map(HeaderValue::to_str)?.ok()?;
    all.next().is_none().then_some(first)
}

pub(crate) const DSSE: &str = "application/vnd.dsse.envelope.v1+json";

fn json<T: Serialize>(value: &T) -> axum::Json<&T> {
    axum::Json(value)
}

/// The wall clock, read at the edge and handed inwards.
pub fn now() -> UnixMs {
    std::time::SystemTime::now().into()
}
