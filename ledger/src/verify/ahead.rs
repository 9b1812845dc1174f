//! Reading ahead of the checks: bodies are hashed and parsed on other threads, and come back in
//! order; nodes come by the hundred.
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Rows, params};

use crate::chain::Body;
use crate::tree::Place;

/// The most leaves, and bytes of them, that go to another thread at once.
const LEAVES: usize = 256;
const BYTES: usize = 1 << 18;
/// How many batches may be under way on each thread.
const DEPTH: usize = 2;
/// One thread reads and compares, so more than a few others would only wait for it.
const MOST_THREADS: usize = 4;
/// How many nodes of a level are read at once.
const NODES: usize = 512;

/// A leaf as it is stored, and as it was read.
pub(super) struct Leaf {
    pub(super) idx: u64,
    pub(super) hash: Vec<u8>,
    pub(super) body: Body,
}

/// Idx, body and hash, whatever a changed file holds there.
type Stored = (u64, Vec<u8>, Vec<u8>);

/// Hands over every leaf, in order; where the file breaks off, all that could be read before it.
pub(super) fn leaves(
    conn: &Connection,
    mut each: impl FnMut(Leaf) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement =
        conn.prepare("SELECT idx, body, hash FROM leaf NOT INDEXED ORDER BY idx")?;
    let mut rows = statement.query([])?;
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let lanes: Vec<Lane> = (0..threads.min(MOST_THREADS))
            .map_while(|_| Lane::begin(scope))
            .collect();
        let mut under_way = VecDeque::new();
        let mut next = lanes.iter().cycle();
        loop {
            let (stored, trouble) = batch(&mut rows);
            let over = stored.is_empty() || trouble.is_some();
            match next.next() {
                Some(lane) => {
                    // It ends only with this function.
                    let _sent = lane.jobs.send(stored);
                    under_way.push_back(lane);
                }
                None => read(stored).into_iter().try_for_each(&mut each)?,
            }
            let most = if over { 0 } else { lanes.len() * DEPTH };
            while under_way.len() > most
                && let Some(lane) = under_way.pop_front()
            {
                let leaves = lane.done.recv().unwrap_or_default();
                leaves.into_iter().try_for_each(&mut each)?;
            }
            if over {
                return trouble.map_or(Ok(()), Err);
            }
        }
    })
}

/// A thread, what it is given and what it gives back, in the same order.
struct Lane {
    jobs: SyncSender<Vec<Stored>>,
    done: Receiver<Vec<Leaf>>,
}

impl Lane {
    /// None: there is no thread to be had.
    fn begin<'scope>(scope: &'scope Scope<'scope, '_>) -> Option<Self> {
        // Room for all that is under way: nobody ever waits to hand something over.
        let (jobs, todo) = sync_channel::<Vec<Stored>>(DEPTH + 1);
        let (give, done) = sync_channel(DEPTH + 1);
        let work = move || {
            for stored in todo {
                if give.send(read(stored)).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("ledger-verify".to_owned());
        thread.spawn_scoped(scope, work).ok()?;
        Some(Self { jobs, done })
    }
}

fn read(stored: Vec<Stored>) -> Vec<Leaf> {
    let leaf = |(idx, bytes, hash): Stored| Leaf {
        idx,
        hash,
        body: Body::read(idx, &bytes),
    };
    stored.into_iter().map(leaf).collect()
}

/// The next leaves; none: it was the last. And what made it stop early.
fn batch(rows: &mut Rows<'_>) -> (Vec<Stored>, Option<rusqlite::Error>) {
    let (mut batch, mut size) = (Vec::with_capacity(LEAVES), 0);
    let mut one = || -> rusqlite::Result<Option<Stored>> {
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let idx = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(u64::MAX);
        let (body, hash) = (bytes(row.get_ref(1)?), bytes(row.get_ref(2)?));
        Ok(Some((idx, body.to_vec(), hash.to_vec())))
    };
    while batch.len() < LEAVES && size < BYTES {
        match one() {
            Ok(Some(stored)) => {
                size += stored.1.len();
                batch.push(stored);
            }
            Ok(None) => break,
            Err(error) => return (batch, Some(error)),
        }
    }
    (batch, None)
}

/// The stored nodes, each level of which is asked for in order.
pub(super) struct Nodes<'c> {
    conn: &'c Connection,
    levels: Vec<VecDeque<(u64, Vec<u8>)>>,
}

impl<'c> Nodes<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self {
            conn,
            levels: Vec::new(),
        }
    }

    pub(super) fn at(&mut self, place: Place) -> rusqlite::Result<Option<Vec<u8>>> {
        let level = usize::from(place.level);
        while self.levels.len() <= level {
            self.levels.push(VecDeque::new());
        }
        let ahead = &mut self.levels[level];
        while ahead.front().is_some_and(|(n, _)| *n < place.n) {
            ahead.pop_front();
        }
        if ahead.is_empty() {
            // A damaged page further on is found when it is its turn.
            *ahead = some(self.conn, place).unwrap_or_default();
        }
        match ahead.front() {
            Some((n, _)) if *n == place.n => Ok(ahead.pop_front().map(|(_, hash)| hash)),
            _ => one(self.conn, place),
        }
    }
}

/// That node and those after it on its level.
fn some(conn: &Connection, from: Place) -> rusqlite::Result<VecDeque<(u64, Vec<u8>)>> {
    let sql = "SELECT n, hash FROM node WHERE level = ?1 AND n >= ?2 ORDER BY n LIMIT ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let nodes = statement.query_map(params![from.level, from.n, NODES], |row| {
        Ok((row.get(0)?, bytes(row.get_ref(1)?).to_vec()))
    })?;
    nodes.collect()
}

fn one(conn: &Connection, place: Place) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.prepare_cached("SELECT hash FROM node WHERE level = ?1 AND n = ?2")?
        .query_row(params![place.level, place.n], |row| {
            Ok(bytes(row.get_ref(0)?).to_vec())
        })
        .optional()
}

/// Whatever a changed file holds in a column.
fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}
