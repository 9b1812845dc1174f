//! Protected files: opening, creating, and using descriptors that came another way.
use aya_ebpf::{EbpfContext, helpers::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use syshold_abi::{Key, action, hook, object};

use crate::{
    decide::{Answer, Display, What, decide, deny},
    field::{Kernel, copy, load, offset},
    identity::{Current, Who, current},
    maps::{LAST_OPEN, OPENED, Opened},
    paths::{
        Classes, classes_below, classes_of, dentry_of, has_content, inode_of, key_of, name_hash,
        path_of,
    },
    special::refused,
};

/// Of no class.
const NONE: Classes = Classes { sure: 0, glob: 0 };

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const FMODE_CREATED: u32 = 0x0010_0000;
const MAY_WRITE: u32 = 2;
const MAY_APPEND: u32 = 8;

/// `security_file_open(file)`: open, creat, exec, reopening of O_PATH, directory listing.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let file: Kernel = ctx.arg(0);
    // SAFETY: a file, by the hook's prototype.
    unsafe {
        match current(hook::FILE_OPEN) {
            Who::Ungoverned => 0,
            Who::Daemon => {
                let tid = bpf_get_current_pid_tgid() as u32;
                let _ = LAST_OPEN.insert(&tid, &key_of(inode_of(file)), 0);
                0
            }
            Who::Governed(who) => open(&who, file).code(),
        }
    }
}

#[inline(always)]
unsafe fn open(who: &Current, file: Kernel) -> Answer {
    let inode = inode_of(file);
    let mode: u32 = load(file, offset!(file_mode));
    if let Some(why) = refused(who, inode, mode & FMODE_WRITE != 0) {
        let rdev: u32 = load(inode, offset!(inode_rdev));
        let mut what = about(hook::FILE_OPEN, inode, action::READ, NONE);
        what.key.extra = u64::from(rdev);
        return deny(who, &what, why);
    }
    if !has_content(inode) {
        return Answer::Go;
    }
    let path = path_of(file);
    let classes = classes_of(path);
    if !classes.is_protected() {
        return Answer::Go;
    }
    let mut actions = 0;
    if mode & FMODE_READ != 0 || mode & FMODE_WRITE == 0 {
        actions |= action::READ;
    }
    if mode & FMODE_WRITE != 0 {
        actions |= action::WRITE;
    }
    if mode & FMODE_CREATED != 0 {
        // Held before it was created, in path_mknod; a restart now would find it existing.
        remember(file, inode, action::READ | action::WRITE);
        return Answer::Go;
    }
    let what = about(hook::FILE_OPEN, inode, actions, classes);
    decide(
        who,
        &what,
        Display::Path(path),
        // Every open is a new object.
        || false,
        || remember(file, inode, actions),
    )
}

/// `security_file_permission(file, mask)`: inherited and received descriptors.
#[lsm(hook = "file_permission")]
pub fn file_permission(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::FILE_PERMISSION) else {
        return 0;
    };
    let file: Kernel = ctx.arg(0);
    let mask: u32 = ctx.arg(1);
    let actions = if mask & (MAY_WRITE | MAY_APPEND) != 0 {
        action::WRITE
    } else {
        action::READ
    };
    // SAFETY: a file, by the hook's prototype.
    unsafe { used(&who, hook::FILE_PERMISSION, file, actions, false) }.code()
}

/// `security_mmap_file(file, reqprot, prot, flags)`.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    const PROT_WRITE: u64 = 2;
    const MAP_TYPE: u64 = 0xf;
    const MAP_PRIVATE: u64 = 2;
    let Who::Governed(who) = current(hook::MMAP_FILE) else {
        return 0;
    };
    // An anonymous mapping has no file. Before 6.14 the verifier takes the argument for never
    // NULL, drops the check of the typed pointer as dead and leaves a load that faults: so the
    // raw argument is copied out and checked. Since then it insists on the typed check.
    // SAFETY: the context is an array of words, the first of which is the argument.
    let raw = unsafe { copy(ctx.as_ptr().cast::<u64>()) };
    let file: Kernel = ctx.arg(0);
    match raw {
        None => return Answer::Deny.code(),
        Some(0) => return 0,
        Some(_) if file.is_null() => return 0,
        Some(_) => {}
    }
    let prot: u64 = ctx.arg(2);
    let flags: u64 = ctx.arg(3);
    let actions = if prot & PROT_WRITE != 0 && flags & MAP_TYPE != MAP_PRIVATE {
        action::READ | action::WRITE
    } else {
        action::READ
    };
    // SAFETY: a file, by the hook's prototype.
    unsafe { used(&who, hook::MMAP_FILE, file, actions, true) }.code()
}

#[inline(always)]
unsafe fn used(who: &Current, hook: u32, file: Kernel, actions: u32, mmap: bool) -> Answer {
    let inode = inode_of(file);
    if !has_content(inode) {
        return Answer::Go;
    }
    let path = path_of(file);
    let classes = classes_of(path);
    if !classes.is_protected() || (mmap && crate::restart::in_exec()) {
        return Answer::Go;
    }
    let what = about(hook, inode, actions, classes);
    decide(
        who,
        &what,
        if mmap {
            Display::Path(path)
        } else {
            Display::None
        },
        || remembered(file, inode, actions),
        || remember(file, inode, actions),
    )
}

/// `security_path_mknod(dir, dentry, mode, dev)`: about to create.
#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_MKNOD) else {
        return 0;
    };
    let dir: Kernel = ctx.arg(0);
    let dentry: Kernel = ctx.arg(1);
    // SAFETY: a path and a dentry, by the hook's prototype.
    unsafe { create(&who, dir, dentry) }.code()
}

#[inline(always)]
unsafe fn create(who: &Current, dir: Kernel, dentry: Kernel) -> Answer {
    let parent = dentry_of(dir);
    let classes = classes_below(dir, dentry, parent);
    if !classes.is_protected() {
        return Answer::Go;
    }
    let inode: Kernel = load(parent, offset!(dentry_inode));
    let mut what = about(hook::PATH_MKNOD, inode, action::WRITE, classes);
    what.key.kind = object::NEW_FILE;
    what.key.c = name_hash(dentry);
    let name: u64 = load(dentry, offset!(dentry_name));
    decide(
        who,
        &what,
        Display::Name(name as *const u8),
        || false,
        || {},
    )
}

#[inline(always)]
unsafe fn about(hook: u32, inode: Kernel, actions: u32, classes: Classes) -> What {
    let place = key_of(inode);
    let generation: u32 = load(inode, offset!(inode_generation));
    What {
        hook,
        key: Key {
            kind: object::FILE,
            actions,
            a: u64::from(place.dev),
            b: place.ino,
            c: u64::from(generation),
            extra: 0,
        },
        classes: classes.sure,
        glob: classes.glob,
    }
}

/// An approved open file, told from a later one at the same address by inode and dentry.
#[inline(always)]
unsafe fn opened(file: Kernel, inode: Kernel, actions: u32) -> Opened {
    let place = key_of(inode);
    Opened {
        inode: inode as u64,
        dentry: dentry_of(path_of(file)) as u64,
        ino: place.ino,
        dev: place.dev,
        actions,
    }
}

#[inline(always)]
unsafe fn remembered(file: Kernel, inode: Kernel, actions: u32) -> bool {
    let Some(before) = OPENED.get_ptr(&(file as u64)) else {
        return false;
    };
    let expected = opened(file, inode, (*before).actions);
    *before == expected && actions & !expected.actions == 0
}

#[inline(always)]
unsafe fn remember(file: Kernel, inode: Kernel, actions: u32) {
    let mut now = opened(file, inode, actions);
    if let Some(before) = OPENED.get_ptr(&(file as u64)) {
        let same = Opened {
            actions: (*before).actions,
            ..now
        };
        if *before == same {
            now.actions |= (*before).actions;
        }
    }
    let _ = OPENED.insert(&(file as u64), &now, 0);
}
