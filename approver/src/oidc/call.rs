//! One call to the provider: with this project's TLS, bounded in time and size, following nothing.
use openidconnect::{HttpRequest, HttpResponse};
use reqwest::Client;

const MAX_ANSWER: usize = 1 << 20;

/// Why the provider gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no call")]
    Http(#[source] reqwest::Error),
    #[error("an answer of more than 1 MiB")]
    TooLong,
}

/// The client's own time-out covers the answer to its last byte.
pub(super) async fn send(client: Client, request: HttpRequest) -> Result<HttpResponse, CallError> {
    let (parts, body) = request.into_parts();
    let failed = |error: reqwest::Error| CallError::Http(error.without_url());
    let mut answer = client
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(body)
        .send()
        .await
        .map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_ANSWER {
            return Err(CallError::TooLong);
        }
        bytes.extend_from_slice(&chunk);
    }
    let mut response = HttpResponse::new(bytes);
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}
