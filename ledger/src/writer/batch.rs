//! What one transaction will write, chained and hashed as it grows.
use serde_json::json;

use super::Writer;
use crate::chain::Tail;
use crate::clock::{self, ClockSource, Now, Stamp};
use crate::handle::{AppendError, Committed, HostName};
use crate::keys::Keys;
use crate::leaf::{Draft, Encoded, Kind};
use crate::note::Checkpoint;
use crate::store::{Batch, OpenError, Opening, Row};
use crate::tree::{Frontier, TreeHash, leaf_hash};

/// A transaction in the making.
pub(super) struct Rows {
    pub(super) batch: Batch,
    pub(super) tail: Tail,
    pub(super) edge: Frontier,
}

impl Rows {
    pub(super) fn after(tail: &Tail, edge: &Frontier) -> Self {
        Self {
            batch: Batch::default(),
            tail: tail.clone(),
            edge: edge.clone(),
        }
    }

    fn push(&mut self, leaf: Encoded, now: Now, boot_id: &str) -> Committed {
        let idx = self.tail.idx + 1;
        let hash = self.batch.push(idx, leaf, &mut self.edge);
        self.tail = Tail {
            idx,
            hash,
            now,
            boot_id: boot_id.to_owned(),
        };
        Committed { idx, hash }
    }

    /// Signs the tree as it will be.
    pub(super) fn seal(&mut self, keys: &Keys) {
        let checkpoint = Checkpoint {
            origin: keys.origin(),
            size: self.edge.size(),
            root: self.edge.root(),
        };
        let note = keys.sign(&checkpoint).to_string();
        self.batch.checkpoint = Some((checkpoint.size, note));
    }
}

impl Batch {
    fn push(&mut self, idx: u64, leaf: Encoded, edge: &mut Frontier) -> TreeHash {
        let hash = leaf_hash(leaf.body.as_bytes());
        let nodes = &mut self.nodes;
        edge.push(hash, |place, hash| nodes.push((place, hash)));
        let openings = leaf.openings.into_iter();
        self.openings
            .extend(openings.map(|(path, salt, value)| Opening {
                idx,
                path,
                salt,
                value,
            }));
        self.rows.push(Row {
            idx,
            body: leaf.body,
            hash,
        });
        hash
    }
}

impl Writer {
    /// Encodes a draft as the next leaf.
    pub(super) fn encode(
        &self,
        rows: &mut Rows,
        draft: &Draft,
        now: Now,
    ) -> Result<Committed, AppendError> {
        let stamp = Stamp {
            t: now.t,
            t_boot: now.t_boot,
            boot_id: &self.boot_id,
            clock: self.clock.as_ref().and_then(|source| source()),
            host: self.host.as_str(),
        };
        let place = (rows.tail.idx + 1, rows.tail.hash);
        let leaf = draft.encode(place.0, place.1, &stamp, &self.openable)?;
        Ok(rows.push(leaf, now, &self.boot_id))
    }
}

/// `unacknowledged` leaves are in the chain, but whoever drafted them was told that they are not.
pub(super) fn gap(lost: u64, cause: &str, unacknowledged: Option<(u64, u64)>) -> Draft {
    let mut gap = json!({"lost": lost, "cause": cause});
    if let Some((from, to)) = unacknowledged {
        gap["unacknowledged"] = json!({"from": from, "to": to});
    }
    Draft::new(Kind::Gap).field("gap", &gap)
}

/// The wall clock jumped by `ms` since `last`.
pub(super) fn step(last: &Tail, ms: i64) -> Draft {
    let from = clock::format(last.now.t);
    Draft::new(Kind::Clock).field("step", &json!({"from": from, "ms": ms}))
}

/// The first leaf, which names the keys, and the checkpoint over it.
pub(super) fn genesis(
    host: &HostName,
    boot_id: &str,
    clock: Option<&ClockSource>,
    keys: &Keys,
) -> Result<Batch, OpenError> {
    let now = Now::read().map_err(|error| OpenError::Genesis(error.to_string()))?;
    let stamp = Stamp {
        t: now.t,
        t_boot: now.t_boot,
        boot_id,
        clock: clock.and_then(|source| source()),
        host: host.as_str(),
    };
    let leaf = Draft::new(Kind::Genesis)
        .field(
            "software",
            &concat!("syshold-ledger ", env!("CARGO_PKG_VERSION")),
        )
        .field("keys", &introduction(keys))
        .encode(0, TreeHash::NONE, &stamp, &[])
        .map_err(|error| OpenError::Genesis(error.to_string()))?;
    let (mut batch, mut edge) = (Batch::default(), Frontier::default());
    batch.push(0, leaf, &mut edge);
    let checkpoint = Checkpoint {
        origin: keys.origin(),
        size: 1,
        root: edge.root(),
    };
    batch.checkpoint = Some((1, keys.sign(&checkpoint).to_string()));
    Ok(batch)
}

/// The public halves of both keys, in the leaf that begins the first epoch.
pub(super) fn introduction(keys: &Keys) -> serde_json::Value {
    json!({
        "identity": keys.identity.verifier().to_string(),
        "epoch": keys.epoch.verifier().to_string(),
    })
}
