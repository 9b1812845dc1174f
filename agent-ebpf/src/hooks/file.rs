//! Protected files: opening, creating, and using descriptors that came another way.
use aya_ebpf::{
    EbpfContext, bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::lsm,
    programs::LsmContext,
};
use syshold_abi::{Key, action, hook, object};

use crate::{
    decide::{Answer, Display, What, decide, deny, exec_matters},
    field::{Kernel, copy, load, offset},
    hooks::{socket::spliced, uring},
    identity::{Current, Who, current},
    maps::{FIRST_OPEN, OPENED, Opened},
    paths::{Classes, classes_of, dentry_of, has_content, inode_of, is_socket, key_of, path_of},
    restart::{in_exec, in_splice},
    special::refused,
    steps::{step_done, step_is_done},
};

/// Of no class.
pub const NONE: Classes = Classes { sure: 0, glob: 0 };

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
/// Also with a descriptor that only reads.
const O_TRUNC: u32 = 0o1000;
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
                let key = key_of(inode_of(file));
                let _ = FIRST_OPEN.insert(&tid, &key, u64::from(BPF_NOEXIST));
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
    let classes = classes_of(file);
    if !classes.is_protected() {
        return Answer::Go;
    }
    let mut actions = 0;
    if mode & FMODE_READ != 0 || mode & FMODE_WRITE == 0 {
        actions |= action::READ;
    }
    let flags: u32 = load(file, offset!(file_flags));
    if mode & FMODE_WRITE != 0 || flags & O_TRUNC != 0 {
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
        // Every open is a new object; but an exec that is held further on opens its file again.
        || {
            let done = step_is_done(who, &what);
            if done {
                remember(file, inode, actions);
            }
            done
        },
        || {
            step_done(who, &what);
            remember(file, inode, actions);
        },
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
    unsafe {
        if actions == action::WRITE && is_socket(inode_of(file)) && in_splice() {
            return spliced(&who, file).code();
        }
        used(&who, hook::FILE_PERMISSION, file, actions, false)
    }
    .code()
}

/// `security_mmap_file(file, reqprot, prot, flags)`.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    const PROT_WRITE: u64 = 2;
    const PROT_EXEC: u64 = 4;
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
    // A loader maps what it runs, without an exec of it.
    let runs = prot & PROT_EXEC != 0;
    let actions = if runs {
        actions | action::EXEC
    } else {
        actions
    };
    // SAFETY: a file, by the hook's prototype.
    unsafe {
        if !has_content(inode_of(file)) {
            return uring::mapped(&who, file).code();
        }
        used(&who, hook::MMAP_FILE, file, actions, true)
    }
    .code()
}

#[inline(always)]
unsafe fn used(who: &Current, hook: u32, file: Kernel, actions: u32, mmap: bool) -> Answer {
    let inode = inode_of(file);
    if !has_content(inode) {
        return Answer::Go;
    }
    let path = path_of(file);
    let classes = classes_of(file);
    if !classes.is_protected() || (mmap && in_exec()) {
        return Answer::Go;
    }
    let mut what = about(hook, inode, actions, classes);
    if mmap && actions & action::EXEC != 0 && !exec_matters(who, &what) {
        what.key.actions &= !action::EXEC;
    }
    let actions = what.key.actions;
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

#[inline(always)]
pub unsafe fn about(hook: u32, inode: Kernel, actions: u32, classes: Classes) -> What {
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
unsafe fn opened(inode: Kernel, dentry: Kernel, actions: u32) -> Opened {
    let place = key_of(inode);
    Opened {
        inode: inode as u64,
        dentry: dentry as u64,
        ino: place.ino,
        dev: place.dev,
        actions,
    }
}

#[inline(always)]
unsafe fn remembered(file: Kernel, inode: Kernel, actions: u32) -> bool {
    remembered_at(file as u64, inode, dentry_of(path_of(file)), actions)
}

/// The same, by the open file's address.
#[inline(always)]
pub unsafe fn remembered_at(file: u64, inode: Kernel, dentry: Kernel, actions: u32) -> bool {
    let Some(before) = OPENED.get_ptr(&file) else {
        return false;
    };
    let expected = opened(inode, dentry, (*before).actions);
    *before == expected && actions & !expected.actions == 0
}

#[inline(always)]
unsafe fn remember(file: Kernel, inode: Kernel, actions: u32) {
    let mut now = opened(inode, dentry_of(path_of(file)), actions);
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
