//! What is protected, and the folders the kernel watches for it.
use std::path::PathBuf;

use syshold_abi::SUFFIX_LEN;

use super::Glob;
use super::glob::Names;
use crate::request::Classes;

/// `[[protect]]`, a built-in set, or the programs that rules for exec name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    /// What several of them may share, as "pii".
    pub class: String,
    pub globs: Vec<Glob>,
    /// The same below every home folder.
    pub homes: Vec<Home>,
    /// Its bit in [`Classes`]. A `[[protect]]` has that of its place in the file.
    pub bit: u32,
    pub kind: Kind,
    pub built_in: bool,
}

/// A path below every home folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    name: &'static str,
    /// What it is called where homes are in `/home`, and root's in `/root`.
    globs: Vec<Glob>,
}

/// What happens to a class that no rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything is asked.
    Data,
    /// What every program reads: reading is allowed, everything else asked.
    Config,
    /// Programs of exec rules: nothing is asked.
    Programs,
}

/// A folder or file the kernel watches: what all patterns that begin there say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub path: PathBuf,
    /// Classes of everything at and below it.
    pub classes: Classes,
    /// Classes that patterns below it may give; user space decides.
    pub glob_classes: Classes,
    /// What a file's name must end in for those; empty: any name.
    pub suffix: Vec<u8>,
}

impl Home {
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn new(name: &'static str) -> Self {
        let paths = [format!("/home/*/{name}"), format!("/root/{name}")];
        Self {
            name,
            globs: paths
                .iter()
                .filter_map(|path| Glob::parse(path).ok())
                .collect(),
        }
    }
}

impl Kind {
    /// Of a `[[protect]]`, by its class word.
    pub(super) fn of_word(class: &str) -> Self {
        match class {
            "config" | "persistence" => Self::Config,
            _ => Self::Data,
        }
    }
}

impl Class {
    #[must_use]
    pub fn bits(&self) -> Classes {
        Classes(1 << (self.bit & 63))
    }

    /// Whether it is a `[[protect]]`.
    pub(super) fn is_own(&self) -> bool {
        self.kind != Kind::Programs && !self.built_in
    }

    /// Whether a path, as its names, is meant.
    #[must_use]
    pub fn means(&self, path: &Names<'_>) -> bool {
        let homes = self.homes.iter().flat_map(|home| &home.globs);
        self.globs
            .iter()
            .chain(homes)
            .any(|glob| glob.matches(path))
    }

    pub(super) fn roots(&self, homes: &[PathBuf]) -> Vec<Root> {
        let own = self.globs.iter().map(|glob| self.root(glob));
        let below = homes.iter().flat_map(|folder| {
            self.homes
                .iter()
                .map(|home| Root::plain(folder.join(home.name), self.bits()))
        });
        own.chain(below).collect()
    }

    fn root(&self, glob: &Glob) -> Root {
        let split = glob.split();
        if split.remainder.is_empty() {
            return Root::plain(split.root, self.bits());
        }
        Root {
            path: split.root,
            classes: Classes(0),
            glob_classes: self.bits(),
            suffix: split.suffix,
        }
    }
}

impl Root {
    fn plain(path: PathBuf, classes: Classes) -> Self {
        Self {
            path,
            classes,
            glob_classes: Classes(0),
            suffix: Vec::new(),
        }
    }

    /// Adds what `other` says of the same folder; also for two paths that turn out to be one.
    pub fn join(&mut self, other: &Self) {
        match (self.glob_classes.0 != 0, other.glob_classes.0 != 0) {
            (false, true) => self.suffix.clone_from(&other.suffix),
            (true, true) if self.suffix != other.suffix => self.suffix.clear(),
            _ => {}
        }
        self.classes.0 |= other.classes.0;
        self.glob_classes.0 |= other.glob_classes.0;
    }

    /// As the kernel reads it: the suffix stands at the end of 16 bytes.
    #[must_use]
    pub fn to_abi(&self) -> syshold_abi::Root {
        let (mut tail, mut mask) = ([0; SUFFIX_LEN], [0; SUFFIX_LEN]);
        let end = tail.iter_mut().zip(&mut mask).rev();
        for ((byte, bits), wanted) in end.zip(self.suffix.iter().rev()) {
            (*byte, *bits) = (*wanted, u8::MAX);
        }
        syshold_abi::Root {
            classes: self.classes.0,
            glob_classes: self.glob_classes.0,
            suffix: words(tail),
            mask: words(mask),
            min_len: self.suffix.len().min(SUFFIX_LEN) as u64,
            leads_to: 0,
        }
    }
}

/// Sixteen bytes as two little-endian words.
fn words(bytes: [u8; SUFFIX_LEN]) -> [u64; 2] {
    let bits = u128::from_le_bytes(bytes);
    [bits as u64, (bits >> 64) as u64]
}
