//! How long to wait before trying again: 1 s, doubling, at most 30 s, never in step with others.
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
/// With the jitter on top, at most 30 s.
const LONGEST: Duration = Duration::from_secs(20);
/// A gateway that asks for more patience than this is not obeyed.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { base: FIRST }
    }

    pub(super) const fn reset(&mut self) {
        self.base = FIRST;
    }

    /// The next pause: at least what the gateway's Retry-After asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let base = self.base;
        self.base = (base * 2).min(LONGEST);
        jitter(base).max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// `base` and up to half as much again.
fn jitter(base: Duration) -> Duration {
    // The standard library keys every RandomState anew: randomness without a dependency.
    let random = RandomState::new().build_hasher().finish();
    let spread = u64::try_from(base.as_millis() / 2)
        .unwrap_or(u64::MAX)
        .max(1);
    base + Duration::from_millis(random % spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_from_one_second_to_thirty_and_starts_over() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next(None).as_secs_f64()).collect();
        for (pause, least) in pauses.iter().zip([1., 2., 4., 8., 16., 20., 20., 20.]) {
            assert!(*pause >= least && *pause <= least * 1.5, "{pauses:?}");
        }
        backoff.reset();
        assert!(backoff.next(None) < Duration::from_secs(2));
    }

    #[test]
    fn obeys_retry_after_within_reason() {
        let mut backoff = Backoff::new();
        assert!(backoff.next(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(backoff.next(hour), LONGEST_ASKED);
    }
}
