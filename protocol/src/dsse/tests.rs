//! Published vectors, and everything that must not verify.
use super::*;
use crate::request::tests::sample;

fn seed(byte: u8) -> SigningKey {
    SigningKey::from_seed(&Zeroizing::new([byte; 32]))
}

/// The vector of the DSSE specification (protocol.md).
#[test]
fn published_pae_vector() {
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    assert_eq!(
        pae("", b""),
        b"DSSEv1 0  0 ",
        "lengths are of bytes, also of none"
    );
}

/// RFC 8032, section 7.1, test 1: the signature itself is the standard's.
#[test]
fn rfc8032_vector() {
    let seed: Digest = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
        .parse()
        .unwrap();
    let key = SigningKey::from_seed(&Zeroizing::new(seed.0));
    let public: Digest = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        .parse()
        .unwrap();
    assert_eq!(key.public().to_bytes(), public.0);
    assert_eq!(key.sign(b"")[..4], [0xe5, 0x56, 0x43, 0x00]);
}

#[test]
fn seals_and_opens() {
    let sealed = seal(&sample(), &seed(1)).unwrap();
    let opened: Opened<Request> = open(&sealed.envelope, &seed(1).public().into()).unwrap();
    assert_eq!(opened.value, sample());
    assert_eq!(opened.payload_sha256, sealed.payload_sha256);
    assert_eq!(opened.keyid, seed(1).public().keyid());
}

#[test]
fn another_key_another_type_or_a_flipped_bit() {
    let sealed = seal(&sample(), &seed(1)).unwrap();
    let pinned = PinnedKeys::from(seed(1).public());
    assert!(matches!(
        open::<Request>(&sealed.envelope, &seed(2).public().into()),
        Err(DsseError::NoPinnedKey)
    ));
    assert!(matches!(
        open::<Request>(&sealed.envelope, &PinnedKeys::new(vec![])),
        Err(DsseError::NoPinnedKey)
    ));
    assert!(matches!(
        open::<Outcome>(&sealed.envelope, &pinned),
        Err(DsseError::PayloadType { .. })
    ));

    let mut envelope: serde_json::Value = serde_json::from_slice(&sealed.envelope).unwrap();
    envelope["payloadType"] = Outcome::TYPE.into();
    let swapped = serde_json::to_vec(&envelope).unwrap();
    assert!(
        matches!(
            open::<Outcome>(&swapped, &pinned),
            Err(DsseError::NoPinnedKey)
        ),
        "the type is signed"
    );

    envelope["payloadType"] = Request::TYPE.into();
    envelope["extra"] = 1.into();
    envelope["signatures"][0]
        .as_object_mut()
        .unwrap()
        .remove("keyid");
    let other = envelope["signatures"][0].clone();
    envelope["signatures"] =
        serde_json::json!([{"keyid": "x", "sig": BASE64.encode([0; 64])}, other]);
    open::<Request>(&serde_json::to_vec(&envelope).unwrap(), &pinned)
        .expect("key ids are hints, extras are ignored");

    envelope["signatures"] = serde_json::json!([]);
    assert!(matches!(
        open::<Request>(&serde_json::to_vec(&envelope).unwrap(), &pinned),
        Err(DsseError::Signatures(0))
    ));
}

#[test]
fn key_files_round_trip_and_say_nothing_when_wrong() {
    let key = SigningKey::generate();
    let pem = key.to_pem();
    assert_eq!(
        SigningKey::from_pem(pem.as_bytes()).unwrap().public(),
        key.public()
    );
    for bad in [
        &b""[..],
        b"garbage",
        &pem.as_bytes()[..40],
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
    ] {
        assert_eq!(SigningKey::from_pem(bad).err(), Some(KeyFileError));
    }
}

#[test]
fn keys_of_small_order_cannot_be_pinned() {
    let mut one = [0; 32];
    one[0] = 1;
    assert!(PublicKey::from_bytes(&one).is_none());
    assert!(BASE64.encode(one).parse::<PublicKey>().is_err());
}
