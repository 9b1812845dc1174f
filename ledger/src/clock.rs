//! When a leaf was written: wall clock, boot clock, and how far the wall clock is to be believed.
use std::path::Path;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Serialize, Serializer};

/// The kernel's opinion of its clock (`adjtimex`). The call needs unsafe code, so whoever has some
/// passes a [`ClockSource`]; without one leaves carry no `clock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClockState {
    pub synced: bool,
    pub maxerror_us: u64,
}

/// Asked once a batch.
pub type ClockSource = Box<dyn Fn() -> Option<ClockState> + Send>;

/// The fields of a leaf that say when and where.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stamp<'a> {
    #[serde(serialize_with = "rfc3339")]
    pub(crate) t: Timestamp,
    /// Milliseconds since boot, sleep included.
    pub(crate) t_boot: u64,
    pub(crate) boot_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clock: Option<ClockState>,
    pub(crate) host: &'a str,
}

/// Both clocks, read together, to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) t: Timestamp,
    pub(crate) t_boot: u64,
}

impl Now {
    pub(crate) fn read() -> Result<Self, ClockError> {
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(ClockError::Boot)?;
        let t_boot = u64::try_from(boot.tv_sec()).unwrap_or(0) * 1000
            + u64::try_from(boot.tv_nsec()).unwrap_or(0) / 1_000_000;
        Ok(Self {
            t: truncate(Timestamp::now()),
            t_boot,
        })
    }

    /// How far the wall clock jumped since `last`, in milliseconds, when it did: backwards at all,
    /// or more than a second away from the boot clock.
    pub(crate) fn jump(&self, last: &Self, same_boot: bool) -> Option<i64> {
        let wall = self.t.as_millisecond() - last.t.as_millisecond();
        if !same_boot {
            return (wall < 0).then_some(wall);
        }
        let ran = i64::try_from(self.t_boot.saturating_sub(last.t_boot)).unwrap_or(i64::MAX);
        let step = wall.saturating_sub(ran);
        (wall < 0 || step.abs() > 1000).then_some(step)
    }
}

/// Why there is no time to write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error("CLOCK_BOOTTIME: {0}")]
    Boot(nix::Error),
}

/// Down to the millisecond, so that what is compared is what is written.
fn truncate(t: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(t.as_millisecond()).unwrap_or(t)
}

/// RFC 3339 in UTC, always three decimals: it also sorts as text.
pub(crate) fn format(t: Timestamp) -> String {
    format!("{t:.3}")
}

/// Reads what [`format`] writes, and nothing else.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|t: &Timestamp| format(*t) == text)
}

fn rfc3339<S: Serializer>(t: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*t))
}

/// The kernel's boot id.
pub(crate) fn boot_id() -> std::io::Result<String> {
    Ok(
        std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?
            .trim()
            .to_owned(),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn stamp() -> Stamp<'static> {
        Stamp {
            t: "2026-01-02T03:04:05.006Z".parse().unwrap(),
            t_boot: 9,
            boot_id: "6f1f2d7e-9c1e-4b7a-8f53-1d2c3b4a5968",
            clock: Some(ClockState {
                synced: true,
                maxerror_us: 250,
            }),
            host: "web-1",
        }
    }

    #[test]
    fn times_have_one_spelling() {
        let text = "2026-01-02T03:04:05.006Z";
        assert_eq!(format(parse(text).unwrap()), text);
        assert_eq!(
            format("2026-01-02T03:04:05Z".parse().unwrap()),
            "2026-01-02T03:04:05.000Z"
        );
        for bad in [
            "2026-01-02T03:04:05Z",
            "2026-01-02 03:04:05.006Z",
            "2026-01-02T04:04:05.006+01:00",
            "now",
            "",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn jumps_are_noticed() {
        let at = |ms: i64, t_boot| Now {
            t: Timestamp::from_millisecond(ms).unwrap(),
            t_boot,
        };
        assert_eq!(at(2000, 1000).jump(&at(1000, 0), true), None);
        assert_eq!(at(2900, 1000).jump(&at(1000, 0), true), None, "slewing");
        assert_eq!(at(3001, 1000).jump(&at(1000, 0), true), Some(1001));
        assert_eq!(at(999, 0).jump(&at(1000, 0), true), Some(-1));
        assert_eq!(
            at(90_000_000, 5).jump(&at(1000, 50_000), false),
            None,
            "switched off for a while"
        );
        assert_eq!(at(900, 5).jump(&at(1000, 50_000), false), Some(-100));
    }

    #[test]
    fn now_is_to_the_millisecond() {
        let now = Now::read().unwrap();
        assert_eq!(parse(&format(now.t)), Some(now.t));
        assert!(now.t_boot > 0);
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
