//! `syshold approvals watch`: each request as it comes, and one key for each answer.
use std::collections::HashSet;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use syshold_protocol::{Digest, RequestId, Scope};

use super::super::Outcome;
use super::super::people::{Answered, Approval, People};
use super::super::show::{self, BAD, FAINT, GOOD, NOTE, safe, styled};
use super::ApprovalsError;

/// How soon something new is seen.
const PAUSE: Duration = Duration::from_secs(2);
/// How many that were passed over are remembered; who passed over more is asked again.
const MOST_PASSED: usize = 10_000;

/// What a person answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Approve,
    Deny,
    Pass,
    Quit,
}

/// One word or its first letter. Anything else is no answer: it never approves.
fn key(line: &str) -> Option<Key> {
    match line.trim().to_lowercase().as_str() {
        "a" | "approve" => Some(Key::Approve),
        "d" | "deny" => Some(Key::Deny),
        "s" | "skip" => Some(Key::Pass),
        "q" | "quit" => Some(Key::Quit),
        _ => None,
    }
}

/// Ends at `q`, at the end of the input, or by Ctrl-C.
pub(super) fn run(people: &People) -> Outcome {
    let mut passed: HashSet<(RequestId, Digest)> = HashSet::new();
    let mut trouble = false;
    say(&styled(FAINT, "Waiting for requests; Ctrl-C ends this."))?;
    loop {
        let pending = match people.list("pending") {
            Ok(pending) => {
                trouble = false;
                pending
            }
            // Said once: it is tried again all the same.
            Err(error) => {
                if !std::mem::replace(&mut trouble, true) {
                    say(&styled(BAD, &safe(&error.to_string())))?;
                }
                vec![]
            }
        };
        let is_new = |a: &&Approval| {
            (a.may_approve || a.may_deny) && !passed.contains(&(a.id, a.rendered_sha256))
        };
        // The one that ends first comes first.
        let Some(next) = pending
            .iter()
            .filter(is_new)
            .min_by_key(|a| a.expires_at.ms())
        else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if passed.len() >= MOST_PASSED {
            passed.clear();
        }
        passed.insert((next.id, next.rendered_sha256));
        show::print(&format!("\n{}", next.page()))?;
        if !answer(people, next)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// False: no more.
fn answer(people: &People, seen: &Approval) -> Result<bool, ApprovalsError> {
    let question = match (seen.may_approve, &seen.why_not) {
        (true, _) => "[a]pprove once, [d]eny, [s]kip, [q]uit? ".to_owned(),
        (false, Some(why)) => format!("{}. [d]eny, [s]kip, [q]uit? ", safe(why)),
        (false, None) => "[d]eny, [s]kip, [q]uit? ".to_owned(),
    };
    loop {
        let Some(line) = read(&question)? else {
            return Ok(false);
        };
        let done = match key(&line) {
            Some(Key::Approve) if seen.may_approve => people.approve(seen, Scope::Once, None),
            Some(Key::Deny) => {
                let Some(reason) = read("Reason, for the agent's owner and the ledger: ")? else {
                    return Ok(false);
                };
                if reason.trim().is_empty() {
                    say(&styled(NOTE, "A denial needs a reason."))?;
                    continue;
                }
                people.deny(seen.id, reason.trim())
            }
            Some(Key::Pass) => return Ok(true),
            Some(Key::Quit) => return Ok(false),
            _ => continue,
        };
        match done {
            Ok(Answered {
                decided: true,
                state,
                ..
            }) => say(&styled(GOOD, super::phase(state)))?,
            Ok(answered) => say(&format!(
                "Counted: {} of {} people have approved.",
                answered.have, answered.need
            ))?,
            // Somebody else was quicker, or it has ended: the next one.
            Err(error) => say(&styled(BAD, &safe(&error.to_string())))?,
        }
        return Ok(true);
    }
}

/// A line; `None` at the end of the input.
fn read(question: &str) -> Result<Option<String>, ApprovalsError> {
    let mut ask = anstream::stderr();
    write!(ask, "{}", styled(NOTE, question))
        .and_then(|()| ask.flush())
        .map_err(ApprovalsError::Terminal)?;
    let mut line = String::new();
    let count = io::stdin()
        .read_line(&mut line)
        .map_err(ApprovalsError::Terminal)?;
    Ok((count > 0).then_some(line))
}

fn say(text: &str) -> Result<(), ApprovalsError> {
    writeln!(anstream::stderr(), "{text}").map_err(ApprovalsError::Terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_itself_answers() {
        assert_eq!(key(" A\n"), Some(Key::Approve));
        assert_eq!(key("approve"), Some(Key::Approve));
        assert_eq!(key("d"), Some(Key::Deny));
        for none in ["", "\n", "y", "yes", "approve all", "ad", "aa"] {
            assert_eq!(key(none), None, "{none:?}");
        }
    }
}
