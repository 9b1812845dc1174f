//! `[postgres]`: where gateways that share their state have it.
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use tokio_postgres::config::{Host, SslMode};
use toml::Spanned;

use super::{ConfigError, absolute};

/// A PostgreSQL database.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Without a password.
    pub url: tokio_postgres::Config,
    pub password_file: Option<PathBuf>,
    /// The CA of the server; without it, those that the machine trusts.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("hosts", &self.url.get_hosts())
            .field("dbname", &self.url.get_dbname())
            .field("user", &self.url.get_user())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPostgres {
    url: Spanned<String>,
    password_file: Option<Spanned<PathBuf>>,
    ca_file: Option<Spanned<PathBuf>>,
}

impl RawPostgres {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
    ) -> Result<Postgres, ConfigError> {
        let span = self.url.span();
        // An error shows the line, and this one may hold a password.
        let bad = |what: &str, fix| match at(span.clone(), what.to_owned(), fix) {
            ConfigError::Place(mut place) => {
                "url = (not shown)".clone_into(&mut place.source_line);
                place.width = 1;
                ConfigError::Place(place)
            }
            error => error,
        };
        let text = self.url.get_ref();
        let url: Option<tokio_postgres::Config> =
            Some(text.starts_with("postgresql://") || text.starts_with("postgres://"))
                .filter(|known| *known)
                .and_then(|_| text.parse().ok());
        let Some(url) = url.filter(|url| !url.get_hosts().is_empty()) else {
            return Err(bad(
                "not the URL of a PostgreSQL server",
                "write it as \"postgresql://USER@HOST:5432/DATABASE\"",
            ));
        };
        if url.get_password().is_some() {
            return Err(bad(
                "a password does not belong into this file",
                "put it into a file of its own, mode 0600, and name that as password_file",
            ));
        }
        let here = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        };
        if url.get_ssl_mode() == SslMode::Disable && !url.get_hosts().iter().all(here) {
            return Err(bad(
                "sslmode=disable: everybody on the way could answer for people",
                "leave sslmode out: TLS is always used, but to this machine itself",
            ));
        }
        Ok(Postgres {
            url,
            password_file: absolute(self.password_file, at)?,
            ca_file: absolute(self.ca_file, at)?,
        })
    }
}
