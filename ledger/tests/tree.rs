//! The tree against two others that share no code with it, on every size from 1 to 1,025.
use std::collections::HashMap;
use std::convert::Infallible;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use syshold_ledger::tree::{self, Frontier, Place};
use syshold_ledger::{TreeHash, leaf_hash};
use tlog_tiles::{Hash, HashReader, check_record, check_tree, prove_record, prove_tree};

const SIZES: u64 = 1025;

/// All complete subtrees of the largest tree.
struct Stored(HashMap<Place, TreeHash>);

impl Stored {
    fn new() -> (Self, Vec<Frontier>) {
        let mut nodes = HashMap::new();
        let mut edge = Frontier::default();
        let mut edges = vec![edge.clone()];
        for n in 0..SIZES {
            let hash = leaf_hash(&body(n));
            nodes.insert(Place { level: 0, n }, hash);
            edge.push(hash, |place, hash| {
                assert!(nodes.insert(place, hash).is_none(), "{place:?} twice");
            });
            edges.push(edge.clone());
        }
        (Self(nodes), edges)
    }

    fn at(&self, place: Place) -> Result<TreeHash, Infallible> {
        Ok(self.0[&place])
    }
}

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        let read = |index: &u64| {
            let (level, n) = tlog_tiles::split_stored_hash_index(*index);
            Hash(self.0[&Place { level, n }].0)
        };
        Ok(indexes.iter().map(read).collect())
    }
}

fn body(n: u64) -> Vec<u8> {
    format!("leaf {n}").into_bytes()
}

/// Every place in small trees and around powers of two, a sample elsewhere.
fn sample(size: u64) -> Vec<u64> {
    if size <= 66 || size.is_power_of_two() {
        return (0..size).collect();
    }
    let mut places = vec![0, 1, size / 2, size - 2, size - 1];
    places.extend((1..8).map(|n| (n * 2_654_435_761 + size * 40_503) % size));
    places.push(1 << size.ilog2());
    places.retain(|n| *n < size);
    places
}

#[test]
fn roots_and_proofs_agree_with_others() {
    let (stored, edges) = Stored::new();
    let mut theirs = MemoryBackedTree::<sha2_of_ct_merkle::Sha256, Vec<u8>>::new();
    let (mut inclusions, mut consistencies) = (0, 0);
    for size in 1..=SIZES {
        theirs.push(body(size - 1));
        let root = edges[size as usize].root();
        assert_eq!(tree::root(size, |place| stored.at(place)), Ok(root));
        assert_eq!(theirs.root().as_bytes()[..], root.0, "size {size}");
        assert_eq!(
            tlog_tiles::tree_hash(size, &stored).unwrap(),
            Hash(root.0),
            "size {size}"
        );
        assert_eq!(
            tree::nodes(size),
            stored
                .0
                .keys()
                .filter(|p| p.level > 0 && p.last() < size)
                .count() as u64
        );
        for idx in sample(size) {
            let proof = tree::inclusion(idx, size, |place| stored.at(place)).unwrap();
            let leaf = leaf_hash(&body(idx));
            assert!(
                tree::included(leaf, idx, size, &proof, root),
                "{idx} of {size}"
            );
            let to_them: Vec<_> = proof.iter().map(|hash| Hash(hash.0)).collect();
            assert_eq!(prove_record(size, idx, &stored).unwrap(), to_them);
            check_record(&to_them, size, Hash(root.0), idx, Hash(leaf.0)).unwrap();
            assert_eq!(
                theirs.prove_inclusion(idx as usize).as_bytes(),
                proof.iter().flat_map(|hash| hash.0).collect::<Vec<_>>()
            );
            let other = (idx + 1) % size;
            assert!(size == 1 || !tree::included(leaf, other, size, &proof, root));
            inclusions += 1;
        }
        for old in sample(size).into_iter().map(|n| n + 1) {
            let proof = tree::consistency(old, size, |place| stored.at(place)).unwrap();
            let before = edges[old as usize].root();
            assert!(
                tree::consistent(old, before, size, root, &proof),
                "{old} in {size}"
            );
            let to_them: Vec<_> = proof.iter().map(|hash| Hash(hash.0)).collect();
            assert_eq!(
                prove_tree(size, old, &stored).unwrap(),
                to_them,
                "{old} in {size}"
            );
            check_tree(&to_them, size, Hash(root.0), old, Hash(before.0)).unwrap();
            let wrong = tree::node_hash(before, before);
            assert!(!tree::consistent(old, wrong, size, root, &proof));
            assert!(!tree::consistent(old, before, size, wrong, &proof));
            consistencies += 1;
        }
    }
    println!(
        "figure: trees of 1 to {SIZES} leaves: roots, {inclusions} inclusion and {consistencies} consistency proofs agree with tlog_tiles and ct-merkle"
    );
    assert!(inclusions > 10_000 && consistencies > 10_000);
}

#[test]
fn a_proof_with_one_bit_less_proves_nothing() {
    let (stored, edges) = Stored::new();
    for (old, size) in [(1, 2), (3, 7), (4, 7), (6, 8), (100, 777), (512, 1025)] {
        let root = edges[size as usize].root();
        let before = edges[old as usize].root();
        let leaf = leaf_hash(&body(old));
        let inclusion = tree::inclusion(old, size, |place| stored.at(place)).unwrap();
        let consistency = tree::consistency(old, size, |place| stored.at(place)).unwrap();
        for n in 0..inclusion.len() {
            let mut other = inclusion.clone();
            other[n].0[n % 32] ^= 1;
            assert!(!tree::included(leaf, old, size, &other, root));
            other.remove(n);
            assert!(!tree::included(leaf, old, size, &other, root));
        }
        for n in 0..consistency.len() {
            let mut other = consistency.clone();
            other[n].0[n % 32] ^= 1;
            assert!(!tree::consistent(old, before, size, root, &other));
            other.remove(n);
            assert!(!tree::consistent(old, before, size, root, &other));
        }
    }
}
