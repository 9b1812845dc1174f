//! Messages as Block Kit: within Slack's limits, nothing in them formatted by the agent.
use serde_json::{Value, json};
use syshold_protocol::{RequestPhase, Risk};

use crate::channels::Alert;
use crate::channels::summary::{Mark, Summary};
use crate::desk::Sheet;

/// What the buttons are called in a click.
pub(super) const APPROVE: &str = "syshold_approve";
pub(super) const NARROW: &str = "syshold_narrow";
pub(super) const DENY: &str = "syshold_deny";
pub(super) const DETAILS: &str = "syshold_details";

/// A message that tells and links.
pub(in crate::channels) fn plain_message(summary: &Summary) -> Value {
    let link = format!("*<{}|Review and answer in the inbox>*", summary.link);
    let link =
        json!({"type": "section", "text": {"type": "mrkdwn", "text": link, "verbatim": true}});
    message(summary, [link])
}

/// A message with buttons while there is something to decide.
pub(super) fn with_buttons(summary: &Summary, sheet: &Sheet, handle: &str) -> Value {
    let open = matches!(
        sheet.filed.phase,
        RequestPhase::Waiting | RequestPhase::Late
    );
    let details = json!({
        "type": "button", "action_id": DETAILS, "text": plain("Details"), "url": summary.link,
    });
    let button = |action: &str, text: &str| json!({"type": "button", "action_id": action, "text": plain(text), "value": handle});
    let elements = if !open || summary.hidden {
        vec![details]
    } else if sheet.filed.request.risk == Risk::High {
        let review = json!({
            "type": "button", "action_id": DETAILS, "style": "primary",
            "text": plain("Review and approve …"), "url": summary.link,
        });
        vec![review, button(DENY, "Deny …")]
    } else {
        let mut approve = button(APPROVE, "Approve once");
        approve["style"] = "primary".into();
        let mut all = vec![approve];
        if sheet.rendered.scopes.len() > 1 {
            all.push(button(NARROW, "Time limit or scope …"));
        }
        let mut deny = button(DENY, "Deny …");
        deny["style"] = "danger".into();
        all.extend([deny, details]);
        all
    };
    message(
        summary,
        [json!({"type": "actions", "block_id": "syshold", "elements": elements})],
    )
}

/// Whether [`with_buttons`] gives buttons that decide.
pub(super) fn can_decide(summary: &Summary, sheet: &Sheet) -> bool {
    !summary.hidden
        && matches!(
            sheet.filed.phase,
            RequestPhase::Waiting | RequestPhase::Late
        )
}

/// Many requests, or an agent that asks too often, as one message.
pub(in crate::channels) fn alert(alert: &Alert, inbox_url: &str) -> Value {
    let text = alert.to_string();
    let link = format!("*<{inbox_url}/|Review and answer in the inbox>*");
    json!({
        "text": inert(&text),
        "unfurl_links": false,
        "unfurl_media": false,
        "blocks": [
            {"type": "section", "text": plain(&text)},
            {"type": "section", "text": {"type": "mrkdwn", "text": link, "verbatim": true}},
        ]
    })
}

fn message(summary: &Summary, last: impl IntoIterator<Item = Value>) -> Value {
    let fields: Vec<_> = summary
        .fields
        .iter()
        .map(|(label, value)| plain(&format!("{label}\n{value}")))
        .collect();
    let mut blocks = vec![json!({"type": "header", "text": plain(&summary.title)})];
    if let Some(standing) = &summary.standing {
        let mark = match standing.mark {
            Mark::Open => "◔",
            Mark::Good => "✔",
            Mark::Bad => "✘",
            Mark::Over => "∅",
        };
        blocks
            .push(json!({"type": "section", "text": plain(&format!("{mark} {}", standing.text))}));
    }
    blocks.extend([
        json!({"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": [{"type": "text", "text": summary.object}]}]}),
        json!({"type": "section", "text": plain(&summary.why)}),
        json!({"type": "section", "fields": fields}),
    ]);
    let mut context = format!("`{}`", summary.code);
    if summary.waiting > 1 {
        context.push_str(&format!(" · {} identical holds waiting", summary.waiting));
    }
    if !matches!(&summary.standing, Some(standing) if standing.mark != Mark::Open) {
        context.push_str(&format!(
            " · fails <!date^{}^{{date_short_pretty}} {{time_secs}}|{}> without an answer",
            summary.until.ms() / 1000,
            summary.until
        ));
    }
    if summary.hidden {
        context.push_str(" · *not everything fits here: open the details before you decide*");
    }
    let mut elements = vec![json!({"type": "mrkdwn", "text": context, "verbatim": true})];
    elements.extend(summary.trouble.iter().map(|text| plain(text)));
    blocks.push(json!({"type": "context", "elements": elements}));
    if let Some(text) = &summary.unverified {
        let text = format!("Unverified: what the agent says: {text}");
        blocks.push(json!({"type": "context", "elements": [plain(&text)]}));
    }
    blocks.extend(last);
    json!({
        "text": inert(&format!("{} on {}", summary.title, summary.host)),
        "unfurl_links": false,
        "unfurl_media": false,
        "blocks": blocks,
    })
}

/// Text that Slack shows as it is: no markup, no emoji, no links.
pub(super) fn plain(text: &str) -> Value {
    // An empty text object is refused.
    let text = if text.is_empty() { "–" } else { text };
    json!({"type": "plain_text", "text": text, "emoji": false})
}

/// What Slack reads as markup: nothing in it may mention, link or format.
pub(super) fn inert(text: &str) -> String {
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    escaped.replace(['*', '_', '~', '`', '|'], " ")
}
