//! `export`, `report` and `evidence`: what leaves the host.
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::args::{Export, Known, Only};
use super::read::LOOK;
use super::{CliError, print, trust};
use crate::reader::{Leaf, Reader};
use crate::record::{Record, csv_line};
use crate::{evidence, ocsf, report};

pub(super) fn export(db: &Path, format: Export, follow: bool, only: &Only) -> Result<(), CliError> {
    let reader = Reader::open(db)?;
    let mut query = only.query(Timestamp::now())?;
    let mut out = BufWriter::new(io::stdout().lock());
    if format == Export::Csv {
        out.write_all(csv_line(Record::COLUMNS).as_bytes())?;
    }
    let mut result = Ok(());
    let mut next = 0;
    let mut each = |leaf: &Leaf, record: &Record| {
        next = leaf.idx + 1;
        result = one(&mut out, format, leaf, record);
        if follow && result.is_ok() {
            result = out.flush();
        }
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    if follow {
        query.filter.from_idx = 0;
        query.follow(&reader, LOOK, each)?;
    } else {
        query.run(&reader, &mut each)?;
    }
    result?;
    Ok(out.flush()?)
}

fn one(out: &mut impl Write, format: Export, leaf: &Leaf, record: &Record) -> io::Result<()> {
    match format {
        Export::Jsonl => writeln!(out, "{}", leaf.body),
        Export::Csv => {
            let fields = record.fields();
            out.write_all(csv_line(fields.iter().map(String::as_str)).as_bytes())
        }
        Export::Ocsf => writeln!(out, "{}", ocsf::event(leaf)),
    }
}

pub(super) fn report(
    db: &Path,
    only: &Only,
    known: &Known,
    output: Option<&Path>,
) -> Result<(), CliError> {
    let now = Timestamp::now();
    let query = only.query(now)?;
    let proof = trust::check(db, known)?;
    let page = report::html(&Reader::open(db)?, &query, &proof, now)?;
    match output {
        None => print(&page),
        Some(path) => create(path)?
            .write_all(page.as_bytes())
            .map_err(|source| CliError::File {
                path: path.to_owned(),
                source,
            }),
    }
}

pub(super) fn evidence(
    db: &Path,
    only: &Only,
    known: &Known,
    output: &Path,
) -> Result<(), CliError> {
    let now = Timestamp::now();
    let query = only.query(now)?;
    let proof = trust::check(db, known)?;
    let file = create(output)?;
    let summary = evidence::write(&Reader::open(db)?, &query, &proof, now, file)?;
    print(&format!(
        "{}: {} records, proven in a tree of {} leaves; see VERIFY.md in it\n",
        output.display(),
        summary.records,
        summary.size
    ))
}

/// For its owner only: what is in it may be personal.
fn create(path: &Path) -> Result<std::fs::File, CliError> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| CliError::File {
            path: path.to_owned(),
            source,
        })
}
