//! Commitments: a value that can be redacted later is not in the leaf itself, only
//! `{"hmac_sha256": …}` over its path and its canonical JSON under a random salt. What opens it is
//! kept beside the leaf; once that is deleted, nothing tells the value any more, and every proof
//! still holds.
use hmac::{Hmac, Mac as _};
use rand_core::{OsRng, RngCore as _};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use crate::chain::hex;

/// The member that marks a commitment.
pub(crate) const MARK: &str = "hmac_sha256";

/// Path, salt, and value as canonical JSON.
pub(crate) type Opened = (String, [u8; 16], String);

/// `HMAC-SHA-256(salt, path ‖ 0x00 ‖ value)`, in hex.
pub(crate) fn commitment(salt: &[u8; 16], path: &str, value: &str) -> String {
    // An HMAC key may have any length, so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt) else {
        return String::new();
    };
    mac.update(path.as_bytes());
    mac.update(&[0]);
    mac.update(value.as_bytes());
    hex(&mac.finalize().into_bytes())
}

/// Replaces the values at `paths` (`process.argv`; lists are gone through: `approvers.comment`) by
/// commitments, and gives what opens them.
pub(crate) fn commit(fields: &mut Map<String, Value>, paths: &[String]) -> Vec<Opened> {
    let mut opened = Vec::new();
    for path in paths {
        let mut parts = path.split('.');
        if let Some(value) = parts.next().and_then(|first| fields.get_mut(first)) {
            let first = path.split('.').next().unwrap_or_default().to_owned();
            replace(value, first, &parts.collect::<Vec<_>>(), &mut opened);
        }
    }
    opened
}

fn replace(value: &mut Value, path: String, rest: &[&str], out: &mut Vec<Opened>) {
    let Some((next, deeper)) = rest.split_first() else {
        // An absent value tells nothing and needs no opening.
        let empty = value.as_array().is_some_and(Vec::is_empty);
        if !value.is_null() && !empty {
            let mut salt = [0; 16];
            OsRng.fill_bytes(&mut salt);
            if let Ok(text) = serde_json_canonicalizer::to_string(value) {
                *value = json!({MARK: commitment(&salt, &path, &text)});
                out.push((path, salt, text));
            }
        }
        return;
    };
    match value {
        Value::Object(map) => {
            if let Some(inner) = map.get_mut(*next) {
                replace(inner, format!("{path}.{next}"), deeper, out);
            }
        }
        Value::Array(list) => {
            for (n, item) in list.iter_mut().enumerate() {
                replace(item, format!("{path}[{n}]"), rest, out);
            }
        }
        _ => {}
    }
}

/// Puts an opened value where its commitment is: for people to read, never to be hashed.
pub(crate) fn open(leaf: &mut Value, path: &str, opened: Value) {
    let pointer = path.replace(['.', '['], "/").replace(']', "");
    if let Some(place) = leaf.pointer_mut(&format!("/{pointer}")) {
        *place = opened;
    }
}

/// Every commitment in a leaf: path and digest.
pub(crate) fn commitments(leaf: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(leaf, String::new(), &mut found);
    found
}

fn collect(value: &Value, path: String, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => match map.get(MARK).and_then(Value::as_str) {
            Some(digest) if map.len() == 1 => out.push((path, digest.to_owned())),
            _ => {
                for (name, inner) in map {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    collect(inner, path, out);
                }
            }
        },
        Value::Array(list) => {
            for (n, inner) in list.iter().enumerate() {
                collect(inner, format!("{path}[{n}]"), out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_committed_to_and_opened() {
        let mut fields = json!({
            "process": {"argv": ["curl", "--user", "bob"], "cwd": "/srv", "pid": 7},
            "approvers": [{"comment": "fine"}, {"subject": "dave"}]
        });
        let map = fields.as_object_mut().unwrap();
        let paths = ["process.argv", "approvers.comment", "object.path"].map(str::to_owned);
        let opened = commit(map, &paths);
        let places: Vec<_> = opened.iter().map(|(path, _, _)| path.as_str()).collect();
        assert_eq!(places, ["process.argv", "approvers[0].comment"]);
        assert_eq!(opened[0].2, r#"["curl","--user","bob"]"#);
        let text = fields.to_string();
        assert!(!text.contains("bob") && !text.contains("fine"), "{text}");
        assert!(text.contains("/srv") && text.contains("dave"), "{text}");
        let mut found = commitments(&fields);
        found.sort();
        for (path, salt, value) in &opened {
            let digest = commitment(salt, path, value);
            assert!(found.contains(&(path.clone(), digest.clone())));
            assert_ne!(commitment(salt, path, "\"other\""), digest);
            assert_ne!(commitment(salt, "process.cwd", value), digest);
        }
        assert_eq!(found.len(), 2);
        for (path, _, value) in &opened {
            open(&mut fields, path, serde_json::from_str(value).unwrap());
        }
        assert_eq!(fields["process"]["argv"][2], "bob");
        assert_eq!(fields["approvers"][0]["comment"], "fine");
    }
}
