//! What unit tests judge and show.
use syshold_protocol::{Request, UnixMs};

use crate::store::people::Account;

/// The request the integration tests send as well.
pub(crate) fn request() -> Request {
    serde_json::from_str(include_str!("../tests/gateway/request.json")).unwrap()
}

/// Somebody.
pub(crate) fn account(name: &str, email: &str, groups: &[&str]) -> Account {
    Account {
        name: name.to_owned(),
        email: email.parse().unwrap(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        made_at: UnixMs::new(0),
        disabled_at: None,
    }
}
