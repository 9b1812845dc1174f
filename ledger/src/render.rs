//! Leaves and reports as text for people.
use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use crate::reader::Leaf;
use crate::verify::{Exit, Report};

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// The heading over [`line()`]s.
pub fn heading() -> String {
    format!(
        "{BOLD}{:>7}  {:<24}  {:<9} {:<5} {:<11} WHAT{BOLD:#}",
        "IDX", "TIME (UTC)", "KIND", "", "BY"
    )
}

/// One leaf in one line. Nothing in it can move the cursor or hide.
pub fn line(leaf: &Leaf) -> String {
    let value = leaf.value();
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(escape);
    let kind = text("/kind").unwrap_or_else(|| "?".to_owned());
    let verdict = text("/decision/verdict").unwrap_or_default();
    let style = verdict_style(&verdict);
    let mut what: Vec<String> = Vec::new();
    what.extend(text("/agent/name"));
    what.extend(text("/action/op"));
    what.extend(text("/object/host"));
    what.extend(text("/object/path").or_else(|| text("/object/addr")));
    what.extend(text("/outcome/result"));
    what.extend(text("/policy/rule").map(|rule| format!("rule={rule}")));
    what.extend(text("/decision/cause").map(|cause| format!("({cause})")));
    let by = value
        .pointer("/approvers/0/subject")
        .and_then(Value::as_str)
        .map(escape)
        .or_else(|| text("/decision/by"));
    for own in ["gap", "degraded", "step", "software"] {
        what.extend(value.get(own).map(|value| escape(&value.to_string())));
    }
    format!(
        "{:>7}  {DIM}{:<24}{DIM:#}  {kind:<9} {style}{verdict:<5}{style:#} {:<11} {}",
        leaf.idx,
        text("/t").unwrap_or_default(),
        by.unwrap_or_default(),
        what.join(" ")
    )
}

/// One leaf in full: a line a field, then what opens its commitments, its hash last.
pub fn full(leaf: &Leaf, openings: &[(String, String)]) -> String {
    let mut lines = Vec::new();
    flatten("", &leaf.value(), &mut lines);
    for (path, value) in openings {
        lines.push((format!("{path} (opened)"), escape(value)));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(4);
    let mut out = String::new();
    for (name, value) in lines {
        let _infallible = writeln!(out, "{DIM}{name:<width$}{DIM:#}  {value}");
    }
    let _infallible = writeln!(out, "{BOLD}{:<width$}{BOLD:#}  {}", "hash", leaf.hash);
    out
}

/// A report of `verify` in a few lines.
pub fn report(path: &str, report: &Report) -> String {
    let mut out = format!("{path}: {} leaves", report.leaves);
    if report.first > 0 {
        let _infallible = write!(out, " from {} on (those before were pruned)", report.first);
    }
    if let Some(head) = report.head {
        let _infallible = write!(out, ", the last one {head}");
    }
    if let Some(root) = report.root {
        let _infallible = write!(
            out,
            "\nroot {root}, {} checkpoints, {} epochs",
            report.checkpoints, report.epochs
        );
    }
    if let Some(identity) = &report.identity {
        let pinned = if report.identity_pinned {
            "the one you gave"
        } else {
            "as the ledger names it; give yours with --key"
        };
        let _infallible = write!(out, "\nidentity key {} ({pinned})", escape(identity));
    }
    out.push('\n');
    for finding in &report.errors {
        let _infallible = writeln!(out, "{}", escape(&finding.to_string()));
    }
    let more = report
        .error_count
        .saturating_sub(report.errors.len() as u64);
    if more > 0 {
        let _infallible = writeln!(out, "… and {more} more");
    }
    for warning in &report.warnings {
        let _infallible = writeln!(out, "{}", escape(&warning.to_string()));
    }
    let (good, bad) = (
        AnsiColor::Green.on_default().bold(),
        AnsiColor::Red.on_default().bold(),
    );
    let _infallible = match report.exit() {
        Exit::Clean => writeln!(
            out,
            "{good}clean{good:#}: every leaf is what was hashed, all of them are in the tree, and every checkpoint is signed and of this tree"
        ),
        Exit::WarningsOnly => writeln!(out, "{good}clean{good:#}, with the warnings above"),
        Exit::Tampered | Exit::Unreadable => {
            let proven = report
                .last_good
                .map_or("nothing is proven".to_owned(), |idx| {
                    format!("proven good up to leaf {idx}")
                });
            writeln!(out, "{bad}TAMPERED{bad:#}: {proven}")
        }
    };
    let _infallible = match &report.cosigned {
        Some(cosigned) => writeln!(
            out,
            "A witness, {}, saw the first {} leaves at {}; what is newer only this host vouches for.",
            escape(&cosigned.witness),
            cosigned.size,
            cosigned.at
        ),
        None => writeln!(
            out,
            "No witness has seen this ledger: that its end was not cut off, only a root noted elsewhere can prove."
        ),
    };
    out
}

fn verdict_style(verdict: &str) -> Style {
    match verdict {
        "allow" => AnsiColor::Green.on_default(),
        "deny" => AnsiColor::Red.on_default(),
        _ => Style::new(),
    }
}

fn flatten(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, inner) in map {
                let name = escape(name);
                flatten(
                    &if path.is_empty() {
                        name
                    } else {
                        format!("{path}.{name}")
                    },
                    inner,
                    out,
                );
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter()
                .enumerate()
                .for_each(|(n, inner)| flatten(&format!("{path}[{n}]"), inner, out));
        }
        Value::String(text) => out.push((path.to_owned(), escape(text))),
        other => out.push((path.to_owned(), escape(&other.to_string()))),
    }
}

/// What does not print as itself is spelled out: a path in the ledger must not drive a terminal.
pub(crate) fn escape(raw: &str) -> String {
    raw.chars()
        .fold(String::with_capacity(raw.len()), |mut out, c| {
            if !matches!(c, '"' | '\'' | '\\') && c.escape_debug().next() == Some('\\') {
                out.extend(c.escape_unicode());
            } else {
                out.push(c);
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::leaf_hash;

    #[test]
    fn a_leaf_cannot_drive_the_terminal() {
        let body = serde_json::json!({
            "kind": "decision", "t": "2026-01-02T03:04:05.006Z", "decision": {"verdict": "deny", "by": "policy"},
            "object": {"path": "/tmp/\u{1b}[2J\u{202e}x\u{9b}31m\n"}
        })
        .to_string();
        let leaf = Leaf {
            idx: 3,
            hash: leaf_hash(body.as_bytes()),
            body,
        };
        for text in [
            anstream::adapter::strip_str(&line(&leaf)).to_string(),
            anstream::adapter::strip_str(&full(&leaf, &[])).to_string(),
        ] {
            assert!(
                text.contains(r"/tmp/\u{1b}[2J\u{202e}x\u{9b}31m\u{a}"),
                "{text}"
            );
            assert!(!text.trim_end().contains('\u{1b}'));
        }
    }
}
