//! A Microsoft Teams workflow that posts cards: a link, no buttons that decide. A card cannot be
//! changed afterwards, so what becomes of a request is a second card.
use std::path::Path;

use reqwest::Client;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Alert;
use super::http::{self, Attempt, ChannelError, Patience, Undelivered};
use super::summary::{Mark, Summary};

/// Teams refuses more.
const MAX_BYTES: usize = 28 * 1024;

/// Where cards go. The URL is a secret.
pub(super) struct Teams {
    url: Zeroizing<String>,
    http: Client,
    inbox_url: String,
}

impl Teams {
    pub(super) fn open(name: &str, url: &Path, inbox_url: &str) -> Result<Self, ChannelError> {
        Ok(Self {
            url: http::secret_url(name, url)?,
            http: http::client()?,
            inbox_url: inbox_url.to_owned(),
        })
    }

    pub(super) async fn announce(
        &self,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(), Undelivered> {
        self.post(&card(summary), patience).await
    }

    /// What became of it, in a card of its own.
    pub(super) async fn follow(
        &self,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(), Undelivered> {
        self.post(&follow_up(summary), patience).await
    }

    pub(super) async fn alert(&self, alert: &Alert, patience: Patience) -> Result<(), Undelivered> {
        let body = vec![text(&alert.to_string(), "Large")];
        let link = format!("{}/", self.inbox_url);
        self.post(&envelope(body, "Open the inbox", &link), patience)
            .await
    }

    async fn post(&self, message: &Value, patience: Patience) -> Result<(), Undelivered> {
        let body = serde_json::to_vec(message).unwrap_or_default();
        if body.len() > MAX_BYTES {
            return Err(Undelivered("the card is too large".to_owned()));
        }
        http::persist(patience, || async {
            let call = self
                .http
                .post(self.url.as_str())
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
            match call.send().await {
                Ok(answer) if answer.status().is_success() => Attempt::Done(()),
                Ok(answer) => http::refused(&answer),
                Err(error) => http::unreachable(error),
            }
        })
        .await
    }
}

/// A request as a card.
pub(super) fn card(summary: &Summary) -> Value {
    let mut body = vec![text(&summary.title, "Large")];
    body.extend(summary.standing.iter().map(|s| text(&s.text, "Default")));
    body.extend([mono(&summary.object), text(&summary.why, "Default")]);
    // Facts are Markdown: what an agent can write stays out of them.
    let (written, told): (Vec<_>, Vec<_>) = summary
        .fields
        .iter()
        .partition(|(label, _)| matches!(*label, "Program" | "Has read before"));
    let mut facts: Vec<_> = told
        .iter()
        .map(|(label, value)| json!({"title": label, "value": inert(value)}))
        .collect();
    facts.push(json!({"title": "Code", "value": summary.code}));
    facts.push(json!({"title": "Fails", "value": format!("{} without an answer", summary.until)}));
    if summary.waiting > 1 {
        facts.push(json!({"title": "Identical holds", "value": summary.waiting.to_string()}));
    }
    body.push(json!({"type": "FactSet", "facts": facts}));
    for (label, value) in written {
        body.extend([text(label, "Small"), mono(value)]);
    }
    if summary.hidden {
        body.push(text(
            "Not everything fits here: open it in the inbox before you decide.",
            "Default",
        ));
    }
    body.extend(summary.trouble.iter().map(|line| text(line, "Small")));
    if let Some(words) = &summary.unverified {
        body.push(text(
            &format!("Unverified: what the agent says: {words}"),
            "Small",
        ));
    }
    envelope(body, "Review and answer in the inbox", &summary.link)
}

fn follow_up(summary: &Summary) -> Value {
    let standing = summary.standing.as_ref();
    let colour = match standing.map(|standing| standing.mark) {
        Some(Mark::Good) => "Good",
        Some(Mark::Bad) => "Attention",
        _ => "Default",
    };
    let words = standing.map_or("", |standing| standing.text.as_str());
    let mut first = text(&format!("{} · {}", summary.code, words), "Default");
    first["inlines"][0]["color"] = colour.into();
    envelope(vec![first, mono(&summary.object)], "Details", &summary.link)
}

fn envelope(body: Vec<Value>, button: &str, link: &str) -> Value {
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "msteams": {"width": "Full"},
                "body": body,
                "actions": [{"type": "Action.OpenUrl", "title": button, "url": link}],
            },
        }],
    })
}

/// A run of text is shown as it is, without Markdown.
fn text(words: &str, size: &str) -> Value {
    let weight = if size == "Large" { "Bolder" } else { "Default" };
    rich(json!({"type": "TextRun", "text": whole(words), "size": size, "weight": weight}))
}

fn mono(words: &str) -> Value {
    rich(json!({"type": "TextRun", "text": whole(words), "fontType": "Monospace"}))
}

fn rich(run: Value) -> Value {
    json!({"type": "RichTextBlock", "inlines": [run]})
}

/// Not empty, and no `{{DATE(…)}}` that a card would work out.
fn whole(words: &str) -> String {
    if words.is_empty() {
        return "–".to_owned();
    }
    words.replace("{{", "{ {")
}

/// Markdown read as plain text.
fn inert(words: &str) -> String {
    let mut out = String::with_capacity(words.len() + 8);
    for c in whole(words).chars() {
        if "\\*_[]()<>#`~|!-+.".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
