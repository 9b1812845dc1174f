//! What an earlier daemon attached goes on under a later one, when it is the very same: the verifier
//! reads nothing twice, and holds wait for a restart no longer than they must.
//!
//! The record is a map of its own beside the others ([`Loaded`]). It is believed only when the
//! object, the kernel's offsets and every pinned map are those that the programs were made of, and
//! every pin is the link, with the program, that was recorded. Whatever differs, all is loaded anew.
//! Whether it enforces is not believed at all: the canary proves it before the daemon says so.
use std::fs;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use sha2::{Digest as _, Sha256};
use syshold_abi::{Attached, Loaded, Offsets};

use super::load::PROGRAMS;

const _: () = assert!(PROGRAMS.len() <= syshold_abi::MAX_PROGRAMS);

/// The record of what is attached.
pub(super) struct Record {
    map: Array<MapData, Loaded>,
    made_of: Option<[u8; 32]>,
}

impl Record {
    /// `maps`: where the maps of `ebpf` are pinned.
    pub(super) fn new(
        map: Array<MapData, Loaded>,
        ebpf: &Ebpf,
        object: &[u8],
        offsets: &Offsets,
        maps: &Path,
    ) -> Self {
        let made_of = made_of(ebpf, object, offsets, maps);
        Self { map, made_of }
    }

    /// Which programs are attached, by position; None: they have to be loaded. A program that this
    /// kernel has no hook for is not attached.
    pub(super) fn attached(&self, links: &Path) -> Option<Vec<bool>> {
        let loaded = self.map.get(&0, 0).ok()?;
        if Some(loaded.made_of) != self.made_of {
            return None;
        }
        let recorded = PROGRAMS.iter().zip(loaded.programs);
        recorded
            .map(|(&(name, ..), known)| {
                if known == Attached::default() {
                    return Some(false);
                }
                let pinned: FdLink = PinnedLink::from_pin(links.join(name)).ok()?.into();
                (attached(&pinned) == Some(known)).then_some(true)
            })
            .collect()
    }

    /// Everything is attached as `programs` says.
    pub(super) fn write(&mut self, programs: &[Attached]) -> Result<(), MapError> {
        let Some(made_of) = self.made_of else {
            return Ok(());
        };
        let mut loaded = Loaded {
            made_of,
            ..Loaded::NOTHING
        };
        for (place, program) in loaded.programs.iter_mut().zip(programs) {
            *place = *program;
        }
        self.map.set(0, loaded, 0)
    }

    /// What is attached is not to be relied on: the next daemon loads everything anew.
    pub(super) fn forget(&mut self) -> Result<(), MapError> {
        self.map.set(0, Loaded::NOTHING, 0)
    }
}

/// The kernel's numbers of a link.
pub(super) fn attached(link: &FdLink) -> Option<Attached> {
    let info = link.info().ok()?;
    Some(Attached {
        link: info.id(),
        program: info.program_id(),
    })
}

/// A digest of all that makes the programs what they are. None: that could not be told.
fn made_of(ebpf: &Ebpf, object: &[u8], offsets: &Offsets, maps: &Path) -> Option<[u8; 32]> {
    let mut digest = Sha256::new_with_prefix(object);
    digest.update(format!("{offsets:?}"));
    let entries = fs::read_dir(maps)
        .ok()?
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    let mut names: Vec<_> = entries.iter().map(fs::DirEntry::file_name).collect();
    names.sort_unstable();
    for name in names {
        let name = name.to_str()?;
        // A pin of an older version, which no program uses.
        let Some(map) = ebpf.map(name) else { continue };
        digest.update(format!("{name}={}\n", data(map)?.info().ok()?.id()));
    }
    Some(digest.finalize().into())
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
