//! Orders of break-glass whose review is due: at the top of the inbox until somebody has said what
//! came of them.
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::post;
use maud::{Markup, html};
use serde::Deserialize;
use syshold_protocol::{DecisionId, display};

use super::{Page, Session, Visitor, unreadable};
use crate::desk::Desk;
use crate::host_api::now;
use crate::http::Fault;
use crate::people_api::clean_reason;
use crate::store::break_glass::Broken;
use crate::store::people::Account;

/// The routes.
pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new().route("/break-glass/{order}/review", post(review))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Review {
    csrf: String,
    review: String,
}

async fn review(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Path(order): Path<String>,
    form: Result<axum::Form<Review>, FormRejection>,
) -> Result<Response, Page> {
    let axum::Form(form) = form.map_err(unreadable)?;
    let Session { account, .. } = visitor.posting(&form.csrf)?;
    let order = order
        .parse()
        .map(DecisionId)
        .map_err(|_| Fault::not_found())?;
    let text = clean_reason(&form.review)?
        .ok_or_else(|| Fault::unacceptable("a review says what came of it"))?;
    desk.review(order, account, text, now()).await?;
    Ok(Redirect::to("/").into_response())
}

/// What is due, with a form for those who may review it.
pub(super) fn due(all: &[Broken], account: &Account, csrf: &str) -> Markup {
    html! {
        @for Broken { notice, host_name, .. } in all {
            @let order = &notice.order;
            @let id = order.order_id.to_string();
            section.banner.warn aria-labelledby={ "glass-" (id) } {
                strong id={ "glass-" (id) } {
                    "Break-glass: what " (display::shown(&order.agent, 80).text) " asked on "
                    (display::shown(host_name, 100).text) " was let through"
                }
                p {
                    "From " (notice.at) " until " (order.until) ", by order of "
                    @for (n, who) in notice.signers.iter().enumerate() {
                        @if n > 0 { ", " } (display::shown(who.as_str(), 100).text)
                    }
                    ". Reason: " (display::shown(&order.reason, 500).text)
                }
                @if notice.signers.iter().any(|who| who.may_be(&account.email)) {
                    p.soft { "A review is due, by somebody who did not sign it." }
                } @else {
                    form method="post" action={ "/break-glass/" (id) "/review" } {
                        input type="hidden" name="csrf" value=(csrf);
                        label for={ "review-" (id) } { "Your review: what was done, and was it right?" }
                        textarea id={ "review-" (id) } name="review" rows="2" maxlength="500" required {}
                        button type="submit" { "Reviewed" }
                    }
                }
            }
        }
    }
}
