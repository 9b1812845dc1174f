//! The way to the server: TLS, the password from its file.
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use crate::config::Postgres as Settings;
use crate::store::StoreError;

const MAX_PASSWORD: u64 = 4096;
/// Below [`super::PATIENCE`], so that a second address is tried.
const CONNECT: Duration = Duration::from_secs(5);

type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// A server, as it is connected to.
pub(super) struct Target {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Target {
    pub(super) fn new(settings: &Settings) -> Result<Self, StoreError> {
        let mut config = settings.url.clone();
        config.ssl_mode(mode(&settings.url));
        config
            .application_name("syshold-approver")
            .connect_timeout(CONNECT)
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10));
        if let Some(path) = &settings.password_file {
            config.password(password(path)?.as_bytes());
        }
        let tls = MakeRustlsConnect::new(tls(settings.ca_file.as_deref())?);
        Ok(Self { config, tls })
    }

    pub(super) async fn connect(&self) -> Result<(Client, Connection<Socket, Stream>), Error> {
        self.config.connect(self.tls.clone()).await
    }
}

/// TLS whatever the URL says, but for a server on this machine.
fn mode(config: &Config) -> SslMode {
    let hosts = config.get_hosts();
    let sockets = hosts.iter().all(|host| matches!(host, Host::Unix(_)));
    let here = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    };
    if sockets || (hosts.iter().all(here) && config.get_ssl_mode() == SslMode::Disable) {
        SslMode::Disable
    } else {
        SslMode::Require
    }
}

fn password(path: &Path) -> Result<Zeroizing<String>, StoreError> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_PASSWORD).read_to_string(&mut text))
        .map_err(|source| StoreError::Create {
            path: path.to_owned(),
            source,
        })?;
    Ok(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

fn tls(ca: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let certificates = certificates(path)?;
            roots.add_parsable_certificates(certificates);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Postgres(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let bad = || StoreError::Ca(PathBuf::from(path));
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|_| bad())?;
    if found.is_empty() {
        Err(bad())
    } else {
        Ok(found)
    }
}
