//! Clicks over HTTP: `POST /slack/NAME/interactive` on the people listener, signed by Slack.
//!
//! 200 with an empty body once the click is kept; 401 `bad-signature`; 404 when there is no such
//! channel, or it has no signing secret; 413; 503 when it cannot be kept now.
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use super::click::Click;
use super::interact::{self, Taken};
use super::verify::verify;
use crate::channels::Hub;
use crate::host_api::now;
use crate::http::{self, Fault};

/// A click repeats the message it was made on, percent-encoded.
const MAX_BODY: usize = 256 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// The route.
pub fn routes(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/slack/{name}/interactive", post(interactive))
        .method_not_allowed_fallback(http::no_method)
        .layer(DefaultBodyLimit::disable())
        .with_state(hub)
}

async fn interactive(
    State(hub): State<Arc<Hub>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Fault> {
    let (index, secret) = hub
        .slack(&name)
        .and_then(|(index, slack)| Some((index, slack.signing_secret.as_ref()?)))
        .ok_or_else(Fault::not_found)?;
    let body = match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return Err(Fault::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is longer than 256 KiB",
            ));
        }
        Err(_) => {
            return Err(Fault::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow",
                "The body came too slowly",
            ));
        }
    };
    if let Err(forged) = verify(secret, &headers, &body, now()) {
        hub.desk.metrics.click(&name, "forged");
        tracing::warn!(channel = name, %forged, "a call that is not Slack's");
        return Err(Fault::new(
            StatusCode::UNAUTHORIZED,
            "bad-signature",
            "Not signed by Slack for this app, or too long ago",
        ));
    }
    let payload = payload(&body)
        .ok_or_else(|| Fault::malformed("one field `payload`, as a form, is what Slack sends"))?;
    match interact::take(&hub, index, payload.as_bytes()).await {
        Taken::Yes => Ok(StatusCode::OK),
        Taken::Busy => Err(Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "The click cannot be kept now",
        )
        .retry(2)),
    }
}

/// Whether bytes, as Slack sends them over HTTP or a socket, are a click. Changes nothing: for `fuzz/`.
#[doc(hidden)]
pub fn is_click(bytes: &[u8]) -> bool {
    let form = payload(bytes).is_some_and(|payload| Click::parse(payload.as_bytes()).is_ok());
    form || Click::parse(bytes).is_ok()
}

/// The field `payload` of a form, if it is there once.
fn payload(form: &[u8]) -> Option<String> {
    let mut found = form_urlencoded::parse(form)
        .filter(|(key, _)| key == "payload")
        .map(|(_, value)| value.into_owned());
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_payload_and_no_more() {
        assert_eq!(payload(b"payload=%7B%7D&x=1").as_deref(), Some("{}"));
        assert_eq!(payload(b"payload=a+b%2B").as_deref(), Some("a b+"));
        assert_eq!(payload(b"payload=a&payload=b"), None);
        assert_eq!(payload(b"x=1"), None);
        assert_eq!(payload(b""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_a_form(form in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,80}") {
            let _any = payload(&form);
            let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &text).finish();
            prop_assert_eq!(payload(form.as_bytes()), Some(text));
        }
    }
}
