//! Tells open pages that something has changed; what, they ask for themselves, with their session.
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures_util::stream;
use tokio::time::Instant;

use super::{Visitor, cookie};
use crate::desk::Desk;
use crate::host_api::now;
use crate::http::Fault;
use crate::token;

/// Browsers come back by themselves; a session that has ended does not.
const LIFE: Duration = Duration::from_secs(300);
/// Changes that come together are told together.
const TOGETHER: Duration = Duration::from_millis(250);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The routes.
pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new().route("/events", get(events))
}

async fn events(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Fault> {
    visitor.watching()?;
    let session = cookie(&headers).map(token::digest);
    let session = session.ok_or_else(Fault::not_found)?;
    let end = Instant::now() + LIFE;
    // What happened between the page and this stream is told at once.
    let mut changes = desk.changes();
    changes.mark_changed();
    let stream = stream::unfold((desk, changes), move |(desk, mut changes)| async move {
        tokio::time::timeout_at(end, changes.changed())
            .await
            .ok()?
            .ok()?;
        tokio::time::sleep(TOGETHER).await;
        changes.mark_unchanged();
        // Somebody who has signed out, or was disabled, is told nothing more.
        let open = desk.store.account_by_session(session, now()).await;
        open.ok().flatten()?;
        // Without data browsers drop an event.
        let event = Event::default().event("changed").data("-");
        Some((Ok::<_, Infallible>(event), (desk, changes)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
