//! The path of a name, for people, where `bpf_d_path` must not be called. Written from its end:
//! zeros come before it. The daemon skips them.
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use syshold_abi::PATH_LEN;

use crate::{
    field::{Kernel, load, offset, word},
    paths::inode_at,
};

/// A name: its directory entry, and a path on the same mount.
#[derive(Clone, Copy)]
pub struct Named {
    pub beside: Kernel,
    pub dentry: Kernel,
}

/// Two names fit into a path's room; NUL between them.
const FIRST: usize = PATH_LEN / 2;

/// Spells `name`, which may end at byte 511, and `onto`, which ends at byte 767. What is longer
/// loses its beginning.
#[inline(always)]
pub unsafe fn spell(room: *mut u8, name: Named, onto: Option<Named>) {
    // Either has room for a longest name behind it: that is what the verifier wants to see.
    const _: () = assert!(FIRST + 255 + 255 < PATH_LEN);
    climb::<511>(room, name);
    if let Some(onto) = onto {
        climb::<255>(room.add(FIRST), onto);
    }
}

/// `LAST`: a mask, the offset of the NUL behind the name.
#[inline(always)]
unsafe fn climb<const LAST: u32>(room: *mut u8, name: Named) {
    const S_IFDIR: u16 = 0o040_000;
    const S_IFMT: u16 = 0o170_000;
    let mut at = LAST;
    let mode: u16 = match inode_at(name.dentry) {
        Some(inode) => load(inode, offset!(inode_mode)),
        None => 0,
    };
    if mode & S_IFMT == S_IFDIR {
        at -= 1;
        *room.add(at as usize) = b'/';
    }
    let mut dentry = name.dentry as u64;
    let mut mount = if name.beside.is_null() {
        0
    } else {
        let mount: u64 = load(name.beside, offset!(path_mnt));
        mount
    };
    for _ in 0..16 {
        if mount != 0 && dentry == word(mount, offset!(mnt_root)) {
            let around = mount - u64::from(offset!(mount_mnt));
            let parent = word(around, offset!(mount_parent));
            if parent == around || parent == 0 {
                break;
            }
            dentry = word(around, offset!(mount_mountpoint));
            mount = parent + u64::from(offset!(mount_mnt));
            continue;
        }
        let up = word(dentry, offset!(dentry_parent));
        if up == dentry || up == 0 {
            break;
        }
        let len = word(dentry, offset!(dentry_name_len)) as u32 & 255;
        if len + 1 >= at {
            break;
        }
        at = (at - len) & LAST;
        let text = word(dentry, offset!(dentry_name));
        bpf_probe_read_kernel(room.add(at as usize).cast(), len, text as *const _);
        at = (at - 1) & LAST;
        *room.add(at as usize) = b'/';
        dentry = up;
    }
}
