//! Passkeys at the gateway: registering one by a one-time link, signing in with one, and signing an
//! approval. What a signature is worth is `syshold_protocol::passkey`'s to say; here is what was asked
//! for, whose key it is, and that nothing is used twice.
//!
//! The gateway needs a name that browsers can bind keys to: passkeys do not work under an IP address.
use axum::http::StatusCode;
use rand_core::{OsRng, RngCore as _};
use serde::{Deserialize, Serialize};
use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::passkey::{self, Assertion, Bytes, PasskeyError, is_domain};
use syshold_protocol::{Digest, Nonce, Proof, Statement, UnixMs};

use crate::http::Fault;
use crate::store::passkeys::{self as keys, Added, Passkey, Purpose};
use crate::store::people::{Account, account_by_name, add_session};
use crate::store::{Store, StoreError};

const MAX_LABEL: usize = 64;

/// Where keys belong to: the inbox, as browsers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// A domain; keys are bound to it for good.
    pub rp_id: String,
}

impl Site {
    /// The site of an inbox; none for one that is reached by an address.
    pub fn of(inbox_url: &str) -> Option<Self> {
        let authority = inbox_url.strip_prefix("https://")?.split('/').next()?;
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let host = host.to_ascii_lowercase();
        is_domain(&host).then_some(Self { rp_id: host })
    }
}

/// Why a passkey does nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("this gateway has no name that keys can belong to; its operator sets inbox_url to one")]
    NoSite,
    #[error("the link was used already, or is older than a day; ask for a new one")]
    BadLink,
    #[error("that took too long, or was answered already; try again")]
    NotAsked,
    #[error("that passkey is not registered here, or not for this account")]
    Unknown,
    #[error("that passkey is registered already")]
    Registered,
    #[error("you have too many passkeys; ask for one to be removed")]
    TooMany,
    #[error("the passkey's counter went back, so there may be a copy of it; it is not accepted")]
    Copied,
    #[error("a label has 1 to 64 bytes")]
    Label,
    #[error("{0}")]
    Passkey(#[from] PasskeyError),
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let refused = |word| Self::new(StatusCode::FORBIDDEN, word, "The passkey was not accepted");
        let fault = match &failure {
            Failure::Store(_) => {
                tracing::error!(error = %failure, "state");
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "busy",
                    "The gateway cannot read or write its state",
                )
                .retry(5);
            }
            Failure::NoSite => Self::new(StatusCode::NOT_FOUND, "no_passkeys", "No passkeys here"),
            Failure::BadLink => refused("bad_link"),
            Failure::NotAsked => refused("not_asked"),
            Failure::Unknown => refused("unknown_passkey"),
            Failure::Copied => refused("copied_passkey"),
            Failure::Passkey(_) | Failure::Canonical(_) => refused("bad_signature"),
            Failure::Registered | Failure::TooMany => {
                Self::new(StatusCode::CONFLICT, "conflict", "Nothing was registered")
            }
            Failure::Label => return Self::unacceptable(failure.to_string()),
        };
        fault.detail(failure.to_string())
    }
}

/// What `navigator.credentials.create` is told.
#[derive(Debug, Serialize)]
pub struct Creation {
    pub challenge: Bytes,
    pub rp_id: String,
    pub user_id: Bytes,
    pub account: String,
    pub email: String,
    /// Keys the person has already.
    pub known: Vec<Bytes>,
}

/// What `navigator.credentials.get` is told.
#[derive(Debug, Serialize)]
pub struct Asking {
    pub challenge: Bytes,
    pub rp_id: String,
    /// The person's keys; empty when nobody knows yet who it is.
    pub known: Vec<Bytes>,
    /// Of an approval's statement, to be sent back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
}

/// A new key, as the browser reports it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Created {
    pub label: String,
    pub authenticator_data: Bytes,
    pub client_data_json: Bytes,
}

/// A signature, as the browser reports it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    pub credential_id: Bytes,
    pub assertion: Assertion,
    #[serde(default)]
    pub nonce: Option<Nonce>,
}

/// Whoever holds the link is asked for a key. GET of the page uses nothing up; neither does this.
pub async fn start_registration(
    store: &Store,
    site: &Site,
    link: Digest,
    now: UnixMs,
) -> Result<Creation, Failure> {
    let rp_id = site.rp_id.clone();
    let challenge = random();
    store
        .run(move |tx| {
            let account = keys::link_account(tx, link, now)?.ok_or(Failure::BadLink)?;
            let purpose = Purpose::Register;
            keys::open(tx, &challenge, purpose, Some(&account.name), now)?;
            let known = keys::of_account(tx, &account.name)?;
            Ok(Creation {
                challenge: Bytes(challenge.to_vec()),
                rp_id,
                // The same at every registration, and nothing about the person.
                user_id: Bytes(
                    Digest::of(format!("user {}", account.name).as_bytes())
                        .0
                        .to_vec(),
                ),
                account: account.name,
                email: account.email.to_string(),
                known: ids(known),
            })
        })
        .await
}

/// Files the key, uses the link up, and signs the person in.
pub async fn finish_registration(
    store: &Store,
    site: &Site,
    link: Digest,
    created: Created,
    session: Digest,
    now: UnixMs,
) -> Result<Passkey, Failure> {
    let rp_id = site.rp_id.clone();
    let label = created.label.trim().to_owned();
    if label.is_empty() || label.len() > MAX_LABEL {
        return Err(Failure::Label);
    }
    store
        .run(move |tx| {
            let account = keys::link_account(tx, link, now)?.ok_or(Failure::BadLink)?;
            let (data, client) = (&created.authenticator_data.0, &created.client_data_json.0);
            let challenge = challenge_of(client)?;
            let registered = passkey::register(data, client, &challenge, &rp_id)?;
            let purpose = Purpose::Register;
            if !keys::take(tx, &challenge, purpose, Some(&account.name), now)? {
                return Err(Failure::NotAsked);
            }
            let passkey = Passkey {
                id: String::new(),
                account: account.name,
                pin: registered.pin,
                label,
                counter: registered.counter,
                made_at: now,
                used_at: None,
                credential_id: registered.credential_id,
            };
            match keys::add(tx, link, &passkey, now)? {
                Added::Done => {}
                Added::BadLink => return Err(Failure::BadLink),
                Added::Known => return Err(Failure::Registered),
                Added::TooMany => return Err(Failure::TooMany),
            }
            add_session(tx, &passkey.account, session, now)?;
            Ok(passkey)
        })
        .await
}

/// Anybody may be asked who they are.
pub async fn start_sign_in(store: &Store, site: &Site, now: UnixMs) -> Result<Asking, Failure> {
    let challenge = random();
    store
        .run(move |tx| keys::open(tx, &challenge, Purpose::SignIn, None, now))
        .await?;
    Ok(Asking {
        challenge: Bytes(challenge.to_vec()),
        rp_id: site.rp_id.clone(),
        known: vec![],
        nonce: None,
    })
}

/// Opens a session for the person whose key it is.
pub async fn finish_sign_in(
    store: &Store,
    signed: Signed,
    session: Digest,
    now: UnixMs,
) -> Result<Account, Failure> {
    store
        .run(move |tx| {
            let challenge = challenge_of(&signed.assertion.client_data_json.0)?;
            let passkey = keys::by_credential(tx, &signed.credential_id.0)?;
            let passkey = passkey.ok_or(Failure::Unknown)?;
            let account = account_by_name(tx, &passkey.account)?.ok_or(Failure::Unknown)?;
            believe(
                tx,
                &passkey,
                &signed,
                &challenge,
                (Purpose::SignIn, None),
                now,
            )?;
            add_session(tx, &account.name, session, now)?;
            Ok(account)
        })
        .await
}

/// Asks `account` to sign that statement; its nonce is chosen here.
pub async fn start_approval(
    store: &Store,
    site: &Site,
    account: &Account,
    mut statement: Statement,
    now: UnixMs,
) -> Result<Asking, Failure> {
    OsRng.fill_bytes(&mut statement.nonce.0);
    let (challenge, name) = (statement.challenge()?, account.name.clone());
    let known = store
        .run(move |tx| {
            keys::open(tx, &challenge.0, Purpose::Approve, Some(&name), now)?;
            keys::of_account(tx, &name)
        })
        .await?;
    if known.is_empty() {
        return Err(Failure::Unknown);
    }
    Ok(Asking {
        challenge: Bytes(challenge.0.to_vec()),
        rp_id: site.rp_id.clone(),
        known: ids(known),
        nonce: Some(statement.nonce),
    })
}

/// The proof that `account` signed exactly that statement, now, with one of their own keys.
pub async fn finish_approval(
    store: &Store,
    account: &Account,
    mut statement: Statement,
    signed: Signed,
    now: UnixMs,
) -> Result<Proof, Failure> {
    statement.nonce = signed.nonce.ok_or(Failure::NotAsked)?;
    let (challenge, name) = (statement.challenge()?, account.name.clone());
    store
        .run(move |tx| {
            let passkey = keys::by_credential(tx, &signed.credential_id.0)?;
            let passkey = passkey
                .filter(|passkey| passkey.account.eq_ignore_ascii_case(&name))
                .ok_or(Failure::Unknown)?;
            let asked = (Purpose::Approve, Some(name.as_str()));
            believe(tx, &passkey, &signed, &challenge.0, asked, now)?;
            Ok(Proof {
                scope: statement.scope,
                nonce: statement.nonce,
                key: passkey.pin,
                assertion: signed.assertion,
            })
        })
        .await
}

/// Signed by that key, asked for by us, once, and not by a copy.
fn believe(
    tx: &crate::store::Transaction<'_>,
    passkey: &Passkey,
    signed: &Signed,
    challenge: &[u8],
    (purpose, account): (Purpose, Option<&str>),
    now: UnixMs,
) -> Result<(), Failure> {
    let counter = passkey.pin.verify(&signed.assertion, challenge)?;
    if !keys::take(tx, challenge, purpose, account, now)? {
        return Err(Failure::NotAsked);
    }
    if !keys::used(tx, passkey, counter, now)? {
        tracing::error!(
            account = passkey.account,
            passkey = passkey.id,
            "a passkey's counter went back: is there a copy of it?"
        );
        return Err(Failure::Copied);
    }
    Ok(())
}

/// The challenge a browser says it signed; whether it was open is asked of the store.
fn challenge_of(client_data: &[u8]) -> Result<Vec<u8>, Failure> {
    #[derive(Deserialize)]
    struct Claimed {
        challenge: Bytes,
    }
    let claimed: Claimed =
        serde_json::from_slice(client_data).map_err(|_| PasskeyError::ClientData)?;
    Ok(claimed.challenge.0)
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    bytes
}

fn ids(passkeys: Vec<Passkey>) -> Vec<Bytes> {
    let ids = passkeys.into_iter().map(|passkey| passkey.credential_id);
    ids.map(Bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_names_and_never_to_addresses() {
        let rp = |url| Site::of(url).map(|site| site.rp_id);
        assert_eq!(
            rp("https://Approver.example.com:8444"),
            Some("approver.example.com".to_owned())
        );
        assert_eq!(
            rp("https://gw.example.com/inbox"),
            Some("gw.example.com".to_owned())
        );
        assert_eq!(rp("https://localhost:8444"), Some("localhost".to_owned()));
        for none in [
            "https://127.0.0.1:8444",
            "https://[::1]:8444",
            "http://a.example",
            "",
        ] {
            assert_eq!(rp(none), None, "{none}");
        }
    }
}
