//! The web inbox: pages made on the server, no script, phone first.
//!
//! `GET` shows and never decides. Every form carries a token bound to the session, and the digest of
//! what was shown.
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::Markup;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use syshold_protocol::{Assurance, Channel, Digest, MAX_ENVELOPE, RequestId, RequestPhase, Scope};

use crate::desk::{Desk, Voice};
use crate::host_api::{now, request_id};
use crate::http::{self, Fault};
use crate::judge::Answer;
use crate::people_api::{Approval, clean_reason};
use crate::store::people::{Account, SESSION_MS};
use crate::token::{self, Secret};

mod pages;

use pages::Notice;

/// `__Host-`: of this host alone, over TLS alone.
const COOKIE: &str = "__Host-syshold";
const CSP: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const MOST: u32 = 200;

/// The routes.
pub fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/login", get(login_page).post(login))
        .route("/logout", post(logout))
        .route("/approvals/{id}", get(show))
        .route("/approvals/{id}/approve", post(approve))
        .route("/approvals/{id}/deny", post(deny))
        .route(
            "/style.css",
            get(|| async { asset("text/css", include_str!("style.css")) }),
        )
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
    let sheets = desk.sheets(phases, MOST, now()).await?;
    let approvals: Vec<_> = sheets
        .into_iter()
        .map(|sheet| Approval::new(sheet, &account))
        .collect();
    Ok(page(
        StatusCode::OK,
        pages::list(&account, &csrf, &approvals, all, now()),
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
    let object = sheet.filed.request.action.object.clone();
    let approval = Approval::new(sheet, account);
    let (status, notice) = match notice.map(Fault::into_parts) {
        // Decided, and waiting for the ledger.
        Some((status @ StatusCode::SERVICE_UNAVAILABLE, text)) => {
            (status, Some(Notice("Not yet", text)))
        }
        Some((status, text)) => (status, Some(Notice("Your answer did nothing", text))),
        None => (StatusCode::OK, None),
    };
    let view = pages::detail(account, csrf, &approval, &object, notice.as_ref(), now());
    Ok(page(status, view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    csrf: String,
    scope: Scope,
    rendered_sha256: Digest,
    #[serde(default)]
    reason: String,
}

async fn approve(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Result<axum::Form<Approve>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    let session = visitor.posting(&form.csrf)?;
    let answer = Answer::Approve {
        scope: form.scope,
        rendered: form.rendered_sha256,
    };
    answer_with(&desk, session, request_id(&id)?, &form.reason, answer).await
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
    answer_with(&desk, session, request_id(&id)?, &form.reason, Answer::Deny).await
}

async fn answer_with(
    desk: &Desk,
    session: Session,
    id: RequestId,
    reason: &str,
    answer: Answer,
) -> Result<Response, Page> {
    let reason = match clean_reason(reason) {
        Ok(None) if answer == Answer::Deny => Err(Fault::unacceptable("a denial needs a reason")),
        other => other,
    };
    let done = match reason {
        Ok(reason) => {
            let account = session.account.clone();
            let voice = Voice {
                account,
                channel: Channel::Web,
                assurance: Assurance::Session,
                reason,
            };
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

async fn login_page(visitor: Visitor, Query(Next { next }): Query<Next>) -> Result<Response, Page> {
    let next = local(next.as_deref());
    if matches!(visitor, Visitor::SignedIn(_)) {
        return Ok(Redirect::to(next).into_response());
    }
    Ok(page(StatusCode::OK, pages::login(next, None)))
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
            let cookie = format!(
                "{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={}",
                session.reveal(),
                SESSION_MS / 1000
            );
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
                pages::login(next, Some(&notice)),
            ))
        }
    }
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

/// Who is at the browser.
enum Visitor {
    SignedIn(Session),
    /// Came by a link from elsewhere: the browser holds the cookie back, and sends it at a reload.
    FromElsewhere,
    Stranger,
}

struct Session {
    account: Account,
    csrf: String,
}

impl Visitor {
    fn signed_in(self, path: &str) -> Result<Session, Page> {
        match self {
            Self::SignedIn(session) => Ok(session),
            Self::FromElsewhere => Err(Page(Box::new(page(StatusCode::OK, pages::reload())))),
            Self::Stranger => {
                let to = if path == "/" {
                    "/login".to_owned()
                } else {
                    format!("/login?next={path}")
                };
                Err(Page(Box::new(Redirect::to(&to).into_response())))
            }
        }
    }

    /// For a form: signed in, and the form is one of that session's.
    fn posting(self, csrf: &str) -> Result<Session, Page> {
        let session = self.signed_in("/")?;
        if bool::from(session.csrf.as_bytes().ct_eq(csrf.as_bytes())) {
            return Ok(session);
        }
        Err(Fault::new(
            StatusCode::FORBIDDEN,
            "csrf",
            "This form is not from your session",
        )
        .detail("go back, load the page again, and answer again")
        .into())
    }
}

impl FromRequestParts<Arc<Desk>> for Visitor {
    type Rejection = Page;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, Page> {
        let Some(session) = cookie(&parts.headers) else {
            let elsewhere = fetch_site(&parts.headers).is_some_and(|site| site == "cross-site");
            return Ok(if elsewhere && parts.method == "GET" {
                Self::FromElsewhere
            } else {
                Self::Stranger
            });
        };
        let account = desk
            .store
            .account_by_session(token::digest(session), now())
            .await?;
        let csrf = Digest::of(format!("csrf {session}").as_bytes()).to_string();
        Ok(account.map_or(Self::Stranger, |account| {
            Self::SignedIn(Session { account, csrf })
        }))
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn fetch_site(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("sec-fetch-site")
        .and_then(|value| value.to_str().ok())
}

/// Nobody signs anybody in from another site.
fn same_site(headers: &HeaderMap) -> Result<(), Fault> {
    match fetch_site(headers) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(Fault::new(
            StatusCode::FORBIDDEN,
            "csrf",
            "This form is from another site",
        )),
    }
}

/// A path on this site to go on to; anything else is the list.
fn local(next: Option<&str>) -> &str {
    next.and_then(|next| {
        next.strip_prefix("/approvals/")
            .filter(|id| request_id(id).is_ok())
            .map(|_| next)
    })
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
