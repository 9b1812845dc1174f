//! One call of Slack's Web API.
use reqwest::{Client, header};
use serde_json::Value;

use super::{Attempt, http};

/// Answers are short: a message sent is repeated in them.
const MAX_ANSWER: usize = 1024 * 1024;

/// `method` with a JSON body. The token stays out of every message.
pub(super) async fn call(
    http: &Client,
    api_url: &str,
    method: &str,
    token: &str,
    body: &Value,
) -> Attempt<Value> {
    let call = http
        .post(format!("{api_url}/{method}"))
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .bearer_auth(token)
        .body(body.to_string());
    match call.send().await {
        Ok(answer) if answer.status().is_success() => {
            let pause = http::retry_after(&answer);
            match http::body(answer, MAX_ANSWER).await {
                Some(bytes) => read(&bytes, pause),
                None => Attempt::Again(None, "the answer broke off".to_owned()),
            }
        }
        Ok(answer) => http::refused(&answer),
        Err(error) => http::unreachable(error),
    }
}

fn read(bytes: &[u8], pause: std::time::Duration) -> Attempt<Value> {
    let answer: Value = match serde_json::from_slice(bytes) {
        Ok(answer) => answer,
        Err(_) => return Attempt::Again(None, "an answer that does not read".to_owned()),
    };
    if answer.get("ok") == Some(&Value::Bool(true)) {
        return Attempt::Done(answer);
    }
    let word = answer
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let plain = (1..=64).contains(&word.len())
        && word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let why = format!(
        "Slack says {}",
        if plain { word } else { "neither ok nor why" }
    );
    match word {
        "ratelimited" | "rate_limited" => Attempt::Again(Some(pause), why),
        "internal_error"
        | "fatal_error"
        | "service_unavailable"
        | "request_timeout"
        | "team_added_to_org" => Attempt::Again(None, why),
        _ => Attempt::Never(why),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_ok_is_done() {
        let pause = std::time::Duration::from_secs(7);
        let read = |text: &str| read(text.as_bytes(), pause);
        assert!(matches!(read(r#"{"ok":true,"ts":"1"}"#), Attempt::Done(_)));
        assert!(
            matches!(read(r#"{"ok":false,"error":"ratelimited"}"#), Attempt::Again(Some(p), _) if p == pause)
        );
        assert!(matches!(
            read(r#"{"ok":false,"error":"fatal_error"}"#),
            Attempt::Again(None, _)
        ));
        assert!(
            matches!(read(r#"{"ok":false,"error":"invalid_auth"}"#), Attempt::Never(why) if why.ends_with("invalid_auth"))
        );
        assert!(matches!(read(r#"{"ok":"true"}"#), Attempt::Never(_)));
        assert!(
            matches!(read(r#"{"ok":false,"error":"a\nb"}"#), Attempt::Never(why) if !why.contains('\n'))
        );
        assert!(matches!(read("<html>"), Attempt::Again(..)));
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let done = matches!(read(&bytes, std::time::Duration::ZERO), Attempt::Done(_));
            prop_assert!(!done, "random bytes are no success");
        }
    }
}
