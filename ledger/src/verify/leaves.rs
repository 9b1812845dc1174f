//! The one pass over the leaves: chain, tree, and everything that is gathered on the way.
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::Value;

use super::ahead::{self, Nodes};
use super::answers::Answers;
use super::meaning::Meaning;
use super::openings::Openings;
use super::orders::Orders;
use super::{Report, Trust};
use crate::chain::{Chain, Code, Finding};
use crate::note::VerifierKey;
use crate::store;
use crate::tree::{self, Frontier, Place, TreeHash, node_hash};

/// What the pass learnt for the checks after it.
#[derive(Default)]
pub(super) struct Seen {
    /// The tree of all leaves.
    pub(super) edge: Frontier,
    /// The root at every size that has a checkpoint.
    pub(super) roots: Vec<(u64, TreeHash)>,
    /// Leaves that introduce keys.
    pub(super) keys: Vec<Introduced>,
    /// Witnesses that the ledger names.
    pub(super) witnesses: Vec<VerifierKey>,
    /// When it named the first, milliseconds since 1970.
    pub(super) witnessed_ms: Option<i64>,
    /// The first leaf that is there.
    pub(super) floor: u64,
    /// The root with the last leaf as its body says, when its stored hash says otherwise.
    pub(super) other_root: Option<TreeHash>,
    /// A leaf is missing: there is no tree to compare with.
    pub(super) torn: bool,
    /// When the last leaf was written, milliseconds since 1970.
    pub(super) last_ms: i64,
}

/// The `keys` of a `genesis` or `key_rotate` leaf.
pub(super) struct Introduced {
    pub(super) idx: u64,
    pub(super) identity: Option<VerifierKey>,
    pub(super) epoch: Option<VerifierKey>,
    pub(super) previous: Option<VerifierKey>,
}

impl Introduced {
    fn of(idx: u64, keys: &Value) -> Self {
        let key = |name: &str| keys[name].as_str().and_then(|text| text.parse().ok());
        Self {
            idx,
            identity: key("identity"),
            epoch: key("epoch"),
            previous: key("previous"),
        }
    }
}

/// Checks every leaf and node. `last_read` is the last leaf reached, also when the file breaks off.
pub(super) fn check(
    conn: &Connection,
    trust: &Trust,
    report: &mut Report,
    last_read: &mut Option<u64>,
    mut progress: impl FnMut(u64, u64),
) -> rusqlite::Result<Seen> {
    let count = |sql: &str| -> rusqlite::Result<u64> {
        conn.query_row(sql, [], |row| row.get::<_, i64>(0))
            .map(|count| u64::try_from(count).unwrap_or(0))
    };
    let total = count("SELECT count(*) FROM leaf")?;
    let mut pass = Pass::new(conn, trust, report)?;
    pass.below_the_floor(report)?;
    ahead::leaves(conn, |leaf| {
        let idx = leaf.idx;
        pass.leaf(leaf, report)?;
        report.leaves += 1;
        *last_read = Some(idx);
        if report.leaves.is_multiple_of(4096) {
            progress(report.leaves, total);
        }
        Ok(())
    })?;
    progress(report.leaves, total);
    if report.leaves == 0 {
        report.add(Finding::new(
            Code::Gap,
            0,
            "a genesis leaf",
            "no leaf at all",
        ));
    }
    pass.finish(report)
}

struct Pass<'c> {
    conn: &'c Connection,
    nodes: Nodes<'c>,
    chain: Chain,
    meaning: Meaning,
    answers: Answers<'c>,
    orders: Orders,
    openings: Openings<'c>,
    unsynced: Unsynced,
    seen: Seen,
    /// All tables are there.
    whole: bool,
    /// Sizes that have a checkpoint, and how many of them are behind.
    sizes: Vec<u64>,
    next_size: usize,
    findings: Vec<Finding>,
}

impl<'c> Pass<'c> {
    fn new(conn: &'c Connection, trust: &'c Trust, report: &mut Report) -> rusqlite::Result<Self> {
        let floor = conn
            .query_row("SELECT min(idx) FROM leaf", [], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .and_then(|idx| u64::try_from(idx).ok())
            .unwrap_or(0);
        report.first = floor;
        let sizes = conn
            .prepare("SELECT size FROM checkpoint ORDER BY size")
            .and_then(|mut statement| {
                let sizes = statement.query_map([], |row| row.get::<_, i64>(0))?;
                sizes
                    .map(|size| size.map(|size| u64::try_from(size).unwrap_or(0)))
                    .collect()
            })
            .unwrap_or_default();
        let tables: i64 = conn.query_row(
            "SELECT count(*) FROM sqlite_schema \
             WHERE type = 'table' AND name IN ('node', 'checkpoint', 'opening')",
            [],
            |row| row.get(0),
        )?;
        Ok(Self {
            conn,
            nodes: Nodes::new(conn),
            chain: Chain::default(),
            meaning: Meaning::default(),
            answers: Answers::new(conn, &trust.gateway),
            orders: Orders::new(&trust.break_glass),
            openings: Openings::new(conn),
            unsynced: Unsynced::default(),
            seen: Seen {
                floor,
                // An older schema, which is found on its own: only the chain can be checked.
                torn: tables < 3,
                ..Seen::default()
            },
            whole: tables == 3,
            sizes,
            next_size: 0,
            findings: Vec::new(),
        })
    }

    /// Pruned leaves left their hashes, and a `prune` leaf that says so and what later leaves need.
    fn below_the_floor(&mut self, report: &mut Report) -> rusqlite::Result<()> {
        let floor = self.seen.floor;
        if floor == 0 || !self.whole {
            return Ok(());
        }
        let said: Option<String> = self
            .conn
            .query_row(
                "SELECT body FROM leaf NOT INDEXED WHERE kind = 'prune' ORDER BY idx DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()?;
        let said: Value = said
            .and_then(|body| serde_json::from_str(&body).ok())
            .unwrap_or_default();
        if said["prune"]["to"].as_u64() != Some(floor) {
            // It is a gap like any other, then.
            return Ok(());
        }
        self.old_enough(floor, &said)?;
        self.meaning.carry(&said["prune"]["carried"]);
        self.answers.carry(&said["prune"]["carried"]);
        self.orders.carry(&said["prune"]["carried"]);
        self.seen.keys.extend(
            said["prune"]["carried"]["keys"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|keys| Introduced::of(keys["idx"].as_u64().unwrap_or(0), keys)),
        );
        self.seen.witnesses.extend(
            said["prune"]["carried"]["witnesses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|key| key.as_str()?.parse().ok()),
        );
        let mut hashes = self
            .conn
            .prepare("SELECT n, hash FROM node WHERE level = 0 ORDER BY n")?;
        let mut rows = hashes.query([])?;
        while let Some(row) = rows.next()? {
            let (n, hash): (u64, [u8; 32]) = (row.get(0)?, row.get(1)?);
            if n != self.seen.edge.size() {
                break;
            }
            self.grow(TreeHash(hash))?;
            self.chain.resume(n, TreeHash(hash));
        }
        if self.seen.edge.size() != floor {
            report.add(Finding::new(
                Code::Prune,
                floor,
                format!("the hashes of {floor} pruned leaves"),
                format!("{} of them", self.seen.edge.size()),
            ));
        }
        self.take(report);
        Ok(())
    }

    /// The first leaf that is left is older than the retention, and so was everything before it.
    fn old_enough(&mut self, floor: u64, said: &Value) -> rusqlite::Result<()> {
        let first: Option<String> =
            self.conn
                .query_row("SELECT t FROM leaf WHERE idx = ?1", [floor], |row| {
                    row.get(0)
                })?;
        let millis = |t: Option<&str>| {
            t.and_then(crate::clock::parse)
                .map(Timestamp::as_millisecond)
        };
        let days = said["prune"]["retention_days"].as_i64().unwrap_or(i64::MAX);
        let (Some(first), Some(then)) = (millis(first.as_deref()), millis(said["t"].as_str()))
        else {
            return Ok(());
        };
        if then.saturating_sub(first) < days.saturating_mul(86_400_000) {
            self.findings.push(Finding::new(
                Code::Prune,
                floor,
                format!("leaves older than {days} days pruned only"),
                "younger ones are gone",
            ));
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: ahead::Leaf, report: &mut Report) -> rusqlite::Result<()> {
        let ahead::Leaf { idx, hash, body } = leaf;
        let computed = body.hash;
        if let Some(leaf) = self.chain.push(idx, body, &hash, &mut self.findings) {
            self.meaning.check(idx, &leaf, &mut self.findings);
            self.orders.check(idx, &leaf, &mut self.findings);
            if self.whole {
                self.openings.check(idx, &leaf, &mut self.findings)?;
                self.answers.check(idx, &leaf, &mut self.findings)?;
            }
            self.unsynced.note(idx, &leaf);
            self.gather(idx, &leaf);
        }
        self.seen.torn |= idx != self.seen.edge.size();
        if !self.seen.torn {
            let hash = self.hash_in_the_tree(idx, computed, &hash)?;
            self.grow(hash)?;
        }
        self.take(report);
        Ok(())
    }

    /// Where a body and its stored hash differ, which of the two the tree is made of: what is
    /// changed is found once, and not in every node above it.
    fn hash_in_the_tree(
        &mut self,
        idx: u64,
        computed: TreeHash,
        stored: &[u8],
    ) -> rusqlite::Result<TreeHash> {
        self.seen.other_root = None;
        let Ok(stored) = stored.try_into().map(TreeHash) else {
            return Ok(computed);
        };
        if stored == computed {
            return Ok(stored);
        }
        let parent = Place {
            level: 1,
            n: idx / 2,
        };
        let sibling = store::hash_at(
            self.conn,
            Place {
                level: 0,
                n: idx ^ 1,
            },
        )?;
        match (store::hash_at(self.conn, parent)?, sibling) {
            (Some(parent), Some(sibling)) => {
                let made = if idx.is_multiple_of(2) {
                    node_hash(computed, sibling)
                } else {
                    node_hash(sibling, computed)
                };
                Ok(if made == parent { computed } else { stored })
            }
            _ => {
                let mut other = self.seen.edge.clone();
                other.push(computed, |_, _| {});
                self.seen.other_root = Some(other.root());
                Ok(stored)
            }
        }
    }

    fn gather(&mut self, idx: u64, leaf: &Value) {
        if leaf["keys"].is_object()
            && matches!(leaf["kind"].as_str(), Some("genesis" | "key_rotate"))
        {
            self.seen.keys.push(Introduced::of(idx, &leaf["keys"]));
        }
        if let Some(t) = self.chain.time() {
            self.seen.last_ms = t.as_millisecond();
        }
        if leaf["kind"] == "anchor" {
            let key = leaf["anchor"]["witness"].as_str();
            // Each start names it again.
            let key = key.and_then(|key| key.parse::<VerifierKey>().ok());
            let new = key.filter(|key| !self.seen.witnesses.contains(key));
            if new.is_some() {
                let since = self.seen.last_ms;
                self.seen.witnessed_ms.get_or_insert(since);
            }
            self.seen.witnesses.extend(new);
        }
    }

    /// The tree with one more leaf; stored nodes are compared with what they have to be.
    fn grow(&mut self, leaf: TreeHash) -> rusqlite::Result<()> {
        let (nodes, findings) = (&mut self.nodes, &mut self.findings);
        let mut trouble = None;
        self.seen.edge.grow(leaf, |place, hash| {
            let stored = nodes.at(place).unwrap_or_else(|error| {
                trouble = Some(error);
                None
            });
            match stored.as_deref().map(<[u8; 32]>::try_from) {
                Some(Ok(stored)) if stored == hash.0 => hash,
                Some(Ok(stored)) => {
                    findings.push(wrong_node(place, place.first(), hash, &TreeHash(stored)));
                    TreeHash(stored)
                }
                // The leaf that completes the node is the first one that nothing stored covers.
                _ => {
                    findings.push(wrong_node(place, place.last(), hash, &"none"));
                    hash
                }
            }
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        let size = self.seen.edge.size();
        while self
            .sizes
            .get(self.next_size)
            .is_some_and(|next| *next <= size)
        {
            if self.sizes[self.next_size] == size {
                self.seen.roots.push((size, self.seen.edge.root()));
            }
            self.next_size += 1;
        }
        Ok(())
    }

    fn finish(mut self, report: &mut Report) -> rusqlite::Result<Seen> {
        let size = self.seen.edge.size();
        report.root = (size > 0 && !self.seen.torn).then(|| self.seen.edge.root());
        report.warnings.extend(self.unsynced.warning());
        report.head = self.chain.into_tail().map(|tail| tail.hash);
        if !self.whole {
            return Ok(self.seen);
        }
        let expected = tree::nodes(size);
        let found: i64 =
            self.conn
                .query_row("SELECT count(*) FROM node WHERE level > 0", [], |row| {
                    row.get(0)
                })?;
        if report.leaves > 0 && !self.seen.torn && u64::try_from(found).unwrap_or(0) > expected {
            self.findings.push(Finding::new(
                Code::Node,
                size,
                format!("{expected} nodes"),
                format!("{found}"),
            ));
        }
        self.openings.finish(&mut self.findings)?;
        self.findings
            .drain(..)
            .for_each(|finding| report.add(finding));
        Ok(self.seen)
    }

    fn take(&mut self, report: &mut Report) {
        self.findings
            .drain(..)
            .for_each(|finding| report.add(finding));
    }
}

fn wrong_node(
    place: Place,
    idx: u64,
    expected: TreeHash,
    found: &dyn std::fmt::Display,
) -> Finding {
    let expected = format!(
        "{expected} over leaves {} to {}",
        place.first(),
        place.last()
    );
    Finding::new(Code::Node, idx, expected, found.to_string())
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
