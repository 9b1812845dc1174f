//! Approvals that people took back: what a host is told, signed as decisions are.
//!
//! A revocation only takes away. It ends what a decision goes on granting; what was released
//! stays released, and a denial stays a denial. A host's list is numbered from 1, in the order in
//! which the gateway recorded it; the host asks for what follows the last number it has.
//!
//! [`accept()`] is pure, as [`crate::accept()`] is.
use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::decision::Approver;
use crate::dsse::{self, DsseError, Payload, PinnedKeys};
use crate::ids::{DecisionId, HostId, RequestId, UnixMs};

/// The most revocations in one list; long reasons make it fewer.
pub const MAX_ENTRIES: usize = 100;
/// The largest list, in bytes: with what else a leaf says, it fits into one.
pub const MAX_LIST: usize = 40 * 1024;
/// The longest reason, in bytes.
pub const MAX_REASON: usize = 1000;
/// The largest number that JSON carries everywhere.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// One approval that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Its place in the list of its host, from 1.
    pub n: u64,
    /// The approval.
    pub decision_id: DecisionId,
    /// What it had answered.
    pub request_id: RequestId,
    /// Who took it back, when, how surely it was that person, and why: the reason is never absent.
    pub by: Approver,
}

/// What a host has not heard of yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// [`VERSION`].
    pub v: u32,
    pub host_id: HostId,
    /// What the host asked for: only numbers after this one.
    pub since: u64,
    /// Strictly increasing numbers, at most [`MAX_ENTRIES`].
    pub entries: Vec<Revocation>,
    /// The last number that this host's list has; 0 for an empty one.
    pub latest: u64,
    pub issued_at: UnixMs,
}

impl Payload for Revocations {
    const TYPE: &'static str = "application/vnd.syshold.revocations.v1+json";
}

/// What the host knows.
#[derive(Debug)]
pub struct Terms<'a> {
    pub host_id: &'a HostId,
    /// Those whose decisions count.
    pub keys: &'a PinnedKeys,
    /// What it asked for.
    pub since: u64,
}

/// A list that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub entries: Vec<Revocation>,
    /// What to ask for next.
    pub since: u64,
}

/// Why a list does nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("unreadable or unsigned: {0}")]
    Envelope(#[from] DsseError),
    #[error("{0} bytes is more than the {MAX_LIST} a list may have")]
    TooLarge(usize),
    #[error("version {0} of the list is not {VERSION}: update the older of host and gateway")]
    Version(u32),
    #[error("it is for host {given}, not {expected}")]
    OtherHost { given: HostId, expected: HostId },
    #[error("it answers what comes after {given}, and {expected} was asked for")]
    OtherQuestion { given: u64, expected: u64 },
    #[error("it has {0} revocations; {MAX_ENTRIES} are the most")]
    TooMany(usize),
    #[error("revocation {n} comes after {before}, in a list that ends with {latest}")]
    Order { n: u64, before: u64, latest: u64 },
    #[error("it is empty, and the list goes on to {latest}")]
    Withheld { latest: u64 },
    /// The gateway forgot: its state is from a backup. The host starts from 0 again.
    #[error("the list ends with {latest}, before the {since} that this host has")]
    Shrunk { latest: u64, since: u64 },
    #[error("revocation {0} has no reason, or one longer than {MAX_REASON} bytes")]
    Reason(u64),
}

/// Checks everything about a list; the first failure refuses all of it.
pub fn accept(envelope: &[u8], terms: &Terms<'_>) -> Result<Accepted, Refusal> {
    if envelope.len() > MAX_LIST {
        return Err(Refusal::TooLarge(envelope.len()));
    }
    let list = dsse::open::<Revocations>(envelope, terms.keys)?.value;
    if list.v != VERSION {
        return Err(Refusal::Version(list.v));
    }
    if list.host_id != *terms.host_id {
        return Err(Refusal::OtherHost {
            given: list.host_id,
            expected: terms.host_id.clone(),
        });
    }
    if list.since != terms.since {
        return Err(Refusal::OtherQuestion {
            given: list.since,
            expected: terms.since,
        });
    }
    let (latest, since) = (list.latest, list.since);
    if list.entries.len() > MAX_ENTRIES {
        return Err(Refusal::TooMany(list.entries.len()));
    }
    if list.entries.is_empty() && latest > since {
        return Err(Refusal::Withheld { latest });
    }
    if latest < since {
        return Err(Refusal::Shrunk { latest, since });
    }
    let mut before = since;
    for entry in &list.entries {
        let n = entry.n;
        if n <= before || n > latest || latest > MAX_NUMBER {
            return Err(Refusal::Order { n, before, latest });
        }
        before = n;
        let reason = entry.by.reason.as_deref().unwrap_or_default();
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(Refusal::Reason(n));
        }
    }
    Ok(Accepted {
        entries: list.entries,
        since: before,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;
    use crate::SigningKey;
    use crate::decision::{Assurance, Channel};

    const NOW: u64 = 1_700_000_000_000;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed(&Zeroizing::new([byte; 32]))
    }

    fn entry(n: u64) -> Revocation {
        Revocation {
            n,
            decision_id: DecisionId(Uuid::from_u128(u128::from(n))),
            request_id: RequestId(Uuid::from_u128(100 + u128::from(n))),
            by: Approver {
                subject: "bob@example.com".parse().unwrap(),
                channel: Channel::Web,
                team_id: None,
                user_id: None,
                assurance: Assurance::Session,
                at: UnixMs::new(NOW),
                reason: Some("the wrong bucket".to_owned()),
                standing: None,
                proof: None,
            },
        }
    }

    /// Two of three, asked for after the first.
    fn list() -> Revocations {
        Revocations {
            v: VERSION,
            host_id: "host-1".parse().unwrap(),
            since: 1,
            entries: vec![entry(2), entry(3)],
            latest: 3,
            issued_at: UnixMs::new(NOW),
        }
    }

    fn judged_bytes(envelope: &[u8]) -> Result<Accepted, Refusal> {
        let host_id = "host-1".parse().unwrap();
        let keys = key(1).public().into();
        let terms = Terms {
            host_id: &host_id,
            keys: &keys,
            since: 1,
        };
        accept(envelope, &terms)
    }

    fn judged(list: &Revocations) -> Result<Accepted, Refusal> {
        judged_bytes(&dsse::seal(list, &key(1)).unwrap().envelope)
    }

    #[test]
    fn what_is_new_is_accepted_and_the_next_question_follows_it() {
        let accepted = judged(&list()).unwrap();
        assert_eq!(accepted.entries, list().entries);
        assert_eq!(accepted.since, 3);
        // A part of a long list: the rest is asked for next. A number may be missing.
        let part = Revocations {
            entries: vec![entry(5)],
            latest: 9,
            ..list()
        };
        assert_eq!(judged(&part).unwrap().since, 5);
        let nothing = Revocations {
            entries: vec![],
            latest: 1,
            ..list()
        };
        let accepted = judged(&nothing).unwrap();
        assert_eq!((accepted.entries.len(), accepted.since), (0, 1));
    }

    #[test]
    fn each_condition_of_a_list_refuses_on_its_own() {
        type Change = fn(&mut Revocations);
        type Refused = fn(&Refusal) -> bool;
        let table: [(Change, Refused); 14] = [
            (|l| l.v = 2, |r| matches!(r, Refusal::Version(2))),
            (
                |l| l.host_id = "host-2".parse().unwrap(),
                |r| matches!(r, Refusal::OtherHost { .. }),
            ),
            (
                |l| l.since = 0,
                |r| matches!(r, Refusal::OtherQuestion { .. }),
            ),
            (
                |l| {
                    l.entries = (2..103).map(entry).collect();
                    l.latest = 102;
                },
                |r| matches!(r, Refusal::TooMany(101)),
            ),
            (
                |l| l.entries.swap(0, 1),
                |r| {
                    matches!(
                        r,
                        Refusal::Order {
                            n: 2,
                            before: 3,
                            ..
                        }
                    )
                },
            ),
            (
                |l| l.entries[1] = l.entries[0].clone(),
                |r| {
                    matches!(
                        r,
                        Refusal::Order {
                            n: 2,
                            before: 2,
                            ..
                        }
                    )
                },
            ),
            (
                |l| l.entries[0].n = 1,
                |r| {
                    matches!(
                        r,
                        Refusal::Order {
                            n: 1,
                            before: 1,
                            ..
                        }
                    )
                },
            ),
            (
                |l| l.entries[0].n = 0,
                |r| matches!(r, Refusal::Order { n: 0, .. }),
            ),
            (
                |l| l.latest = 2,
                |r| matches!(r, Refusal::Order { n: 3, .. }),
            ),
            (
                |l| l.entries.clear(),
                |r| matches!(r, Refusal::Withheld { latest: 3 }),
            ),
            (
                |l| l.latest = 0,
                |r| {
                    matches!(
                        r,
                        Refusal::Shrunk {
                            latest: 0,
                            since: 1
                        }
                    )
                },
            ),
            (
                |l| l.entries[1].by.reason = None,
                |r| matches!(r, Refusal::Reason(3)),
            ),
            (
                |l| l.entries[0].by.reason = Some(" \n".to_owned()),
                |r| matches!(r, Refusal::Reason(2)),
            ),
            (
                |l| l.entries[0].by.reason = Some("x".repeat(1001)),
                |r| matches!(r, Refusal::Reason(2)),
            ),
        ];
        for (row, (change, expected)) in table.iter().enumerate() {
            let mut bad = list();
            change(&mut bad);
            let refused = judged(&bad).unwrap_err();
            assert!(expected(&refused), "{row}: {refused}");
        }
    }

    #[test]
    fn only_the_pinned_key_revokes_and_only_by_this_type() {
        let stranger = dsse::seal(&list(), &key(2)).unwrap().envelope;
        assert!(matches!(
            judged_bytes(&stranger),
            Err(Refusal::Envelope(DsseError::NoPinnedKey))
        ));
        // The same payload, signed by the right key as something else.
        #[derive(Serialize, Deserialize)]
        struct Other(Revocations);
        impl Payload for Other {
            const TYPE: &'static str = "application/vnd.syshold.decision.v1+json";
        }
        let other = dsse::seal(&Other(list()), &key(1)).unwrap().envelope;
        assert!(matches!(
            judged_bytes(&other),
            Err(Refusal::Envelope(DsseError::PayloadType { .. }))
        ));
        for bad in [&b""[..], b"null", b"{}", b"[]"] {
            assert!(judged_bytes(bad).is_err());
        }
        // Signed, within every other bound, and more than a leaf can keep.
        let mut wordy = list();
        wordy.entries = (2..60).map(entry).collect();
        wordy.latest = 59;
        for entry in &mut wordy.entries {
            entry.by.reason = Some("x".repeat(MAX_REASON));
        }
        assert!(matches!(judged(&wordy), Err(Refusal::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_list(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(judged_bytes(&bytes).is_err());
        }

        /// Every byte of what was signed counts.
        #[test]
        fn any_flipped_bit_of_the_payload_or_signature_refuses(at in any::<prop::sample::Index>(), bit in 0_u8..6) {
            use base64::Engine as _;
            let base64 = base64::engine::general_purpose::STANDARD;
            let sealed = dsse::seal(&list(), &key(1)).unwrap().envelope;
            let mut envelope: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
            let place = if bit % 2 == 0 { "/payload" } else { "/signatures/0/sig" };
            let mut bytes = base64.decode(envelope.pointer(place).unwrap().as_str().unwrap()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            *envelope.pointer_mut(place).unwrap() = base64.encode(&bytes).into();
            prop_assert!(judged_bytes(&serde_json::to_vec(&envelope).unwrap()).is_err());
        }
    }
}
