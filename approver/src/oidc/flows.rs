//! Sign-ins that are under way: each is good once, in the browser that began it, for ten minutes.
use std::collections::{HashMap, VecDeque};

use openidconnect::{CsrfToken, Nonce, PkceCodeVerifier};
use syshold_protocol::{Digest, UnixMs};

/// Flows under way; anybody can begin one, so the oldest makes way.
const MOST: usize = 4096;

/// What only this gateway knows of a sign-in until it ends.
pub(super) struct Flow {
    pub(super) state: CsrfToken,
    pub(super) nonce: Nonce,
    pub(super) verifier: PkceCodeVerifier,
    /// Where the person was going.
    pub(super) next: String,
    pub(super) until: UnixMs,
}

/// By the digest of the browser's cookie.
#[derive(Default)]
pub(super) struct Flows {
    open: HashMap<Digest, Flow>,
    order: VecDeque<Digest>,
}

impl Flows {
    pub(super) fn add(&mut self, cookie: Digest, flow: Flow) {
        while self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.order.push_back(cookie);
        self.open.insert(cookie, flow);
    }

    /// Ends a flow, and gives it back unless its time was over.
    pub(super) fn take(&mut self, cookie: Digest, now: UnixMs) -> Option<Flow> {
        let flow = self.open.remove(&cookie)?;
        self.order.retain(|known| *known != cookie);
        (now < flow.until).then_some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: UnixMs = UnixMs::new(1000);

    fn flow() -> Flow {
        Flow {
            state: CsrfToken::new_random(),
            nonce: Nonce::new_random(),
            verifier: PkceCodeVerifier::new("x".repeat(43)),
            next: "/".to_owned(),
            until: UNTIL,
        }
    }

    fn name(n: usize) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    #[test]
    fn flows_are_taken_once_and_bounded() {
        let (mut flows, now) = (Flows::default(), UnixMs::new(0));
        for n in 0..=MOST {
            flows.add(name(n), flow());
        }
        assert_eq!((flows.open.len(), flows.order.len()), (MOST, MOST));
        assert!(flows.take(name(0), now).is_none(), "the oldest made way");
        assert!(flows.take(name(1), now).is_some() && flows.take(name(1), now).is_none());
        assert_eq!((flows.open.len(), flows.order.len()), (MOST - 1, MOST - 1));
    }

    #[test]
    fn a_flow_ends_in_time() {
        let mut flows = Flows::default();
        flows.add(name(0), flow());
        flows.add(name(1), flow());
        assert!(flows.take(name(0), UnixMs::new(999)).is_some());
        assert!(flows.take(name(1), UNTIL).is_none());
        assert!(flows.open.is_empty() && flows.order.is_empty());
    }
}
