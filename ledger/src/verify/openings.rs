//! Commitments and what opens them: an opening fits its commitment, and is missing only where a
//! `redact` leaf says so.
use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use crate::chain::{Code, Finding};
use crate::leaf::commit::{commitment, commitments};

pub(super) struct Openings<'c> {
    conn: &'c Connection,
    /// Commitments that nothing opens.
    missing: Vec<(u64, String)>,
    redacted: HashSet<(u64, String)>,
    opened: i64,
}

impl<'c> Openings<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self {
            conn,
            missing: Vec::new(),
            redacted: HashSet::new(),
            opened: 0,
        }
    }

    pub(super) fn check(
        &mut self,
        idx: u64,
        leaf: &Value,
        out: &mut Vec<Finding>,
    ) -> rusqlite::Result<()> {
        if leaf["kind"] == "redact" {
            let target = leaf["redact"]["idx"].as_u64().unwrap_or(u64::MAX);
            let paths = leaf["redact"]["paths"].as_array().into_iter().flatten();
            self.redacted
                .extend(paths.filter_map(|path| Some((target, path.as_str()?.to_owned()))));
        }
        for (path, digest) in commitments(leaf) {
            let opening: Option<([u8; 16], String)> = self
                .conn
                .prepare_cached("SELECT salt, value FROM opening WHERE idx = ?1 AND path = ?2")?
                .query_row(params![idx, path], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            match opening {
                None => self.missing.push((idx, path)),
                Some((salt, value)) => {
                    self.opened += 1;
                    let found = commitment(&salt, &path, &value);
                    if found != digest {
                        out.push(Finding::new(
                            Code::Opening,
                            idx,
                            format!("{path} as committed to, {digest}"),
                            found,
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Finding>) -> rusqlite::Result<()> {
        for (idx, path) in &self.missing {
            if !self.redacted.contains(&(*idx, path.clone())) {
                out.push(Finding::new(
                    Code::Opening,
                    *idx,
                    format!("what opens {path}, or a redact leaf"),
                    "neither",
                ));
            }
        }
        let stored: i64 = self
            .conn
            .query_row("SELECT count(*) FROM opening", [], |row| row.get(0))?;
        let gone: HashSet<_> = self.missing.iter().cloned().collect();
        for (idx, path) in self.redacted.difference(&gone) {
            out.push(Finding::new(
                Code::Opening,
                *idx,
                format!("{path} redacted"),
                "what opens it",
            ));
        }
        if stored != self.opened {
            out.push(Finding {
                code: Code::Opening,
                idx: None,
                expected: format!("{} openings, one a commitment", self.opened),
                found: stored.to_string(),
            });
        }
        Ok(())
    }
}
