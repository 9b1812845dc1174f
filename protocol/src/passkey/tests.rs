//! Signatures by a soft key, each part of the assertion wrong once. What real authenticators make is
//! read in `approver/tests` (Chromium's) and below (a recorded one).
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;

pub(crate) const RP: &str = "approver.example.com";

/// A key in memory.
pub(crate) struct SoftKey {
    pair: EcdsaKeyPair,
    pub(crate) pin: Pin,
}

impl SoftKey {
    pub(crate) fn new(rp_id: &str) -> Self {
        let rng = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let bytes = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, bytes.as_ref(), &rng).unwrap();
        let point = pair.public_key().as_ref()[1..].try_into().unwrap();
        let pin = Pin {
            rp_id: rp_id.to_owned(),
            key: Key::Es256(point),
        };
        Self { pair, pin }
    }

    pub(crate) fn sign(&self, challenge: &[u8]) -> Assertion {
        let client = client_data("webauthn.get", challenge, &format!("https://{RP}:8444"));
        self.sign_parts(&data(RP, USER_PRESENT | USER_VERIFIED, 7), &client)
    }

    fn sign_parts(&self, data: &[u8], client: &str) -> Assertion {
        let signed = [data, &Digest::of(client.as_bytes()).0].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap();
        Assertion {
            authenticator_data: Bytes(data.to_vec()),
            client_data_json: Bytes(client.as_bytes().to_vec()),
            signature: Bytes(signature.as_ref().to_vec()),
        }
    }
}

fn client_data(purpose: &str, challenge: &[u8], origin: &str) -> String {
    let challenge = BASE64URL.encode(challenge);
    serde_json::json!({"type": purpose, "challenge": challenge, "origin": origin, "new": {"x": 1}})
        .to_string()
}

fn data(rp_id: &str, flags: u8, counter: u32) -> Vec<u8> {
    let mut data = Digest::of(rp_id.as_bytes()).0.to_vec();
    data.push(flags);
    data.extend(counter.to_be_bytes());
    data
}

const BOTH: u8 = USER_PRESENT | USER_VERIFIED;

#[test]
fn each_part_of_an_assertion_counts() {
    let key = SoftKey::new(RP);
    let challenge = [9; 32];
    let origin = format!("https://{RP}");
    assert_eq!(key.pin.verify(&key.sign(&challenge), &challenge), Ok(7));
    assert_eq!(
        SoftKey::new(RP)
            .pin
            .verify(&key.sign(&challenge), &challenge),
        Err(PasskeyError::Signature),
        "another person's key"
    );
    let client = |purpose, challenge: &[u8], origin: &str| client_data(purpose, challenge, origin);
    let good = client("webauthn.get", &challenge, &origin);
    let cross = good.replace("\"new\"", "\"crossOrigin\":true,\"new\"");
    let long = data(RP, BOTH, 1).into_iter().chain([0; 1000]).collect();
    type Row = (&'static str, Vec<u8>, String, Result<u32, PasskeyError>);
    let table: [Row; 14] = [
        ("as it should be", data(RP, BOTH, 1), good.clone(), Ok(1)),
        (
            "extensions follow",
            [data(RP, BOTH | 0x80, 1), vec![0xa0]].concat(),
            good.clone(),
            Ok(1),
        ),
        (
            "other request",
            data(RP, BOTH, 1),
            client("webauthn.get", &[8; 32], &origin),
            Err(PasskeyError::Challenge),
        ),
        (
            "no challenge",
            data(RP, BOTH, 1),
            client("webauthn.get", &[], &origin),
            Err(PasskeyError::Challenge),
        ),
        (
            "part of it",
            data(RP, BOTH, 1),
            client("webauthn.get", &[9; 31], &origin),
            Err(PasskeyError::Challenge),
        ),
        (
            "registration",
            data(RP, BOTH, 1),
            client("webauthn.create", &challenge, &origin),
            Err(PasskeyError::Purpose("register a key, not to sign")),
        ),
        (
            "other site's page",
            data(RP, BOTH, 1),
            client("webauthn.get", &challenge, "https://evil.example"),
            Err(PasskeyError::Origin),
        ),
        (
            "other site's key",
            data("evil.example", BOTH, 1),
            good.clone(),
            Err(PasskeyError::OtherSite),
        ),
        (
            "framed",
            data(RP, BOTH, 1),
            cross,
            Err(PasskeyError::CrossOrigin),
        ),
        (
            "nobody verified",
            data(RP, USER_PRESENT, 1),
            good.clone(),
            Err(PasskeyError::NotVerified),
        ),
        (
            "nobody there",
            data(RP, USER_VERIFIED, 1),
            good.clone(),
            Err(PasskeyError::NotVerified),
        ),
        (
            "cut",
            data(RP, BOTH, 1)[..36].to_vec(),
            good.clone(),
            Err(PasskeyError::AuthenticatorData),
        ),
        (
            "long",
            long,
            good.clone(),
            Err(PasskeyError::AuthenticatorData),
        ),
        (
            "no JSON",
            data(RP, BOTH, 1),
            "{".to_owned(),
            Err(PasskeyError::ClientData),
        ),
    ];
    for (what, data, client, expected) in table {
        let signed = key.sign_parts(&data, &client);
        assert_eq!(key.pin.verify(&signed, &challenge), expected, "{what}");
    }
    let mut padded = key.sign(&challenge);
    padded.client_data_json.0.extend([b' '; MAX_CLIENT_DATA]);
    assert_eq!(
        key.pin.verify(&padded, &challenge),
        Err(PasskeyError::ClientData)
    );
}

#[test]
fn whose_origin_it_is() {
    for (origin, belongs) in [
        ("https://approver.example.com", true),
        ("https://approver.example.com:8444", true),
        ("https://eu.approver.example.com", false),
        ("http://approver.example.com", false),
        ("https://evilapprover.example.com", false),
        ("https://example.com", false),
        ("https://approver.example.com.evil.example", false),
        ("https://evil.example/.approver.example.com", false),
        ("https://user@approver.example.com", false),
        ("https://approver.example.com:", false),
        ("https://approver.example.com:8444/x", false),
        ("android:apk-key-hash:approver.example.com", false),
        ("", false),
    ] {
        assert_eq!(origin_belongs(origin, RP), belongs, "{origin}");
    }
}

#[test]
fn pins_have_one_spelling() {
    let pin = SoftKey::new(RP).pin;
    assert_eq!(pin.to_string().parse(), Ok(pin.clone()));
    let ed = format!(
        "ed25519:localhost:{}",
        BASE64URL.encode(crate::SigningKey::generate().public().to_bytes())
    );
    assert_eq!(ed.parse::<Pin>().unwrap().to_string(), ed);
    let text = pin.to_string();
    for bad in [
        String::new(),
        text.replace("es256", "ES256"),
        text.replace("es256", "ed25519"),
        text.replace(RP, "192.0.2.1"),
        text.replace(RP, "Approver.example.com"),
        text.replace(RP, ""),
        text[..text.len() - 2].to_owned(),
        format!("{text}="),
        format!("ed25519:localhost:{}", BASE64URL.encode([0; 32])),
    ] {
        assert!(bad.parse::<Pin>().is_err(), "{bad}");
    }
}

#[test]
fn every_field_of_a_statement_changes_the_challenge() {
    let statement = Statement {
        v: 1,
        request_sha256: Digest([1; 32]),
        rendered_sha256: Digest([2; 32]),
        scope: Scope::Once,
        nonce: Nonce([3; 16]),
    };
    let challenge = statement.challenge().unwrap();
    assert_eq!(statement.clone().challenge().unwrap(), challenge);
    let others: [fn(&mut Statement); 5] = [
        |s| s.v = 2,
        |s| s.request_sha256.0[0] = 9,
        |s| s.rendered_sha256.0[0] = 9,
        |s| s.scope = Scope::Process,
        |s| s.nonce.0[0] = 9,
    ];
    for change in others {
        let mut other = statement.clone();
        change(&mut other);
        assert_ne!(other.challenge().unwrap(), challenge);
    }
}

/// Attested data as CTAP2 writes it, around that key.
fn attested(cose: &[u8]) -> Vec<u8> {
    let mut data = data(RP, BOTH | ATTESTED, 3);
    data.extend([0; 16]);
    data.extend([0, 4, 1, 2, 3, 4]);
    data.extend(cose);
    data
}

fn cose(pin: &Pin) -> Vec<u8> {
    let Key::Es256(point) = &pin.key else {
        panic!()
    };
    [
        &[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32][..],
        &point[..32],
        &[0x22, 0x58, 32],
        &point[32..],
    ]
    .concat()
}

#[test]
fn a_registration_is_read_or_refused() {
    let key = SoftKey::new(RP);
    let client = client_data("webauthn.create", &[5; 32], &format!("https://{RP}"));
    let read = |data: &[u8]| register(data, client.as_bytes(), &[5; 32], RP);
    let good = attested(&cose(&key.pin));
    let registered = read(&good).unwrap();
    assert_eq!(
        (registered.pin, registered.credential_id, registered.counter),
        (key.pin.clone(), vec![1, 2, 3, 4], 3)
    );
    let rsa = attested(&[0xa4, 1, 3, 3, 0x39, 1, 0, 0x20, 0x59, 1, 0]);
    assert_eq!(read(&rsa), Err(PasskeyError::Algorithm));
    assert_eq!(
        read(&data(RP, BOTH, 3)),
        Err(PasskeyError::AuthenticatorData)
    );
    let signing = client_data("webauthn.get", &[5; 32], &format!("https://{RP}"));
    assert!(matches!(
        register(&good, signing.as_bytes(), &[5; 32], RP),
        Err(PasskeyError::Purpose(_))
    ));
    for end in 0..good.len() {
        assert!(read(&good[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_pin_is_a_key_others_read() {
    // `openssl pkey -pubin -inform DER` reads exactly this shape; tests/ of the gateway runs it.
    let spki = SoftKey::new(RP).pin.to_spki();
    assert_eq!(
        (spki.len(), &spki[..2], spki[26]),
        (91, &[0x30, 0x59][..], 4)
    );
}

proptest! {
    #[test]
    fn no_changed_bit_verifies(at in 0_usize..37 + 100 + 70, bit in 0_u8..8) {
        let key = SoftKey::new(RP);
        let mut assertion = key.sign(&[1; 32]);
        let parts = [&mut assertion.authenticator_data.0, &mut assertion.client_data_json.0, &mut assertion.signature.0];
        let mut bytes: Vec<&mut u8> = parts.into_iter().flatten().collect();
        let len = bytes.len();
        *bytes[at % len] ^= 1 << bit;
        prop_assert!(key.pin.verify(&assertion, &[1; 32]).is_err());
    }
}
