//! Signed notes (C2SP signed-note) and the checkpoints that are such notes (C2SP tlog-checkpoint),
//! so that stock tools verify what we sign. Ed25519 only: as a plain note signature, and as a
//! witness's `cosignature/v1` (C2SP tlog-cosignature), which also says when it was made.
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::tree::TreeHash;

/// What a key signs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// The note itself: a log's key.
    Log = 1,
    /// A timestamped cosignature: a witness's key.
    Witness = 4,
}

/// A public key with the name it signs under: `name+id+base64`, as Go's `sumdb/note` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    role: Role,
    key: VerifyingKey,
    id: u32,
}

/// A private key with the name it signs under.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct NoteSigner {
    name: String,
    role: Role,
    key: SigningKey,
    id: u32,
}

/// Why a text is no key, note or checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("not a verifier key of the form name+hash+key: {0}")]
    Key(&'static str),
    #[error("not a signed note: {0}")]
    Note(&'static str),
    #[error("not a checkpoint of three lines: {0}")]
    Checkpoint(&'static str),
}

/// Whether a name can sign: no spaces, no plus sign.
pub fn good_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

fn key_id(name: &str, role: Role, key: &VerifyingKey) -> u32 {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', role as u8])
        .chain_update(key.as_bytes())
        .finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// What is signed: the text, or for a cosignature the text under a line with its time.
fn message(role: Role, text: &str, time: u64) -> String {
    match role {
        Role::Log => text.to_owned(),
        Role::Witness => format!("cosignature/v1\ntime {time}\n{text}"),
    }
}

impl VerifierKey {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// The four bytes that a signature line names its key by.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The key alone, as OpenSSL reads it: SubjectPublicKeyInfo in PEM (RFC 8410).
    pub fn pem(&self) -> String {
        const HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
        let der: Vec<u8> = HEAD.into_iter().chain(*self.bytes()).collect();
        let text = BASE64_STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// The key alone, without its name.
    pub fn bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = vec![self.role as u8];
        data.extend(self.key.as_bytes());
        let data = BASE64_STANDARD.encode(data);
        write!(f, "{}+{:08x}+{data}", self.name, self.id)
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, rest) = text.split_once('+').ok_or(NoteError::Key("no plus sign"))?;
        let (id, data) = rest
            .split_once('+')
            .ok_or(NoteError::Key("one plus sign only"))?;
        if !good_name(name) {
            return Err(NoteError::Key("a name has no spaces"));
        }
        let data = BASE64_STANDARD
            .decode(data)
            .map_err(|_| NoteError::Key("the key is not base64"))?;
        let (role, bytes) = match data.split_first() {
            Some((1, bytes)) => (Role::Log, bytes),
            Some((4, bytes)) => (Role::Witness, bytes),
            _ => {
                return Err(NoteError::Key(
                    "neither type 1 (Ed25519) nor 4 (cosignature)",
                ));
            }
        };
        let key = <&[u8; 32]>::try_from(bytes)
            .ok()
            .and_then(|bytes| VerifyingKey::from_bytes(bytes).ok())
            .ok_or(NoteError::Key("not an Ed25519 key"))?;
        let key = Self {
            name: name.to_owned(),
            role,
            key,
            id: key_id(name, role, &key),
        };
        if format!("{:08x}", key.id) == id {
            Ok(key)
        } else {
            Err(NoteError::Key(
                "the hash is not the one of this name and key",
            ))
        }
    }
}

impl NoteSigner {
    /// From the 32 secret bytes of an Ed25519 key.
    pub fn new(name: &str, role: Role, secret: &[u8; 32]) -> Result<Self, NoteError> {
        if !good_name(name) {
            return Err(NoteError::Key("a name has no spaces"));
        }
        let key = SigningKey::from_bytes(secret);
        Ok(Self {
            name: name.to_owned(),
            role,
            id: key_id(name, role, &key.verifying_key()),
            key,
        })
    }

    /// A new key of a log.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        let key = SigningKey::generate(&mut rand_core::OsRng);
        Self::new(name, Role::Log, &key.to_bytes())
    }

    pub fn verifier(&self) -> VerifierKey {
        VerifierKey {
            name: self.name.clone(),
            role: self.role,
            key: self.key.verifying_key(),
            id: self.id,
        }
    }

    /// `PRIVATE+KEY+name+hash+base64`, as Go's `sumdb/note` writes it.
    pub fn secret_text(&self) -> Zeroizing<String> {
        let mut data = Zeroizing::new(vec![self.role as u8]);
        data.extend(self.key.as_bytes());
        let id = self.id;
        let data = Zeroizing::new(BASE64_STANDARD.encode(&*data));
        Zeroizing::new(format!("PRIVATE+KEY+{}+{id:08x}+{}", self.name, *data))
    }

    /// Reads what [`secret_text`](Self::secret_text) writes.
    pub fn from_secret_text(text: &str) -> Result<Self, NoteError> {
        let rest = text
            .trim_end()
            .strip_prefix("PRIVATE+KEY+")
            .ok_or(NoteError::Key("it does not begin with PRIVATE+KEY+"))?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(data)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("a part is missing"));
        };
        let data = Zeroizing::new(
            BASE64_STANDARD
                .decode(data)
                .map_err(|_| NoteError::Key("the key is not base64"))?,
        );
        let (role, secret) = match data.split_first() {
            Some((1, secret)) => (Role::Log, secret),
            Some((4, secret)) => (Role::Witness, secret),
            _ => {
                return Err(NoteError::Key(
                    "neither type 1 (Ed25519) nor 4 (cosignature)",
                ));
            }
        };
        let secret: &[u8; 32] = secret
            .try_into()
            .map_err(|_| NoteError::Key("not an Ed25519 key"))?;
        let signer = Self::new(name, role, secret)?;
        if format!("{:08x}", signer.id) == id {
            Ok(signer)
        } else {
            Err(NoteError::Key(
                "the hash is not the one of this name and key",
            ))
        }
    }

    /// Signs `text`; a witness says at what second since 1970.
    pub fn sign(&self, text: &str, time: u64) -> Signature {
        let mut bytes = match self.role {
            Role::Log => Vec::new(),
            Role::Witness => time.to_be_bytes().to_vec(),
        };
        let signature = self.key.sign(message(self.role, text, time).as_bytes());
        bytes.extend(signature.to_bytes());
        Signature {
            name: self.name.clone(),
            id: self.id,
            bytes,
        }
    }
}

/// A signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    pub id: u32,
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads one line, without its newline.
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        let (name, data) = line
            .strip_prefix("— ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(NoteError::Note("a signature line is `— name base64`"))?;
        let data = BASE64_STANDARD
            .decode(data)
            .map_err(|_| NoteError::Note("a signature is not base64"))?;
        let Some((id, bytes)) = data.split_first_chunk::<4>().filter(|_| good_name(name)) else {
            return Err(NoteError::Note("a signature without name or key hash"));
        };
        Ok(Self {
            name: name.to_owned(),
            id: u32::from_be_bytes(*id),
            bytes: bytes.to_vec(),
        })
    }

    /// Whether the line says that this key made it.
    pub fn claims(&self, key: &VerifierKey) -> bool {
        self.name == key.name && self.id == key.id
    }

    /// Some when this key signed `text` with it: the time of a cosignature in seconds since 1970,
    /// 0 for a plain signature.
    pub fn verify(&self, key: &VerifierKey, text: &str) -> Option<u64> {
        if !self.claims(key) {
            return None;
        }
        let (time, bytes) = match key.role {
            Role::Log => (0, self.bytes.as_slice()),
            Role::Witness => {
                let (time, bytes) = self.bytes.split_first_chunk::<8>()?;
                (u64::from_be_bytes(*time), bytes)
            }
        };
        let signature = Ed25519::from_slice(bytes).ok()?;
        let message = message(key.role, text, time);
        key.key
            .verify_strict(message.as_bytes(), &signature)
            .is_ok()
            .then_some(time)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = self.id.to_be_bytes().to_vec();
        data.extend(&self.bytes);
        write!(f, "— {} {}", self.name, BASE64_STANDARD.encode(data))
    }
}

/// A text with signature lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Ends with a newline.
    pub text: String,
    pub signatures: Vec<Signature>,
}

/// A note with more lines is refused.
const MOST_SIGNATURES: usize = 100;

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(raw: &str) -> Result<Self, NoteError> {
        if raw.contains(|c: char| c < ' ' && c != '\n') {
            return Err(NoteError::Note("control characters"));
        }
        let at = raw
            .rfind("\n\n")
            .ok_or(NoteError::Note("no blank line before the signatures"))?;
        let (text, lines) = (&raw[..=at], &raw[at + 2..]);
        let lines = lines
            .strip_suffix('\n')
            .ok_or(NoteError::Note("it does not end with a signature line"))?;
        let signatures: Vec<_> = lines
            .split('\n')
            .take(MOST_SIGNATURES + 1)
            .map(Signature::parse)
            .collect::<Result<_, _>>()?;
        if signatures.len() > MOST_SIGNATURES {
            return Err(NoteError::Note("more than 100 signatures"));
        }
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

/// The head of a tree: `origin`, size and root, in three lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: TreeHash,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = BASE64_STANDARD.encode(self.root.0);
        writeln!(f, "{}\n{}\n{root}", self.origin, self.size)
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    /// Reads the text of a note. Extension lines are refused: we write none.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let lines: Vec<&str> = text
            .strip_suffix('\n')
            .ok_or(NoteError::Checkpoint("no newline at its end"))?
            .split('\n')
            .collect();
        let [origin, size, root] = lines[..] else {
            return Err(NoteError::Checkpoint("more or fewer lines"));
        };
        if !good_name(origin) {
            return Err(NoteError::Checkpoint("an origin has no spaces"));
        }
        let number = size
            .parse::<u64>()
            .ok()
            .filter(|number| number.to_string() == size)
            .ok_or(NoteError::Checkpoint("the size is not a plain number"))?;
        let root = BASE64_STANDARD
            .decode(root)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(NoteError::Checkpoint("the root is not 32 bytes in base64"))?;
        Ok(Self {
            origin: origin.to_owned(),
            size: number,
            root: TreeHash(root),
        })
    }
}

/// A note that is a checkpoint.
pub fn parse_checkpoint(raw: &str) -> Result<(Note, Checkpoint), NoteError> {
    let note: Note = raw.parse()?;
    let checkpoint = note.text.parse()?;
    Ok((note, checkpoint))
}
