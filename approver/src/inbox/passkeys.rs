//! The calls a page's script makes around `navigator.credentials`. All are POST with JSON, from our
//! own pages only; what an approval becomes is still the form's.
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syshold_protocol::{Digest, Nonce, RequestId, Scope, Statement, VERSION};

use super::{Session, Visitor, page, pages, same_site, session_cookie};
use crate::desk::Desk;
use crate::host_api::{now, request_id};
use crate::http::Fault;
use crate::passkeys::{self as keys, Asking, Created, Creation, Failure, Signed, Site};
use crate::token::{self, Secret};

/// The routes.
pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/welcome", get(welcome))
        .route("/passkeys/register", post(start_registration))
        .route("/passkeys/registered", post(finish_registration))
        .route("/login/passkey", post(start_sign_in))
        .route("/login/signed", post(finish_sign_in))
        .route("/approvals/{id}/challenge", post(challenge))
}

/// The link's secret is behind `#`: it reaches no log, no proxy and no link scanner.
async fn welcome() -> Response {
    page(StatusCode::OK, pages::welcome())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    link: String,
}

async fn start_registration(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Body<Link>,
) -> Result<Json<Creation>, Fault> {
    same_site(&headers)?;
    let Link { link } = read(body)?;
    let link = token::digest(&link);
    let creation = keys::start_registration(&desk.store, site(&desk)?, link, now()).await?;
    Ok(Json(creation))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    link: String,
    created: Created,
}

async fn finish_registration(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Body<Registration>,
) -> Result<Response, Fault> {
    same_site(&headers)?;
    let Registration { link, created } = read(body)?;
    let (link, session) = (token::digest(&link), Secret::generate(""));
    let site = site(&desk)?;
    let added =
        keys::finish_registration(&desk.store, site, link, created, session.digest(), now())
            .await?;
    tracing::info!(account = added.account, label = added.label, pin = %added.pin, "a passkey was registered");
    Ok((
        [(header::SET_COOKIE, session_cookie(&session))],
        Json(added),
    )
        .into_response())
}

async fn start_sign_in(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
) -> Result<Json<Asking>, Fault> {
    same_site(&headers)?;
    Ok(Json(
        keys::start_sign_in(&desk.store, site(&desk)?, now()).await?,
    ))
}

#[derive(Serialize)]
struct SignedIn {
    account: String,
}

async fn finish_sign_in(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Body<Signed>,
) -> Result<Response, Fault> {
    same_site(&headers)?;
    let signed = read(body)?;
    let session = Secret::generate("");
    let account = keys::finish_sign_in(&desk.store, signed, session.digest(), now())
        .await
        .inspect_err(|error| tracing::warn!(%error, "sign-in by passkey refused"))?;
    tracing::info!(account = account.name, "signed in by passkey");
    let cookie = [(header::SET_COOKIE, session_cookie(&session))];
    let account = account.name;
    Ok((cookie, Json(SignedIn { account })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    csrf: String,
    scope: Scope,
    rendered_sha256: Digest,
}

/// What the person has to sign to approve what they were shown.
async fn challenge(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(id): Path<String>,
    body: Body<Choice>,
) -> Result<Json<Asking>, Fault> {
    let choice = read(body)?;
    let Session { account, .. } = visitor.calling(&choice.csrf)?;
    let statement = statement(
        &desk,
        request_id(&id)?,
        choice.scope,
        choice.rendered_sha256,
    )
    .await?;
    let asking =
        keys::start_approval(&desk.store, site(&desk)?, &account, statement, now()).await?;
    Ok(Json(asking))
}

/// The proof that came with a form. None came: none.
pub(super) async fn proof(
    desk: &Desk,
    Session { account, .. }: &Session,
    id: RequestId,
    (scope, rendered): (Scope, Digest),
    text: &str,
) -> Result<Option<syshold_protocol::Proof>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let signed: Signed = serde_json::from_str(text)
        .map_err(|_| Fault::unacceptable("the passkey's answer does not read"))?;
    let statement = statement(desk, id, scope, rendered).await?;
    let proof = keys::finish_approval(&desk.store, account, statement, signed, now()).await?;
    Ok(Some(proof))
}

async fn statement(
    desk: &Desk,
    id: RequestId,
    scope: Scope,
    rendered_sha256: Digest,
) -> Result<Statement, Fault> {
    let sheet = desk.sheet(id, now()).await?.ok_or_else(Fault::not_found)?;
    Ok(Statement {
        v: VERSION,
        request_sha256: sheet.filed.request_sha256,
        rendered_sha256,
        scope,
        nonce: Nonce([0; 16]),
    })
}

fn site(desk: &Desk) -> Result<&Site, Failure> {
    desk.site.as_ref().ok_or(Failure::NoSite)
}

type Body<T> = Result<Json<T>, JsonRejection>;

fn read<T>(body: Body<T>) -> Result<T, Fault> {
    body.map(|Json(value)| value)
        .map_err(|error| Fault::malformed(error.body_text()))
}
