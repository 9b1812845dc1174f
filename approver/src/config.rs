//! `/etc/syshold/approver.toml`: what the file says ([`RawConfig`]) becomes what the gateway uses
//! ([`Config`]). Every mistake names the place and the fix.
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::channels;
use crate::channels::config::{Channels, RawChannels, RawNotify};
use crate::limits::Limits;
use crate::roster::Roster;

mod groups;
mod oidc;
mod state;
pub use groups::milliseconds;
pub use state::Postgres;

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/syshold/approver.toml";
/// Where state is unless the file says otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/syshold-approver";

/// The gateway's settings, ready to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub dir: PathBuf,
    /// Host names and addresses in the server certificate.
    pub names: Vec<String>,
    pub host_listen: SocketAddr,
    pub people_listen: SocketAddr,
    /// What people's browsers are sent to, if the file says so; no slash at its end.
    pub inbox_url: Option<String>,
    /// A certificate of your own for the people listener, in place of the one this gateway makes.
    pub people_tls: Option<TlsFiles>,
    /// Where people are told.
    pub channels: Channels,
    /// Where Prometheus scrapes, in the clear; nothing in it is secret.
    pub metrics_listen: Option<SocketAddr>,
    pub limits: Limits,
    /// Who is on call, and who is asked when nobody answers.
    pub roster: Roster,
    /// Where people sign in beside here.
    pub oidc: Option<crate::oidc::Settings>,
    /// Where the state is, if not in a file below `dir`.
    pub postgres: Option<Postgres>,
}

/// A certificate chain and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The file as it is written. Every key is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    dir: Option<Spanned<PathBuf>>,
    names: Option<Vec<Spanned<String>>>,
    host_listen: Option<SocketAddr>,
    people_listen: Option<SocketAddr>,
    inbox_url: Option<Spanned<String>>,
    people_tls_cert: Option<Spanned<PathBuf>>,
    people_tls_key: Option<Spanned<PathBuf>>,
    channel: RawChannels,
    notify: RawNotify,
    metrics_listen: Option<SocketAddr>,
    max_pending_per_host: Option<Spanned<u32>>,
    max_pending_per_agent: Option<Spanned<u32>>,
    max_prompts_per_agent: Option<Spanned<u32>>,
    auto_deny_after: Option<u32>,
    group: Vec<groups::RawGroup>,
    oidc: Option<oidc::RawOidc>,
    postgres: Option<state::RawPostgres>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}\n  fix: make the file readable, or pass --config FILE", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Place(Place),
}

/// One mistake, with the line it is on.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    line: usize,
    column: usize,
    source_line: String,
    width: usize,
    what: String,
    fix: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            column,
            source_line,
            width,
            what,
            fix,
        } = self;
        let gutter = line.to_string().len();
        writeln!(f, "{}:{line}:{column}: {what}", path.display())?;
        writeln!(f, " {line} | {source_line}")?;
        writeln!(
            f,
            " {:gutter$} | {:indent$}^{:~<tail$}",
            "",
            "",
            "",
            indent = column - 1,
            tail = width - 1
        )?;
        write!(f, "  fix: {fix}")
    }
}

impl Config {
    /// Reads `path`. A missing file is an error only when `must_exist`: the defaults work.
    pub fn load(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(source) if source.kind() == io::ErrorKind::NotFound && !must_exist => {
                Self::parse(path, "")
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads the text of the file at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let at =
            |span: std::ops::Range<usize>, what: String, fix| place(path, text, span, what, fix);
        let raw: RawConfig = toml::from_str(text).map_err(|error| {
            at(
                error.span().unwrap_or(0..0),
                error.message().to_owned(),
                "see config/approver.toml or docs/approver.md for the keys",
            )
        })?;
        let dir = absolute(raw.dir, &at)?.unwrap_or_else(|| DEFAULT_DIR.into());
        let mut names = Vec::new();
        for name in raw.names.unwrap_or_default() {
            if !is_name(name.get_ref()) {
                let what = format!(
                    "{:?} is neither a host name nor an IP address",
                    name.get_ref()
                );
                return Err(at(
                    name.span(),
                    what,
                    "write the name hosts reach this gateway by, such as \"approver.example.com\"",
                ));
            }
            names.push(name.into_inner());
        }
        let people_listen = raw.people_listen.unwrap_or(([127, 0, 0, 1], 8444).into());
        let inbox_url = match raw.inbox_url {
            Some(url)
                if !url.get_ref().starts_with("https://")
                    || url.get_ref().contains(['"', '<', '>', '|', ' ', '?', '#']) =>
            {
                return Err(at(
                    url.span(),
                    "not an https:// address".to_owned(),
                    "write it as people's browsers reach it, such as \"https://approver.example.com:8444\"",
                ));
            }
            url => url.map(|url| url.into_inner().trim_end_matches('/').to_owned()),
        };
        let people_tls = match (raw.people_tls_cert, raw.people_tls_key) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                return Err(at(
                    one.span(),
                    "a certificate needs its key".to_owned(),
                    "set both people_tls_cert and people_tls_key, or neither",
                ));
            }
            (cert, key) => absolute(cert, &at)?
                .zip(absolute(key, &at)?)
                .map(|(cert, key)| TlsFiles { cert, key }),
        };
        let most = |value: Option<Spanned<u32>>, usual| match value {
            Some(most) if *most.get_ref() == 0 => Err(at(
                most.span(),
                "nobody could ask anything".to_owned(),
                "give a number from 1",
            )),
            most => Ok(most.map_or(usual, Spanned::into_inner)),
        };
        let usual = Limits::default();
        let limits = Limits {
            pending_per_host: most(raw.max_pending_per_host, usual.pending_per_host)?,
            pending_per_agent: most(raw.max_pending_per_agent, usual.pending_per_agent)?,
            prompts_per_agent: most(raw.max_prompts_per_agent, usual.prompts_per_agent)?,
            auto_deny_after: raw.auto_deny_after.unwrap_or(usual.auto_deny_after),
        };
        Ok(Self {
            dir,
            names,
            host_listen: raw.host_listen.unwrap_or(([0, 0, 0, 0], 8443).into()),
            people_listen,
            inbox_url,
            people_tls,
            channels: channels::config::channels(raw.channel, raw.notify, &at)?,
            metrics_listen: raw.metrics_listen,
            limits,
            roster: groups::roster(raw.group, &at)?,
            oidc: oidc::settings(raw.oidc, &at)?,
            postgres: raw.postgres.map(|raw| raw.check(&at)).transpose()?,
        })
    }

    /// The inbox as people reach it; `kept` are the names given to `init`.
    pub fn inbox_url(&self, kept: &[String]) -> String {
        let name = self.names.first().or(kept.first());
        let name = name.map_or("127.0.0.1", String::as_str);
        let made = || format!("https://{name}:{}", self.people_listen.port());
        self.inbox_url.clone().unwrap_or_else(made)
    }

    /// The names in the certificate: the configured ones and those of the machine itself.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = self.names.clone();
        for own in ["localhost", "127.0.0.1", "::1"] {
            if !names.iter().any(|name| name == own) {
                names.push(own.to_owned());
            }
        }
        for listen in [self.host_listen, self.people_listen] {
            let ip = listen.ip().to_string();
            if !listen.ip().is_unspecified() && !names.contains(&ip) {
                names.push(ip);
            }
        }
        names
    }
}

fn absolute(
    path: Option<Spanned<PathBuf>>,
    at: &impl Fn(std::ops::Range<usize>, String, &'static str) -> ConfigError,
) -> Result<Option<PathBuf>, ConfigError> {
    match path {
        Some(path) if !path.get_ref().is_absolute() => Err(at(
            path.span(),
            "not an absolute path".to_owned(),
            "start it with /",
        )),
        path => Ok(path.map(Spanned::into_inner)),
    }
}

/// Whether a certificate can carry `name`.
pub fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label))
}

fn place(
    path: &Path,
    text: &str,
    span: std::ops::Range<usize>,
    what: String,
    fix: &'static str,
) -> ConfigError {
    let start = span.start.min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let source_line = text[line_start..]
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let column = before[line_start..].chars().count() + 1;
    let marked = text
        .get(start..span.end.min(text.len()))
        .unwrap_or_default();
    let width = marked
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        .max(1);
    ConfigError::Place(Place {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column,
        source_line,
        width,
        what,
        fix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/syshold/approver.toml"), text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped = include_str!("../../config/approver.toml");
        assert_eq!(parse(shipped).unwrap(), parse("").unwrap());
        let live: String = shipped
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.contains(" = ") || line.starts_with('['))
            .map(|line| format!("{}\n", line.trim_start()))
            .collect();
        parse(&live).expect("every commented key is one the parser knows");
    }

    #[test]
    fn mistakes_name_the_line_and_the_fix() {
        let table = [
            ("dir = \"x\"", ":1:7:", "start it with /"),
            (
                "\nnames = [\"a\", \"b c\"]",
                ":2:15:",
                "approver.example.com",
            ),
            ("inbox_url = \"http://x\"", ":1:13:", "https://"),
            ("people_tls_key = \"/k\"", ":1:18:", "both"),
            ("max_pending_per_host = 0", ":1:24:", "from 1"),
            ("host_listen = \"8443\"", ":1:15:", "docs/approver.md"),
            ("surprise = 1", ":1:1:", "docs/approver.md"),
            ("[[group]]\nname = \"a b\"", ":2:8:", "accounts list"),
            (
                "[[group]]\nname = \"a\"\n[[group]]\nname = \"a\"",
                ":4:8:",
                "one of the two",
            ),
            (
                "[[group]]\nname = \"a\"\non_call = [\"b\"]",
                ":3:11:",
                "together",
            ),
            (
                "[[group]]\nname = \"a\"\non_call = []\nturn = \"7d\"\nfrom = \"2026-01-05T09:00:00Z\"",
                ":3:11:",
                "at least one",
            ),
            (
                "[[group]]\nname = \"a\"\non_call = [\"b\"]\nturn = \"0d\"\nfrom = \"2026-01-05T09:00:00Z\"",
                ":4:8:",
                "7d",
            ),
            (
                "[[group]]\nname = \"a\"\non_call = [\"b\"]\nturn = \"7d\"\nfrom = \"monday\"",
                ":5:8:",
                "zone",
            ),
            (
                "[[group]]\nname = \"a\"\nescalate_after = \"2m\"",
                ":3:18:",
                "together",
            ),
            (
                "[[group]]\nname = \"a\"\nescalate_after = \"2m\"\nescalate_to = [\"a\"]",
                ":4:15:",
                "another group",
            ),
            (
                "[oidc]\nissuer = \"http://x\"\nclient_id = \"a\"",
                ":2:10:",
                "to the letter",
            ),
            (
                "[oidc]\nissuer = \"https://x\"\nclient_id = \"a\"\nallowed_groups = []",
                ":4:18:",
                "leave the key out",
            ),
            (
                "[oidc]\nissuer = \"https://x\"\nclient_id = \"a\"\nclient_secret_file = \"s\"",
                ":4:22:",
                "start it with /",
            ),
            ("dir = ", ":1:", "docs/approver.md"),
            ("[postgres]\nurl = \"mysql://x\"", ":2:7:", "postgresql://"),
            (
                "[postgres]\nurl = \"postgresql://u@h/d?sslmode=disable\"",
                ":2:7:",
                "sslmode",
            ),
            (
                "[postgres]\nurl = \"postgresql:///d\"",
                ":2:7:",
                "postgresql://",
            ),
        ];
        for (text, place, fix) in table {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(place) && error.contains(fix) && error.contains('^'),
                "{text}\n{error}"
            );
        }
    }
}
