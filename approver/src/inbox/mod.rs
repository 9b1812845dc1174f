//! The web inbox: pages made on the server, phone first; they work without script, but for passkeys.
//!
//! `GET` shows and never decides. Every form carries a token bound to the session, and the digest of
//! what was shown.
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::Markup;
use serde::Deserialize;
use syshold_protocol::{
    Assurance, Channel, Digest, MAX_ENVELOPE, Proof, RequestId, RequestPhase, Scope,
};

use crate::desk::{Desk, Voice};
use crate::host_api::{now, request_id};
use crate::http::{self, Fault};
use crate::judge::Answer;
use crate::people_api::{Approval, clean_reason};
use crate::store::people::SESSION_MS;
use crate::token::{self, Secret};

mod batch;
mod glass;
mod link;
mod live;
mod oidc;
mod pages;
mod passkeys;
mod visitor;

use pages::Notice;
use visitor::{Session, Visitor, cookie, same_site};

/// `__Host-`: of this host alone, over TLS alone.
const COOKIE: &str = "__Host-syshold";
const CSP: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const MOST: u32 = 200;
const MOST_WORDS: usize = 8;
/// How much of what an agent asked before is shown.
const MOST_BEFORE: u32 = 8;

/// The routes.
pub fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/login", get(login_page).post(login))
        .route("/logout", post(logout))
        .route("/approvals/{id}", get(show))
        .route("/approvals/{id}/approve", post(approve))
        .route("/approvals/{id}/deny", post(deny))
        .route("/approvals/{id}/revoke", post(revoke))
        .route("/link/{token}", get(link::show).post(link::link))
        .route(
            "/style.css",
            get(|| async { asset("text/css", include_str!("style.css")) }),
        )
        .route(
            "/app.js",
            get(|| async { asset("text/javascript", include_str!("app.js")) }),
        )
        .merge(passkeys::routes())
        .merge(batch::routes())
        .merge(glass::routes())
        .merge(oidc::routes())
        .merge(live::routes())
        .route(
            "/mark.svg",
            get(|| async { asset("image/svg+xml", pages::MARK) }),
        )
        .method_not_allowed_fallback(http::no_method)
        .layer(DefaultBodyLimit::max(MAX_ENVELOPE))
        .with_state(desk)
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    show: Option<String>,
    #[serde(default)]
    q: String,
}

async fn list(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Query(which): Query<Which>,
) -> Result<Response, Page> {
    let Session { account, csrf } = visitor.signed_in("/")?;
    let all = which.show.as_deref() == Some("all");
    let phases = if all {
        vec![]
    } else {
        vec![RequestPhase::Waiting, RequestPhase::Late]
    };
    let words: Vec<String> = which.q.split_whitespace().map(str::to_owned).collect();
    let sheets = if words.is_empty() {
        desk.sheets(phases, MOST, now()).await?
    } else {
        desk.search(words.into_iter().take(MOST_WORDS).collect(), MOST, now())
            .await?
    };
    let approvals: Vec<_> = sheets
        .into_iter()
        .map(|sheet| Approval::new(sheet, &account, Assurance::Passkey))
        .collect();
    Ok(page(
        StatusCode::OK,
        pages::list(&pages::List {
            account: &account,
            csrf: &csrf,
            due: glass::due(&desk.review_due().await?, &account, &csrf),
            more: approvals.len() >= MOST as usize,
            approvals: &approvals,
            all,
            search: which.q.trim(),
            now: now(),
        }),
    ))
}

async fn show(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Page> {
    let session = visitor.signed_in(&format!("/approvals/{id}"))?;
    detail(&desk, &session, request_id(&id)?, None).await
}

/// The page of one request; with `notice`, why the last answer did nothing.
async fn detail(
    desk: &Desk,
    Session { account, csrf }: &Session,
    id: RequestId,
    notice: Option<Fault>,
) -> Result<Response, Page> {
    let sheet = desk.sheet(id, now()).await?.ok_or_else(Fault::not_found)?;
    desk.seen(id, &account.name, now()).await;
    let object = sheet.filed.request.action.object.clone();
    let before = desk.before(sheet.filed.clone(), MOST_BEFORE).await?;
    let approval = Approval::new(sheet, account, Assurance::Passkey);
    let (status, notice) = match notice.map(Fault::into_parts) {
        // Decided, and waiting for the ledger.
        Some((status @ StatusCode::SERVICE_UNAVAILABLE, text)) => {
            (status, Some(Notice("Not yet", text)))
        }
        Some((status, text)) => (status, Some(Notice("Your answer did nothing", text))),
        None => (StatusCode::OK, None),
    };
    let shown = pages::Shown {
        account,
        csrf,
        approval: &approval,
        object: &object,
        before: &before,
        notice: notice.as_ref(),
        now: now(),
    };
    Ok(page(status, pages::detail(&shown)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    csrf: String,
    scope: String,
    /// With the scope `minutes`: how many.
    #[serde(default)]
    minutes: String,
    rendered_sha256: Digest,
    #[serde(default)]
    reason: String,
    /// What the person's passkey signed, as JSON; empty where none was asked for.
    #[serde(default)]
    proof: String,
}

async fn approve(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Result<axum::Form<Approve>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    let session = visitor.posting(&form.csrf)?;
    let scope = scope(&form.scope, &form.minutes)?;
    let answer = Answer::Approve {
        scope,
        rendered: form.rendered_sha256,
    };
    let id = request_id(&id)?;
    let shown = (scope, form.rendered_sha256);
    match passkeys::proof(&desk, &session, id, shown, &form.proof).await {
        Ok(proof) => answer_with(&desk, session, id, (&form.reason, proof), answer).await,
        Err(fault) => detail(&desk, &session, id, Some(fault)).await,
    }
}

/// The button's scope, or the minutes beside it.
fn scope(scope: &str, minutes: &str) -> Result<Scope, Fault> {
    let text = match scope {
        "minutes" => format!("{}m", minutes.trim()),
        scope => scope.to_owned(),
    };
    text.parse()
        .map_err(|_| Fault::unacceptable("give whole minutes, from 1 to 1440"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    csrf: String,
    reason: String,
}

async fn deny(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Result<axum::Form<Deny>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    let session = visitor.posting(&form.csrf)?;
    let id = request_id(&id)?;
    answer_with(&desk, session, id, (&form.reason, None), Answer::Deny).await
}

async fn revoke(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Result<axum::Form<Deny>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    let session = visitor.posting(&form.csrf)?;
    let id = request_id(&id)?;
    let done = match clean_reason(&form.reason) {
        Ok(None) => Err(Fault::unacceptable("taking back needs a reason")),
        Ok(reason) => {
            let voice = voice(&session, reason, None);
            desk.revoke(id, voice, now()).await.map_err(Fault::from)
        }
        Err(fault) => Err(fault),
    };
    match done {
        Ok(_) => Ok(Redirect::to(&format!("/approvals/{id}")).into_response()),
        Err(fault) => detail(&desk, &session, id, Some(fault)).await,
    }
}

/// What somebody says in the browser; with a passkey's proof, the passkey vouches for it.
fn voice(session: &Session, reason: Option<String>, proof: Option<Proof>) -> Voice {
    let assurance = match proof {
        Some(_) => Assurance::Passkey,
        None => Assurance::Session,
    };
    Voice {
        account: session.account.clone(),
        channel: Channel::Web,
        assurance,
        reason,
        chat: None,
        proof,
    }
}

async fn answer_with(
    desk: &Desk,
    session: Session,
    id: RequestId,
    (reason, proof): (&str, Option<Proof>),
    answer: Answer,
) -> Result<Response, Page> {
    let reason = match clean_reason(reason) {
        Ok(None) if answer == Answer::Deny => Err(Fault::unacceptable("a denial needs a reason")),
        other => other,
    };
    let done = match reason {
        Ok(reason) => {
            let voice = voice(&session, reason, proof);
            desk.answer(id, voice, answer, now())
                .await
                .map_err(Fault::from)
        }
        Err(fault) => Err(fault),
    };
    match done {
        Ok(_step) => Ok(Redirect::to(&format!("/approvals/{id}")).into_response()),
        Err(fault) => detail(desk, &session, id, Some(fault)).await,
    }
}

#[derive(Deserialize)]
struct Next {
    next: Option<String>,
}

async fn login_page(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Query(Next { next }): Query<Next>,
) -> Result<Response, Page> {
    let next = local(next.as_deref());
    if matches!(visitor, Visitor::SignedIn(_)) {
        return Ok(Redirect::to(next).into_response());
    }
    Ok(page(StatusCode::OK, pages::login(next, &desk, None)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
    #[serde(default)]
    next: Option<String>,
    /// Password managers want a name beside a password.
    #[serde(default)]
    #[expect(dead_code, reason = "the token says who it is")]
    username: String,
}

async fn login(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    form: Result<axum::Form<Login>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    same_site(&headers)?;
    let axum::Form(form) = form.map_err(unreadable)?;
    let next = local(form.next.as_deref());
    let session = Secret::generate("");
    match desk
        .store
        .open_session(token::digest(&form.token), session.digest(), now())
        .await?
    {
        Some(account) => {
            tracing::info!(account = account.name, "signed in");
            let cookie = session_cookie(&session);
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response())
        }
        None => {
            tracing::warn!("sign-in refused");
            let notice = Notice(
                "Not signed in",
                "That token is not valid. Ask whoever runs the gateway for a new one.".to_owned(),
            );
            Ok(page(
                StatusCode::UNAUTHORIZED,
                pages::login(next, &desk, Some(&notice)),
            ))
        }
    }
}

fn session_cookie(session: &Secret) -> String {
    format!(
        "{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={}",
        session.reveal(),
        SESSION_MS / 1000
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Logout {
    csrf: String,
}

async fn logout(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Result<axum::Form<Logout>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    visitor.posting(&form.csrf)?;
    if let Some(session) = cookie(&headers) {
        desk.store.close_session(token::digest(session)).await?;
    }
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok(([(header::SET_COOKIE, gone)], Redirect::to("/login")).into_response())
}

/// A path on this site to go on to; anything else is the list.
fn local(next: Option<&str>) -> &str {
    let is_request = |next: &str| {
        let id = next.strip_prefix("/approvals/");
        id.is_some_and(|id| request_id(id).is_ok())
    };
    let is_link = |next: &str| next.strip_prefix("/link/").is_some_and(link::is_token);
    next.filter(|next| is_request(next) || is_link(next))
        .unwrap_or("/")
}

fn asset(kind: &'static str, body: &'static str) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "max-age=600"),
        ],
        body,
    )
}

fn page(status: StatusCode, markup: Markup) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CSP),
    ];
    (status, headers, markup.into_string()).into_response()
}

/// An answer other than the page asked for.
struct Page(Box<Response>);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl<E: Into<Fault>> From<E> for Page {
    fn from(error: E) -> Self {
        let (status, text) = error.into().into_parts();
        Self(Box::new(page(status, pages::error(status, &text))))
    }
}

fn unreadable<E>(_: E) -> Fault {
    Fault::unacceptable("the form does not read; go back, load the page again, and answer again")
}
