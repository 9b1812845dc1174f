//! Proves a ledger, leaf by leaf, with nothing but the file.
use std::collections::HashSet;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::chain::{Chain, Code, Finding, LeafHash, leaf_hash};
use crate::reader::{ReadError, Reader};
use crate::store;

/// What a check of a whole ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Leaves read.
    pub leaves: u64,
    /// Hash of the last one: what to compare with what someone else noted down.
    pub head: Option<LeafHash>,
    pub first_bad: Option<Finding>,
    /// The last leaf before the first bad one.
    pub last_good: Option<u64>,
    /// The first 100 errors.
    pub errors: Vec<Finding>,
    /// All of them, counted.
    pub error_count: u64,
    pub warnings: Vec<Finding>,
}

/// How many errors a report lists.
pub(crate) const MOST_FINDINGS: usize = 100;

/// Exit status of `syshold ledger verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    Clean = 0,
    Tampered = 1,
    WarningsOnly = 2,
    Unreadable = 3,
}

impl Report {
    /// The exit status this report stands for.
    pub fn exit(&self) -> Exit {
        if self.error_count > 0 {
            Exit::Tampered
        } else if self.warnings.is_empty() {
            Exit::Clean
        } else {
            Exit::WarningsOnly
        }
    }

    fn add(&mut self, finding: Finding) {
        self.error_count += 1;
        if self.first_bad.is_none() {
            self.last_good = match finding.idx {
                Some(idx) => idx.checked_sub(1),
                None => self.last_good,
            };
            self.first_bad = Some(finding.clone());
        }
        if self.errors.len() < MOST_FINDINGS {
            self.errors.push(finding);
        }
    }
}

/// Checks the ledger at `path`: the file and its schema, each leaf's form, hash and link, time
/// order, and what leaves say about each other. `progress` is told `(done, total)` now and then.
pub fn verify(path: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Report, ReadError> {
    let reader = Reader::open(path)?;
    let conn = reader.connection();
    let mut report = Report {
        leaves: 0,
        head: None,
        first_bad: None,
        last_good: None,
        errors: Vec::new(),
        error_count: 0,
        warnings: Vec::new(),
    };
    // One snapshot for everything, while the writer goes on.
    conn.execute_batch("BEGIN")
        .map_err(|source| reader.wrong(source))?;
    if let Some(found) = schema_difference(conn).map_err(|source| reader.wrong(source))? {
        report.add(Finding {
            code: Code::Schema,
            idx: None,
            expected: "the tables this version makes".to_owned(),
            found,
        });
    }
    let leaves = check_leaves(conn, &mut report, &mut progress);
    if let Err(error) = leaves {
        report.add(damage(error.to_string()));
    }
    // Last, so that a damaged page is first reported as the leaf it spoils.
    match conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(answer) if answer == "ok" => {}
        Ok(answer) => report.add(damage(answer)),
        Err(error) => report.add(damage(error.to_string())),
    }
    Ok(report)
}

fn damage(found: String) -> Finding {
    Finding {
        code: Code::Db,
        idx: None,
        expected: "a sound database file".to_owned(),
        found,
    }
}

fn check_leaves(
    conn: &Connection,
    report: &mut Report,
    progress: &mut impl FnMut(u64, u64),
) -> rusqlite::Result<()> {
    let total = conn.query_row("SELECT count(*) FROM leaf", [], |row| row.get::<_, i64>(0))?;
    let total = u64::try_from(total).unwrap_or(0);
    let mut statement = conn.prepare("SELECT idx, body, hash FROM leaf ORDER BY idx")?;
    let mut rows = statement.query([])?;
    let mut chain = Chain::default();
    let mut meaning = Meaning::default();
    let mut findings = Vec::new();
    let mut unsynced = Unsynced::default();
    while let Some(row) = rows.next()? {
        let idx = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(u64::MAX);
        let (body, hash) = (bytes(row.get_ref(1)?), bytes(row.get_ref(2)?));
        if let Some(leaf) = chain.push(idx, body, hash, &mut findings) {
            meaning.check(idx, &leaf, &mut findings);
            unsynced.note(idx, &leaf);
        }
        findings.drain(..).for_each(|finding| report.add(finding));
        report.leaves += 1;
        if report.first_bad.is_none() {
            report.last_good = Some(idx);
        }
        if report.leaves.is_multiple_of(4096) {
            progress(report.leaves, total);
        }
    }
    progress(report.leaves, total);
    report.head = chain.into_tail().map(|tail| tail.hash);
    if report.leaves == 0 {
        report.add(Finding::new(
            Code::Gap,
            0,
            "a genesis leaf",
            "no leaf at all",
        ));
    }
    report.warnings.extend(unsynced.warning());
    Ok(())
}

/// Whatever a changed file holds in a column.
fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

/// What differs from the schema that the migrations make.
fn schema_difference(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let listing = |conn: &Connection| -> rusqlite::Result<Vec<String>> {
        let mut statement = conn.prepare(
            "SELECT type || ' ' || name || ': ' || ifnull(sql, '') FROM sqlite_schema ORDER BY 1",
        )?;
        let lines = statement.query_map([], |row| row.get(0))?;
        lines.collect()
    };
    let model = Connection::open_in_memory()?;
    store::migrate(&model, 0)?;
    let (expected, found) = (listing(&model)?, listing(conn)?);
    let name = |line: &String| line.split(':').next().unwrap_or_default().to_owned();
    let strange = found
        .iter()
        .find(|line| !expected.contains(line))
        .map(|line| format!("another {}", name(line)));
    let missing = expected
        .iter()
        .find(|line| !found.contains(line))
        .map(|line| format!("no {}", name(line)));
    Ok(strange.or(missing))
}

/// What leaves say about each other.
#[derive(Default)]
struct Meaning {
    policies: HashSet<String>,
    requested: HashSet<Uuid>,
    decided: HashSet<Held>,
}

impl Meaning {
    fn check(&mut self, idx: u64, leaf: &Value, out: &mut Vec<Finding>) {
        let kind = leaf["kind"].as_str().unwrap_or_default();
        let request = leaf["request"]
            .as_str()
            .and_then(|text| Uuid::try_parse(text).ok());
        let by = leaf["decision"]["by"].as_str();
        self.check_policy(idx, kind, by, leaf["policy"]["sha256"].as_str(), out);
        match kind {
            "request" => match request {
                Some(request) => drop(self.requested.insert(request)),
                None => out.push(Finding::new(Code::Orphan, idx, "a request id", "none")),
            },
            "decision" => {
                if by == Some("human")
                    && !request.is_some_and(|request| self.requested.contains(&request))
                {
                    let found = request.map_or("no request id".to_owned(), |request| {
                        format!("none for {request}")
                    });
                    out.push(Finding::new(
                        Code::Orphan,
                        idx,
                        "a request leaf before a human decision",
                        found,
                    ));
                }
                self.decided.extend(Held::of(leaf));
            }
            "outcome"
                if !nothing_went_on(leaf)
                    && !Held::of(leaf).is_some_and(|held| self.decided.contains(&held)) =>
            {
                let found = format!(
                    "none for hold {}, request {}",
                    leaf["hold"], leaf["request"]
                );
                out.push(Finding::new(
                    Code::Orphan,
                    idx,
                    "a decision leaf before the outcome",
                    found,
                ));
            }
            _ => {}
        }
    }

    fn check_policy(
        &mut self,
        idx: u64,
        kind: &str,
        by: Option<&str>,
        sha256: Option<&str>,
        out: &mut Vec<Finding>,
    ) {
        let needs_one =
            matches!(kind, "policy" | "request") || matches!(by, Some("policy" | "human"));
        match sha256 {
            Some(sha256) if kind == "policy" => drop(self.policies.insert(sha256.to_owned())),
            Some(sha256) if !self.policies.contains(sha256) => {
                out.push(Finding::new(
                    Code::PolicyRef,
                    idx,
                    "a policy leaf before this one",
                    sha256,
                ));
            }
            None if needs_one => out.push(Finding::new(
                Code::PolicyRef,
                idx,
                "the digest of a policy",
                "none",
            )),
            _ => {}
        }
    }
}

/// What a decision and its outcome share: the hold, within a boot; else the request. A digest of
/// it, because there may be millions.
#[derive(PartialEq, Eq, Hash)]
struct Held([u8; 16]);

impl Held {
    fn of(leaf: &Value) -> Option<Self> {
        let (scope, id) = match (leaf["hold"].as_str(), leaf["request"].as_str()) {
            (Some(hold), _) => (leaf["boot_id"].as_str()?, hold),
            (None, Some(request)) => ("request", request),
            (None, None) => return None,
        };
        let LeafHash(digest) = leaf_hash(format!("{scope}/{id}").as_bytes());
        let mut held = [0; 16];
        held.copy_from_slice(&digest[..16]);
        Some(Self(held))
    }
}

/// Outcomes in which nothing went on need no decision before them: the process died, a signal ended
/// the call, nobody saw how, an answer was not accepted, or the call was denied while the ledger
/// could not be written (a gap leaf counts what is missing then).
fn nothing_went_on(leaf: &Value) -> bool {
    const RESULTS: [&str; 7] = [
        "process_gone",
        "abandoned",
        "interrupted",
        "unconfirmed",
        "refused:decision",
        "denied",
        "expired",
    ];
    leaf["outcome"]["result"]
        .as_str()
        .is_some_and(|result| RESULTS.contains(&result))
}

/// Leaves written by a clock that nobody vouched for.
#[derive(Default)]
struct Unsynced {
    first: Option<u64>,
    count: u64,
}

impl Unsynced {
    fn note(&mut self, idx: u64, leaf: &Value) {
        if leaf["clock"]["synced"] == Value::Bool(false) {
            self.first.get_or_insert(idx);
            self.count += 1;
        }
    }

    fn warning(self) -> Option<Finding> {
        let first = self.first?;
        Some(Finding::new(
            Code::ClockUnsynced,
            first,
            "a synchronised clock",
            format!("{} leaves without", self.count),
        ))
    }
}
