//! RFC 9457: the body of every error answer.
use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error answer. Unknown members are ignored, as the RFC demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`, or `urn:syshold:problem:` and a word that programs may test.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// The same for every problem of this kind.
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub status: u16,
    /// What happened this time and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl Problem {
    /// A problem of kind `urn:syshold:problem:{word}`.
    pub fn new(status: u16, word: &str, title: &str) -> Self {
        Self {
            kind: format!("urn:syshold:problem:{word}"),
            title: title.to_owned(),
            status,
            detail: None,
            instance: None,
        }
    }

    /// The same with a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The word after the URN prefix, if it is one of ours.
    pub fn word(&self) -> Option<&str> {
        self.kind.strip_prefix("urn:syshold:problem:")
    }
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_rfc_allows() {
        let bare: Problem = serde_json::from_str(r#"{"extension": 1}"#).unwrap();
        assert_eq!((bare.kind.as_str(), bare.word()), ("about:blank", None));
        let ours = Problem::new(409, "other-bytes", "Another request has this id")
            .detail("send it under a new id");
        let json = serde_json::to_string(&ours).unwrap();
        assert!(
            json.starts_with(r#"{"type":"urn:syshold:problem:other-bytes""#),
            "{json}"
        );
        assert_eq!(
            serde_json::from_str::<Problem>(&json).unwrap().word(),
            Some("other-bytes")
        );
    }
}
