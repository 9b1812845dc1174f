//! The paths that the kernel wrote into a hold: from its beginning, or spelled from its end with
//! zeros before it, and behind that where it goes to.
use syshold_abi::{PATH_LEN, Pending};

/// Where a second path may stand; the first one ends before it.
const SECOND: usize = PATH_LEN / 2;

/// The object's path, with a slash at its end when a folder's name is changed; and its new one.
#[must_use]
pub fn paths_of(pending: &Pending) -> (Option<String>, Option<String>) {
    let (first, second) = pending.path.split_at(SECOND);
    if first.first() != Some(&0) || first.last() != Some(&0) {
        return (text(&pending.path), None);
    }
    (text(first), text(second))
}

fn text(bytes: &[u8]) -> Option<String> {
    let start = bytes.iter().position(|&byte| byte != 0)?;
    let path = bytes.get(start..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(path).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(parts: &[(usize, &str)]) -> Pending {
        // SAFETY: integers only: zeros are valid.
        let mut pending: Pending = unsafe { std::mem::zeroed() };
        for (at, part) in parts {
            pending.path[*at..at + part.len()].copy_from_slice(part.as_bytes());
        }
        pending
    }

    #[test]
    fn a_path_may_stand_at_either_end_and_another_behind_it() {
        let long = "/x".repeat(400);
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(paths_of(&pending(&[])), (None, None));
        assert_eq!(paths_of(&pending(&[(0, "/a")])), (said("/a"), None));
        assert_eq!(paths_of(&pending(&[(0, &long)])), (Some(long), None));
        assert_eq!(paths_of(&pending(&[(509, "/a")])), (said("/a"), None));
        assert_eq!(
            paths_of(&pending(&[(509, "/a"), (765, "/b")])),
            (said("/a"), said("/b"))
        );
    }
}
