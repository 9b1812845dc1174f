//! Exec rules: which programs, with which arguments.
use syshold_protocol::ids::Digest;

use super::built_in;
use super::class::{Class, Kind};
use super::error::Notes;
use super::glob::text_matches;
use super::raw::{RawRule, Text, Texts};
use super::text::{list, noted, some};
use super::{Glob, GlobError};
use crate::request::Classes;

/// Longest pattern for arguments.
const LONGEST: usize = 256;

/// The conditions of an exec rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The programs, as a bit of the class that stands for them.
    pub programs: Classes,
    /// One of them matches; empty: any arguments.
    pub argv: Vec<Words>,
    /// The program's file is one of these; empty: any.
    pub sha256: Vec<Digest>,
}

/// A pattern for a program's arguments, joined by blanks: `*` is any text, `?` one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

impl Run {
    /// Whether the program alone says that the rule matches.
    #[must_use]
    pub fn is_unconditional(&self) -> bool {
        self.argv.is_empty() && self.sha256.is_empty()
    }
}

impl Words {
    #[must_use]
    pub fn matches(&self, argv: &[Vec<u8>]) -> bool {
        text_matches(self.0.as_bytes(), &argv.join(&b' '))
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The classes that stand for the programs of rules: one for each list of programs, so that the
/// kernel can tell them apart by inode. The bits go downwards from the built-in sets'.
pub(super) fn programs(rules: &[RawRule], notes: &mut Notes<'_>) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for rule in rules {
        let Some(texts) = &rule.programs else {
            continue;
        };
        let globs: Vec<Glob> = some(texts, "programs", notes)
            .filter_map(|text| noted(text, Glob::parse(text.get_ref()), GlobError::fix, notes))
            .collect();
        if globs.is_empty() || classes.iter().any(|class| class.globs == globs) {
            continue;
        }
        let taken = u32::try_from(classes.len()).unwrap_or(u32::MAX);
        let Some(bit) = (built_in::LOWEST_BIT - 1).checked_sub(taken) else {
            notes.error(
                &texts.span,
                format!(
                    "a policy has at most {} different lists of programs",
                    built_in::LOWEST_BIT
                ),
                "let rules name the same list, or a pattern for it",
            );
            break;
        };
        classes.push(Class {
            name: format!("programs of {}", rule.name.get_ref()),
            class: "programs".to_owned(),
            globs,
            homes: Vec::new(),
            bit,
            kind: Kind::Programs,
            built_in: false,
        });
    }
    classes
}

/// What an exec rule says; None where it says nothing that could be enforced.
pub(super) fn run(raw: &RawRule, classes: &[Class], notes: &mut Notes<'_>) -> Option<Run> {
    let globs = |texts: &Texts| -> Vec<Glob> {
        let texts = texts.items.iter();
        texts
            .filter_map(|text| Glob::parse(text.get_ref()).ok())
            .collect()
    };
    let Some(texts) = &raw.programs else {
        notes.error(
            &raw.action.span,
            "a rule for exec says which programs it is about",
            "add `programs = [\"/usr/bin/…\"]`; what no rule names may be run",
        );
        return None;
    };
    let globs = globs(texts);
    let programs = classes
        .iter()
        .find(|class| class.kind == Kind::Programs && class.globs == globs)
        .map_or(Classes(0), Class::bits);
    Some(Run {
        programs,
        argv: list(raw.argv.as_ref(), "argv", notes)
            .filter_map(|text| words(text, notes))
            .collect(),
        sha256: list(raw.sha256.as_ref(), "sha256", notes)
            .filter_map(|text| {
                let fix = |_: &_| "write 64 hex digits, as `sha256sum` prints them".to_owned();
                noted(text, text.get_ref().parse::<Digest>(), fix, notes)
            })
            .collect(),
    })
}

fn words(text: &Text, notes: &mut Notes<'_>) -> Option<Words> {
    let word = text.get_ref();
    if word.is_empty() || word.len() > LONGEST || word.chars().any(char::is_control) {
        notes.error(
            &text.span(),
            format!("`{word}` is not a pattern for arguments"),
            format!("use 1 to {LONGEST} bytes: `* delete *` is `delete` anywhere among them"),
        );
        return None;
    }
    Some(Words(word.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_joined_by_blanks() {
        let argv = |line: &str| -> Vec<Vec<u8>> {
            line.split('|').map(|arg| arg.as_bytes().to_vec()).collect()
        };
        let table = [
            ("* delete *", "kubectl|delete|ns", true),
            ("* delete *", "kubectl|delete", false),
            ("* delete*", "kubectl|delete", true),
            ("kubectl get *", "kubectl|get|pods", true),
            ("kubectl get *", "/usr/bin/kubectl|get|pods", false),
            ("*/kubectl get ?", "/usr/bin/kubectl|get|x", true),
            // Whoever looks for a word finds it inside an argument, too.
            ("* delete *", "sh|-c|kubectl delete ns", true),
            ("git", "git", true),
            ("git", "git|push", false),
        ];
        for (pattern, line, expected) in table {
            let words = Words(pattern.to_owned());
            assert_eq!(words.matches(&argv(line)), expected, "{pattern} {line}");
        }
    }
}
