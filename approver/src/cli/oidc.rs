//! `syshold-approver oidc`: who somebody at the identity provider is here.
use clap::Subcommand;
use serde_json::json;

use super::{Failure, Out, open};
use crate::config::Config;
use crate::host_api::now;
use crate::oidc::Identity;
use crate::store::oidc::Linked;

#[derive(Debug, Subcommand)]
pub(super) enum Oidc {
    /// Let somebody at the identity provider sign in to an account
    Link {
        /// The account
        name: String,
        /// The provider's `sub` for the person; the sign-in page shows it to whoever is not linked
        subject: String,
        #[command(flatten)]
        out: Out,
    },
    /// List who is linked
    List {
        #[command(flatten)]
        out: Out,
    },
    /// End a link, and the sessions of its account, at once
    Unlink {
        /// The provider's `sub`
        subject: String,
        #[command(flatten)]
        out: Out,
    },
}

pub(super) fn run(config: &Config, verb: Oidc) -> Result<(), Failure> {
    let (_, store) = open(config)?;
    let known = |subject: String| {
        let settings = config.oidc.as_ref().ok_or(Failure::NoOidc)?;
        Ok::<_, Failure>(Identity {
            issuer: settings.issuer.clone(),
            subject,
        })
    };
    match verb {
        Oidc::Link { name, subject, out } => {
            let who = known(subject)?;
            if who.subject.is_empty() || who.subject.len() > 255 {
                return Err(Failure::Subject);
            }
            match store.link_identity(&who, &name, now())? {
                Linked::Done => out.print(
                    &json!({"name": name, "issuer": who.issuer, "subject": who.subject}),
                    &format!("{:?} at {} signs in as {name}", who.subject, who.issuer),
                ),
                Linked::NoAccount => Err(Failure::NoAccount(name)),
                Linked::Taken(other) => Err(Failure::Linked(other)),
            }
        }
        Oidc::List { out } => {
            let all = store.identities()?;
            let rows = all.iter().map(|link| {
                vec![
                    link.account.clone(),
                    link.subject.clone(),
                    link.issuer.clone(),
                    link.made_at.to_string(),
                ]
            });
            out.table(&all, &["account", "subject", "issuer", "since"], rows)
        }
        Oidc::Unlink { subject, out } => {
            let who = known(subject)?;
            if !store.unlink_identity(&who)? {
                return Err(Failure::NoLink);
            }
            out.print(
                &json!({"subject": who.subject, "unlinked": true}),
                &format!("{:?} signs in no more", who.subject),
            )
        }
    }
}
