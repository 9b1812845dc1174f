//! `GET /v1/openapi.json` on both listeners: what each takes and answers, as OpenAPI 3.1.
//!
//! The documents are written by hand; a test holds them against the routes and against real answers.
use axum::Router;
use axum::http::header;
use axum::routing::get;

use crate::http;

/// Of the people listener.
pub const PEOPLE: &str = include_str!("people.json");
/// Of the host listener.
pub const HOSTS: &str = include_str!("hosts.json");

/// The route; no secret is in it, and no token is needed.
pub fn routes(document: &'static str) -> Router {
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    Router::new()
        .route("/v1/openapi.json", get(answer))
        .method_not_allowed_fallback(http::no_method)
}
