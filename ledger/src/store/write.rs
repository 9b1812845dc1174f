//! What one transaction writes, and the statements that write it.
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::chain::{Code, Finding};
use crate::note::VerifierKey;
use crate::tree::{Frontier, Place, TreeHash};

/// A leaf ready to be inserted.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) idx: u64,
    pub(crate) body: String,
    pub(crate) hash: TreeHash,
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    pub(crate) nodes: Vec<(Place, TreeHash)>,
    pub(crate) openings: Vec<Opening>,
    /// Its size and the signed note.
    pub(crate) checkpoint: Option<(u64, String)>,
    /// The size of a checkpoint that this one makes superfluous: nobody but us has signed it.
    pub(crate) replaces: Option<u64>,
    /// Openings that go.
    pub(crate) redacted: Vec<(u64, String)>,
    /// Leaves below this one go; their hashes stay.
    pub(crate) pruned: Option<u64>,
}

/// What opens a commitment in a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) idx: u64,
    pub(crate) path: String,
    pub(crate) salt: [u8; 16],
    /// Canonical JSON.
    pub(crate) value: String,
}

pub(super) fn insert(conn: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut leaf = conn.prepare_cached("INSERT INTO leaf (idx, body, hash) VALUES (?1, ?2, ?3)")?;
    for row in &batch.rows {
        leaf.execute(params![row.idx, row.body, row.hash.0])?;
    }
    insert_nodes(conn, &batch.nodes)?;
    for opening in &batch.openings {
        conn.prepare_cached(
            "INSERT INTO opening (idx, path, salt, value) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            opening.idx,
            opening.path,
            opening.salt,
            opening.value
        ])?;
    }
    for (idx, path) in &batch.redacted {
        conn.prepare_cached("DELETE FROM opening WHERE idx = ?1 AND path = ?2")?
            .execute(params![idx, path])?;
    }
    if let Some(floor) = batch.pruned {
        conn.execute(
            "INSERT INTO node (level, n, hash) SELECT 0, idx, hash FROM leaf WHERE idx < ?1",
            [floor],
        )?;
        conn.execute("DELETE FROM leaf WHERE idx < ?1", [floor])?;
        conn.execute("DELETE FROM opening WHERE idx < ?1", [floor])?;
        // The keys that signed those are gone with their leaves.
        conn.execute("DELETE FROM checkpoint WHERE size <= ?1", [floor])?;
    }
    if let Some(size) = batch.replaces {
        conn.prepare_cached("DELETE FROM checkpoint WHERE size = ?1")?
            .execute([size])?;
    }
    if let Some((size, note)) = &batch.checkpoint {
        conn.prepare_cached("INSERT OR REPLACE INTO checkpoint (size, note) VALUES (?1, ?2)")?
            .execute(params![size, note])?;
    }
    Ok(())
}

fn insert_nodes(conn: &Connection, nodes: &[(Place, TreeHash)]) -> rusqlite::Result<()> {
    let mut statement =
        conn.prepare_cached("INSERT INTO node (level, n, hash) VALUES (?1, ?2, ?3)")?;
    for (place, hash) in nodes {
        statement.execute(params![place.level, place.n, hash.0])?;
    }
    Ok(())
}

/// Once, for a ledger from before there was a tree.
pub(super) fn build_nodes(conn: &Connection) -> rusqlite::Result<()> {
    let mut edge = Frontier::default();
    let mut statement = conn.prepare("SELECT hash FROM leaf ORDER BY idx")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut nodes = Vec::new();
        edge.push(TreeHash(row.get(0)?), |place, hash| {
            nodes.push((place, hash));
        });
        insert_nodes(conn, &nodes)?;
    }
    Ok(())
}

/// A stored hash of the tree. Those of pruned leaves are among the nodes.
pub(crate) fn hash_at(conn: &Connection, place: Place) -> rusqlite::Result<Option<TreeHash>> {
    let node = conn
        .prepare_cached("SELECT hash FROM node WHERE level = ?1 AND n = ?2")?
        .query_row(params![place.level, place.n], |row| row.get(0))
        .optional()?;
    if node.is_some() || place.level > 0 {
        return Ok(node.map(TreeHash));
    }
    let leaf = conn
        .prepare_cached("SELECT hash FROM leaf WHERE idx = ?1")?
        .query_row([place.n], |row| row.get(0))
        .optional()?;
    Ok(leaf.map(TreeHash))
}

pub(crate) fn missing_node(place: Place) -> Finding {
    Finding::new(
        Code::Node,
        place.first(),
        format!("the hash over leaves {} to {}", place.first(), place.last()),
        "none",
    )
}

/// The epoch key in the `keys` of a leaf.
pub(super) fn introduced_epoch(body: &[u8]) -> Option<VerifierKey> {
    let leaf: serde_json::Value = serde_json::from_slice(body).ok()?;
    leaf["keys"]["epoch"].as_str()?.parse().ok()
}
