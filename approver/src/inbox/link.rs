//! A chat account is linked to an account, once, by whoever is signed in: the link comes from the
//! chat and is good once; the form that uses it is of the session.
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use syshold_protocol::display;

use super::{Page, Session, Visitor, page, pages, unreadable};
use crate::desk::Desk;
use crate::host_api::now;
use crate::http::Fault;
use crate::store::notices::{self, Wish};
use crate::token;

/// How long a token is, as text.
const TOKEN: usize = 43;

/// Whether `text` could be a token.
pub(super) fn is_token(text: &str) -> bool {
    text.len() == TOKEN
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Who would be linked.
pub(super) async fn show(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(token): Path<String>,
) -> Result<Response, Page> {
    if !is_token(&token) {
        return Err(Fault::not_found().into());
    }
    let Session { account, csrf } = visitor.signed_in(&format!("/link/{token}"))?;
    let digest = token::digest(&token);
    let wish = desk
        .store
        .run(move |tx| notices::wish(tx, digest, now()))
        .await?;
    let wish = wish.ok_or_else(gone)?;
    let body = html! {
        h1 { "Is this you in Slack?" }
        (who(&wish))
        p { "Whoever uses that Slack account will answer as " b { (account.email) } ". Link it only if you clicked in Slack yourself, just now." }
        form.act.card method="post" action={ "/link/" (token) } {
            input type="hidden" name="csrf" value=(csrf);
            div.buttons { button.yes type="submit" { "Yes, link it to " (account.email) } }
        }
        p.small { a href="/" { "No, to the inbox" } }
    };
    Ok(page(
        StatusCode::OK,
        pages::shell("Link an account", None, Some((&account, &csrf)), body),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirm {
    csrf: String,
}

/// Links.
pub(super) async fn link(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(token): Path<String>,
    form: Result<axum::Form<Confirm>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    let Session { account, csrf } = visitor.posting(&form.csrf)?;
    let (digest, name) = (token::digest(&token), account.name.clone());
    let done = desk
        .store
        .run(move |tx| notices::link(tx, digest, &name, now()))
        .await?;
    let wish = done.ok_or_else(gone)?;
    tracing::info!(
        account = account.name,
        team = wish.team,
        user = wish.user,
        "chat account linked"
    );
    let body = html! {
        h1 { "Linked" }
        (who(&wish))
        p { "Go back to Slack and click again. To undo this: " span.mono { "syshold-approver accounts unlink " (account.name) } }
    };
    Ok(page(
        StatusCode::OK,
        pages::shell("Linked", None, Some((&account, &csrf)), body),
    ))
}

fn who(wish: &Wish) -> Markup {
    html! {
        dl.facts.card {
            div { dt { "Slack user" } dd { (display::escape(&wish.name)) " (" (display::escape(&wish.user)) ")" } }
            div { dt { "Workspace" } dd { (display::escape(&wish.team)) } }
        }
    }
}

fn gone() -> Fault {
    Fault::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "This link was used, or is older than 15 minutes",
    )
    .detail("click in Slack again for a new one")
}
