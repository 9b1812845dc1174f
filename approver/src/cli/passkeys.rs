//! `syshold-approver passkeys`: who may register one, which there are, and an end to one.
use clap::Subcommand;
use serde_json::json;
use syshold_protocol::UnixMs;

use super::{Failure, Out, note, open};
use crate::config::Config;
use crate::host_api::now;
use crate::passkeys::Site;
use crate::store::passkeys::LINK_LIFE_MS;
use crate::token::Secret;

/// What a link's secret starts with.
const LINK: &str = "sypass_";

#[derive(Debug, Subcommand)]
pub(super) enum Passkeys {
    /// Print a one-time link by which a person registers a passkey
    Invite {
        /// The account
        name: String,
        #[command(flatten)]
        out: Out,
    },
    /// List every passkey, with the line that hosts' policies take
    List {
        #[command(flatten)]
        out: Out,
    },
    /// Take a passkey away, and end its person's sessions, at once
    Remove {
        /// The passkey's id, as `list` shows it
        id: String,
        #[command(flatten)]
        out: Out,
    },
}

pub(super) fn run(config: &Config, verb: Passkeys) -> Result<(), Failure> {
    let (keys, store) = open(config)?;
    match verb {
        Passkeys::Invite { name, out } => {
            let inbox = config.inbox_url(keys.names());
            if Site::of(&inbox).is_none() {
                return Err(Failure::NoSite(inbox));
            }
            let secret = Secret::generate(LINK);
            let (link, at) = (secret.digest(), now());
            if !store.add_link(&name, link, at)? {
                return Err(Failure::NoAccount(name));
            }
            let url = format!("{inbox}/welcome#{}", secret.reveal());
            let expires_at = at.plus(LINK_LIFE_MS);
            out.print(
                &json!({"name": name, "url": url, "expires_at": expires_at}),
                &url,
            )?;
            note(&format!(
                "good once, until {expires_at}; give it to {name} on a private way: who opens it is {name} from then on"
            ))
        }
        Passkeys::List { out } => {
            let all = store.passkeys()?;
            let rows = all.iter().map(|passkey| {
                vec![
                    passkey.id.clone(),
                    passkey.account.clone(),
                    passkey.label.clone(),
                    passkey
                        .used_at
                        .as_ref()
                        .map_or_else(|| "never".to_owned(), UnixMs::to_string),
                    passkey.pin.to_string(),
                ]
            });
            out.table(
                &all,
                &[
                    "id",
                    "account",
                    "label",
                    "used",
                    "for a policy's [[approver]]",
                ],
                rows,
            )
        }
        Passkeys::Remove { id, out } => {
            if !store.remove_passkey(&id)? {
                return Err(Failure::NoPasskey(id));
            }
            out.print(
                &json!({"id": id, "removed": true}),
                &format!("{id} is accepted no more"),
            )?;
            note("take it out of the hosts' policies too: they believe their own list")
        }
    }
}
