//! The two forms: a reason to deny, a narrower scope to approve.
use serde_json::{Value, json};
use syshold_protocol::display;

use super::message::plain;
use crate::channels::summary::Summary;
use crate::desk::Sheet;
use crate::render;

/// What forms and their inputs are called in a click.
pub(super) const NARROW: &str = "syshold_narrow_form";
pub(super) const DENY: &str = "syshold_deny_form";
pub(super) const SCOPE: &str = "scope";
pub(super) const REASON: &str = "reason";
/// Slack takes ten radio buttons.
const MAX_SCOPES: usize = 10;

/// Which of the offered scopes?
pub(super) fn narrow(summary: &Summary, sheet: &Sheet, handle: &str) -> Value {
    let waiting = sheet.filed.request.waiting;
    let options: Vec<_> = sheet
        .rendered
        .scopes
        .iter()
        .take(MAX_SCOPES)
        .map(|scope| {
            json!({"text": plain(&render::scope(*scope, waiting)), "value": scope.to_string()})
        })
        .collect();
    let scope = json!({
        "type": "input", "block_id": SCOPE, "label": plain("Approve"),
        "element": {"type": "radio_buttons", "action_id": SCOPE, "options": options, "initial_option": options[0]},
    });
    form(
        NARROW,
        "Approve with limits",
        "Approve",
        handle,
        vec![object(summary), scope, reason(true)],
    )
}

/// Why not?
pub(super) fn deny(summary: &Summary, handle: &str) -> Value {
    form(
        DENY,
        "Deny",
        "Deny",
        handle,
        vec![object(summary), reason(false)],
    )
}

fn object(summary: &Summary) -> Value {
    let text = format!("{} ({})\n{}", summary.title, summary.code, summary.object);
    json!({"type": "section", "text": plain(&display::shorten(&text, 2900).text)})
}

fn reason(optional: bool) -> Value {
    json!({
        "type": "input", "block_id": REASON, "optional": optional,
        "label": plain("Reason, kept in the ledger"),
        "element": {"type": "plain_text_input", "action_id": REASON, "min_length": 1, "max_length": 500},
    })
}

fn form(id: &str, title: &str, submit: &str, handle: &str, blocks: Vec<Value>) -> Value {
    json!({
        "type": "modal", "callback_id": id, "private_metadata": handle,
        "title": plain(title), "submit": plain(submit), "close": plain("Cancel"),
        "blocks": blocks,
    })
}
