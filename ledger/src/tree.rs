//! The Merkle tree of RFC 6962 over the leaves: hashes, roots and proofs. Pure: stored hashes come
//! from a function, so the same code reads a database, a test's list or a tile.
//!
//! Only complete subtrees are stored. They never change, so an append writes one node a leaf on
//! average, and a root or a proof for any size reads a logarithm of it.
use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::chain::hex;

/// A hash of the tree: of a leaf, a node or the root.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeHash(pub [u8; 32]);

/// `SHA-256(0x00 ‖ body)`, the hash of a leaf with this body.
pub fn leaf_hash(body: &[u8]) -> TreeHash {
    TreeHash(
        Sha256::new()
            .chain_update([0])
            .chain_update(body)
            .finalize()
            .into(),
    )
}

/// `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: TreeHash, right: TreeHash) -> TreeHash {
    TreeHash(
        Sha256::new()
            .chain_update([1])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

impl TreeHash {
    /// What the first leaf has as `prev`.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TreeHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The place of a complete subtree: it covers the leaves `n << level` to `((n + 1) << level) - 1`.
/// Level 0 are the leaves themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub level: u8,
    pub n: u64,
}

impl Place {
    /// The first leaf below it.
    pub fn first(self) -> u64 {
        self.n << self.level
    }

    /// The last leaf below it.
    pub fn last(self) -> u64 {
        self.first() + (1_u64 << self.level) - 1
    }
}

/// The complete subtrees that a tree of `size` leaves consists of, the largest first.
pub fn peaks(size: u64) -> impl DoubleEndedIterator<Item = Place> {
    (0..u64::BITS as u8)
        .rev()
        .filter(move |level| size >> level & 1 == 1)
        .map(move |level| Place {
            level,
            // An odd count of subtrees of this size: the last of them stands alone.
            n: (size >> level) - 1,
        })
}

/// How many nodes above the leaves a tree of `size` leaves stores.
pub fn nodes(size: u64) -> u64 {
    size - u64::from(size.count_ones())
}

/// The right edge of a tree: enough to append and to know the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<TreeHash>,
}

impl Frontier {
    /// The edge of a stored tree of `size` leaves.
    pub fn load<E>(size: u64, hash: impl FnMut(Place) -> Result<TreeHash, E>) -> Result<Self, E> {
        let peaks = peaks(size).map(hash).collect::<Result<_, E>>()?;
        Ok(Self { size, peaks })
    }

    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf; `completed` is told every node above the leaves that is complete now.
    pub fn push(&mut self, leaf: TreeHash, mut completed: impl FnMut(Place, TreeHash)) {
        self.grow(leaf, |place, hash| {
            completed(place, hash);
            hash
        });
    }

    /// The same, going on with the hash that `stored` gives for a node: so that one wrong node is
    /// found once and not in everything above it.
    pub(crate) fn grow(
        &mut self,
        leaf: TreeHash,
        mut stored: impl FnMut(Place, TreeHash) -> TreeHash,
    ) {
        let mut hash = leaf;
        for level in 1..=self.size.trailing_ones() as u8 {
            if let Some(left) = self.peaks.pop() {
                let n = self.size >> level;
                hash = stored(Place { level, n }, node_hash(left, hash));
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root; of an empty tree the hash of nothing.
    pub fn root(&self) -> TreeHash {
        let mut peaks = self.peaks.iter().rev().copied();
        match peaks.next() {
            Some(smallest) => peaks.fold(smallest, |right, left| node_hash(left, right)),
            None => TreeHash(Sha256::digest([]).into()),
        }
    }
}

/// The root over the first `size` leaves.
pub fn root<E>(size: u64, hash: impl FnMut(Place) -> Result<TreeHash, E>) -> Result<TreeHash, E> {
    Frontier::load(size, hash).map(|edge| edge.root())
}

/// The hash over the leaves `from..to`, where `from` is a multiple of the next power of two.
fn range<E>(
    from: u64,
    to: u64,
    hash: &mut impl FnMut(Place) -> Result<TreeHash, E>,
) -> Result<TreeHash, E> {
    let width = to - from;
    if width.is_power_of_two() {
        let level = width.trailing_zeros() as u8;
        let n = from >> level;
        return hash(Place { level, n });
    }
    let middle = from + split(width);
    let left = range(from, middle, hash)?;
    Ok(node_hash(left, range(middle, to, hash)?))
}

/// The largest power of two below `width` (which is at least 2).
fn split(width: u64) -> u64 {
    1 << (width - 1).ilog2()
}

/// The inclusion proof of leaf `idx` in the tree of `size` leaves, from the leaf upwards. Empty when
/// there is no such leaf.
pub fn inclusion<E>(
    idx: u64,
    size: u64,
    mut hash: impl FnMut(Place) -> Result<TreeHash, E>,
) -> Result<Vec<TreeHash>, E> {
    let (mut from, mut to, mut proof) = (0, size, Vec::new());
    while idx < size && to - from > 1 {
        let middle = from + split(to - from);
        if idx < middle {
            proof.push(range(middle, to, &mut hash)?);
            to = middle;
        } else {
            proof.push(range(from, middle, &mut hash)?);
            from = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `old` leaves is a prefix of the one of `size` leaves. Empty when they
/// are the same, when `old` is 0 or when it is the larger one.
pub fn consistency<E>(
    old: u64,
    size: u64,
    mut hash: impl FnMut(Place) -> Result<TreeHash, E>,
) -> Result<Vec<TreeHash>, E> {
    let (mut from, mut to, mut proof) = (0, size, Vec::new());
    if old == 0 || old >= size {
        return Ok(proof);
    }
    while old < to {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(range(middle, to, &mut hash)?);
            to = middle;
        } else {
            proof.push(range(from, middle, &mut hash)?);
            from = middle;
        }
    }
    // Whoever has the old root knows it already when the old tree is one complete subtree.
    if from > 0 {
        proof.push(range(from, to, &mut hash)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that `leaf` is at `idx` in the tree of `size` leaves with this root
/// (RFC 9162, 2.1.3.2).
#[must_use]
pub fn included(
    leaf: TreeHash,
    idx: u64,
    size: u64,
    proof: &[TreeHash],
    expected: TreeHash,
) -> bool {
    if idx >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (idx, size - 1, leaf);
    for step in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(*step, hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(hash, *step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == expected
}

/// Whether `proof` shows that the tree of `old` leaves is a prefix of the one of `size` leaves
/// (RFC 9162, 2.1.4.2). That an empty tree is a prefix proves nothing, and is refused.
#[must_use]
pub fn consistent(
    old: u64,
    old_root: TreeHash,
    size: u64,
    new_root: TreeHash,
    proof: &[TreeHash],
) -> bool {
    if old == 0 || old > size {
        return false;
    }
    if old == size {
        return proof.is_empty() && old_root == new_root;
    }
    let known = old.is_power_of_two().then_some(old_root);
    let mut steps = known.into_iter().chain(proof.iter().copied());
    let Some(first) = steps.next() else {
        return false;
    };
    let (mut node, mut last) = (old - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut before, mut after) = (first, first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            before = node_hash(step, before);
            after = node_hash(step, after);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            after = node_hash(after, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && before == old_root && after == new_root
}
