//! The state folder's keys: the CA that hosts pin, the key that decisions are signed with, and the
//! one that cosigns the ledgers of hosts.
//!
//! `ca.key`, `decision.key`, `witness.key` (0600), `ca.pem` and `names` live in the folder (0700). The server
//! certificate does not: it is made at each start, and again while running, long before it ends.
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand_core::{OsRng, RngCore as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use syshold_ledger::note::{NoteError, NoteSigner, Role};
use syshold_protocol::dsse::KeyFileError;
use syshold_protocol::{Digest, SigningKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::config::TlsFiles;

/// How long a server certificate is good; it is replaced in a twelfth of that.
const SERVER_LIFE: Duration = Duration::from_secs(397 * DAY);
/// How often [`Keys::server_config`] is to be asked again.
pub const RENEW_EVERY: Duration = Duration::from_secs(30 * DAY);
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// What the gateway signs with.
#[expect(missing_debug_implementations, reason = "holds private keys")]
pub struct Keys {
    pub decision: SigningKey,
    pub witness: Arc<NoteSigner>,
    ca_key: KeyPair,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    names: Vec<String>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{}: {source}; run as root, or as the user the service runs as", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Decision { path: PathBuf, source: KeyFileError },
    #[error("{}: {source}; restore it from a backup", path.display())]
    Witness { path: PathBuf, source: NoteError },
    #[error("{}: {source}; restore it from a backup (a new CA means that every host enrols again)", path.display())]
    Authority { path: PathBuf, source: rcgen::Error },
    #[error("{}: not a PEM certificate or key; restore it from a backup", path.display())]
    Pem { path: PathBuf },
    #[error("{} is missing although there is state beside it; restore it from a backup, or move the whole folder away to start anew", .0.display())]
    Lost(PathBuf),
    #[error("the certificate cannot be made: {0}; check `names`")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS: {0}; the certificate and the key must belong together")]
    Tls(#[from] rustls::Error),
}

impl Keys {
    /// The folder's keys, made if there are none. `names` are added to those kept in the folder.
    pub fn open_or_init(dir: &Path, names: &[String]) -> Result<Self, KeysError> {
        make_dir(dir)?;
        let ca_path = dir.join("ca.pem");
        if !ca_path.exists() {
            if dir.join("state.db").exists() {
                return Err(KeysError::Lost(ca_path));
            }
            init(dir, &ca_path)?;
        }
        keep_names(&dir.join("names"), names)?;
        Self::open(dir)
    }

    /// The folder's keys.
    pub fn open(dir: &Path) -> Result<Self, KeysError> {
        let at = |name: &str| dir.join(name);
        let decision = SigningKey::from_pem(&read(&at("decision.key"))?).map_err(|source| {
            KeysError::Decision {
                path: at("decision.key"),
                source,
            }
        })?;
        let witness = read_witness(&at("witness.key"))?;
        let ca_key = read_ca_key(&at("ca.key"))?;
        let ca_pem = String::from_utf8(read(&at("ca.pem"))?.to_vec())
            .map_err(|_| KeysError::Pem { path: at("ca.pem") })?;
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| KeysError::Pem { path: at("ca.pem") })?;
        let kept = if at("names").exists() {
            read(&at("names"))?
        } else {
            Zeroizing::default()
        };
        let names = String::from_utf8_lossy(&kept)
            .lines()
            .map(str::to_owned)
            .collect();
        Ok(Self {
            decision,
            witness: Arc::new(witness),
            ca_key,
            ca_pem,
            ca_der,
            names,
        })
    }

    /// The CA certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The names given to `init`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What every gateway that shares its state has in common, by name.
    pub fn named(&self) -> [(&'static str, String); 3] {
        [
            ("CA", self.ca_sha256().to_string()),
            ("decision key", self.decision.public().to_string()),
            ("witness key", self.witness.verifier().to_string()),
        ]
    }

    /// What an enrolment token carries: SHA-256 of the CA certificate's DER.
    pub fn ca_sha256(&self) -> Digest {
        Digest::of(&self.ca_der)
    }

    /// TLS with a fresh certificate for `names` and those kept in the folder; the CA is sent along,
    /// because that is what an enrolling host knows by digest.
    pub fn server_config(&self, names: &[String]) -> Result<Arc<ServerConfig>, KeysError> {
        let mut all = names.to_vec();
        all.extend(
            self.names
                .iter()
                .filter(|name| !names.contains(name))
                .cloned(),
        );
        let mut params = CertificateParams::new(all)?;
        params.distinguished_name = name("Syshold gateway");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(SERVER_LIFE);
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(ca_params(&self.ca_key), &self.ca_key);
        let certificate = params.signed_by(&key, &issuer)?;
        let chain = vec![certificate.der().clone(), self.ca_der.clone()];
        server_config(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

/// TLS with a certificate from files.
pub fn server_config_from(files: &TlsFiles) -> Result<Arc<ServerConfig>, KeysError> {
    let bad = |path: &Path| KeysError::Pem {
        path: path.to_owned(),
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(&files.cert)?)
        .collect::<Result<_, _>>()
        .map_err(|_| bad(&files.cert))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| bad(&files.key))?;
    server_config(chain, key)
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, KeysError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// `ca.pem` comes last: where it exists, the folder is complete.
fn init(dir: &Path, ca_path: &Path) -> Result<(), KeysError> {
    let decision = dir.join("decision.key");
    if !decision.exists() {
        write(&decision, SigningKey::generate().to_pem().as_bytes(), 0o600)?;
    }
    let witness = dir.join("witness.key");
    if !witness.exists() {
        write(&witness, new_witness(&witness)?.as_bytes(), 0o600)?;
    }
    let key_path = dir.join("ca.key");
    if !key_path.exists() {
        write(
            &key_path,
            Zeroizing::new(KeyPair::generate()?.serialize_pem()).as_bytes(),
            0o600,
        )?;
    }
    let key = read_ca_key(&key_path)?;
    let certificate = ca_params(&key).self_signed(&key)?;
    write(ca_path, certificate.pem().as_bytes(), 0o644)
}

fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = Digest::of(key.public_key_raw()).to_string();
    // A browser that trusts two gateways tells their CAs apart by name.
    params.distinguished_name = name(&format!("Syshold gateway CA {}", &id[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(CA_LIFE);
    params
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// From yesterday, because clocks differ.
fn validity<T: From<SystemTime>>(life: Duration) -> (T, T) {
    let now = SystemTime::now();
    ((now - Duration::from_secs(DAY)).into(), (now + life).into())
}

fn keep_names(path: &Path, names: &[String]) -> Result<(), KeysError> {
    let mut kept = if path.exists() {
        String::from_utf8_lossy(&read(path)?).into_owned()
    } else {
        String::new()
    };
    let new: Vec<_> = names
        .iter()
        .filter(|name| !kept.lines().any(|line| line == **name))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    for name in new {
        kept.push_str(name);
        kept.push('\n');
    }
    write(path, kept.as_bytes(), 0o644)
}

/// A witness's key, under a name that no other gateway has.
fn new_witness(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let mut secret = Zeroizing::new([0; 32]);
    OsRng.fill_bytes(&mut *secret);
    let unique = Uuid::new_v4().simple().to_string();
    let name = format!("syshold-gateway/{}", &unique[..12]);
    let signer = NoteSigner::new(&name, Role::Witness, &secret).map_err(no_witness(path))?;
    Ok(Zeroizing::new(format!("{}\n", *signer.secret_text())))
}

fn read_witness(path: &Path) -> Result<NoteSigner, KeysError> {
    let bytes = read(path).map_err(|error| match error {
        KeysError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            KeysError::Lost(path.to_owned())
        }
        error => error,
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| KeysError::Pem {
        path: path.to_owned(),
    })?;
    let signer = NoteSigner::from_secret_text(text).map_err(no_witness(path))?;
    if signer.verifier().role() == Role::Witness {
        Ok(signer)
    } else {
        Err(no_witness(path)(NoteError::Key("a log's key")))
    }
}

fn no_witness(path: &Path) -> impl Fn(NoteError) -> KeysError {
    let path = path.to_owned();
    move |source| KeysError::Witness {
        path: path.clone(),
        source,
    }
}

fn read_ca_key(path: &Path) -> Result<KeyPair, KeysError> {
    let pem = read(path)?;
    let text = std::str::from_utf8(&pem).map_err(|_| KeysError::Pem {
        path: path.to_owned(),
    })?;
    KeyPair::from_pem(text).map_err(|source| KeysError::Authority {
        path: path.to_owned(),
        source,
    })
}

fn make_dir(dir: &Path) -> Result<(), KeysError> {
    let at = |source| KeysError::File {
        path: dir.to_owned(),
        source,
    };
    // `recursive` alone would follow a link that systemd's DynamicUser puts here; that is wanted.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(at)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|source| KeysError::File {
            path: path.to_owned(),
            source,
        })
}

/// All of the file or nothing of it, durable, and owned by whoever owns the folder: root may run
/// `init` for a service that is not root.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeysError> {
    let at = |source| KeysError::File {
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        give_to_dir_owner(path)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(at)
}

/// Gives `path` to the owner of its folder.
pub fn give_to_dir_owner(path: &Path) -> io::Result<()> {
    let dir = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    let file = fs::metadata(path)?;
    if (file.uid(), file.gid()) == (dir.uid(), dir.gid()) {
        Ok(())
    } else {
        chown(path, Some(dir.uid()), Some(dir.gid()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open_or_init(dir.path(), &["gw.example.com".to_owned()]).unwrap();
        let again = Keys::open_or_init(dir.path(), &[]).unwrap();
        assert_eq!(first.ca_sha256(), again.ca_sha256());
        assert_eq!(first.decision.public(), again.decision.public());
        assert_eq!(first.witness.verifier(), again.witness.verifier());
        assert_eq!(again.names, ["gw.example.com"]);
        for secret in ["ca.key", "decision.key", "witness.key"] {
            assert_eq!(
                fs::metadata(dir.path().join(secret)).unwrap().mode() & 0o777,
                0o600,
                "{secret}"
            );
        }
    }

    #[test]
    fn a_lost_witness_key_is_not_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open_or_init(dir.path(), &[]).unwrap();
        fs::remove_file(dir.path().join("witness.key")).unwrap();
        assert!(matches!(
            Keys::open_or_init(dir.path(), &[]),
            Err(KeysError::Lost(_))
        ));
    }

    #[test]
    fn a_lost_ca_is_not_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open_or_init(dir.path(), &[]).unwrap();
        fs::write(dir.path().join("state.db"), "").unwrap();
        fs::remove_file(dir.path().join("ca.pem")).unwrap();
        assert!(matches!(
            Keys::open_or_init(dir.path(), &[]),
            Err(KeysError::Lost(_))
        ));
    }
}
