//! `tail`, `query` and `show`.
use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::args::{Form, Only};
use super::{CliError, print};
use crate::reader::{Leaf, ReadError, Reader};
use crate::record::{Record, csv_line};
use crate::{query, render};

/// How often a followed ledger is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(200);

pub(super) fn tail(
    db: &Path,
    lines: u64,
    follow: bool,
    only: &Only,
    json: bool,
) -> Result<(), CliError> {
    let reader = Reader::open(db)?;
    let mut query = only.query(Timestamp::now())?;
    let mut out = anstream::stdout().lock();
    if !json {
        writeln!(out, "{}", render::heading())?;
    }
    let last = if query.is_everything() {
        reader.tail(lines)?
    } else {
        last_matching(&reader, &query, lines)?
    };
    query.filter.from_idx = last.last().map_or(0, |leaf| leaf.idx + 1);
    for leaf in &last {
        line(&mut out, leaf, json)?;
    }
    if !follow {
        return Ok(out.flush()?);
    }
    let mut result = out.flush();
    query.follow(&reader, LOOK, |leaf, _| {
        result = line(&mut out, leaf, json).and_then(|()| out.flush());
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    Ok(result?)
}

fn last_matching(
    reader: &Reader,
    query: &query::Query,
    lines: u64,
) -> Result<Vec<Leaf>, ReadError> {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut last = VecDeque::new();
    query.run(reader, |leaf, _| {
        last.push_back(leaf.clone());
        if last.len() > lines {
            last.pop_front();
        }
        ControlFlow::Continue(())
    })?;
    Ok(last.into())
}

fn line(out: &mut impl Write, leaf: &Leaf, json: bool) -> io::Result<()> {
    if json {
        writeln!(out, "{}", leaf.body)
    } else {
        writeln!(out, "{}", render::line(leaf))
    }
}

pub(super) fn query(db: &Path, only: &Only, form: Form) -> Result<(), CliError> {
    let reader = Reader::open(db)?;
    let query = only.query(Timestamp::now())?;
    let mut out = anstream::stdout().lock();
    match form {
        Form::Table => writeln!(out, "{}", render::heading())?,
        Form::Csv => out.write_all(csv_line(Record::COLUMNS).as_bytes())?,
        Form::Jsonl => {}
    }
    let (mut result, mut count) = (Ok(()), 0_u64);
    query.run(&reader, |leaf, record| {
        count += 1;
        result = match form {
            Form::Csv => {
                let fields = record.fields();
                out.write_all(csv_line(fields.iter().map(String::as_str)).as_bytes())
            }
            Form::Table | Form::Jsonl => line(&mut out, leaf, form == Form::Jsonl),
        };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    result?;
    if form == Form::Table {
        let all = reader.len()?;
        writeln!(out, "{count} of {all} leaves: {}", query.text())?;
    }
    Ok(out.flush()?)
}

pub(super) fn show(db: &Path, idx: u64, json: bool) -> Result<(), CliError> {
    let reader = Reader::open(db)?;
    let Some(leaf) = reader.show(idx)? else {
        let (size, count) = (reader.size()?, reader.len()?);
        let first = size - count;
        return Err(if idx < first {
            CliError::Pruned { idx, first }
        } else {
            let last = size.saturating_sub(1);
            CliError::NoSuchLeaf { idx, last }
        });
    };
    if json {
        return print(&format!("{}\n", leaf.body));
    }
    let openings = reader.openings(idx)?;
    print(&render::full(&leaf, &openings))
}
