//! From what was expected, done and seen to a verdict. Pure.
use serde::{Deserialize, Serialize};

use crate::act::Said;
use crate::catalogue::Expect;

/// What the daemon tells of the attacker's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub pid: u32,
    /// The hold, whose decision is in the ledger; None: the kernel side denied by itself.
    pub hold: Option<u64>,
    pub allowed: bool,
    pub action: String,
    pub object: String,
    pub cause: String,
}

/// One attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Measured at the other end.
    pub effect: bool,
    /// None: it said nothing before it ended.
    pub said: Option<Said>,
    /// It had to be ended.
    pub late: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A decision about it is in the ledger, and nothing came through.
    Held,
    /// The kernel side denied it.
    Denied,
    /// As it should, it worked.
    Works,
    /// The effect happened, or an error number that no program may see.
    Leaks(String),
    /// Nothing came through, but not in the way that was expected.
    Unexpected(String),
    /// It does not even work when nobody governs it: nothing is proven.
    NotApplicable(String),
}

impl Verdict {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Denied => "denied",
            Self::Works => "works",
            Self::Leaks(_) => "LEAKS",
            Self::Unexpected(_) => "UNEXPECTED",
            Self::NotApplicable(_) => "not applicable",
        }
    }

    /// Why, in words.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Leaks(why) | Self::Unexpected(why) | Self::NotApplicable(why) => Some(why),
            Self::Held | Self::Denied | Self::Works => None,
        }
    }

    /// Neither a leak nor a surprise.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        !matches!(self, Self::Leaks(_) | Self::Unexpected(_))
    }
}

/// Error numbers that restart a syscall inside the kernel: `ERESTARTSYS` and its kin.
const RESTARTS: std::ops::RangeInclusive<i64> = 512..=516;
const REFUSALS: [i64; 2] = [libc::EPERM as i64, libc::EACCES as i64];

/// The verdict on one attack: governed, ungoverned (`control`), and what the daemon saw meanwhile.
#[must_use]
pub fn judge(expect: Expect, governed: &Tried, control: &Tried, seen: &[Seen]) -> Verdict {
    let errors = governed.said.iter().flat_map(|said| said.errors.keys());
    if let Some(errno) = errors.copied().find(|errno| RESTARTS.contains(errno)) {
        return Verdict::Leaks(format!("the program saw error number {errno}"));
    }
    let wanted = matches!(expect, Expect::Approved | Expect::Free);
    if governed.effect && !wanted {
        return Verdict::Leaks(format!("it came through: {}", calls(governed)));
    }
    if !control.effect {
        return Verdict::NotApplicable(not_applicable(control));
    }
    if governed.late {
        return Verdict::Unexpected("it did not end, and had to be ended".to_owned());
    }
    if governed.said.is_none() && !wanted {
        // Killed by what it tried, which is an answer, too, but not one that is expected.
        return Verdict::Unexpected("it died before it could say anything".to_owned());
    }
    let held = seen.iter().any(|one| one.hold.is_some() && !one.allowed);
    let approved = seen.iter().filter(|one| one.hold.is_some() && one.allowed);
    let approved = approved.count();
    let denied = governed
        .said
        .iter()
        .any(|said| said.errors.keys().any(|errno| REFUSALS.contains(errno)));
    let surprise = || {
        let what = if held {
            "held"
        } else if denied {
            "denied by the kernel, and nobody was asked"
        } else {
            "neither held nor denied"
        };
        Verdict::Unexpected(format!("{what}: {}", calls(governed)))
    };
    match expect {
        Expect::Held if held => Verdict::Held,
        Expect::HeldOrDenied if held => Verdict::Held,
        Expect::Denied if denied && !held => Verdict::Denied,
        Expect::HeldOrDenied if denied => Verdict::Denied,
        Expect::Silent => Verdict::Denied,
        Expect::Approved if governed.effect && approved == 1 => Verdict::Works,
        Expect::Approved if governed.effect => {
            Verdict::Unexpected(format!("it was asked about {approved} times, not once"))
        }
        Expect::Free if governed.effect && !held => Verdict::Works,
        _ => surprise(),
    }
}

fn not_applicable(control: &Tried) -> String {
    match &control.said {
        Some(said) => said
            .not_applicable
            .clone()
            .unwrap_or_else(|| format!("it does not work ungoverned either: {}", calls(control))),
        None => "ungoverned, it died before it could say anything".to_owned(),
    }
}

/// The calls in a line: those that failed, or else the last one.
fn calls(tried: &Tried) -> String {
    let Some(said) = &tried.said else {
        return "it said nothing".to_owned();
    };
    let mut words: Vec<String> = said
        .calls
        .iter()
        .filter(|call| call.returned < 0)
        .map(|call| format!("{} failed with {}", call.call, errno(-call.returned)))
        .collect();
    words.dedup();
    words.truncate(3);
    if words.is_empty() {
        words.extend(
            said.calls
                .last()
                .map(|call| format!("{} returned {}", call.call, call.returned)),
        );
    }
    words.join(", ")
}

fn errno(number: i64) -> String {
    let number = i32::try_from(number).unwrap_or(0);
    std::io::Error::from_raw_os_error(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::Call;

    fn tried(effect: bool, errnos: &[i64]) -> Tried {
        Tried {
            effect,
            said: Some(Said {
                calls: errnos
                    .iter()
                    .map(|errno| Call {
                        call: "open".to_owned(),
                        returned: -errno,
                    })
                    .collect(),
                errors: errnos.iter().map(|errno| (*errno, 1)).collect(),
                ..Said::default()
            }),
            late: false,
        }
    }

    fn seen(allowed: bool) -> Seen {
        Seen {
            pid: 7,
            hold: Some(1),
            allowed,
            action: "read".to_owned(),
            object: "/x".to_owned(),
            cause: "policy".to_owned(),
        }
    }

    const EPERM: i64 = 1;
    const ENOENT: i64 = 2;

    #[test]
    fn an_effect_is_a_leak_whatever_else_is_said() {
        for expect in [
            Expect::Held,
            Expect::Denied,
            Expect::HeldOrDenied,
            Expect::Silent,
        ] {
            let control = tried(true, &[]);
            let verdict = judge(expect, &tried(true, &[EPERM]), &control, &[seen(false)]);
            assert!(
                matches!(verdict, Verdict::Leaks(_)),
                "{expect:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_restart_code_is_a_leak_without_any_effect() {
        let verdict = judge(
            Expect::Held,
            &tried(false, &[EPERM, 513]),
            &tried(true, &[]),
            &[seen(false)],
        );
        assert!(matches!(verdict, Verdict::Leaks(_)), "{verdict:?}");
    }

    #[test]
    fn without_a_control_that_works_nothing_is_proven() {
        let control = tried(false, &[ENOENT]);
        let verdict = judge(
            Expect::Held,
            &tried(false, &[EPERM]),
            &control,
            &[seen(false)],
        );
        assert!(matches!(verdict, Verdict::NotApplicable(_)), "{verdict:?}");
        // But a leak is one even so.
        let verdict = judge(Expect::Held, &tried(true, &[]), &control, &[]);
        assert!(matches!(verdict, Verdict::Leaks(_)), "{verdict:?}");
    }

    #[test]
    fn what_is_expected_has_its_own_proof() {
        let control = tried(true, &[]);
        let denied = tried(false, &[EPERM]);
        let odd = tried(false, &[ENOENT]);
        let verdict =
            |expect, governed: &Tried, seen: &[Seen]| judge(expect, governed, &control, seen);
        assert_eq!(
            verdict(Expect::Held, &denied, &[seen(false)]),
            Verdict::Held
        );
        assert!(!verdict(Expect::Held, &denied, &[]).is_good());
        assert!(!verdict(Expect::Held, &denied, &[seen(true)]).is_good());
        assert_eq!(verdict(Expect::Denied, &denied, &[]), Verdict::Denied);
        assert!(!verdict(Expect::Denied, &denied, &[seen(false)]).is_good());
        assert!(!verdict(Expect::Denied, &odd, &[]).is_good());
        assert_eq!(verdict(Expect::HeldOrDenied, &denied, &[]), Verdict::Denied);
        assert!(!verdict(Expect::HeldOrDenied, &odd, &[]).is_good());
        let works = tried(true, &[]);
        assert_eq!(
            verdict(Expect::Approved, &works, &[seen(true)]),
            Verdict::Works
        );
        assert!(!verdict(Expect::Approved, &works, &[]).is_good());
        assert!(!verdict(Expect::Approved, &denied, &[seen(true)]).is_good());
        assert_eq!(verdict(Expect::Free, &works, &[]), Verdict::Works);
        assert!(!verdict(Expect::Free, &denied, &[]).is_good());
    }
}
