//! What Slack says that somebody clicked: parsed once, into what is used.
use serde::Deserialize;
use serde_json::Value;
use syshold_protocol::Scope;

use super::message::{APPROVE, DENY, DETAILS, NARROW};
use super::modal;
use crate::store::notices::Place;

/// Ids of Slack's are shorter by far.
const MAX_ID: usize = 256;
const MAX_REASON: usize = 4000;

/// One click or one filled-in form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Click {
    /// The same when it is delivered again.
    pub trigger_id: String,
    pub app: String,
    pub team: String,
    pub user: String,
    /// Of the user; another than `team` in a shared channel.
    pub user_team: String,
    /// What Slack calls the user; for people to read.
    pub user_name: String,
    /// The handle of the buttons, or of those that the form came from.
    pub handle: String,
    pub what: What,
}

/// What it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Approve(Place),
    OpenNarrow(Place),
    OpenDeny(Place),
    Narrow {
        scope: Scope,
        reason: Option<String>,
    },
    Deny {
        reason: String,
    },
}

/// Why there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoClick {
    /// Such as a button that only opens a link.
    #[error("nothing to do")]
    Idle,
    #[error("it does not read")]
    Unreadable,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    api_app_id: String,
    team: Option<Id>,
    user: User,
    #[serde(default)]
    trigger_id: String,
    container: Option<Container>,
    #[serde(default)]
    actions: Vec<Action>,
    view: Option<View>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct User {
    id: String,
    team_id: Option<String>,
    #[serde(default)]
    username: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Container {
    message_ts: Option<String>,
    channel_id: Option<String>,
}

#[derive(Deserialize)]
struct Action {
    action_id: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct View {
    callback_id: String,
    #[serde(default)]
    private_metadata: String,
    app_id: String,
    team_id: String,
    state: Option<State>,
}

#[derive(Deserialize)]
struct State {
    values: Value,
}

impl Click {
    /// Reads the JSON of a payload.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoClick> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|_| NoClick::Unreadable)?;
        let (handle, what) = match raw.kind.as_str() {
            "block_actions" => button(&raw)?,
            "view_submission" => form(&raw)?,
            _ => return Err(NoClick::Idle),
        };
        let Raw {
            api_app_id: app,
            team,
            user,
            trigger_id,
            ..
        } = raw;
        let team = team.ok_or(NoClick::Unreadable)?.id;
        let User {
            id,
            team_id,
            username,
            name,
        } = user;
        let name = if name.is_empty() { username } else { name };
        let click = Self {
            trigger_id,
            app,
            user_team: team_id.unwrap_or_else(|| team.clone()),
            team,
            user: id,
            user_name: name.chars().take(80).collect(),
            handle,
            what,
        };
        let ids = [
            &click.trigger_id,
            &click.app,
            &click.team,
            &click.user,
            &click.user_team,
            &click.handle,
        ];
        if ids.iter().all(|id| is_id(id)) {
            Ok(click)
        } else {
            Err(NoClick::Unreadable)
        }
    }
}

fn button(raw: &Raw) -> Result<(String, What), NoClick> {
    let [action] = raw.actions.as_slice() else {
        return Err(NoClick::Unreadable);
    };
    if action.action_id == DETAILS {
        return Err(NoClick::Idle);
    }
    let container = raw.container.as_ref();
    let place = container
        .and_then(|container| {
            Some(Place {
                channel: container.channel_id.clone()?,
                ts: container.message_ts.clone()?,
            })
        })
        .filter(|place| is_id(&place.channel) && is_id(&place.ts))
        .ok_or(NoClick::Unreadable)?;
    let what = match action.action_id.as_str() {
        APPROVE => What::Approve(place),
        NARROW => What::OpenNarrow(place),
        DENY => What::OpenDeny(place),
        _ => return Err(NoClick::Idle),
    };
    Ok((action.value.clone(), what))
}

fn form(raw: &Raw) -> Result<(String, What), NoClick> {
    let view = raw.view.as_ref().ok_or(NoClick::Unreadable)?;
    // Both say whose form it is: they agree, or it is nobody's.
    let team = raw.team.as_ref().map(|team| team.id.as_str());
    if view.app_id != raw.api_app_id || Some(view.team_id.as_str()) != team {
        return Err(NoClick::Unreadable);
    }
    let value = |name: &str| -> Option<&Value> { view.state.as_ref()?.values.get(name)?.get(name) };
    let reason = || -> Result<Option<String>, NoClick> {
        match value(modal::REASON).and_then(|input| input.get("value")) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= MAX_REASON => {
                Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
            }
            Some(_) => Err(NoClick::Unreadable),
        }
    };
    let what = match view.callback_id.as_str() {
        modal::NARROW => {
            let scope = value(modal::SCOPE)
                .and_then(|input| {
                    input
                        .get("selected_option")?
                        .get("value")?
                        .as_str()?
                        .parse()
                        .ok()
                })
                .ok_or(NoClick::Unreadable)?;
            What::Narrow {
                scope,
                reason: reason()?,
            }
        }
        modal::DENY => What::Deny {
            reason: reason()?.ok_or(NoClick::Unreadable)?,
        },
        _ => return Err(NoClick::Idle),
    };
    Ok((view.private_metadata.clone(), what))
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "type": "block_actions", "api_app_id": "A1", "trigger_id": "1.2.3", "team": {"id": "T1"},
            "user": {"id": "U1", "username": "bob", "team_id": "T1"},
            "container": {"type": "message", "message_ts": "17.1", "channel_id": "C1"},
            "actions": [{"action_id": APPROVE, "block_id": "syshold", "value": "handle", "type": "button"}],
        })
    }

    fn form() -> Value {
        json!({
            "type": "view_submission", "api_app_id": "A1", "trigger_id": "1.2.3", "team": {"id": "T1"},
            "user": {"id": "U1", "name": "bob"},
            "view": {"app_id": "A1", "team_id": "T1", "callback_id": modal::NARROW, "private_metadata": "handle",
                "state": {"values": {
                    modal::SCOPE: {modal::SCOPE: {"selected_option": {"value": "10m"}}},
                    modal::REASON: {modal::REASON: {"value": " because "}},
                }}},
        })
    }

    fn parse(value: &Value) -> Result<Click, NoClick> {
        Click::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_click_and_a_form() {
        let click = parse(&good()).unwrap();
        let place = Place {
            channel: "C1".to_owned(),
            ts: "17.1".to_owned(),
        };
        assert_eq!(
            (click.what, click.handle.as_str()),
            (What::Approve(place), "handle")
        );
        let form = parse(&form()).unwrap();
        let reason = Some("because".to_owned());
        let scope = "10m".parse().unwrap();
        assert_eq!(form.what, What::Narrow { scope, reason });
        assert_eq!(
            form.user_team, "T1",
            "as the team, when Slack leaves it out"
        );
    }

    #[test]
    fn what_is_missing_wrong_or_double_is_no_click() {
        type Change = fn(&mut Value);
        let table: [Change; 14] = [
            |v| v["trigger_id"] = "".into(),
            |v| v["trigger_id"] = Value::Null,
            |v| v["team"] = Value::Null,
            |v| v["user"]["id"] = "".into(),
            |v| v["user"]["id"] = "U 1".into(),
            |v| v["user"]["team_id"] = "x".repeat(300).into(),
            |v| v["api_app_id"] = 7.into(),
            |v| v["actions"] = json!([]),
            |v| v["actions"][1] = v["actions"][0].clone(),
            |v| v["actions"][0]["value"] = "".into(),
            |v| v["actions"][0]["value"] = "a\nb".into(),
            |v| v["actions"][0]["action_id"] = "other".into(),
            |v| v["container"] = Value::Null,
            |v| v["container"]["message_ts"] = Value::Null,
        ];
        for (row, change) in table.iter().enumerate() {
            let mut value = good();
            if row == 8 {
                let again = value["actions"][0].clone();
                value["actions"].as_array_mut().unwrap().push(again);
            } else {
                change(&mut value);
            }
            assert!(parse(&value).is_err(), "row {row}");
        }
        let table: [Change; 7] = [
            |v| v["view"]["app_id"] = "A2".into(),
            |v| v["view"]["team_id"] = "T2".into(),
            |v| v["view"]["private_metadata"] = "".into(),
            |v| v["view"]["state"] = Value::Null,
            |v| {
                v["view"]["state"]["values"][modal::SCOPE][modal::SCOPE]["selected_option"]["value"] =
                    "forever".into();
            },
            |v| {
                v["view"]["state"]["values"][modal::REASON][modal::REASON]["value"] =
                    "x".repeat(5000).into();
            },
            |v| v["view"]["callback_id"] = "other".into(),
        ];
        for (row, change) in table.iter().enumerate() {
            let mut value = form();
            change(&mut value);
            assert!(parse(&value).is_err(), "form, row {row}");
        }
    }

    /// JSON that nearly is a click: any part of one, replaced by anything.
    fn mangled() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        let any_json = leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        (any::<bool>(), any::<prop::sample::Index>(), any_json).prop_map(|(is_form, at, new)| {
            let mut value = if is_form { form() } else { good() };
            let paths = paths(&value, String::new());
            let path = at.get(&paths).clone();
            if let Some(slot) = value.pointer_mut(&path) {
                *slot = new;
            }
            value.to_string().into_bytes()
        })
    }

    fn paths(value: &Value, at: String) -> Vec<String> {
        let below: Vec<_> = match value {
            Value::Object(map) => map
                .iter()
                .flat_map(|(key, value)| paths(value, format!("{at}/{key}")))
                .collect(),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .flat_map(|(i, value)| paths(value, format!("{at}/{i}")))
                .collect(),
            _ => vec![],
        };
        std::iter::once(at).chain(below).collect()
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_no_click(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Click::parse(&bytes).is_err());
        }

        #[test]
        fn a_mangled_click_is_refused_or_has_sound_ids(bytes in mangled()) {
            if let Ok(click) = Click::parse(&bytes) {
                for id in [&click.trigger_id, &click.app, &click.team, &click.user, &click.user_team, &click.handle] {
                    prop_assert!(is_id(id));
                }
            }
        }
    }
}
