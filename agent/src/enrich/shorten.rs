//! Long values, short enough for a request. The beginning and the END stay, and what is left out
//! between them is counted where it was: nobody hides a command behind padding. Pure.
use syshold_protocol::display::{lossless, not_shown};

/// `argv` as text, in about `most` bytes of JSON and at most `items` entries; and whether it is all.
#[must_use]
pub fn arguments(argv: &[Vec<u8>], most: usize, items: usize) -> (Vec<String>, bool) {
    let texts: Vec<_> = argv.iter().map(|argument| lossless(argument)).collect();
    let all: usize = texts.iter().map(|text| cost(text)).sum();
    if all <= most && texts.len() <= items {
        return (texts, true);
    }
    // Three entries are for the one where each half ends, and for the count of those between.
    let (most, items) = (most / 2, items.saturating_sub(3) / 2);
    let (head, begun) = fitting(texts.iter(), most, items, |text, most| {
        prefix(text.chars(), most)
    });
    let (tail, ended) = fitting(texts.iter().rev(), most, items, |text, most| {
        prefix(text.chars().rev(), most)
    });
    let mut shown: Vec<_> = texts[..head].to_vec();
    let between = &texts[head..texts.len() - tail];
    match between {
        [one] => {
            let (first, last) = (&one[..begun], &one[one.len() - ended..]);
            let left = one[begun..one.len() - ended].chars().count();
            shown.push(format!("{first}{}{last}", not_shown(left, "characters")));
        }
        [first, rest @ .., last] => {
            let part = |text: &str| not_shown(text.chars().count(), "characters");
            let mut left = rest.len();
            if begun > 0 {
                shown.push(format!("{}{}", &first[..begun], part(&first[begun..])));
            } else {
                left += 1;
            }
            left += usize::from(ended == 0);
            if left > 0 {
                shown.push(not_shown(left, "arguments"));
            }
            if ended > 0 {
                let (cut, kept) = last.split_at(last.len() - ended);
                shown.push(format!("{}{kept}", part(cut)));
            }
        }
        [] => {}
    }
    shown.extend_from_slice(&texts[texts.len() - tail..]);
    (shown, false)
}

/// A path with its beginning, where the installation is told, and its end, where the name is.
pub(super) fn path(path: &[u8], most: usize) -> String {
    if path.len() <= most {
        return lossless(path);
    }
    let (head, tail) = (&path[..most / 2], &path[path.len() - most / 2..]);
    let left = not_shown(path.len() - head.len() - tail.len(), "bytes");
    format!("{}{left}{}", lossless(head), lossless(tail))
}

/// Bytes.
const SCRAP: usize = 32;

/// How many whole texts fit, and how many bytes of the next one.
fn fitting<'a>(
    texts: impl Iterator<Item = &'a String>,
    most: usize,
    items: usize,
    part: impl Fn(&str, usize) -> usize,
) -> (usize, usize) {
    let (mut whole, mut used) = (0, 0);
    for text in texts {
        let cost = cost(text);
        if whole == items {
            return (whole, 0);
        }
        if used + cost > most {
            // A scrap of it tells nothing.
            let left = (most - used).saturating_sub(3);
            let part = if left > SCRAP { part(text, left) } else { 0 };
            return (whole, part);
        }
        used += cost;
        whole += 1;
    }
    (whole, 0)
}

/// Bytes of the first characters that cost at most `most`.
fn prefix(chars: impl Iterator<Item = char>, most: usize) -> usize {
    let (mut used, mut bytes) = (0, 0);
    for c in chars {
        used += json(c);
        if used > most {
            break;
        }
        bytes += c.len_utf8();
    }
    bytes
}

/// Bytes of a list's entry as JSON.
fn cost(text: &str) -> usize {
    text.chars().map(json).sum::<usize>() + 3
}

fn json(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        '\0'..='\x1f' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use syshold_protocol::display::is_cut;

    use super::*;

    fn of(argv: &[&str], most: usize, items: usize) -> (Vec<String>, bool) {
        let argv: Vec<_> = argv.iter().map(|text| text.as_bytes().to_vec()).collect();
        arguments(&argv, most, items)
    }

    #[test]
    fn the_end_of_a_command_is_never_hidden() {
        assert_eq!(
            of(&["kubectl", "get", ""], 100, 9),
            (vec!["kubectl".into(), "get".into(), String::new()], true)
        );
        // One long argument in the middle, as a shell script is.
        let script = format!("echo {}; rm -rf /srv", " ".repeat(5000));
        let (shown, whole) = of(&["sh", "-c", &script], 400, 9);
        assert!(!whole && shown.len() == 3, "{shown:?}");
        assert!(shown[2].starts_with("echo ") && shown[2].ends_with("; rm -rf /srv"));
        assert!(
            shown[2].contains(" more characters, not shown …"),
            "{shown:?}"
        );
        // Many short ones.
        let mut many = vec!["x"; 3000];
        many[0] = "kubectl";
        many[2999] = "--all";
        let (shown, whole) = of(&many, 16 * 1024, 256);
        assert!(!whole && shown.len() <= 256);
        assert_eq!(
            (shown[0].as_str(), shown.last().unwrap().as_str()),
            ("kubectl", "--all")
        );
        let marks: Vec<_> = shown.iter().filter(|text| is_cut(text)).collect();
        assert_eq!(marks, [&not_shown(3000 - 2 * 126, "arguments")]);
        // Padding between two long ones.
        let (first, last) = ("a".repeat(900), format!("{}END", "b".repeat(900)));
        let (shown, _) = of(&["tool", &first, "pad", "pad", &last], 1200, 9);
        assert!(
            shown[1].starts_with("aaa") && is_cut(&shown[1]),
            "{shown:?}"
        );
        assert_eq!(shown[2], "… 2 more arguments, not shown …");
        assert!(
            shown[3].starts_with('…') && shown[3].ends_with("bEND"),
            "{shown:?}"
        );
    }

    #[test]
    fn long_paths_lose_their_middle() {
        assert_eq!(path(b"/usr/bin/cat", 12), "/usr/bin/cat");
        assert_eq!(
            path(b"/usr/lib/bin/cat", 8),
            "/usr… 8 more bytes, not shown …/cat"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_given_fits_and_says_so(argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40), most in 0_usize..4000, items in 8_usize..30) {
            let (shown, whole) = arguments(&argv, most, items);
            let texts: Vec<_> = argv.iter().map(|argument| lossless(argument)).collect();
            prop_assert!(shown.len() <= items);
            prop_assert_eq!(whole, shown == texts);
            let bytes = serde_json::to_vec(&shown).unwrap().len();
            prop_assert!(bytes <= most + 3 * 60 + 2, "{} of {}", bytes, most);
            if !whole {
                prop_assert!(shown.iter().any(|text| is_cut(text)));
            }
        }
    }
}
