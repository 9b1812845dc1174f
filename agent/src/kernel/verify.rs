//! The kernel's verifier reads every program: most of a start.
use std::io;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use aya::programs::{BtfTracePoint, CgroupSkb, Lsm, Program, ProgramError};
use aya::{Btf, BtfError, Ebpf};

use super::load::{Kind, LoadError, PROGRAMS};

/// Gives it all programs, on every processor, the slowest first. What this kernel has no hook for is returned.
pub(super) fn all(ebpf: &mut Ebpf, btf: &Btf) -> Result<Vec<&'static str>, LoadError> {
    /// Each takes as long as ten others.
    const SLOWEST: [&str; 5] = [
        "path_rename",
        "path_link",
        "mmap_file",
        "file_permission",
        "file_open",
    ];
    let mut waiting = Vec::with_capacity(PROGRAMS.len());
    for (found, program) in ebpf.programs_mut() {
        if let Some(&(name, kind, ..)) = PROGRAMS.iter().find(|(name, ..)| *name == found) {
            waiting.push((name, kind, program));
        }
    }
    // The last is taken first.
    waiting.sort_by_key(|(name, ..)| SLOWEST.contains(name));
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop());
    let work = || -> Result<Vec<&'static str>, LoadError> {
        let mut lacks = Vec::new();
        while let Some((name, kind, program)) = next() {
            match one(program, name, kind, btf) {
                Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) => lacks.push(name),
                loaded => loaded.map_err(|source| LoadError::Program {
                    name,
                    source: Box::new(source),
                })?,
            }
        }
        Ok(lacks)
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..processors.min(8)).map(|_| scope.spawn(work)).collect();
        let mut lacks = work()?;
        for other in others {
            let panicked = |_| LoadError::Events(io::Error::other("a thread panicked"));
            lacks.extend(other.join().map_err(panicked)??);
        }
        Ok(lacks)
    })
}

fn one(
    program: &mut Program,
    name: &'static str,
    kind: Kind,
    btf: &Btf,
) -> Result<(), ProgramError> {
    match kind {
        Kind::Lsm => <&mut Lsm>::try_from(program)?.load(name, btf),
        Kind::Tracepoint => <&mut BtfTracePoint>::try_from(program)?.load(name, btf),
        Kind::Egress => <&mut CgroupSkb>::try_from(program)?.load(),
    }
}
