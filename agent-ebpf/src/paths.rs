//! Which file is protected: a walk up the dentries, comparing device and inode with the
//! enrolled roots. Binds, chroots and mount namespaces change nothing: `d_parent` knows no
//! mounts. A chain that does not end at the file system's root is protected.
use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use syshold_abi::{CLASS_OWN, CLASS_OWN_PROGRAMS, InodeKey, MAX_DEPTH, Root};

use crate::{
    field::{Kernel, copy, inside, load, offset, word},
    maps::{DAEMON, ROOT_BITS, ROOTS},
};

/// Data classes of a place; `glob` are candidates that user space confirms.
#[derive(Clone, Copy)]
pub struct Classes {
    pub sure: u64,
    pub glob: u64,
}

impl Classes {
    const NONE: Self = Self { sure: 0, glob: 0 };
    /// Nobody can tell: all of the policy's, so that the strictest rule counts. The daemon's own
    /// folders are not deep, and nobody governed can make them so.
    const ALL: Self = Self {
        sure: !(CLASS_OWN | CLASS_OWN_PROGRAMS),
        glob: 0,
    };

    #[inline(always)]
    pub fn is_protected(self) -> bool {
        self.sure | self.glob != 0
    }

    /// Those that the other does not have for sure.
    #[inline(always)]
    fn beyond(self, other: Self) -> Self {
        Self {
            sure: self.sure & !other.sure,
            glob: self.glob & !other.sure,
        }
    }
}

/// The inode of an open file.
#[inline(always)]
pub unsafe fn inode_of(file: Kernel) -> Kernel {
    load(file, offset!(file_inode))
}

#[inline(always)]
pub unsafe fn path_of(file: Kernel) -> Kernel {
    inside(file, offset!(file_path))
}

#[inline(always)]
pub unsafe fn dentry_of(path: Kernel) -> Kernel {
    load(path, offset!(path_dentry))
}

/// The inode of a name; None: there is nothing yet. Since 6.16 the verifier insists on the check
/// where a hook's argument is the name.
#[inline(always)]
pub unsafe fn inode_at(dentry: Kernel) -> Option<Kernel> {
    let inode: Kernel = load(dentry, offset!(dentry_inode));
    (!inode.is_null()).then_some(inode)
}

/// Device and inode number of an inode.
#[inline(always)]
pub unsafe fn key_of(inode: Kernel) -> InodeKey {
    let sb: Kernel = load(inode, offset!(inode_sb));
    InodeKey {
        ino: load(inode, offset!(inode_ino)),
        dev: load(sb, offset!(sb_dev)),
        _pad: 0,
    }
}

/// Regular file or directory: what has content or names to protect.
#[inline(always)]
pub unsafe fn has_content(inode: Kernel) -> bool {
    const S_IFREG: u16 = 0o100_000;
    const S_IFDIR: u16 = 0o040_000;
    matches!(kind_of(inode), S_IFREG | S_IFDIR)
}

#[inline(always)]
pub unsafe fn is_socket(inode: Kernel) -> bool {
    const S_IFSOCK: u16 = 0o140_000;
    kind_of(inode) == S_IFSOCK
}

#[inline(always)]
unsafe fn kind_of(inode: Kernel) -> u16 {
    const S_IFMT: u16 = 0o170_000;
    let mode: u16 = load(inode, offset!(inode_mode));
    mode & S_IFMT
}

/// Classes of an open file. One that a file system opens below another counts for what is new
/// with it: the other was asked about.
#[inline(always)]
pub unsafe fn classes_of(file: Kernel) -> Classes {
    const FMODE_NOACCOUNT: u32 = 1 << 29;
    // The one or the other: it moved in 6.14, and in what Debian makes of 6.12.
    const FMODE_BACKING: u32 = 1 << 24 | 1 << 25;
    let path = path_of(file);
    let dentry = dentry_of(path);
    let inode = inode_of(file);
    if inode_at(dentry) != Some(inode) {
        // Before 6.7 overlayfs opens what lies below it under the path of what lies above.
        let above = classes_shown(dentry as u64);
        return classes_hidden(inode).beyond(above);
    }
    let found = classes_below(path, dentry, dentry);
    let mode: u32 = load(file, offset!(file_mode));
    let shown = offset!(backing_path);
    let below = mode & FMODE_NOACCOUNT != 0 && mode & FMODE_BACKING != 0 && shown != 0;
    if below && found.is_protected() {
        let dentry = word(file as u64, shown + offset!(path_dentry));
        return found.beyond(classes_shown(dentry));
    }
    found
}

/// Classes of a name that is there.
#[inline(always)]
pub unsafe fn classes_at(path: Kernel) -> Classes {
    let dentry = dentry_of(path);
    classes_below(path, dentry, dentry)
}

/// Classes of what is or will be named by `named`, walking up from `from`.
#[inline(always)]
pub unsafe fn classes_below(path: Kernel, named: Kernel, from: Kernel) -> Classes {
    walk(path, named, from, false)
}

/// The same; of a folder with every class that a pattern may give to something in it.
#[inline(always)]
pub unsafe fn classes_below_any(path: Kernel, named: Kernel, from: Kernel) -> Classes {
    const S_IFMT: u16 = 0o170_000;
    const S_IFDIR: u16 = 0o040_000;
    let mode: u16 = match inode_at(named) {
        Some(inode) => load(inode, offset!(inode_mode)),
        None => 0,
    };
    walk(path, named, from, mode & S_IFMT == S_IFDIR)
}

/// Classes that a folder on the way to a root stands for, when it is moved or removed.
#[inline(always)]
pub unsafe fn leads_to(named: Kernel) -> Classes {
    let root = match inode_at(named) {
        Some(inode) => ROOTS.get_ptr(&key_of(inode)),
        None => None,
    };
    Classes {
        sure: match root {
            Some(root) => (*root).leads_to,
            None => 0,
        },
        glob: 0,
    }
}

/// A walk where the verifier knows no types.
#[repr(C)]
struct Hidden {
    dentry: u64,
    named: u64,
    sure: u64,
    glob: u64,
    dev: u32,
    /// The file system's root was reached.
    top: u32,
}

/// Classes of an inode under any of its names.
#[inline(always)]
unsafe fn classes_hidden(inode: Kernel) -> Classes {
    let name = word(inode as u64, offset!(inode_dentries));
    let alias = u64::from(offset!(dentry_alias));
    if name == 0 || alias == 0 {
        return Classes::ALL;
    }
    match climbed(name - alias, key_of(inode).dev) {
        Some(classes) => classes,
        None => Classes::ALL,
    }
}

/// Classes of the name under which a file is shown by what lies above it. Nobody can tell: none.
#[inline(always)]
unsafe fn classes_shown(dentry: u64) -> Classes {
    let sb = word(dentry, offset!(dentry_sb));
    let dev = word(sb, offset!(sb_dev)) as u32;
    match climbed(dentry, dev) {
        Some(classes) => classes,
        None => Classes::NONE,
    }
}

/// None: the file system's root was not reached.
#[inline(always)]
unsafe fn climbed(dentry: u64, dev: u32) -> Option<Classes> {
    let mut hidden = Hidden {
        dentry,
        named: dentry,
        sure: 0,
        glob: 0,
        dev,
        top: 0,
    };
    let one: unsafe extern "C" fn(u32, *mut Hidden) -> i64 = climb;
    let looked = bpf_loop(MAX_DEPTH, one as *mut c_void, (&raw mut hidden).cast(), 0);
    (looked >= 0 && hidden.top != 0).then_some(Classes {
        sure: hidden.sure,
        glob: hidden.glob,
    })
}

/// 1 ends the walk.
unsafe extern "C" fn climb(_: u32, hidden: *mut Hidden) -> i64 {
    let hidden = &mut *hidden;
    let inode = word(hidden.dentry, offset!(dentry_inode));
    let ino = word(inode, offset!(inode_ino));
    let key = InodeKey {
        ino,
        dev: hidden.dev,
        _pad: 0,
    };
    if maybe_root(ino)
        && let Some(root) = ROOTS.get_ptr(&key)
    {
        hidden.sure |= (*root).classes;
        let len = word(hidden.named, offset!(dentry_name_len)) as u32;
        if tail_fits(word(hidden.named, offset!(dentry_name)), len, &*root) {
            hidden.glob |= (*root).glob_classes;
        }
    }
    let parent = word(hidden.dentry, offset!(dentry_parent));
    if parent == hidden.dentry {
        hidden.top = 1;
        return 1;
    }
    hidden.dentry = parent;
    0
}

/// `any`: whatever the name is.
#[inline(always)]
unsafe fn walk(path: Kernel, named: Kernel, from: Kernel, any: bool) -> Classes {
    match DAEMON.get_ptr(0) {
        Some(daemon) if (*daemon).roots == 0 => return Classes::NONE,
        Some(_) => {}
        None => return Classes::ALL,
    }
    let sb: Kernel = load(from, offset!(dentry_sb));
    let dev: u32 = load(sb, offset!(sb_dev));
    let mut found = Classes::NONE;
    let mut dentry = from;
    // Checked here and not below: each branch in the loop is one more way to follow.
    let mut ino: u64 = match inode_at(from) {
        Some(inode) => load(inode, offset!(inode_ino)),
        None => 0,
    };
    let mut top = false;
    for _ in 0..MAX_DEPTH {
        if maybe_root(ino)
            && let Some(root) = ROOTS.get_ptr(&InodeKey { ino, dev, _pad: 0 })
        {
            found.sure |= (*root).classes;
            if any || name_fits(named, &*root) {
                found.glob |= (*root).glob_classes;
            }
        }
        let parent: Kernel = load(dentry, offset!(dentry_parent));
        if parent == dentry {
            top = true;
            break;
        }
        dentry = parent;
        let inode: Kernel = load(dentry, offset!(dentry_inode));
        ino = load(inode, offset!(inode_ino));
    }
    if top && is_top(path, sb, dentry) {
        found
    } else {
        Classes::ALL
    }
}

#[inline(always)]
unsafe fn maybe_root(ino: u64) -> bool {
    match ROOT_BITS.get_ptr((ino >> 6) as u32 & 63) {
        Some(bits) => *bits >> (ino & 63) & 1 == 1,
        None => true,
    }
}

/// Does the chain end where it should? Pipes, memfds and the like live on internal mounts and
/// have no place at all.
#[inline(always)]
unsafe fn is_top(path: Kernel, sb: Kernel, dentry: Kernel) -> bool {
    const SB_KERNMOUNT: u64 = 1 << 22;
    const SB_NOUSER: u64 = 1 << 31;
    let root: Kernel = load(sb, offset!(sb_root));
    if dentry == root {
        return true;
    }
    let flags: u64 = load(sb, offset!(sb_flags));
    if flags & (SB_KERNMOUNT | SB_NOUSER) != 0 {
        return true;
    }
    if path.is_null() {
        return false;
    }
    let mnt: Kernel = load(path, offset!(path_mnt));
    let mnt_root: Kernel = load(mnt, offset!(mnt_root));
    dentry == mnt_root
}

/// Compares the last 16 bytes of the name; what precedes a shorter name is masked out. A name
/// that cannot be read fits.
#[inline(always)]
unsafe fn name_fits(dentry: Kernel, root: &Root) -> bool {
    if root.glob_classes == 0 {
        return false;
    }
    tail_fits(
        load(dentry, offset!(dentry_name)),
        load(dentry, offset!(dentry_name_len)),
        root,
    )
}

#[inline(always)]
unsafe fn tail_fits(name: u64, len: u32, root: &Root) -> bool {
    if u64::from(len) < root.min_len {
        return false;
    }
    let Some(tail) = copy((name + u64::from(len) - 16) as *const [u64; 2]) else {
        return true;
    };
    ((tail[0] ^ root.suffix[0]) & root.mask[0]) | ((tail[1] ^ root.suffix[1]) & root.mask[1]) == 0
}

/// As `abi::name_hash`, to tell apart the files created in one directory.
#[inline(always)]
pub unsafe fn name_hash(dentry: Kernel) -> u64 {
    let len: u32 = load(dentry, offset!(dentry_name_len));
    let name: u64 = load(dentry, offset!(dentry_name));
    name_hash_at(name, len)
}

/// The same of a name anywhere in kernel memory, of at most 256 bytes; what follows it is readable.
#[inline(always)]
pub unsafe fn name_hash_at(name: u64, len: u32) -> u64 {
    let words = (0..32u32).map_while(|i| {
        let left = len.checked_sub(i * 8).filter(|left| *left > 0)?;
        let word = word(name, i * 8);
        // Straight-line: the verifier follows each way of each of the 32.
        let fill = 8u32.saturating_sub(left) * 8;
        Some(word & u64::MAX >> (fill & 63))
    });
    syshold_abi::name_hash(len, words)
}
