//! Sign-in at the organisation's identity provider: OpenID Connect, authorization code with PKCE.
//!
//! ```text
//! start ─▶ the provider (state, nonce, PKCE challenge) ─▶ finish: state, code for token, ID token
//!   └─ a cookie of this browser names the flow ────────────┘ good once, for ten minutes
//! ```
//! What comes of it is the provider's name for somebody, [`Identity`]; whose account that is was said
//! before, by an administrator. No token is kept, and nobody gets an account or a group here.
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreErrorResponseType,
    CoreGenderClaim, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
    CoreProviderMetadata, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken,
    EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, IdTokenFields, IssuerUrl,
    Nonce, PkceCodeChallenge, RedirectUrl, RequestTokenError, Scope, StandardErrorResponse,
    StandardTokenResponse, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;
use syshold_protocol::UnixMs;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::channels::ChannelError;
use crate::channels::http;
use crate::token::{self, Secret};

mod call;
mod flows;
use call::send;
use flows::{Flow, Flows};

/// Where the provider sends people back to, below the inbox's address.
pub const CALLBACK: &str = "/login/oidc/callback";
/// How long somebody may take at the provider.
pub const FLOW_MS: u64 = 10 * 60 * 1000;
/// Browsers that wait for the provider at once. More are turned away, so that a provider that hangs
/// never has the places of those who sign in otherwise.
const MOST_WAITING: usize = 64;
/// How long what the provider says of itself is good.
const METADATA_LIFE: Duration = Duration::from_secs(60);
/// How long nobody asks it again after it said nothing.
const FAILURE_LIFE: Duration = Duration::from_secs(2);
/// What it says of itself comes within that: two calls.
const DISCOVERY_TIME: Duration = Duration::from_secs(5);
/// How much of the provider's own words the log has.
const MAX_SAID: usize = 300;
/// The longest subject (OpenID Connect Core, section 2).
const MAX_SUBJECT: usize = 255;
/// How old an ID token may be that was made for this very sign-in.
const MAX_AGE_S: u64 = 10 * 60;

/// `[oidc]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `https://…`, as the provider's metadata has it.
    pub issuer: String,
    pub client_id: String,
    pub client_secret_file: Option<PathBuf>,
    /// On the button.
    pub name: String,
    /// Asked for beside `openid`.
    pub scopes: Vec<String>,
    /// Only members of one of these sign in; none: everybody who is linked.
    pub allowed_groups: Vec<String>,
    /// The claim of the ID token that lists groups.
    pub groups_claim: String,
}

/// Whom the provider says somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub issuer: String,
    pub subject: String,
}

/// Why nobody is signed in. The texts are for the person at the browser; details are in the log.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("this sign-in was not begun in this browser, or it took too long: begin again")]
    NoFlow,
    #[error("what came back does not belong to this sign-in: begin again")]
    State,
    #[error("the identity provider did not sign you in ({0}): begin again")]
    Declined(String),
    #[error(
        "the identity provider cannot be asked: try again in a minute, or use your token or passkey"
    )]
    Unreachable(String),
    #[error("too many people sign in at once: try again in a minute, or use your token or passkey")]
    Busy,
    #[error("the identity provider's answer does not count: begin again")]
    Token(String),
    #[error("your groups at the identity provider do not let you in here")]
    Groups,
}

/// The provider, and the sign-ins that are under way there.
#[expect(missing_debug_implementations, reason = "holds the client secret")]
pub struct Oidc {
    pub settings: Settings,
    redirect: RedirectUrl,
    secret: Option<ClientSecret>,
    http: reqwest::Client,
    /// One asks, and all who wait have the answer: also that there is none.
    known: tokio::sync::Mutex<Option<Known>>,
    flows: Mutex<Flows>,
    waiting: Semaphore,
}

struct Known {
    at: Instant,
    said: Result<CoreProviderMetadata, String>,
}

impl Known {
    fn is_fresh(&self) -> bool {
        let life = match self.said {
            Ok(_) => METADATA_LIFE,
            Err(_) => FAILURE_LIFE,
        };
        self.at.elapsed() < life
    }
}

/// What the browser brings back from the provider.
#[derive(Deserialize)]
#[expect(missing_debug_implementations, reason = "holds a code")]
pub struct Returned {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    state: Option<String>,
    /// RFC 9207.
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// All claims that OpenID Connect does not name.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    #[serde(flatten)]
    all: Map<String, Value>,
}

impl AdditionalClaims for Claims {}

type Fields = IdTokenFields<
    Claims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type Provider = Client<
    Claims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<Fields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Signatures that count; never `none`, and nothing that the client secret could make.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 6] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

impl Oidc {
    /// Reads the secret; the provider is asked when somebody signs in.
    pub fn open(settings: &Settings, inbox_url: &str) -> Result<Self, ChannelError> {
        let secret = settings
            .client_secret_file
            .as_deref()
            .map(|path| http::secret("oidc", path))
            .transpose()?;
        if let Some(path) = &settings.client_secret_file
            && secret.as_ref().is_some_and(|secret| secret.is_empty())
        {
            return Err(ChannelError::Secret {
                channel: "oidc".to_owned(),
                path: path.clone(),
                what: "it is empty; write the client's secret, or leave client_secret_file out",
            });
        }
        let redirect = RedirectUrl::new(format!("{inbox_url}{CALLBACK}"));
        Ok(Self {
            redirect: redirect.map_err(|_| ChannelError::Url("inbox_url"))?,
            secret: secret.map(|secret| ClientSecret::new(secret.to_string())),
            http: http::builder()?
                .https_only(true)
                .build()
                .map_err(ChannelError::Client)?,
            settings: settings.clone(),
            known: tokio::sync::Mutex::default(),
            flows: Mutex::default(),
            waiting: Semaphore::new(MOST_WAITING),
        })
    }

    /// Where to send the browser, and the secret of the cookie that binds the sign-in to it.
    pub async fn start(&self, next: &str, now: UnixMs) -> Result<(String, Secret), OidcError> {
        let _place = self.place()?;
        let provider = self.provider().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let scopes = self.settings.scopes.iter().cloned().map(Scope::new);
        let (url, state, nonce) = provider
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scopes(scopes)
            .set_pkce_challenge(challenge)
            .url();
        if url.scheme() != "https" {
            let why = "its authorization endpoint is not https";
            return Err(OidcError::Unreachable(why.to_owned()));
        }
        let cookie = Secret::generate("");
        let flow = Flow {
            state,
            nonce,
            verifier,
            next: next.to_owned(),
            until: now.plus(FLOW_MS),
        };
        self.flows().add(cookie.digest(), flow);
        Ok((url.into(), cookie))
    }

    /// Who came back, and where they were going. Whatever comes of it, the flow is over.
    pub async fn finish(
        &self,
        cookie: &str,
        returned: Returned,
        now: UnixMs,
    ) -> Result<(Identity, String), OidcError> {
        let flow = self.flows().take(token::digest(cookie), now);
        let flow = flow.ok_or(OidcError::NoFlow)?;
        let state = returned.state.unwrap_or_default();
        if !bool::from(flow.state.secret().as_bytes().ct_eq(state.as_bytes())) {
            return Err(OidcError::State);
        }
        if returned.iss.is_some_and(|iss| iss != self.settings.issuer) {
            return Err(OidcError::State);
        }
        if let Some(error) = returned.error {
            let word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            return Err(OidcError::Declined(
                error.chars().filter(word).take(64).collect(),
            ));
        }
        let code = returned.code.ok_or(OidcError::State)?;
        let _place = self.place()?;
        let provider = self.provider().await?;
        let call = |request| send(self.http.clone(), request);
        let answer = provider
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|error| OidcError::Unreachable(error.to_string()))?
            .set_pkce_verifier(flow.verifier)
            .request_async(&call)
            .await
            .map_err(|error| match &error {
                RequestTokenError::Request(_) => OidcError::Unreachable(said(&error)),
                _ => OidcError::Token(said(&error)),
            })?;
        let id_token = answer
            .id_token()
            .ok_or_else(|| OidcError::Token("no ID token in the answer".to_owned()))?;
        let verifier = provider
            .id_token_verifier()
            .set_allowed_algs(ALGORITHMS)
            .set_issue_time_verifier_fn(move |at| fresh(at.timestamp(), now));
        let claims = id_token
            .claims(&verifier, &flow.nonce)
            .map_err(|error| OidcError::Token(said(&error)))?;
        let subject = claims.subject().as_str();
        if subject.is_empty() || subject.len() > MAX_SUBJECT {
            return Err(OidcError::Token(
                "a subject of no length, or too long".to_owned(),
            ));
        }
        self.let_in(&claims.additional_claims().all)?;
        let identity = Identity {
            issuer: self.settings.issuer.clone(),
            subject: subject.to_owned(),
        };
        Ok((identity, flow.next))
    }

    fn let_in(&self, claims: &Map<String, Value>) -> Result<(), OidcError> {
        let Settings {
            allowed_groups,
            groups_claim,
            ..
        } = &self.settings;
        let is_allowed = |group: &str| allowed_groups.iter().any(|allowed| allowed == group);
        let good = match claims.get(groups_claim) {
            _ if allowed_groups.is_empty() => true,
            Some(Value::String(group)) => is_allowed(group),
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).any(is_allowed),
            _ => false,
        };
        if good { Ok(()) } else { Err(OidcError::Groups) }
    }

    /// The provider as it describes itself, not long ago.
    async fn provider(&self) -> Result<Provider, OidcError> {
        let mut known = self.known.lock().await;
        let known = match &*known {
            Some(known) if known.is_fresh() => known,
            _ => {
                let said = self.discover().await;
                let at = Instant::now();
                known.insert(Known { at, said })
            }
        };
        let metadata = known.said.clone().map_err(OidcError::Unreachable)?;
        let id = ClientId::new(self.settings.client_id.clone());
        let provider = Provider::from_provider_metadata(metadata, id, self.secret.clone());
        Ok(provider.set_redirect_uri(self.redirect.clone()))
    }

    async fn discover(&self) -> Result<CoreProviderMetadata, String> {
        let issuer = IssuerUrl::new(self.settings.issuer.clone()).map_err(|error| said(&error))?;
        let call = |request| send(self.http.clone(), request);
        let asked = CoreProviderMetadata::discover_async(issuer, &call);
        match tokio::time::timeout(DISCOVERY_TIME, asked).await {
            Ok(metadata) => metadata.map_err(|error| said(&error)),
            Err(_) => Err("it did not say in time what it is".to_owned()),
        }
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, OidcError> {
        self.waiting.try_acquire().map_err(|_| OidcError::Busy)
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An ID token is made for the sign-in at hand; nobody comes with one of yesterday.
fn fresh(issued_s: i64, now: UnixMs) -> Result<(), String> {
    let issued = u64::try_from(issued_s).unwrap_or(0);
    let age = (now.ms() / 1000).saturating_sub(issued);
    if age <= MAX_AGE_S {
        Ok(())
    } else {
        Err(format!("it was issued {age} s ago"))
    }
}

/// An error with its causes, none of which holds a secret or a token. Part of it is the provider's.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text.chars().take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yesterdays_token_is_stale() {
        let now = UnixMs::new(1_700_000_000_000);
        assert!(fresh(1_700_000_000, now).is_ok() && fresh(1_699_999_400, now).is_ok());
        assert!(fresh(1_699_999_399, now).is_err() && fresh(-5, now).is_err());
    }

    #[test]
    fn a_secret_that_is_empty_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "\n").unwrap();
        let settings = Settings {
            issuer: "https://id.example.com".to_owned(),
            client_id: "syshold".to_owned(),
            client_secret_file: Some(file.clone()),
            name: "Example ID".to_owned(),
            scopes: vec![],
            allowed_groups: vec![],
            groups_claim: "groups".to_owned(),
        };
        let error = Oidc::open(&settings, "https://gw.example.com").map(|_| ());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("secret") && error.contains("empty"),
            "{error}"
        );
        std::fs::write(&file, "x\n").unwrap();
        assert!(Oidc::open(&settings, "https://gw.example.com").is_ok());
    }
}
