//! The people API of the gateway, as one person uses it.
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use syshold_protocol::{
    Approver, Decision, Digest, Outcome, RequestId, RequestPhase, Risk, Scope, Subject, UnixMs,
};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::show;
use crate::approver::gateway::{GatewayUrl, UrlError};
use crate::approver::http::{self, Cause, JSON, SetUpError};

const LIMIT: Duration = Duration::from_secs(30);
const MAX_FILE: u64 = 1 << 20;
const CONFIG: &str = ".config/syshold/approvals.toml";
/// The gateway's own CA, for whoever works on its host.
const LOCAL_CA: &str = "/var/lib/syshold-approver/ca.pem";

#[derive(Debug, thiserror::Error)]
pub(super) enum PeopleError {
    #[error(
        "no gateway is set; write `url`, `token_file` and `ca_file` to {config}, or set SYSHOLD_GATEWAY, SYSHOLD_TOKEN_FILE and SYSHOLD_CA_FILE"
    )]
    NoGateway { config: String },
    #[error("no {what} is set; write `{key}` to {config}, or set {variable}")]
    Missing {
        what: &'static str,
        key: &'static str,
        variable: &'static str,
        config: String,
    },
    #[error("SYSHOLD_GATEWAY: {0}")]
    Url(#[from] UrlError),
    #[error("{path}: {source}")]
    Config {
        path: PathBuf,
        source: toml::de::Error,
    },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} can be read by others; run `chmod 600 {path}`")]
    Exposed { path: PathBuf },
    #[error(
        "{path} holds no personal token (sypat_…); get one with `syshold-approver accounts token`"
    )]
    Token { path: PathBuf },
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("{0}")]
    Call(Cause),
    #[error("the gateway's answer makes no sense; are syshold and the gateway the same version?")]
    Answer,
}

impl Failure for PeopleError {
    fn exit(&self) -> Exit {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            Self::Call(Cause::Refused {
                status: 401 | 403, ..
            }) => Exit::Permission,
            Self::Call(Cause::Unreachable(_) | Cause::Tls(_))
            | Self::Call(Cause::Refused {
                status: 429 | 500..,
                ..
            }) => Exit::Unavailable,
            Self::Call(_) | Self::Answer | Self::Runtime(_) => Exit::Failure,
            _ => Exit::Configuration,
        }
    }
}

/// `approvals.toml`. The environment goes before it, key by key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    url: Option<GatewayUrl>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

/// A request, as the gateway shows it to this person. What newer gateways add is ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Approval {
    pub(super) id: RequestId,
    pub(super) code: String,
    pub(super) state: RequestPhase,
    pub(super) have: u32,
    pub(super) need: u32,
    pub(super) created_at: UnixMs,
    pub(super) expires_at: UnixMs,
    pub(super) host: String,
    pub(super) agent: String,
    pub(super) action: String,
    pub(super) risk: Risk,
    pub(super) waiting: u32,
    pub(super) title: String,
    pub(super) facts: Vec<Fact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unverified: Option<String>,
    pub(super) scopes: Vec<Scope>,
    pub(super) rendered_sha256: Digest,
    pub(super) may_approve: bool,
    pub(super) may_deny: bool,
    /// Not from an older gateway.
    #[serde(default)]
    pub(super) may_revoke: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why_not: Option<String>,
    pub(super) approvals: Vec<Approver>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<Decision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<Revoked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fact {
    pub(super) label: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) state: RequestPhase,
    pub(super) decided: bool,
    pub(super) have: u32,
    pub(super) need: u32,
}

/// An approval that was taken back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Revoked {
    pub(super) by: Subject,
    pub(super) at: UnixMs,
    pub(super) reason: String,
}

#[derive(Deserialize)]
struct List {
    approvals: Vec<Approval>,
}

#[derive(Serialize)]
struct Approve<'a> {
    scope: Scope,
    rendered_sha256: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Deny<'a> {
    reason: &'a str,
}

/// The gateway, and who we are to it.
pub(super) struct People {
    url: GatewayUrl,
    token: Zeroizing<String>,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl People {
    /// From the environment and the person's own settings.
    pub(super) fn open() -> Result<Self, PeopleError> {
        let path = std::env::home_dir().map(|home| home.join(CONFIG));
        let shown = format!("~/{CONFIG}");
        let settings = match &path {
            Some(path) => settings(path)?,
            None => Settings::default(),
        };
        let env = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let url = match env("SYSHOLD_GATEWAY") {
            Some(url) => url.to_string_lossy().parse()?,
            None => settings.url.ok_or(PeopleError::NoGateway {
                config: shown.clone(),
            })?,
        };
        let token_file = env("SYSHOLD_TOKEN_FILE")
            .map(PathBuf::from)
            .or(settings.token_file)
            .ok_or(PeopleError::Missing {
                what: "token",
                key: "token_file",
                variable: "SYSHOLD_TOKEN_FILE",
                config: shown.clone(),
            })?;
        let ca_file = env("SYSHOLD_CA_FILE")
            .map(PathBuf::from)
            .or(settings.ca_file)
            .or_else(|| Some(PathBuf::from(LOCAL_CA)).filter(|path| path.exists()))
            .ok_or(PeopleError::Missing {
                what: "CA certificate of the gateway",
                key: "ca_file",
                variable: "SYSHOLD_CA_FILE",
                config: shown,
            })?;
        let ca = read(&expand(&ca_file))?;
        let client = http::trusting(&String::from_utf8_lossy(&ca), None)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(PeopleError::Runtime)?;
        Ok(Self {
            url,
            token: token(&expand(&token_file))?,
            client,
            runtime,
        })
    }

    pub(super) fn list(&self, state: &str) -> Result<Vec<Approval>, PeopleError> {
        let path = format!("/v1/approvals?state={state}");
        let list: List = self.call(Method::GET, &path, None)?;
        Ok(list.approvals)
    }

    pub(super) fn show(&self, id: RequestId) -> Result<Approval, PeopleError> {
        self.call(Method::GET, &format!("/v1/approvals/{id}"), None)
    }

    pub(super) fn approve(
        &self,
        seen: &Approval,
        scope: Scope,
        reason: Option<&str>,
    ) -> Result<Answered, PeopleError> {
        let body = serde_json::to_vec(&Approve {
            scope,
            rendered_sha256: seen.rendered_sha256,
            reason,
        });
        let path = format!("/v1/approvals/{}/approve", seen.id);
        self.call(
            Method::POST,
            &path,
            Some(body.map_err(|_| PeopleError::Answer)?),
        )
    }

    pub(super) fn deny(&self, id: RequestId, reason: &str) -> Result<Answered, PeopleError> {
        let body = serde_json::to_vec(&Deny { reason }).map_err(|_| PeopleError::Answer)?;
        self.call(
            Method::POST,
            &format!("/v1/approvals/{id}/deny"),
            Some(body),
        )
    }

    pub(super) fn revoke(&self, id: RequestId, reason: &str) -> Result<Revoked, PeopleError> {
        let body = serde_json::to_vec(&Deny { reason }).map_err(|_| PeopleError::Answer)?;
        self.call(
            Method::POST,
            &format!("/v1/approvals/{id}/revoke"),
            Some(body),
        )
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, PeopleError> {
        let url = self.url.call(path).ok_or(PeopleError::Answer)?;
        let headers = [("Authorization", format!("Bearer {}", *self.token))];
        let body = body.map(|bytes| (JSON, bytes));
        let sent = http::send(&self.client, (method, url), &headers, body, LIMIT);
        let answer = self.runtime.block_on(sent).map_err(PeopleError::Call)?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body).map_err(|_| PeopleError::Answer),
            _ => Err(PeopleError::Call(answer.refused())),
        }
    }
}

impl Approval {
    /// What `syshold approvals show` prints, and what an approval confirms.
    pub(super) fn page(&self) -> String {
        use show::{FAINT, NOTE, STRONG, safe, styled};
        let mut page = vec![styled(STRONG, &safe(&self.title))];
        let wide = self
            .facts
            .iter()
            .map(|fact| fact.label.chars().count())
            .max();
        for fact in &self.facts {
            let label = format!("{:wide$}", safe(&fact.label), wide = wide.unwrap_or(0));
            page.push(format!("{}  {}", styled(FAINT, &label), safe(&fact.value)));
        }
        for approver in &self.approvals {
            page.push(format!("approved by {}", safe(approver.subject.as_str())));
        }
        if let Some(revoked) = &self.revoked {
            let by = safe(revoked.by.as_str());
            page.push(format!("taken back by {by}: {}", safe(&revoked.reason)));
        }
        if let Some(unverified) = &self.unverified {
            page.push(format!(
                "{} {}",
                styled(NOTE, "the agent says (unverified):"),
                safe(unverified)
            ));
        }
        page.push(format!(
            "{}  {}",
            styled(FAINT, &self.summary()),
            safe(&self.code)
        ));
        page.join("\n")
    }

    fn summary(&self) -> String {
        let state = phase(self.state);
        let people = format!("{} of {} approved", self.have, self.need);
        match self.state {
            RequestPhase::Waiting | RequestPhase::Late => {
                let left = show::until(show::at(self.expires_at));
                format!("{state}, {people}, {} waiting, {left} left", self.waiting)
            }
            _ if self.revoked.is_some() => format!("{state} and taken back, {people}"),
            _ => format!("{state}, {people}"),
        }
    }
}

pub(super) fn phase(phase: RequestPhase) -> &'static str {
    match phase {
        RequestPhase::Waiting => "waiting",
        RequestPhase::Late => "late",
        RequestPhase::Approved => "approved",
        RequestPhase::Denied => "denied",
        RequestPhase::Expired => "expired",
        RequestPhase::Withdrawn => "withdrawn",
    }
}

fn settings(path: &Path) -> Result<Settings, PeopleError> {
    match read(path) {
        Ok(text) => toml::from_slice(&text).map_err(|source| PeopleError::Config {
            path: path.to_owned(),
            source,
        }),
        Err(PeopleError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Settings::default())
        }
        Err(e) => Err(e),
    }
}

fn token(path: &Path) -> Result<Zeroizing<String>, PeopleError> {
    let text = Zeroizing::new(read(path)?);
    let open = fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0);
    if open {
        return Err(PeopleError::Exposed {
            path: path.to_owned(),
        });
    }
    let text = std::str::from_utf8(&text).unwrap_or_default().trim();
    let good = text.starts_with("sypat_")
        && text.len() < 1024
        && text.bytes().all(|b| b.is_ascii_graphic());
    if good {
        Ok(Zeroizing::new(text.to_owned()))
    } else {
        Err(PeopleError::Token {
            path: path.to_owned(),
        })
    }
}

/// `~/` at the start of a path, which only shells know.
fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PeopleError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|source| PeopleError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}
