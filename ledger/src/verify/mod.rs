//! Proves a ledger: with nothing but the file that it is whole and was signed as it is, and with a
//! witness's word that its end was not cut off and no other history was shown.
//!
//! In this order: the file and its tables; indices, canonical form, hashes and links of the leaves;
//! nodes and root; checkpoints, epochs and consistency; cosignatures; time; what leaves say about
//! each other. One pass over the leaves, so the findings are put in order afterwards.
mod ahead;
mod answers;
mod checkpoints;
mod leaves;
mod meaning;
mod openings;
pub(crate) mod orders;

use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};

use rusqlite::Connection;
use serde::Serialize;
use syshold_protocol::PublicKey;

use crate::chain::{Code, Finding};
use crate::note::{Checkpoint, Note, VerifierKey};
use crate::reader::{ReadError, Reader};
use crate::store;
use crate::tree::TreeHash;

/// What a check of a whole ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Leaves read.
    pub leaves: u64,
    /// The first leaf there is: those below were pruned.
    pub first: u64,
    /// Hash of the last one.
    pub head: Option<TreeHash>,
    /// The root over all of them: what to compare with what someone else noted down.
    pub root: Option<TreeHash>,
    /// The log's name, which is also its keys' name.
    pub origin: Option<String>,
    /// The identity key that all checkpoints were verified with.
    pub identity: Option<String>,
    /// Whether that key was given by whoever asked; else the ledger itself named it.
    pub identity_pinned: bool,
    pub checkpoints: u64,
    pub epochs: u64,
    /// The last leaves that a witness has seen.
    pub cosigned: Option<Cosigned>,
    pub first_bad: Option<Finding>,
    /// The last leaf before the first bad one.
    pub last_good: Option<u64>,
    /// The first 100 errors, in the order in which they are looked for.
    pub errors: Vec<Finding>,
    /// All of them, counted.
    pub error_count: u64,
    pub warnings: Vec<Finding>,
}

/// A cosignature that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// It covers the leaves below this one.
    pub size: u64,
    pub witness: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
}

/// What whoever asks already knows, from elsewhere than the file.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The log's identity key.
    pub identity: Option<VerifierKey>,
    /// Witnesses, besides those that the ledger names.
    pub witnesses: Vec<VerifierKey>,
    /// The latest checkpoint that a witness has of this log.
    pub witnessed: Option<(Note, Checkpoint)>,
    /// The keys that the gateway signs decisions with; none: those that the ledger names.
    pub gateway: Vec<PublicKey>,
    /// The offline keys that break the glass; none: those that the ledger's policies name.
    pub break_glass: Vec<PublicKey>,
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
    fn new() -> Self {
        Self {
            leaves: 0,
            first: 0,
            head: None,
            root: None,
            origin: None,
            identity: None,
            identity_pinned: false,
            checkpoints: 0,
            epochs: 0,
            cosigned: None,
            first_bad: None,
            last_good: None,
            errors: Vec::new(),
            error_count: 0,
            warnings: Vec::new(),
        }
    }

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
        if self
            .first_bad
            .as_ref()
            .is_none_or(|bad| place(&finding) < place(bad))
        {
            self.first_bad = Some(finding.clone());
        }
        if self.errors.len() < MOST_FINDINGS {
            self.errors.push(finding);
        }
    }

    /// In the order of the checks, and the last leaf before all of them.
    fn settle(&mut self, last_read: Option<u64>) {
        self.errors
            .sort_by_key(|finding| (finding.code, finding.idx));
        self.last_good = match self.first_bad.as_ref().map(|bad| bad.idx) {
            Some(Some(idx)) => idx.checked_sub(1).filter(|idx| *idx >= self.first),
            Some(None) | None => last_read,
        };
    }
}

/// What is first: foreign tables, then the lowest leaf, then a damaged file, whose leaves say more.
fn place(finding: &Finding) -> (u8, Option<u64>, Code) {
    let class = match (finding.code, finding.idx) {
        (Code::Schema, _) => 0,
        (_, Some(_)) => 1,
        (_, None) => 2,
    };
    (class, finding.idx, finding.code)
}

/// Checks the ledger at `path` with nothing but the file. `progress` is told `(done, total)` now and
/// then.
pub fn verify(path: &Path, progress: impl FnMut(u64, u64)) -> Result<Report, ReadError> {
    verify_with(path, &Trust::default(), progress)
}

/// The same against what is known from elsewhere.
pub fn verify_with(
    path: &Path,
    trust: &Trust,
    progress: impl FnMut(u64, u64),
) -> Result<Report, ReadError> {
    let reader = Reader::open(path)?;
    let conn = reader.connection();
    let mut report = Report::new();
    // One snapshot for everything, while the writer goes on.
    conn.execute_batch("BEGIN")
        .map_err(|source| reader.wrong(source))?;
    let foreign = schema_difference(conn).map_err(|source| reader.wrong(source))?;
    let sound = foreign.is_none();
    if let Some(found) = foreign {
        report.add(Finding {
            code: Code::Schema,
            idx: None,
            expected: "the tables this version makes".to_owned(),
            found,
        });
    }
    let mut last_read = None;
    let damaged = thread::scope(|scope| {
        let whole_file = Elsewhere::begin(scope, &reader);
        let checked =
            leaves::check(conn, trust, &mut report, &mut last_read, progress).and_then(|seen| {
                if sound {
                    checkpoints::check(conn, &seen, trust, &mut report)?;
                }
                Ok(())
            });
        if let Err(error) = checked {
            report.add(damage(error.to_string()));
        }
        whole_file.map_or_else(|| damage_in(conn), Elsewhere::answer)
    });
    if let Some(found) = damaged {
        report.add(damage(found));
    }
    report.settle(last_read);
    Ok(report)
}

/// What SQLite finds in the file, while the leaves are checked.
struct Elsewhere<'scope>(ScopedJoinHandle<'scope, Option<String>>);

impl<'scope> Elsewhere<'scope> {
    /// None: there is no thread, or no second connection, to be had.
    fn begin(scope: &'scope Scope<'scope, '_>, reader: &Reader) -> Option<Self> {
        let conn = reader.again().ok()?;
        let thread = thread::Builder::new().name("ledger-check".to_owned());
        let work = move || damage_in(&conn);
        thread.spawn_scoped(scope, work).ok().map(Self)
    }

    fn answer(self) -> Option<String> {
        let broken = || Some("the check of it broke off".to_owned());
        self.0.join().unwrap_or_else(|_| broken())
    }
}

fn damage_in(conn: &Connection) -> Option<String> {
    match conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(answer) => Some(answer).filter(|answer| answer != "ok"),
        Err(error) => Some(error.to_string()),
    }
}

fn damage(found: String) -> Finding {
    Finding {
        code: Code::Db,
        idx: None,
        expected: "a sound database file".to_owned(),
        found,
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
