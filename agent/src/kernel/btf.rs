//! Just enough of BTF (Documentation/bpf/btf.rst) to find struct members: an index of the type
//! records and one walk over them. The crates that read BTF build every type of the kernel in
//! memory, which takes up to a second and 70 MB at each start of a daemon whose absence denies
//! things; this takes milliseconds. The tests hold it against one of those crates.
use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const RECORD: usize = 12;

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_TYPE_TAG: u32 = 18;

/// The types of a kernel.
#[derive(Debug)]
pub(super) struct Btf<'b> {
    bytes: &'b [u8],
    /// Where the string table begins.
    strings: usize,
    /// Where each type's record begins, by type id; id 0 is void.
    records: Vec<usize>,
    structs: HashMap<&'b [u8], u32>,
}

/// A member: its place in bits from the start of the struct it was asked of, and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) bit: u32,
    pub(super) type_id: u32,
}

impl<'b> Btf<'b> {
    /// None when the bytes are not BTF of this byte order, or end early.
    pub(super) fn parse(bytes: &'b [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let header = word(bytes, 4)? as usize;
        if magic != MAGIC || header < HEADER {
            return None;
        }
        let types = header + word(bytes, 8)? as usize;
        let end = types + word(bytes, 12)? as usize;
        let strings = header + word(bytes, 16)? as usize;
        bytes.get(types..end)?;
        bytes.get(strings..)?;
        let mut btf = Self {
            bytes,
            strings,
            records: vec![0],
            structs: HashMap::new(),
        };
        let mut at = types;
        while at < end {
            let info = word(bytes, at + 4)?;
            let id = u32::try_from(btf.records.len()).ok()?;
            btf.records.push(at);
            if matches!(kind(info), KIND_STRUCT | KIND_UNION) {
                let name = btf.name(word(bytes, at)?)?;
                if !name.is_empty() {
                    btf.structs.entry(name).or_insert(id);
                }
            }
            at += RECORD + trailer(info)?;
        }
        Some(btf)
    }

    /// A struct or union by its name; a function or a typedef of that name does not count.
    pub(super) fn struct_named(&self, name: &str) -> Option<u32> {
        self.structs.get(name.as_bytes()).copied()
    }

    /// Bytes of a struct or union.
    pub(super) fn size(&self, id: u32) -> Option<u32> {
        word(self.bytes, self.record(id)? + 8)
    }

    /// A member by name, also inside anonymous structs and unions.
    pub(super) fn member(&self, id: u32, name: &str) -> Option<Member> {
        self.member_within(id, name.as_bytes(), 0)
    }

    fn member_within(&self, id: u32, name: &[u8], depth: u32) -> Option<Member> {
        const DEEPEST: u32 = 16;
        let id = self.bare(id)?;
        let at = self.record(id)?;
        let info = word(self.bytes, at + 4)?;
        if depth == DEEPEST || !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        (0..count(info)).find_map(|i| {
            let entry = at + RECORD + i as usize * 12;
            let own = self.name(word(self.bytes, entry)?)?;
            let type_id = word(self.bytes, entry + 4)?;
            let offset = word(self.bytes, entry + 8)?;
            // With the kind flag the upper byte is the width of a bit field.
            let bit = if info >> 31 == 1 {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            if own == name {
                Some(Member { bit, type_id })
            } else if own.is_empty() {
                let inner = self.member_within(type_id, name, depth + 1)?;
                Some(Member {
                    bit: bit + inner.bit,
                    type_id: inner.type_id,
                })
            } else {
                None
            }
        })
    }

    /// Void (id 0) has no record.
    fn record(&self, id: u32) -> Option<usize> {
        self.records.get(id as usize).copied().filter(|_| id != 0)
    }

    /// Through typedefs and qualifiers to the type itself.
    fn bare(&self, mut id: u32) -> Option<u32> {
        const LONGEST: u32 = 32;
        for _ in 0..LONGEST {
            let at = self.record(id)?;
            match kind(word(self.bytes, at + 4)?) {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = word(self.bytes, at + 8)?;
                }
                _ => return Some(id),
            }
        }
        None
    }

    fn name(&self, offset: u32) -> Option<&'b [u8]> {
        let text = self.bytes.get(self.strings + offset as usize..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        text.get(..end)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn count(info: u32) -> u32 {
    info & 0xffff
}

/// Bytes that follow a record; None for a kind that is not known, after which nothing is.
fn trailer(info: u32) -> Option<usize> {
    let n = count(info) as usize;
    Some(match kind(info) {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION => n * 12,
        // ENUM, FUNC_PROTO
        6 | 13 => n * 8,
        // DATASEC, ENUM64
        15 | 19 => n * 12,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::offsets::VMLINUX;
    use super::*;

    /// Every plain member of the structs we use, against another reader of the same file.
    #[test]
    fn agrees_with_another_reader() {
        let Ok(bytes) = std::fs::read(VMLINUX) else {
            eprintln!("not run: this kernel has no BTF; the VM tests run on kernels that have");
            return;
        };
        let ours = Btf::parse(&bytes).unwrap();
        let theirs = btf::btf::Btf::from_file(VMLINUX).unwrap();
        let mut members = 0;
        for name in [
            "task_struct",
            "dentry",
            "inode",
            "super_block",
            "sock",
            "msghdr",
            "cgroup",
        ] {
            let id = ours.struct_named(name).unwrap();
            let other = theirs
                .get_types()
                .iter()
                .find(|ty| {
                    ty.num_refs == 0
                        && ty.name.as_deref() == Some(name)
                        && matches!(ty.base_type, btf::btf::Type::Struct(_))
                })
                .unwrap();
            let btf::btf::Type::Struct(body) = &other.base_type else {
                unreachable!()
            };
            for member in &body.members {
                let Some(member_name) = member.name.as_deref().filter(|n| !n.is_empty()) else {
                    continue;
                };
                assert_eq!(
                    ours.member(id, member_name).map(|m| m.bit),
                    Some(member.offset),
                    "{name}.{member_name}"
                );
                members += 1;
            }
        }
        assert!(members > 200, "{members} members compared");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..512), cut in 0usize..600) {
            let _ = Btf::parse(&bytes);
            // A plausible header in front of noise.
            let mut framed = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0];
            framed.extend(u32::try_from(cut).unwrap().to_ne_bytes());
            framed.extend(u32::try_from(cut).unwrap().to_ne_bytes());
            framed.extend(64u32.to_ne_bytes());
            framed.extend(bytes);
            if let Some(btf) = Btf::parse(&framed) {
                for id in 0..8 {
                    let _ = btf.member(id, "x");
                    let _ = btf.size(id);
                }
            }
        }
    }
}
