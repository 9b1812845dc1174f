//! Protected paths: absolute, literal or with `*`, `**` and `?`.
//!
//! A plain path protects itself and everything below. So does a pattern, unless its last name
//! ends in an extension (`*.csv`): then it names files, and the kernel may filter by that suffix.
//! Names are bytes to Linux, so they are matched as bytes; `?` takes one UTF-8 character.
use std::fmt;
use std::path::PathBuf;

use syshold_abi::SUFFIX_LEN;

/// Longest pattern taken: a match costs at most pattern × path steps.
const LONGEST: usize = 1024;

/// A well-formed absolute pattern without `.`, `..` and empty names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
    /// Matches what is below, too.
    tree: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One name, which may hold `*` and `?`.
    Name(String),
    /// `**`: any number of names, also none.
    AnyDepth,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    #[error("the path `{0}` is not absolute")]
    Relative(String),
    #[error("the path `{0}` contains `.` or `..`")]
    Dots(String),
    #[error("the path `{0}` has an empty name between two slashes")]
    EmptyName(String),
    #[error("`**` stands for whole folders: `{0}` mixes it with letters")]
    MixedStars(String),
    #[error("the character {0:?} is not supported in paths")]
    Character(char),
    #[error("the path is longer than {LONGEST} bytes")]
    TooLong,
    #[error("this protects every file, even the libraries that a program needs to start")]
    Everything,
}

impl GlobError {
    pub(super) fn fix(&self) -> String {
        match self {
            Self::Relative(path) => format!("start with a slash: `/{path}`"),
            Self::Dots(_) => "write the path that is meant, without `.` and `..`".to_owned(),
            Self::EmptyName(path) => {
                let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
                format!("write `/{}`", names.join("/"))
            }
            Self::MixedStars(_) => "use `*` within a name and `/**/` between folders".to_owned(),
            Self::Character(_) => {
                "use `?` for one character, `*` for any within a name, `**` for any folders"
                    .to_owned()
            }
            Self::TooLong => "shorten the pattern, or protect a folder above".to_owned(),
            Self::Everything => "name the folders that hold what is sensitive".to_owned(),
        }
    }
}

/// What the kernel can check of a glob: everything below `root` whose name ends in `suffix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The longest literal folder.
    pub root: PathBuf,
    /// What is left of the pattern; empty for a literal path.
    pub remainder: String,
    /// At most [`SUFFIX_LEN`] bytes; empty: any name.
    pub suffix: Vec<u8>,
}

impl Glob {
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.len() > LONGEST {
            return Err(GlobError::TooLong);
        }
        if let Some(c) = text
            .chars()
            .find(|&c| c.is_control() || "[]{}\\".contains(c))
        {
            return Err(GlobError::Character(c));
        }
        let Some(names) = text.strip_prefix('/') else {
            return Err(GlobError::Relative(text.to_owned()));
        };
        let names = names.strip_suffix('/').unwrap_or(names);
        if names.is_empty() {
            return Err(GlobError::Everything);
        }
        let mut parts = Vec::new();
        for name in names.split('/') {
            parts.push(match name {
                "" => return Err(GlobError::EmptyName(text.to_owned())),
                "." | ".." => return Err(GlobError::Dots(text.to_owned())),
                "**" => Part::AnyDepth,
                _ if name.contains("**") => return Err(GlobError::MixedStars(name.to_owned())),
                _ => Part::Name(name.to_owned()),
            });
        }
        let mut tree = false;
        while let Some(Part::AnyDepth) = parts.last() {
            parts.pop();
            tree = true;
        }
        let Some(Part::Name(last)) = parts.last() else {
            return Err(GlobError::Everything);
        };
        let tree = tree || extension(last).is_none();
        Ok(Self { parts, tree })
    }

    /// Whether the pattern is a plain path.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(Part::is_literal)
    }

    /// Whether a path, as its names, is meant.
    #[must_use]
    pub fn matches(&self, path: &Names<'_>) -> bool {
        let names = &path.0;
        let (mut at, mut part) = (0, 0);
        // Where the last `**` began and how many names it has taken; one is enough, because
        // taking more by an earlier one never makes a match that this one cannot make.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.parts.get(part) {
                None if self.tree || at == names.len() => return true,
                Some(Part::AnyDepth) => {
                    part += 1;
                    retry = Some((part, at));
                    continue;
                }
                Some(Part::Name(pattern))
                    if names
                        .get(at)
                        .is_some_and(|name| name_matches(pattern.as_bytes(), name)) =>
                {
                    part += 1;
                    at += 1;
                    continue;
                }
                None | Some(Part::Name(_)) => {}
            }
            match retry {
                Some((after, taken)) if taken < names.len() => {
                    retry = Some((after, taken + 1));
                    part = after;
                    at = taken + 1;
                }
                _ => return false,
            }
        }
    }

    /// Whether something below the folder `path` may be meant.
    #[must_use]
    pub fn may_match_below(&self, path: &Names<'_>) -> bool {
        for (at, part) in self.parts.iter().enumerate() {
            match (part, path.0.get(at)) {
                (Part::AnyDepth, _) | (_, None) => return true,
                (Part::Name(pattern), Some(name)) if !name_matches(pattern.as_bytes(), name) => {
                    return false;
                }
                (Part::Name(_), Some(_)) => {}
            }
        }
        self.tree
    }

    /// Whether `path` lies at or below the literal root.
    #[must_use]
    pub fn has_root_above(&self, path: &Names<'_>) -> bool {
        let literal = self.parts.iter().take_while(|part| part.is_literal());
        literal
            .zip(path.0.iter().map(Some).chain(std::iter::repeat(None)))
            .all(|(part, name)| matches!((part, name), (Part::Name(p), Some(n)) if p.as_bytes() == *n))
    }

    #[must_use]
    pub fn split(&self) -> Split {
        let literal = self
            .parts
            .iter()
            .take_while(|part| part.is_literal())
            .count();
        let (root, rest) = self.parts.split_at(literal);
        let mut remainder = join(rest);
        if !rest.is_empty() && self.tree && ends_in_extension(rest) {
            remainder.push_str("/**");
        }
        let suffix = match rest.last() {
            Some(Part::Name(last)) if !self.tree => {
                let tail = extension(last).unwrap_or_default().as_bytes();
                tail[tail.len().saturating_sub(SUFFIX_LEN)..].to_vec()
            }
            _ => Vec::new(),
        };
        Split {
            root: PathBuf::from(format!("/{}", join(root))),
            remainder,
            suffix,
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", join(&self.parts))?;
        if self.tree && ends_in_extension(&self.parts) {
            f.write_str("/**")?;
        }
        Ok(())
    }
}

impl Part {
    fn is_literal(&self) -> bool {
        matches!(self, Self::Name(name) if !name.contains(['*', '?']))
    }
}

fn join(parts: &[Part]) -> String {
    let names: Vec<&str> = parts
        .iter()
        .map(|part| match part {
            Part::Name(name) => name.as_str(),
            Part::AnyDepth => "**",
        })
        .collect();
    names.join("/")
}

fn ends_in_extension(parts: &[Part]) -> bool {
    matches!(parts.last(), Some(Part::Name(last)) if extension(last).is_some())
}

/// What follows the last wildcard of a name, if it looks like a file's extension.
fn extension(name: &str) -> Option<&str> {
    let tail = &name[name.rfind(['*', '?'])? + 1..];
    tail.contains('.').then_some(tail)
}

/// An absolute path as its names.
#[derive(Debug)]
pub struct Names<'p>(Vec<&'p [u8]>);

impl<'p> Names<'p> {
    /// None: not absolute, or with `.` and `..`, so that nobody knows what it names.
    #[must_use]
    pub fn of(path: &'p [u8]) -> Option<Self> {
        let names = path.strip_prefix(b"/")?;
        let names: Vec<&[u8]> = names
            .split(|&b| b == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        let known = names.iter().all(|name| *name != b"." && *name != b"..");
        known.then_some(Self(names))
    }
}

/// As a name, but any text: `*` goes beyond slashes and blanks.
pub(super) fn text_matches(pattern: &[u8], text: &[u8]) -> bool {
    name_matches(pattern, text)
}

/// Whether one name matches a pattern of `*` and `?`; never worse than pattern × name steps.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut p) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            None if at == name.len() => return true,
            Some(b'*') => {
                p += 1;
                retry = Some((p, at));
                continue;
            }
            Some(b'?') if at < name.len() => {
                p += 1;
                at += character_len(&name[at..]);
                continue;
            }
            Some(byte) if name.get(at) == Some(byte) => {
                p += 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        match retry {
            Some((after, taken)) if taken < name.len() => {
                retry = Some((after, taken + 1));
                p = after;
                at = taken + 1;
            }
            _ => return false,
        }
    }
}

/// Bytes of the first character; 1 for a byte that begins none.
fn character_len(bytes: &[u8]) -> usize {
    let len = match bytes.first() {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        _ => 1,
    };
    match bytes.get(..len) {
        Some(character) if std::str::from_utf8(character).is_ok() => len,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, path: &str) -> bool {
        Glob::parse(glob)
            .unwrap()
            .matches(&Names::of(path.as_bytes()).unwrap())
    }

    #[test]
    fn a_folder_may_hold_what_is_meant() {
        let glob = Glob::parse("/home/*/exports/*.csv").unwrap();
        let below = |path: &str| glob.may_match_below(&Names::of(path.as_bytes()).unwrap());
        for path in ["/home/", "/home/ada/", "/home/ada/exports/"] {
            assert!(below(path), "{path}");
        }
        for path in ["/srv/", "/home/ada/mail/", "/home/ada/exports/x.csv/old/"] {
            assert!(!below(path), "{path}");
        }
        let deep = Glob::parse("/srv/**/keys").unwrap();
        assert!(deep.may_match_below(&Names::of(b"/srv/a/b/").unwrap()));
    }

    #[test]
    fn what_matches_what() {
        let table = [
            ("/srv/pii", "/srv/pii", true),
            ("/srv/pii", "/srv/pii/a/b", true),
            ("/srv/pii/", "/srv/pii/a", true),
            ("/srv/pii", "/srv/pii/", true),
            ("/srv/pii", "/srv//pii/a", true),
            ("/srv/pii", "/srv/pii-public", false),
            ("/srv/pii", "/srv/pi", false),
            ("/srv/pii", "/srv", false),
            ("/srv/pii", "/", false),
            ("/srv/pii/**", "/srv/pii", true),
            ("/srv/pii/**", "/srv/pii/a/b", true),
            ("/srv/pii/**", "/srv/pii-public/a", false),
            ("/home/*/exports/*.csv", "/home/bob/exports/a.csv", true),
            ("/home/*/exports/*.csv", "/home/bob/exports/.csv", true),
            ("/home/*/exports/*.csv", "/home/bob/exports/a.csv.gz", false),
            ("/home/*/exports/*.csv", "/home/bob/x/exports/a.csv", false),
            ("/home/*/exports/*.csv", "/home/exports/a.csv", false),
            (
                "/home/*/exports/*.csv",
                "/home/bob/exports/d.csv/inside",
                false,
            ),
            (
                "/home/*/exports/*.csv/**",
                "/home/bob/exports/d.csv/inside",
                true,
            ),
            ("/home/*/.ssh", "/home/bob/.ssh/id_ed25519", true),
            ("/home/*/.ssh", "/home/bob/.ssh2/id_ed25519", false),
            ("/home/*/project-*", "/home/bob/project-x/src", true),
            ("/srv/**/*.key", "/srv/a.key", true),
            ("/srv/**/*.key", "/srv/a/b/c.key", true),
            ("/srv/**/*.key", "/srv/a/b/c.keys", false),
            ("/srv/**/a/**/b", "/srv/x/a/y/a/z/b/below", true),
            ("/srv/**/a/**/b", "/srv/x/b/a", false),
            ("/srv/?.txt", "/srv/é.txt", true),
            ("/srv/??.txt", "/srv/é.txt", false),
            ("/srv/*a*b*.c", "/srv/xxaxxbxx.c", true),
            ("/srv/*a*b*.c", "/srv/xxbxxaxx.c", false),
        ];
        for (glob, path, expected) in table {
            assert_eq!(matches(glob, path), expected, "{glob} against {path}");
        }
    }

    #[test]
    fn what_the_kernel_filters_by() {
        let table: [(&str, &str, &str, &str); 10] = [
            ("/srv/pii", "/srv/pii", "", ""),
            ("/srv/pii/**", "/srv/pii", "", ""),
            ("/home/*/exports/*.csv", "/home", "*/exports/*.csv", ".csv"),
            ("/home/*/.ssh", "/home", "*/.ssh", ""),
            ("/home/*/.ssh/**", "/home", "*/.ssh", ""),
            ("/home/*/project-*", "/home", "*/project-*", ""),
            ("/srv/a?.tar.gz", "/srv", "a?.tar.gz", ".tar.gz"),
            ("/srv/*.csv/**", "/srv", "*.csv/**", ""),
            ("/*/secrets", "/", "*/secrets", ""),
            (
                "/srv/*.a-very-long-extension",
                "/srv",
                "*.a-very-long-extension",
                "y-long-extension",
            ),
        ];
        for (glob, root, remainder, suffix) in table {
            let expected = Split {
                root: root.into(),
                remainder: remainder.into(),
                suffix: suffix.into(),
            };
            assert_eq!(Glob::parse(glob).unwrap().split(), expected, "{glob}");
        }
    }

    #[test]
    fn what_is_not_a_pattern() {
        let table = [
            ("", "not absolute"),
            ("srv/pii", "not absolute"),
            ("/", "every file"),
            ("/**", "every file"),
            ("/srv/../etc", "`..`"),
            ("/srv/./etc", "`.`"),
            ("/srv//etc", "empty name"),
            ("//", "every file"),
            ("/srv/a**", "whole folders"),
            ("/srv/***", "whole folders"),
            ("/srv/[ab]", "not supported"),
            ("/srv/{a,b}", "not supported"),
            ("/srv/\\*", "not supported"),
            ("/srv/a\nb", "not supported"),
        ];
        for (glob, expected) in table {
            let error = Glob::parse(glob).expect_err(glob).to_string();
            assert!(error.contains(expected), "{glob}: {error}");
        }
        assert_eq!(Glob::parse(&"/x".repeat(600)), Err(GlobError::TooLong));
    }

    #[test]
    fn a_path_that_nobody_knows_is_none() {
        for path in ["", "srv", "/srv/../x", "/.", "(unreachable)/srv"] {
            assert!(Names::of(path.as_bytes()).is_none(), "{path}");
        }
    }

    #[test]
    fn hostile_patterns_and_paths_are_quick() {
        let glob = format!("/{}b/**/{}x", "a*".repeat(200), "**/a/".repeat(60));
        let path = format!("/{}{}", "a".repeat(2000), "/a".repeat(1000));
        let deep = format!("/{}x", "**/a/".repeat(190));
        let start = Instant::now();
        assert!(!matches(&glob, &path));
        assert!(!matches(&deep, &"/a".repeat(2000)));
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }

    /// The definition, slowly: what `matches` must agree with.
    fn slow(parts: &[Part], names: &[&[u8]], tree: bool) -> bool {
        match parts.split_first() {
            None => tree || names.is_empty(),
            Some((Part::AnyDepth, rest)) => {
                (0..=names.len()).any(|n| slow(rest, &names[n..], tree))
            }
            Some((Part::Name(pattern), rest)) => {
                names.split_first().is_some_and(|(name, below)| {
                    slow_name(pattern.as_bytes(), name) && slow(rest, below, tree)
                })
            }
        }
    }

    fn slow_name(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|n| slow_name(rest, &name[n..])),
            Some((b'?', rest)) => !name.is_empty() && slow_name(rest, &name[1..]),
            Some((byte, rest)) => name
                .split_first()
                .is_some_and(|(n, tail)| n == byte && slow_name(rest, tail)),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            glob in "(/(\\*\\*|[ab*?]{1,3}|\\*\\.a)){1,5}",
            path in "(/[ab.]{1,4}){0,6}",
        ) {
            let Ok(glob) = Glob::parse(&glob) else { return Ok(()) };
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let Some(names) = Names::of(path.as_bytes()) else { return Ok(()) };
            prop_assert_eq!(glob.matches(&names), slow(&glob.parts, &names.0, glob.tree));
        }

        /// What the kernel filters by never hides a match from user space.
        #[test]
        fn the_kernel_sees_every_match(
            glob in "(/(\\*\\*|[ab*?]{1,2}|\\*\\.a)){1,4}",
            path in "(/[ab.]{1,3}){1,5}",
        ) {
            let Ok(glob) = Glob::parse(&glob) else { return Ok(()) };
            let Some(names) = Names::of(path.as_bytes()) else { return Ok(()) };
            let split = glob.split();
            if glob.matches(&names) {
                prop_assert!(std::path::Path::new(&path).starts_with(&split.root));
                prop_assert!(glob.has_root_above(&names));
                prop_assert!(path.trim_end_matches('/').as_bytes().ends_with(&split.suffix));
            }
            let again = Glob::parse(&glob.to_string()).unwrap();
            prop_assert_eq!(again, glob);
        }

        #[test]
        fn no_bytes_make_it_panic(glob in any::<String>(), path in any::<Vec<u8>>()) {
            let glob = Glob::parse(&format!("/{glob}"));
            let path = [b"/".as_slice(), &path].concat();
            if let (Ok(glob), Some(names)) = (glob, Names::of(&path)) {
                let _ = (glob.matches(&names), glob.split());
            }
        }
    }
}
