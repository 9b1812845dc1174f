//! The report: what an auditor opens first. One HTML file with nothing to load, for the screen, a
//! phone, paper and a screen reader. It states its query, its population and whether the ledger
//! proves itself, before it says anything else; then denials and overrides; then everything.
mod html;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;

use crate::clock;
use crate::controls::CONTROLS;
use crate::prove::ProveError;
use crate::query::Query;
use crate::reader::Reader;
use crate::record::Record;
use crate::verify::Report as Proof;

/// Rows of a table; what is beyond is counted, and said.
const MOST_ROWS: usize = 2_000;

/// Everything the page says.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) host: String,
    pub(crate) made: Timestamp,
    pub(crate) query: &'a Query,
    pub(crate) proof: &'a Proof,
    /// The latest checkpoint, as stock tools read it.
    pub(crate) checkpoint: String,
    pub(crate) matched: u64,
    pub(crate) first: Option<(u64, String)>,
    pub(crate) last: Option<(u64, String)>,
    pub(crate) counts: Counts,
    /// Denials, overrides, and what was let through because nobody answered.
    pub(crate) exceptions: Rows,
    /// Where recording was interrupted or the record itself was changed.
    pub(crate) interruptions: Rows,
    pub(crate) decisions: Rows,
    /// Allowed and denied a day or month.
    pub(crate) timeline: BTreeMap<String, [u64; 2]>,
    pub(crate) agents: BTreeMap<String, [u64; 2]>,
    pub(crate) rules: BTreeMap<String, [u64; 2]>,
    pub(crate) people: BTreeMap<String, [u64; 2]>,
    /// Records, the first and the last of them, for each of [`CONTROLS`].
    pub(crate) controls: Vec<(u64, u64, u64)>,
}

/// How many decisions of which kind.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) decisions: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    /// Let through by an order, of the overrides.
    pub(crate) broke_glass: u64,
    pub(crate) overrides: u64,
    pub(crate) rejected: u64,
    pub(crate) unanswered: u64,
    pub(crate) requests: u64,
    pub(crate) self_approved: u64,
    pub(crate) lost: u64,
}

/// The first rows of a table and how many there are.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Record>,
    pub(crate) all: u64,
}

impl Rows {
    fn push(&mut self, record: &Record) {
        self.all += 1;
        if self.rows.len() < MOST_ROWS {
            self.rows.push(record.clone());
        }
    }

    /// Before all others, as the `nth` of those.
    fn push_first(&mut self, record: &Record, nth: u64) {
        self.all += 1;
        let at = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
        if at < MOST_ROWS {
            self.rows.insert(at.min(self.rows.len()), record.clone());
            self.rows.truncate(MOST_ROWS);
        }
    }
}

/// The page about what `query` finds; `proof` is what `verify` found in the same ledger.
pub fn html(
    reader: &Reader,
    query: &Query,
    proof: &Proof,
    now: Timestamp,
) -> Result<String, ProveError> {
    Ok(html::page(&gather(reader, query, proof, now)?))
}

pub(crate) fn gather<'a>(
    reader: &Reader,
    query: &'a Query,
    proof: &'a Proof,
    now: Timestamp,
) -> Result<Facts<'a>, ProveError> {
    let host = reader
        .tail(1)?
        .first()
        .and_then(|leaf| leaf.value()["host"].as_str().map(str::to_owned));
    // A checkpoint that cannot be read is a finding of the proof.
    let checkpoint = reader.checkpoint().ok().flatten();
    let mut facts = Facts {
        host: host.unwrap_or_default(),
        made: now,
        query,
        proof,
        checkpoint: checkpoint.map_or_else(String::new, |(note, _)| note.to_string()),
        matched: 0,
        first: None,
        last: None,
        counts: Counts::default(),
        exceptions: Rows::default(),
        interruptions: Rows::default(),
        decisions: Rows::default(),
        timeline: BTreeMap::new(),
        agents: BTreeMap::new(),
        rules: BTreeMap::new(),
        people: BTreeMap::new(),
        controls: vec![(0, 0, 0); CONTROLS.len()],
    };
    query.run(reader, |leaf, record| {
        facts.note(record);
        if record.kind == "gap" {
            facts.counts.lost += leaf.value()["gap"]["lost"].as_u64().unwrap_or(0);
        }
        ControlFlow::Continue(())
    })?;
    facts.coarsen();
    Ok(facts)
}

impl Facts<'_> {
    fn note(&mut self, record: &Record) {
        self.matched += 1;
        let at = (record.idx, record.t.clone());
        self.first.get_or_insert_with(|| at.clone());
        self.last = Some(at);
        for (control, seen) in CONTROLS.iter().zip(&mut self.controls) {
            if control.supports(record) {
                if seen.0 == 0 {
                    seen.1 = record.idx;
                }
                *seen = (seen.0 + 1, seen.1, record.idx);
            }
        }
        match record.kind.as_str() {
            "request" => self.counts.requests += 1,
            "decision" => self.decision(record),
            "gap" | "degraded" | "break_glass" | "clock" | "redact" | "prune" | "key_rotate"
            | "policy" | "review" | "start" | "stop" => self.interruptions.push(record),
            _ => {}
        }
    }

    fn decision(&mut self, record: &Record) {
        let counts = &mut self.counts;
        let denied = record.verdict != "allow";
        let unanswered = matches!(record.by.as_str(), "timeout" | "unreachable");
        counts.decisions += 1;
        counts.allowed += u64::from(!denied);
        counts.denied += u64::from(denied);
        counts.broke_glass += u64::from(record.broke_glass());
        counts.overrides += u64::from(record.is_override());
        counts.rejected += u64::from(denied && record.by == "human");
        counts.unanswered += u64::from(unanswered);
        counts.self_approved += u64::from(record.self_approved());
        let side = usize::from(denied);
        let day = record.t.get(..10).unwrap_or(&record.t).to_owned();
        self.timeline.entry(day).or_default()[side] += 1;
        self.agents.entry(record.agent.clone()).or_default()[side] += 1;
        self.rules.entry(record.rule.clone()).or_default()[side] += 1;
        for person in &record.approvers {
            self.people.entry(person.subject.clone()).or_default()[side] += 1;
        }
        if record.broke_glass() {
            self.exceptions.push_first(record, self.counts.broke_glass);
        } else if denied || record.is_override() || unanswered {
            self.exceptions.push(record);
        }
        self.decisions.push(record);
    }

    /// More days than a chart can show become months.
    fn coarsen(&mut self) {
        if self.timeline.len() <= 62 {
            return;
        }
        let mut months: BTreeMap<String, [u64; 2]> = BTreeMap::new();
        for (day, [allowed, denied]) in &self.timeline {
            let month = months
                .entry(day.get(..7).unwrap_or(day).to_owned())
                .or_default();
            month[0] += allowed;
            month[1] += denied;
        }
        self.timeline = months;
    }

    /// When the page was made.
    pub(crate) fn made(&self) -> String {
        clock::format(self.made)
    }
}
