//! Break-glass: what an agent asks is let through on one host for minutes, because people of whom
//! two signed an order with keys that are kept offline, and not because the gateway answered.
//!
//! The keys, and whose they are, are in the host's policy; without them there is no break-glass. An
//! order is a DSSE envelope that the second person countersigns. It lifts `ask`, never `deny`, names
//! its host and agent, says why, and is over after at most 15 minutes. The agent's owner and whoever
//! launched it may not sign: their signature refuses the order, as it refuses a decision.
//!
//! [`accept()`] is pure, as [`crate::accept()`] is.
use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::dsse::{self, DsseError, Payload, PinnedKeys, PublicKey};
use crate::ids::{DecisionId, HostId, Subject, UnixMs};

/// How many people have to sign.
pub const NEED: usize = 2;
/// The longest an order lasts.
pub const MAX_MS: u64 = 15 * 60 * 1000;
/// How far ahead of the host's clock an order may begin.
pub const MAX_AHEAD_MS: u64 = 2 * 60 * 1000;
/// The longest reason, in bytes.
pub const MAX_REASON: usize = 1000;
/// The most rules an order names.
pub const MAX_RULES: usize = 32;

/// What two people sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// [`VERSION`].
    pub v: u32,
    pub order_id: DecisionId,
    pub host_id: HostId,
    /// As the policy of that host calls it.
    pub agent: String,
    /// The rules whose questions it answers; none: all that ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Why it could not wait.
    pub reason: String,
    pub from: UnixMs,
    pub until: UnixMs,
}

impl Payload for Order {
    const TYPE: &'static str = "application/vnd.syshold.break-glass.v1+json";
}

/// A host tells its gateway that an order is in force there, so that everybody hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// [`VERSION`].
    pub v: u32,
    pub host_id: HostId,
    pub order: Order,
    /// Who signed it, as the host's policy names them.
    pub signers: Vec<Subject>,
    /// The groups that the agent's rules would have asked.
    pub groups: Vec<String>,
    /// When it came into force.
    pub at: UnixMs,
}

impl Payload for Notice {
    const TYPE: &'static str = "application/vnd.syshold.break-glass-notice.v1+json";
}

/// What the host knows, from its own policy.
#[derive(Debug)]
pub struct Terms<'a> {
    pub host_id: &'a HostId,
    /// Whose offline keys count. One person may have several.
    pub keys: &'a [(Subject, PublicKey)],
}

/// An order that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub order: Order,
    /// The distinct people who signed.
    pub signers: Vec<Subject>,
    /// From now, to be counted on the clock that runs while the host sleeps.
    pub ttl_ms: u64,
}

/// Why an order does nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("break-glass is not configured here: no [[break_glass]] in the policy")]
    Disabled,
    #[error("unreadable, or not signed with a key of [[break_glass]]: {0}")]
    Envelope(#[from] DsseError),
    #[error("version {0} of the order is not {VERSION}: update the older of the two programs")]
    Version(u32),
    #[error("it is for host {given}, not {expected}")]
    OtherHost { given: HostId, expected: HostId },
    #[error("order {0} was used before")]
    Replay(DecisionId),
    #[error("it has no reason, or one longer than {MAX_REASON} bytes")]
    Reason,
    #[error("it names more than {MAX_RULES} rules")]
    Rules,
    #[error("it lasts {0} ms; break-glass is for at most {MAX_MS}")]
    TooLong(u64),
    #[error("it begins at {from}, {now} on this host: sign one for now, or set the clock")]
    TooEarly { from: UnixMs, now: UnixMs },
    #[error("it was over at {until}, {now} on this host: sign one for now, or set the clock")]
    Over { until: UnixMs, now: UnixMs },
    #[error("{have} of {NEED} people signed it")]
    Signers { have: usize },
    #[error("{0} signed it and owns the agent or launched it")]
    SelfApproval(Subject),
}

/// Checks everything about an order but whether the host has such an agent and rules. `own` says
/// whether somebody is the owner of that agent, or launched it.
pub fn accept(
    envelope: &[u8],
    terms: &Terms<'_>,
    now: UnixMs,
    used: &dyn Fn(&DecisionId) -> bool,
    own: &dyn Fn(&str, &Subject) -> bool,
) -> Result<Accepted, Refusal> {
    let (order, keys) = read(envelope, terms)?;
    if used(&order.order_id) {
        return Err(Refusal::Replay(order.order_id));
    }
    let ttl_ms = order.check(now)?;
    let of_own =
        |(subject, key): &&(Subject, PublicKey)| keys.contains(key) && own(&order.agent, subject);
    if let Some((subject, _)) = terms.keys.iter().find(of_own) {
        return Err(Refusal::SelfApproval(subject.clone()));
    }
    let signers = people(terms, &keys)?;
    Ok(Accepted {
        order,
        signers,
        ttl_ms,
    })
}

/// What stays true of an order for ever, for somebody who checks it years later: what it says, and
/// which people of `terms` signed it.
pub fn signed(envelope: &[u8], terms: &Terms<'_>) -> Result<(Order, Vec<Subject>), Refusal> {
    let (order, keys) = read(envelope, terms)?;
    order.bounds()?;
    let signers = people(terms, &keys)?;
    Ok((order, signers))
}

/// An order for this host, and those of the host's keys that signed it: one, at least.
fn read(envelope: &[u8], terms: &Terms<'_>) -> Result<(Order, Vec<PublicKey>), Refusal> {
    if terms.keys.is_empty() {
        return Err(Refusal::Disabled);
    }
    let keys = PinnedKeys::new(terms.keys.iter().map(|(_, key)| *key).collect());
    let (order, signed) = dsse::open_all::<Order>(envelope, &keys)?;
    if order.v != VERSION {
        return Err(Refusal::Version(order.v));
    }
    if order.host_id != *terms.host_id {
        return Err(Refusal::OtherHost {
            given: order.host_id,
            expected: terms.host_id.clone(),
        });
    }
    Ok((order, signed))
}

/// Whose these keys are: enough different people.
fn people(terms: &Terms<'_>, keys: &[PublicKey]) -> Result<Vec<Subject>, Refusal> {
    let mut people: Vec<Subject> = Vec::new();
    for (subject, key) in terms.keys {
        if keys.contains(key) && !people.iter().any(|known| known.may_be(subject)) {
            people.push(subject.clone());
        }
    }
    if people.len() < NEED {
        return Err(Refusal::Signers { have: people.len() });
    }
    Ok(people)
}

impl Order {
    /// What is left of it, in milliseconds; whether it says what an order has to.
    pub fn check(&self, now: UnixMs) -> Result<u64, Refusal> {
        let length = self.bounds()?;
        let (from, until) = (self.from, self.until);
        if from.since(now) > MAX_AHEAD_MS {
            return Err(Refusal::TooEarly { from, now });
        }
        match until.since(now).min(length) {
            0 => Err(Refusal::Over { until, now }),
            left => Ok(left),
        }
    }

    /// How long it is, in milliseconds; whether it says what an order has to.
    fn bounds(&self) -> Result<u64, Refusal> {
        if self.reason.trim().is_empty() || self.reason.len() > MAX_REASON {
            return Err(Refusal::Reason);
        }
        if self.rules.len() > MAX_RULES {
            return Err(Refusal::Rules);
        }
        let length = self.until.since(self.from);
        if length > MAX_MS {
            return Err(Refusal::TooLong(length));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;
    use crate::SigningKey;

    const NOW: u64 = 1_700_000_000_000;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed(&Zeroizing::new([byte; 32]))
    }

    fn order() -> Order {
        Order {
            v: VERSION,
            order_id: DecisionId(Uuid::from_u128(1)),
            host_id: "host-1".parse().unwrap(),
            agent: "support-bot".to_owned(),
            rules: vec![],
            reason: "the gateway is down and INC-7 is open".to_owned(),
            from: UnixMs::new(NOW - 1000),
            until: UnixMs::new(NOW + 600_000),
        }
    }

    /// Alice has two keys, bob and carol one each; the agent is carol's.
    fn judged(order: &Order, signed_by: &[u8]) -> Result<Accepted, Refusal> {
        let mut envelope = dsse::seal(order, &key(signed_by[0])).unwrap().envelope;
        for byte in &signed_by[1..] {
            envelope = dsse::countersign::<Order>(&envelope, &key(*byte)).unwrap();
        }
        judged_bytes(&envelope)
    }

    fn judged_bytes(envelope: &[u8]) -> Result<Accepted, Refusal> {
        let person = |name: &str, byte| (name.parse().unwrap(), key(byte).public());
        let keys = [
            person("alice@example.com", 1),
            person("Alice", 2),
            person("bob@example.com", 3),
            person("carol@example.com", 4),
        ];
        let host_id = "host-1".parse().unwrap();
        let terms = Terms {
            host_id: &host_id,
            keys: &keys,
        };
        let used = |id: &DecisionId| id.0.as_u128() == 99;
        let own = |agent: &str, who: &Subject| {
            agent == "support-bot" && who.may_be(&"carol@example.com".parse().unwrap())
        };
        accept(envelope, &terms, UnixMs::new(NOW), &used, &own)
    }

    #[test]
    fn two_people_of_the_list_break_the_glass() {
        let accepted = judged(&order(), &[1, 3]).unwrap();
        let people: Vec<_> = accepted.signers.iter().map(Subject::as_str).collect();
        assert_eq!(people, ["alice@example.com", "bob@example.com"]);
        assert_eq!(accepted.ttl_ms, 600_000);
        assert_eq!(accepted.order, order());
    }

    #[test]
    fn one_person_is_one_however_many_keys_or_signatures() {
        for by in [&[1][..], &[1, 1], &[1, 2], &[1, 2, 1]] {
            let refused = judged(&order(), by);
            assert!(
                matches!(refused, Err(Refusal::Signers { have: 1 })),
                "{by:?}: {refused:?}"
            );
        }
        let strangers = judged(&order(), &[7, 8]);
        assert!(matches!(
            strangers,
            Err(Refusal::Envelope(DsseError::NoPinnedKey))
        ));
        let with_a_stranger = judged(&order(), &[1, 8]);
        assert!(matches!(with_a_stranger, Err(Refusal::Signers { have: 1 })));
    }

    #[test]
    fn the_owner_of_the_agent_cannot_sign_not_even_beside_two_others() {
        for by in [&[1, 4][..], &[1, 3, 4]] {
            assert!(matches!(
                judged(&order(), by),
                Err(Refusal::SelfApproval(who)) if who.as_str() == "carol@example.com"
            ));
        }
        let other = Order {
            agent: "build-bot".to_owned(),
            ..order()
        };
        judged(&other, &[1, 4]).unwrap();
    }

    #[test]
    fn what_an_order_says_has_its_bounds() {
        type Change = fn(&mut Order);
        type Refused = fn(&Refusal) -> bool;
        let table: [(Change, Refused); 9] = [
            (|o| o.v = 2, |r| matches!(r, Refusal::Version(2))),
            (
                |o| o.host_id = "host-2".parse().unwrap(),
                |r| matches!(r, Refusal::OtherHost { .. }),
            ),
            (
                |o| o.order_id = DecisionId(Uuid::from_u128(99)),
                |r| matches!(r, Refusal::Replay(_)),
            ),
            (
                |o| o.reason = " \n".to_owned(),
                |r| matches!(r, Refusal::Reason),
            ),
            (
                |o| o.reason = "x".repeat(1001),
                |r| matches!(r, Refusal::Reason),
            ),
            (
                |o| o.rules = vec!["r".to_owned(); 33],
                |r| matches!(r, Refusal::Rules),
            ),
            (
                |o| o.until = o.from.plus(MAX_MS + 1),
                |r| matches!(r, Refusal::TooLong(_)),
            ),
            (
                |o| {
                    o.from = UnixMs::new(NOW + 121_000);
                    o.until = UnixMs::new(NOW + 300_000);
                },
                |r| matches!(r, Refusal::TooEarly { .. }),
            ),
            (
                |o| o.until = UnixMs::new(NOW),
                |r| matches!(r, Refusal::Over { .. }),
            ),
        ];
        for (n, (change, expected)) in table.iter().enumerate() {
            let mut bad = order();
            change(&mut bad);
            let refused = judged(&bad, &[1, 3]).unwrap_err();
            assert!(expected(&refused), "{n}: {refused}");
        }
        // A clock that is a little ahead makes an order no longer than it says.
        let ahead = Order {
            from: UnixMs::new(NOW + 60_000),
            until: UnixMs::new(NOW + 60_000 + MAX_MS),
            ..order()
        };
        assert_eq!(judged(&ahead, &[1, 3]).unwrap().ttl_ms, MAX_MS);
    }

    #[test]
    fn no_bytes_but_those_that_were_signed() {
        let sealed = dsse::seal(&order(), &key(1)).unwrap().envelope;
        let both = dsse::countersign::<Order>(&sealed, &key(3)).unwrap();
        judged_bytes(&both).unwrap();
        let longer = dsse::seal(
            &Order {
                until: UnixMs::new(NOW + 700_000),
                ..order()
            },
            &key(1),
        )
        .unwrap()
        .envelope;
        let mut forged: serde_json::Value = serde_json::from_slice(&longer).unwrap();
        let signed: serde_json::Value = serde_json::from_slice(&both).unwrap();
        forged["signatures"] = signed["signatures"].clone();
        let forged = serde_json::to_vec(&forged).unwrap();
        assert!(judged_bytes(&forged).is_err(), "bob signed something else");
        // A signed decision or request is no order, and an order is nothing else.
        assert!(dsse::countersign::<crate::Request>(&both, &key(3)).is_err());
        assert!(judged_bytes(b"").is_err() && judged_bytes(b"{}").is_err());
    }
}
