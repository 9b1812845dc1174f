//! The way to the identity provider and back.
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use axum::routing::get;

use super::visitor::{cookie_named, same_site};
use super::{Next, Notice, Page, local, page, pages, session_cookie};
use crate::desk::Desk;
use crate::host_api::now;
use crate::http::Fault;
use crate::oidc::{FLOW_MS, Oidc, OidcError, Returned};
use crate::store::oidc;
use crate::store::people::add_session;
use crate::token::Secret;

/// `Lax`, because the browser comes back from another site; it is good once, for this sign-in.
const COOKIE: &str = "__Host-syshold-oidc";

/// The routes.
pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/login/oidc", get(start))
        .route(crate::oidc::CALLBACK, get(finish))
}

fn provider(desk: &Desk) -> Result<&Oidc, Page> {
    Ok(desk.oidc.as_ref().ok_or_else(Fault::not_found)?)
}

async fn start(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    Query(Next { next }): Query<Next>,
) -> Result<Response, Page> {
    same_site(&headers)?;
    let next = local(next.as_deref());
    match provider(&desk)?.start(next, now()).await {
        Ok((url, cookie)) => {
            let cookie = format!(
                "{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}",
                cookie.reveal(),
                FLOW_MS / 1000
            );
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to(&url)).into_response())
        }
        Err(error) => Ok(refused(&desk, &error)),
    }
}

async fn finish(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    Query(returned): Query<Returned>,
) -> Result<Response, Page> {
    let cookie = cookie_named(&headers, COOKIE).unwrap_or_default();
    let (identity, next) = match provider(&desk)?.finish(cookie, returned, now()).await {
        Ok(found) => found,
        Err(error) => return Ok(refused(&desk, &error)),
    };
    let session = Secret::generate("");
    let (digest, at, who) = (session.digest(), now(), identity.clone());
    let account = desk
        .store
        .run(move |tx| {
            let account = oidc::account_of(tx, &who)?;
            if let Some(account) = &account {
                add_session(tx, &account.name, digest, at)?;
            }
            Ok::<_, crate::store::StoreError>(account)
        })
        .await?;
    let Some(account) = account else {
        tracing::warn!(subject = ?identity.subject, "sign-in refused: linked to no account");
        let text = format!(
            "You are known there as {:?}, and that is nobody here yet. Whoever runs this gateway can link you: syshold-approver oidc link NAME SUBJECT",
            identity.subject
        );
        return Ok(sorry(&desk, StatusCode::FORBIDDEN, text));
    };
    tracing::info!(account = account.name, "signed in by the identity provider");
    let over = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    let cookies = AppendHeaders([
        (header::SET_COOKIE, session_cookie(&session)),
        (header::SET_COOKIE, over),
    ]);
    Ok((cookies, Redirect::to(&next)).into_response())
}

fn refused(desk: &Desk, error: &OidcError) -> Response {
    let (OidcError::Unreachable(detail) | OidcError::Token(detail) | OidcError::Declined(detail)) =
        error
    else {
        tracing::warn!(%error, "sign-in refused");
        let status = match error {
            OidcError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::FORBIDDEN,
        };
        return sorry(desk, status, error.to_string());
    };
    tracing::warn!(%error, detail, "sign-in refused");
    let status = match error {
        OidcError::Unreachable(_) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::FORBIDDEN,
    };
    sorry(desk, status, error.to_string())
}

fn sorry(desk: &Desk, status: StatusCode, text: String) -> Response {
    let notice = Notice("Not signed in", text);
    page(status, pages::login("/", desk, Some(&notice)))
}
