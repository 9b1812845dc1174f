//! The people API, on the people listener: what `syshold approvals` and scripts use.
//!
//! # The wire contract
//! Every call carries `Authorization: Bearer sypat_…`, a personal token from `syshold-approver
//! accounts add`. TLS as for hosts: trust the gateway's `ca.pem`. Bodies are JSON with
//! `Content-Type: application/json`, at most 64 KiB; unknown fields are refused. Errors are problem+json.
//!
//! | Call | Answers |
//! |---|---|
//! | `GET /v1/me` | 200 `{"name", "email", "groups": []}` |
//! | `GET /v1/approvals[?state=pending]` | 200 `{"approvals": [Approval …]}`, newest first, at most 200. `state`: `pending` (waiting and late; the default), `all`, or one of the states |
//! | `GET /v1/approvals/{id}` | 200 Approval · 404 |
//! | `POST /v1/approvals/{id}/approve` `{"scope": "once", "rendered_sha256": "…", "reason"?: "…"}` | 200 Answered · 403 `self_approval`, `not_in_group`, `assurance` · 404 · 409 `decided`, `already_approved` · 412 `stale` · 422 `scope`, `unacceptable` · 503 `ledger` |
//! | `POST /v1/approvals/{id}/deny` `{"reason": "…"}` | 200 Answered · 403 `not_in_group` · 404 · 409 `decided` · 422 |
//! | `POST /v1/approvals/{id}/revoke` `{"reason": "…"}` | 200 Revoked (also a second time: the first one's) · 403 `not_in_group` · 404 · 409 `not_approved` · 422 · 503 `ledger` |
//!
//! Any call: 400 `malformed`, 401 `bad-token`, 413, 415, 503.
//!
//! **Approval**: `id` (the request id), `code` (six characters to say aloud), `state` (`waiting`,
//! `late`, `approved`, `denied`, `expired`, `withdrawn`), `have`, `need`, `created_at`, `expires_at`
//! (ms since 1970 UTC; of the hold, or of the late approval), `host`, `agent`, `rule`, `action`, `risk`,
//! `waiting` (identical holds that one approval covers), `assurance`? (the weakest proof of identity an
//! approval needs; a passkey is used in the inbox only), `asked`? (whom it is with, in words; absent:
//! anybody), `standing`? (by what right the caller may answer: `member`, `on_call`, `{"fallback": GROUP}`,
//! `{"delegate": {"of", "until"}}`), `title`, `facts` (`[{"label", "value"}]`, in
//! order), `unverified`? (what the agent says; show it last and labelled so), `scopes` (what may be
//! approved now), `rendered_sha256` (send it back with an approval), `may_approve`, `may_deny`,
//! `may_revoke` (it is approved, and the caller may take that back), `why_not`? (a sentence), `approvals` (`[{"subject", "at", …}]` so far), `decision`? (the
//! [`Decision`]), `revoked`? (a Revoked: the approval was taken back), `outcome`? (the [`Outcome`]), `notices`
//! (`[{"channel", "at", "error"?}]`: which channels were told, and which did not take it). Texts are escaped and may be printed as they are, but
//! for what stands inside `approvals`, `decision`, `revoked` and `outcome`: that is for `protocol::display`.
//! **Answered**: `{"state", "decided": bool, "have", "need"}`.
//! **Revoked**: `{"by", "at", "reason"}`. What the approval let through before stays done; its host ends
//! what is left of it when it hears of this, within a second or two while it is connected.
//!
//! The caller is taken to be a command line when `User-Agent` starts with `syshold/`.
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use syshold_protocol::{
    Approver, Assurance, Channel, Decision, Digest, Outcome, RequestId, RequestPhase, Risk, Scope,
    Subject, UnixMs, display,
};

use crate::desk::{Desk, Sheet, Voice};
use crate::host_api::{Id, now};
use crate::http::{self, Fault};
use crate::judge::{self, Answer, Case, Step};
use crate::render::{self, Fact};
use crate::roster::Standing;
use crate::store::notices::Notice;
use crate::store::people::Account;
use crate::store::revocations;
use crate::token;

const MOST: u32 = 200;
const MAX_REASON: usize = 1000;

/// The routes.
pub fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/me", get(me))
        .route("/v1/approvals", get(list))
        .route("/v1/approvals/{id}", get(show))
        .route("/v1/approvals/{id}/approve", post(approve))
        .route("/v1/approvals/{id}/deny", post(deny))
        .route("/v1/approvals/{id}/revoke", post(revoke))
        .method_not_allowed_fallback(http::no_method)
        .with_state(desk)
}

async fn me(Person { account, .. }: Person) -> Json<Me> {
    Json(Me {
        name: account.name,
        email: account.email.as_str().to_owned(),
        groups: account.groups,
    })
}

#[derive(Serialize)]
struct Me {
    name: String,
    email: String,
    groups: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    state: Which,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Which {
    #[default]
    Pending,
    All,
    #[serde(untagged)]
    One(RequestPhase),
}

#[derive(Serialize)]
struct List {
    approvals: Vec<Approval>,
}

async fn list(
    State(desk): State<Arc<Desk>>,
    person: Person,
    filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<List>, Fault> {
    let Query(filter) =
        filter.map_err(|_| Fault::malformed("query: state is pending, all, or a state"))?;
    let phases = match filter.state {
        Which::Pending => vec![RequestPhase::Waiting, RequestPhase::Late],
        Which::All => vec![],
        Which::One(phase) => vec![phase],
    };
    let sheets = desk.sheets(phases, MOST, now()).await?;
    Ok(Json(List {
        approvals: sheets
            .into_iter()
            .map(|sheet| Approval::new(sheet, &person.account, Assurance::Token))
            .collect(),
    }))
}

async fn show(
    State(desk): State<Arc<Desk>>,
    person: Person,
    Id(id): Id,
) -> Result<Json<Approval>, Fault> {
    let sheet = desk.sheet(id, now()).await?.ok_or_else(Fault::not_found)?;
    desk.seen(id, &person.account.name, now()).await;
    Ok(Json(Approval::new(
        sheet,
        &person.account,
        Assurance::Token,
    )))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    scope: Scope,
    rendered_sha256: Digest,
    reason: Option<String>,
}

async fn approve(
    State(desk): State<Arc<Desk>>,
    person: Person,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Answered>, Fault> {
    let asked: Approve = read(&headers, body).await?;
    let reason = asked
        .reason
        .map(|reason| clean_reason(&reason))
        .transpose()?
        .flatten();
    let answer = Answer::Approve {
        scope: asked.scope,
        rendered: asked.rendered_sha256,
    };
    answer_with(&desk, id, person.voice(reason), answer).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    reason: String,
}

async fn deny(
    State(desk): State<Arc<Desk>>,
    person: Person,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Answered>, Fault> {
    let asked: Deny = read(&headers, body).await?;
    let reason = clean_reason(&asked.reason)?
        .ok_or_else(|| Fault::unacceptable("a denial needs a reason"))?;
    answer_with(&desk, id, person.voice(Some(reason)), Answer::Deny).await
}

async fn revoke(
    State(desk): State<Arc<Desk>>,
    person: Person,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Revoked>, Fault> {
    let asked: Deny = read(&headers, body).await?;
    let reason = clean_reason(&asked.reason)?
        .ok_or_else(|| Fault::unacceptable("taking back needs a reason"))?;
    let voice = person.voice(Some(reason));
    let revoked = desk.revoke(id, voice, now()).await?;
    Ok(Json(Revoked::new(revoked)))
}

/// An approval that was taken back, as people see it.
#[derive(Debug, Serialize)]
pub struct Revoked {
    pub by: Subject,
    pub at: UnixMs,
    pub reason: String,
}

impl Revoked {
    fn new(revoked: revocations::Revoked) -> Self {
        let by = revoked.by;
        Self {
            by: by.subject,
            at: by.at,
            reason: by.reason.unwrap_or_default(),
        }
    }
}

async fn answer_with(
    desk: &Desk,
    id: RequestId,
    voice: Voice,
    answer: Answer,
) -> Result<Json<Answered>, Fault> {
    let step = desk.answer(id, voice, answer, now()).await?;
    let sheet = desk.sheet(id, now()).await?.ok_or_else(Fault::not_found)?;
    Ok(Json(Answered {
        state: sheet.filed.phase,
        decided: step != Step::Count,
        have: sheet.have,
        need: sheet.rendered.need,
    }))
}

#[derive(Serialize)]
struct Answered {
    state: RequestPhase,
    decided: bool,
    have: u32,
    need: u32,
}

/// A request as one person sees it.
#[derive(Debug, Serialize)]
pub struct Approval {
    pub id: RequestId,
    pub code: String,
    pub state: RequestPhase,
    pub have: u32,
    pub need: u32,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub host: String,
    pub agent: String,
    pub rule: String,
    pub action: &'static str,
    pub risk: Risk,
    pub waiting: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
    pub title: String,
    pub facts: Vec<Fact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
    pub scopes: Vec<Scope>,
    pub rendered_sha256: Digest,
    pub may_approve: bool,
    pub may_deny: bool,
    pub may_revoke: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    pub approvals: Vec<Approver>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Which channels were told.
    pub notices: Vec<Notice>,
}

impl Approval {
    /// `sheet` as `account` sees it, who can prove themselves by `given` at most.
    pub fn new(sheet: Sheet, account: &Account, given: Assurance) -> Self {
        let standing = sheet.standing(account);
        let Sheet {
            filed,
            rendered,
            rendered_sha256,
            votes,
            have,
            decision,
            revoked,
            outcome,
            notices,
            asked,
            ..
        } = sheet;
        let request = &filed.request;
        let cast: Vec<_> = votes
            .iter()
            .map(|a| judge::Vote {
                subject: a.subject.clone(),
                scope: Scope::Once,
                rendered: rendered_sha256,
            })
            .collect();
        let case = Case {
            request,
            phase: filed.phase,
            votes: &cast,
            rendered: rendered_sha256,
        };
        let approve = Answer::Approve {
            scope: Scope::Once,
            rendered: rendered_sha256,
        };
        let approvers = decision.as_ref().map_or(&[][..], |made| &made.approvers);
        let phase = filed.phase;
        let revocable =
            judge::revocable(request, phase, approvers, account, standing.clone()).is_ok();
        let refusal = judge::judge(&case, account, standing.is_some(), approve)
            .err()
            .or_else(|| judge::sure_enough(request, given, approve).err());
        Self {
            id: request.request_id,
            code: render::short_code(request),
            state: filed.phase,
            have,
            need: rendered.need,
            created_at: request.created_at,
            expires_at: if filed.phase == RequestPhase::Waiting {
                request.hold_until
            } else {
                filed.late_until
            },
            host: display::escape(&filed.host_name),
            agent: display::escape(&request.agent.name),
            rule: display::escape(&request.policy.rule),
            action: request.action.kind.as_str(),
            risk: request.risk,
            waiting: request.waiting,
            assurance: request.assurance,
            may_approve: refusal.is_none(),
            may_deny: judge::judge(&case, account, standing.is_some(), Answer::Deny).is_ok(),
            may_revoke: revocable && revoked.is_none(),
            why_not: refusal.map(|refusal| refusal.to_string()),
            asked: asked.map(|asked| display::escape(&asked)),
            standing,
            title: rendered.title,
            facts: rendered.facts,
            unverified: rendered.unverified,
            scopes: rendered.scopes,
            rendered_sha256,
            approvals: votes,
            decision,
            revoked: revoked.map(Revoked::new),
            outcome,
            notices,
        }
    }
}

/// The holder of a personal token.
#[derive(Debug)]
pub struct Person {
    pub account: Account,
    channel: Channel,
}

impl Person {
    fn voice(self, reason: Option<String>) -> Voice {
        Voice {
            account: self.account,
            channel: self.channel,
            assurance: Assurance::Token,
            reason,
            chat: None,
            proof: None,
        }
    }
}

impl FromRequestParts<Arc<Desk>> for Person {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, Fault> {
        let refused = || {
            Fault::new(
                StatusCode::UNAUTHORIZED,
                "bad-token",
                "No valid personal token",
            )
            .detail("send Authorization: Bearer and a token from `syshold-approver accounts`")
        };
        let text = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let token = text(header::AUTHORIZATION)
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(refused)?;
        let account = desk
            .store
            .account_by_token(token::digest(token))
            .await?
            .ok_or_else(refused)?;
        let is_cli = text(header::USER_AGENT).is_some_and(|agent| agent.starts_with("syshold/"));
        Ok(Self {
            account,
            channel: if is_cli { Channel::Cli } else { Channel::Api },
        })
    }
}

/// A reason without outer blanks; `None` when there is none left.
pub fn clean_reason(reason: &str) -> Result<Option<String>, Fault> {
    let reason = reason.trim();
    if reason.len() > MAX_REASON {
        return Err(Fault::unacceptable(format!(
            "a reason may have {MAX_REASON} bytes"
        )));
    }
    Ok((!reason.is_empty()).then(|| reason.to_owned()))
}

async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Fault> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if kind
        .split(';')
        .next()
        .is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json"))
    {
        return Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "The body has to be application/json",
        ));
    }
    let bytes = http::body(body).await?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| Fault::malformed(error.to_string()))?;
    serde_json::from_value(value).map_err(|error| Fault::unacceptable(error.to_string()))
}
