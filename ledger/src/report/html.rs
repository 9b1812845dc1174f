//! The page itself.
use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Facts, Rows};
use crate::controls::CONTROLS;
use crate::record::Record;
use crate::render::escape;
use crate::verify::Exit;

const STYLE: &str = include_str!("style.css");
/// Nothing is loaded, nothing runs.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const SECTIONS: [(&str, &str); 8] = [
    ("covers", "What this covers"),
    ("figures", "Figures"),
    ("exceptions", "Denials and overrides"),
    ("interruptions", "The record itself"),
    ("timeline", "Timeline"),
    ("who", "Agents, rules, people"),
    ("controls", "Controls"),
    ("decisions", "Every decision"),
];

pub(super) fn page(facts: &Facts<'_>) -> String {
    let title = format!("Syshold ledger report, {}", facts.host);
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the report" }
                header {
                    h1 { "Ledger report: " (escape(&facts.host)) }
                    p { "What AI agents on this host asked to do, what was decided, by whom and why." }
                    (banner(facts))
                    nav aria-label="Sections" {
                        ul {
                            @for (id, name) in SECTIONS { li { a href={ "#" (id) } { (name) } } }
                            li { a href="#check" { "Check it yourself" } }
                        }
                    }
                }
                main id="main" {
                    (covers(facts))
                    (figures(facts))
                    (exceptions(facts))
                    (interruptions(facts))
                    (timeline(facts))
                    (who(facts))
                    (controls(facts))
                    section aria-labelledby="decisions" {
                        h2 id="decisions" { "Every decision" }
                        (decisions(&facts.decisions, "All decisions of this population, oldest first"))
                    }
                    (check(facts))
                }
                footer {
                    p { "Made " (facts.made()) " by syshold-ledger " (env!("CARGO_PKG_VERSION"))
                        ". Times are UTC. This page is a view of the ledger, and no evidence by itself: the leaves and their proofs are." }
                }
            }
        }
    };
    body.into_string()
}

/// Whether the ledger proves itself, first of all.
fn banner(facts: &Facts<'_>) -> Markup {
    let proof = facts.proof;
    let (class, word) = match proof.exit() {
        Exit::Clean => ("banner good", "✔ Integrity verified"),
        Exit::WarningsOnly => ("banner warn", "⚠ Integrity verified, with warnings"),
        Exit::Tampered | Exit::Unreadable => (
            "banner bad",
            "✘ Integrity NOT verified: do not rely on what follows",
        ),
    };
    html! {
        div class=(class) role="status" {
            strong { (word) }
            p {
                "Checked: leaves " (proof.leaves) ", signed checkpoints " (proof.checkpoints) ", key epochs " (proof.epochs) "."
                @if let Some(root) = proof.root { " Root " span.mono { (root) } "." }
            }
            @if let Some(bad) = &proof.first_bad {
                p { "First finding: " span.mono { (escape(&bad.to_string())) } "." }
                @match proof.last_good {
                    Some(idx) => p { "Proven good up to leaf " (idx) "." },
                    None => p { "Nothing is proven." },
                }
            }
            @for warning in &proof.warnings { p { (escape(&warning.to_string())) } }
            @match &proof.cosigned {
                Some(seen) => p { "A witness off this host, " (escape(&seen.witness)) ", saw the first " (seen.size)
                    " leaves at " (seen.at) ". Only this host vouches for newer ones." },
                None => p { "No witness off this host has seen this ledger: that its end was not cut off is proven only by a root noted elsewhere." },
            }
        }
    }
}

fn covers(facts: &Facts<'_>) -> Markup {
    let at = |place: &Option<(u64, String)>| match place {
        Some((idx, t)) => format!("leaf {idx}, {t}"),
        None => "none".to_owned(),
    };
    let proof = facts.proof;
    html! {
        section aria-labelledby="covers" {
            h2 id="covers" { "What this covers" }
            dl.facts {
                dt { "Filter" } dd { (escape(&facts.query.text())) }
                dt { "Population" } dd {
                    (facts.matched) " of " (proof.leaves) " leaves"
                    @if proof.first > 0 { " (leaves before " (proof.first) " were pruned under a retention rule)" }
                }
                dt { "First of them" } dd { (at(&facts.first)) }
                dt { "Last of them" } dd { (at(&facts.last)) }
                dt { "Log" } dd.mono { (escape(proof.origin.as_deref().unwrap_or("none"))) }
                dt { "Identity key" } dd {
                    span.mono { (escape(proof.identity.as_deref().unwrap_or("none"))) }
                    @if !proof.identity_pinned { " (as the ledger names it; compare it with the one you were given)" }
                }
                dt { "Made" } dd { (facts.made()) }
            }
        }
    }
}

fn figures(facts: &Facts<'_>) -> Markup {
    let counts = &facts.counts;
    let figures = [
        (counts.decisions, "decisions"),
        (counts.denied, "denied"),
        (counts.broke_glass, "let through by break-glass: review due"),
        (counts.overrides, "allowed by a person (overrides)"),
        (counts.rejected, "denied by a person"),
        (counts.unanswered, "unanswered or gateway away"),
        (counts.allowed, "allowed in all"),
        (counts.requests, "questions to people"),
        (counts.self_approved, "approved by the agent's own owner"),
        (counts.lost, "events not recorded (gaps)"),
    ];
    html! {
        section aria-labelledby="figures" {
            h2 id="figures" { "Figures" }
            ul.figures {
                @for (count, name) in figures { li { b { (count) } (name) } }
            }
        }
    }
}

fn exceptions(facts: &Facts<'_>) -> Markup {
    html! {
        section aria-labelledby="exceptions" {
            h2 id="exceptions" { "Denials and overrides" }
            p { "What was denied, what a person let through although the policy would not, and what ended because nobody answered." }
            (decisions(&facts.exceptions, "Break-glass first; then denials, overrides and unanswered questions, oldest first"))
        }
    }
}

/// What a table leaves out, said.
fn cut(rows: &Rows) -> Markup {
    html! {
        @if (rows.rows.len() as u64) < rows.all {
            p { strong { "The first " (rows.rows.len()) " of " (rows.all) " are shown." }
                " Narrow the filter, or take the CSV export, for the others." }
        }
    }
}

fn decisions(rows: &Rows, caption: &str) -> Markup {
    if rows.rows.is_empty() {
        return html! { p.none { "None in this population." } };
    }
    html! {
        (cut(rows))
        table.wide role="table" {
            caption { (caption) " (" (rows.all) ")" }
            thead role="rowgroup" { tr role="row" {
                th.num role="columnheader" scope="col" { "Leaf" }
                @for name in ["Time (UTC)", "Verdict", "Agent", "Action", "Object", "Data", "Rule", "Decided by", "Reason"] {
                    th role="columnheader" scope="col" { (name) }
                }
            } }
            tbody role="rowgroup" { @for record in &rows.rows { (decision(record)) } }
        }
    }
}

fn decision(record: &Record) -> Markup {
    let allowed = record.verdict == "allow";
    let (class, word) = if allowed {
        ("allow", "✔ allowed")
    } else {
        ("deny", "✘ denied")
    };
    let why = [record.comments(), record.cause.clone(), record.why.clone()];
    let why: Vec<_> = why.into_iter().filter(|text| !text.is_empty()).collect();
    html! {
        tr role="row" id={ "leaf-" (record.idx) } {
            (cell("Leaf", &record.idx.to_string(), "num"))
            (cell("Time", &clock_time(&record.t), "t"))
            td role="cell" data-label="Verdict" {
                span {
                    span class=(class) { (word) }
                    @if record.broke_glass() { span.mark { "break-glass" } }
                    @else if record.is_override() { span.mark { "override" } }
                    @if record.self_approved() { span.mark { "own agent" } }
                    @if allowed && !record.lifespan.is_empty() { span.mark { (extent(&record.lifespan)) } }
                }
            }
            (cell("Agent", &record.agent, ""))
            (cell("Action", &record.op, ""))
            (cell("Object", &record.object, "mono"))
            (cell("Data", &record.labels.join(", "), ""))
            (cell("Rule", &record.rule, ""))
            (cell("Decided by", &decided_by(record), ""))
            (cell("Reason", &why.join("; "), ""))
        }
    }
}

fn decided_by(record: &Record) -> String {
    let people: Vec<_> = record
        .approvers
        .iter()
        .map(
            |person| match (person.method.as_str(), person.channel.as_str()) {
                ("", "") => person.subject.clone(),
                (method, channel) => format!("{} ({channel}, {method})", person.subject),
            },
        )
        .collect();
    match (people.is_empty(), record.by.as_str()) {
        (true, by) => by.to_owned(),
        (false, "human") => people.join(", "),
        (false, by) => format!("{by} of {}", people.join(", ")),
    }
}

/// To the second, as people write it; the leaf has the rest.
fn clock_time(t: &str) -> String {
    match (t.get(..10), t.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => t.to_owned(),
    }
}

/// How far a grant goes, in the words of a policy.
fn extent(lifespan: &str) -> String {
    match lifespan {
        "single" => "once".to_owned(),
        "until" => "for a time".to_owned(),
        other => escape(other),
    }
}

fn cell(label: &str, text: &str, class: &str) -> Markup {
    let empty = if text.is_empty() { " empty" } else { "" };
    html! { td role="cell" data-label=(label) class={ (class) (empty) } { span { (escape(text)) } } }
}

fn interruptions(facts: &Facts<'_>) -> Markup {
    let rows = &facts.interruptions;
    html! {
        section aria-labelledby="interruptions" {
            h2 id="interruptions" { "The record itself" }
            p { "Starts and stops, policies coming into force, new keys, clock steps, and every time that recording failed or records were reviewed, redacted or pruned." }
            @if rows.rows.is_empty() { p.none { "Nothing in this population." } }
            @else {
                (cut(rows))
                table.wide role="table" {
                    caption { "Events of the record (" (rows.all) ")" }
                    thead role="rowgroup" { tr role="row" {
                        th.num role="columnheader" scope="col" { "Leaf" }
                        th role="columnheader" scope="col" { "Time (UTC)" }
                        th role="columnheader" scope="col" { "What" }
                        th role="columnheader" scope="col" { "Meaning" }
                        th role="columnheader" scope="col" { "In particular" }
                    } }
                    tbody role="rowgroup" { @for record in &rows.rows {
                        tr role="row" {
                            (cell("Leaf", &record.idx.to_string(), "num"))
                            (cell("Time", &clock_time(&record.t), "t"))
                            (cell("What", &record.kind, ""))
                            (cell("Meaning", meaning(&record.kind), ""))
                            (cell("In particular", &record.detail, "long"))
                        }
                    } }
                }
            }
        }
    }
}

fn meaning(kind: &str) -> &'static str {
    match kind {
        "break_glass" => {
            "An order with offline keys came into force, ended or was refused: review it"
        }
        "gap" => "Recording failed; whatever was held then was denied, and is counted here",
        "degraded" => "Enforcement or recording worked with less than it should have",
        "clock" => "The clock was set",
        "redact" => "A committed value was redacted; every proof still holds",
        "prune" => "Old leaves were removed under the retention rule; their hashes stay",
        "review" => "Somebody reviewed the record",
        "key_rotate" => "A new epoch: the old signing key was erased",
        "policy" => "A policy came into force",
        "start" => "The daemon started",
        "stop" => "The daemon stopped in order",
        _ => "",
    }
}

fn timeline(facts: &Facts<'_>) -> Markup {
    let bars = &facts.timeline;
    html! {
        section aria-labelledby="timeline" {
            h2 id="timeline" { "Timeline" }
            @if bars.is_empty() { p.none { "No decision in this population." } }
            @else {
                p.key { span { "Plain: allowed" } span { "Hatched: denied" } }
                (chart(bars))
                (counted("Decisions a day or month", "Period", bars))
            }
        }
    }
}

fn chart(bars: &BTreeMap<String, [u64; 2]>) -> Markup {
    const HEIGHT: u64 = 160;
    let most = bars.values().map(|[a, d]| a + d).max().unwrap_or(1).max(1);
    let count = bars.len() as u64;
    let step = (900 / count.max(1)).clamp(8, 90);
    let width = (step * count + 50).max(950);
    let tall = |n: u64| (n * HEIGHT).div_ceil(most);
    let (first, last) = (bars.keys().next(), bars.keys().next_back());
    html! {
        svg viewBox={ "0 0 " (width) " 210" } role="img" aria-labelledby="chart-title" {
            title id="chart-title" {
                "Decisions from " (first.map_or("", String::as_str)) " to " (last.map_or("", String::as_str))
                ", at most " (most) " in one bar; the table below has the figures"
            }
            defs { pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                rect width="6" height="6" fill="#fbe9ea" {}
                rect width="2.5" height="6" fill="#a8121d" {}
            } }
            text x="4" y="16" { (most) }
            text x="4" y={ (10 + HEIGHT) } { "0" }
            @for (n, (period, [allowed, denied])) in bars.iter().enumerate() {
                @let x = 40 + n as u64 * step;
                @let (a, d) = (tall(*allowed), tall(*denied));
                @let top = (10 + HEIGHT).saturating_sub(a);
                rect.a x=(x) y=(top) width=(step - 3) height=(a) {}
                @if d > 0 { rect.d x=(x) y=(top.saturating_sub(d)) width=(step - 3) height=(d) {} }
                @if n == 0 || n + 1 == bars.len() && count > 2 {
                    text x=(x.min(width.saturating_sub(70))) y="192" { (escape(period)) }
                }
            }
        }
    }
}

/// Name, allowed, denied.
fn counted(caption: &str, name: &str, rows: &BTreeMap<String, [u64; 2]>) -> Markup {
    html! {
        table role="table" {
            caption { (caption) }
            thead role="rowgroup" { tr role="row" {
                th role="columnheader" scope="col" { (name) }
                th.num role="columnheader" scope="col" { "Allowed" }
                th.num role="columnheader" scope="col" { "Denied" }
            } }
            tbody role="rowgroup" { @for (key, [allowed, denied]) in rows {
                tr role="row" {
                    th role="rowheader" scope="row" { @if key.is_empty() { span.none { "not named" } } @else { (escape(key)) } }
                    td.num role="cell" { (allowed) }
                    td.num role="cell" { (denied) }
                }
            } }
        }
    }
}

fn who(facts: &Facts<'_>) -> Markup {
    html! {
        section aria-labelledby="who" {
            h2 id="who" { "Agents, rules, people" }
            @for (heading, name, rows) in [
                ("Decisions by agent", "Agent", &facts.agents),
                ("Decisions by rule", "Rule", &facts.rules),
                ("Decisions by person", "Person", &facts.people),
            ] {
                h3 { (heading) }
                @if rows.is_empty() { p.none { "None in this population." } }
                @else { (counted(heading, name, rows)) }
            }
        }
    }
}

fn controls(facts: &Facts<'_>) -> Markup {
    html! {
        section aria-labelledby="controls" {
            h2 id="controls" { "Controls" }
            p { "Records of this population that support a control. A ledger supports a control; whether it is met is for you to judge." }
            table.wide role="table" {
                caption { "Evidence by control" }
                thead role="rowgroup" { tr role="row" {
                    th role="columnheader" scope="col" { "Framework" }
                    th role="columnheader" scope="col" { "Control" }
                    th role="columnheader" scope="col" { "Supported by" }
                    th.num role="columnheader" scope="col" { "Records" }
                    th role="columnheader" scope="col" { "Leaves" }
                } }
                tbody role="rowgroup" { @for (control, (count, first, last)) in CONTROLS.iter().zip(&facts.controls) {
                    tr role="row" {
                        (cell("Framework", control.framework, ""))
                        (cell("Control", &control.names(), ""))
                        (cell("Supported by", control.evidence, ""))
                        (cell("Records", &count.to_string(), "num"))
                        (cell("Leaves", &range(*count, *first, *last), ""))
                    }
                } }
            }
        }
    }
}

fn range(count: u64, first: u64, last: u64) -> String {
    match count {
        0 => "none".to_owned(),
        _ if first == last => first.to_string(),
        _ => format!("{first} to {last}"),
    }
}

fn check(facts: &Facts<'_>) -> Markup {
    html! {
        section aria-labelledby="check" {
            h2 id="check" { "Check it yourself" }
            p { "On the host, as any user who may read the ledger, or anywhere on a copy:" }
            pre { "syshold ledger verify --key '" (escape(facts.proof.identity.as_deref().unwrap_or("KEY"))) "'\n"
                  "syshold ledger show LEAF\n"
                  "syshold ledger prove LEAF" }
            p { "The checkpoint below is a C2SP signed note; a proof is a C2SP tlog-proof. Tools that we did not write read both: Go's golang.org/x/mod/sumdb/note and sumdb/tlog among them." }
            pre { (escape_lines(&facts.checkpoint)) }
        }
    }
}

fn escape_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(escape).collect();
    lines.join("\n")
}
