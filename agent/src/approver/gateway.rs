//! What enrolment leaves on the host: whom to ask, whose signatures count, and the host's key.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, str::FromStr};

use reqwest::Url;
use serde::{Deserialize, Serialize};
use syshold_protocol::dsse::KeyFileError;
use syshold_protocol::{HostId, PinnedKeys, PublicKey, SigningKey};

pub const STATE_DIR: &str = "/var/lib/syshold";
const GATEWAY_FILE: &str = "gateway.json";
const KEY_FILE: &str = "host.key";
/// Far more than either file needs.
const MAX_FILE: u64 = 256 * 1024;

/// The gateway this host is enrolled with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    pub url: GatewayUrl,
    pub host_id: HostId,
    /// The only CA that is trusted, whatever the system trusts.
    pub ca_pem: String,
    /// The only keys whose decisions count.
    pub gateway_keys: PinnedKeys,
    /// The only witness whose cosignatures are kept: `name+id+base64` (C2SP signed-note).
    pub witness: String,
    /// Of the key enrolled: tells a `host.key` that belongs to another enrolment.
    pub host_key: PublicKey,
    /// `http://host:port` to go through; nothing in the environment adds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this host is not enrolled ({path} is not there); make a token on the gateway with \
         `syshold-approver enrol` and run `syshold enrol`"
    )]
    NotEnrolled { path: PathBuf },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} does not parse: {source}; run `syshold enrol` again")]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path}: {source}; run `syshold enrol` again")]
    Key { path: PathBuf, source: KeyFileError },
    #[error(
        "{path} can be read by others (mode {mode:o}); run `chmod 600 {path}`, and if it may have been read, `syshold enrol` again"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is not the key that was enrolled; run `syshold enrol` again")]
    OtherKey { path: PathBuf },
}

/// Scheme, host and port of the gateway: https and nothing after the port, because the signed
/// calls name the path as the gateway sees it, so a prefix that a proxy strips could not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayUrl(Url);

/// A gateway address that cannot be used. It is not repeated: a password may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gateway address: {why}; give it as https://host:port")]
pub struct UrlError {
    why: &'static str,
}

impl Gateway {
    /// Reads the enrolment from the state folder, and the key that belongs to it.
    pub fn load(state: &Path) -> Result<(Self, SigningKey), Error> {
        let path = state.join(GATEWAY_FILE);
        let (bytes, _) = match read(&path) {
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotEnrolled { path });
            }
            other => other?,
        };
        let gateway: Self = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        let path = state.join(KEY_FILE);
        let (bytes, mode) = read(&path)?;
        let bytes = zeroize::Zeroizing::new(bytes);
        if mode & 0o077 != 0 {
            return Err(Error::Exposed { path, mode });
        }
        let key = SigningKey::from_pem(&bytes).map_err(|source| Error::Key {
            path: path.clone(),
            source,
        })?;
        if key.public() != gateway.host_key {
            return Err(Error::OtherKey { path });
        }
        Ok((gateway, key))
    }

    /// Whether a gateway file is there at all; [`Self::load`] says whether it is any good.
    #[must_use]
    pub fn enrolled(state: &Path) -> bool {
        state.join(GATEWAY_FILE).exists()
    }

    /// The host and port that no governed process may reach.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        (
            self.url.0.host_str().unwrap_or_default().to_owned(),
            self.url.0.port_or_known_default().unwrap_or(443),
        )
    }
}

impl GatewayUrl {
    /// The address of one call. None for a path that is none.
    #[must_use]
    pub fn call(&self, path: &str) -> Option<Url> {
        self.0.join(path).ok()
    }
}

impl FromStr for GatewayUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url: Url = text.trim().parse().map_err(|_| UrlError {
            why: "it does not parse",
        })?;
        let why = if url.scheme() != "https" {
            "it must be https"
        } else if url.host_str().is_none() {
            "it has no host"
        } else if !url.username().is_empty() || url.password().is_some() {
            "no user name or password belongs in it"
        } else if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            "nothing may follow the port"
        } else {
            return Ok(Self(url));
        };
        Err(UrlError { why })
    }
}

impl TryFrom<String> for GatewayUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<GatewayUrl> for String {
    fn from(url: GatewayUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// A key on its way: written, not yet under its name.
#[expect(missing_debug_implementations, reason = "holds the key")]
pub struct FreshKey {
    pub key: SigningKey,
    state: PathBuf,
}

impl FreshKey {
    /// Makes a key and writes it beside the old one. A disk that cannot take it is found out
    /// here, before a single-use token is spent.
    pub fn create(state: &Path) -> Result<Self, Error> {
        let mut folder = fs::DirBuilder::new();
        folder
            .recursive(true)
            .mode(0o750)
            .create(state)
            .map_err(|source| Error::Write {
                path: state.to_owned(),
                source,
            })?;
        let key = SigningKey::generate();
        write_fresh(&state.join(KEY_FILE), key.to_pem().as_bytes())?;
        Ok(Self {
            key,
            state: state.to_owned(),
        })
    }

    /// Puts the key and the gateway in place. A crash in between is found at the next load
    /// ([`Error::OtherKey`]), not mistaken for an enrolment.
    pub fn store(self, gateway: &Gateway) -> Result<(), Error> {
        let path = self.state.join(GATEWAY_FILE);
        let mut bytes = serde_json::to_vec_pretty(gateway).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        bytes.push(b'\n');
        write_fresh(&path, &bytes)?;
        adopt(&self.state.join(KEY_FILE))?;
        adopt(&path)?;
        let sync = File::open(&self.state).and_then(|dir| dir.sync_all());
        sync.map_err(|source| Error::Write {
            path: self.state.clone(),
            source,
        })
    }
}

/// An enrolment that came to nothing leaves nothing behind; after [`FreshKey::store`] these
/// names are gone already.
impl Drop for FreshKey {
    fn drop(&mut self) {
        for name in [KEY_FILE, GATEWAY_FILE] {
            let _ = fs::remove_file(fresh(&self.state.join(name)));
        }
    }
}

fn fresh(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write_fresh(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let path = fresh(path);
    let write = || {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| Error::Write {
        path: path.clone(),
        source,
    })
}

fn adopt(path: &Path) -> Result<(), Error> {
    fs::rename(fresh(path), path).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<(Vec<u8>, u32), Error> {
    let read = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode() & 0o7777;
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    read().map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn gateway(host_key: PublicKey) -> Gateway {
        Gateway {
            url: "https://gw.example:8443".parse().unwrap(),
            host_id: "web-1".parse().unwrap(),
            ca_pem: "pem".to_owned(),
            gateway_keys: SigningKey::generate().public().into(),
            witness: "w".to_owned(),
            host_key,
            proxy: None,
        }
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("not/yet");
        assert!(matches!(
            Gateway::load(&dir),
            Err(Error::NotEnrolled { .. })
        ));
        let fresh = FreshKey::create(&dir).unwrap();
        let stored = gateway(fresh.key.public());
        fresh.store(&stored).unwrap();
        let (loaded, key) = Gateway::load(&dir).unwrap();
        assert_eq!(loaded.address(), ("gw.example".to_owned(), 8443));
        assert_eq!(loaded.gateway_keys, stored.gateway_keys);
        assert_eq!(key.public(), stored.host_key);
        let left: Vec<_> = fs::read_dir(&dir).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn a_key_others_can_read_or_of_another_enrolment_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = FreshKey::create(dir.path()).unwrap();
        let stored = gateway(fresh.key.public());
        fresh.store(&stored).unwrap();
        let key = dir.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Gateway::load(dir.path()),
            Err(Error::Exposed { mode: 0o640, .. })
        ));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, SigningKey::generate().to_pem().as_bytes()).unwrap();
        assert!(matches!(
            Gateway::load(dir.path()),
            Err(Error::OtherKey { .. })
        ));
        fs::write(&key, "rubbish").unwrap();
        assert!(matches!(Gateway::load(dir.path()), Err(Error::Key { .. })));
    }

    #[test]
    fn only_a_plain_https_address_will_do() {
        let parse = |text: &str| text.parse::<GatewayUrl>();
        for good in [
            "https://gw.example:8443",
            "https://gw.example",
            "https://[2001:db8::1]:8443",
        ] {
            assert_eq!(parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "gw.example:8443",
            "http://gw.example",
            "https://gw.example/prefix",
            "https://gw.example/?a",
            "https://user:secret@gw.example",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
