//! What the gateway reads: requests of hosts, Slack's payloads, its own configuration.
use std::path::Path;

use serde_json::json;
use syshold_approver::channels::slack::interactive;
use syshold_approver::config::Config;
use syshold_approver::render::{self, Rendered};
use syshold_protocol::Request;
use syshold_protocol::ids::Digest;
use syshold_protocol::request::RequestPhase;

use crate::{agent, signed};

/// Nothing that a person is shown hides a character, or has one that hides others.
pub(crate) fn request(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(data) else {
        return;
    };
    if request.check().is_err() {
        return;
    }
    let shown = Rendered::new(&request, Digest::of(data), "web-1", RequestPhase::Waiting);
    let texts = shown.facts.iter().map(|fact| &fact.value);
    for text in texts.chain([&shown.title]).chain(&shown.unverified) {
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(
            !text.contains(['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}']),
            "{text:?}"
        );
    }
    let _code = render::short_code(&request);
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    vec![serde_json::to_vec(&signed::sample()).expect("JSON")]
}

/// The body of an interaction whose signature was right.
pub(crate) fn slack(data: &[u8]) {
    let _click = interactive::is_click(data);
}

pub(crate) fn clicks() -> Vec<Vec<u8>> {
    let user = json!({"id": "U1", "team_id": "T1", "username": "bob"});
    let button = json!({
        "type": "block_actions", "api_app_id": "A1", "trigger_id": "1.2", "team": {"id": "T1"}, "user": user,
        "container": {"type": "message", "message_ts": "17.1", "channel_id": "C1"},
        "actions": [{"action_id": "syshold_approve", "block_id": "syshold", "value": "handle", "type": "button"}]
    });
    let form = json!({
        "type": "view_submission", "api_app_id": "A1", "trigger_id": "1.2", "team": {"id": "T1"}, "user": user,
        "view": {"app_id": "A1", "team_id": "T1", "callback_id": "syshold_narrow_form", "private_metadata": "handle",
            "state": {"values": {"scope": {"scope": {"selected_option": {"value": "10m"}}}}}}
    });
    [button, form]
        .map(|click| click.to_string().into_bytes())
        .into()
}

/// A configuration is right, or the error names the file.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(error) = Config::parse(Path::new("approver.toml"), text) {
        assert!(error.to_string().contains("approver.toml"), "{error}");
    }
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let shipped = include_bytes!("../../config/approver.toml");
    vec![shipped.to_vec(), agent::uncommented(shipped)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        assert!(clicks().iter().all(|click| interactive::is_click(click)));
        let request: Request = serde_json::from_slice(&requests()[0]).unwrap();
        request.check().unwrap();
        let shipped = String::from_utf8(configs().swap_remove(0)).unwrap();
        Config::parse(Path::new("approver.toml"), &shipped).unwrap();
    }
}
