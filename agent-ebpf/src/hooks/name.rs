//! Protected names: moved, linked, removed, made; and what belongs to a file without being its
//! content: length, mode, owner, attributes. None of these hooks sleeps, so paths are spelled.
use aya_ebpf::{EbpfContext, macros::lsm, programs::LsmContext};
use syshold_abi::{action, cause, hook, object};

use super::file::{NONE, about, remembered_at};
use crate::{
    decide::{Answer, Display, What, decide, decide_file, deny},
    field::{Kernel, load, offset, opaque},
    identity::{Current, Who, current},
    paths::{
        Classes, classes_at, classes_below, classes_below_any, dentry_of, inode_at, leads_to,
        name_hash, path_of,
    },
    restart::{in_open, in_syscall},
    special::is_kernels,
    spell::Named,
};

#[inline(always)]
unsafe fn inode(dentry: Kernel) -> Kernel {
    load(dentry, offset!(dentry_inode))
}

/// Names and attributes on the kernel's own file systems are denied like writes to its files.
#[inline(always)]
unsafe fn kernels(who: &Current, hook: u32, acts: u32, on: Kernel) -> Option<Answer> {
    is_kernels(who, on).then(|| deny(who, &about(hook, on, acts, NONE), cause::KERNEL_FS))
}

/// One object, nothing remembered.
#[inline(always)]
unsafe fn ask(who: &Current, what: &What, name: Named, onto: Option<Named>) -> Answer {
    decide_file(who, what, Display::Names(name, onto))
}

fn union(one: Classes, other: Classes) -> Classes {
    Classes {
        sure: one.sure | other.sure,
        glob: one.glob | other.glob,
    }
}

// ---- rename ----

/// `security_path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)`.
#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_RENAME) else {
        return 0;
    };
    let from = Named {
        beside: ctx.arg(0),
        dentry: ctx.arg(1),
    };
    let to = Named {
        beside: ctx.arg(2),
        dentry: ctx.arg(3),
    };
    let flags: u32 = ctx.arg(4);
    // SAFETY: paths and dentries, by the hook's prototype.
    unsafe { moves(&who, from, to, flags) }.code()
}

#[inline(always)]
unsafe fn moves(who: &Current, from: Named, to: Named, flags: u32) -> Answer {
    const RENAME_EXCHANGE: u32 = 2;
    let acts = action::DELETE | action::WRITE;
    if let Some(denied) = kernels(who, hook::PATH_RENAME, acts, inode(dentry_of(from.beside))) {
        return denied;
    }
    let exchange = flags & RENAME_EXCHANGE != 0;
    let source = source_classes(from);
    let target = if exchange {
        source_classes(to)
    } else {
        classes_below(to.beside, to.dentry, to.dentry)
    };
    let mut actions = 0;
    if source.is_protected() {
        actions |= action::DELETE;
    }
    if target.is_protected() {
        actions |= action::WRITE;
    }
    if actions == 0 {
        return Answer::Go;
    }
    if exchange {
        actions = acts;
    }
    match arrival(hook::PATH_RENAME, from, to, actions, source, target) {
        Some(what) => ask(who, &what, from, Some(to)),
        None => Answer::Deny,
    }
}

/// Of what leaves its place. With a folder everything that a pattern may mean below it leaves, and
/// what lies deeper.
#[inline(always)]
unsafe fn source_classes(name: Named) -> Classes {
    let own = classes_below_any(name.beside, name.dentry, name.dentry);
    union(own, leads_to(name.dentry))
}

/// The object is what moves, with its new place; where only the new place is protected, that.
#[inline(always)]
unsafe fn arrival(
    hook: u32,
    from: Named,
    to: Named,
    actions: u32,
    source: Classes,
    target: Classes,
) -> Option<What> {
    let dir = dentry_of(to.beside);
    let classes = union(source, target);
    let Some(moved) = inode_at(from.dentry) else {
        return None;
    };
    let actions = opaque(actions);
    let name = name_hash(to.dentry);
    let ino: u64 = load(inode(dir), offset!(inode_ino));
    let mut kind = object::FILE;
    let mut on = moved;
    let mut extra = name ^ ino.rotate_left(32);
    if !source.is_protected() {
        kind = object::NEW_FILE;
        on = inode(dir);
        extra = load(moved, offset!(inode_ino));
    }
    let mut what = about(hook, on, actions, classes);
    what.key.kind = opaque(kind);
    if !source.is_protected() {
        what.key.c = name;
    }
    what.key.extra = extra;
    Some(what)
}

// ---- link ----

/// `security_path_link(old_dentry, new_dir, new_dentry)`.
#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_LINK) else {
        return 0;
    };
    // A link does not leave its mount.
    let from = Named {
        beside: ctx.arg(1),
        dentry: ctx.arg(0),
    };
    let to = Named {
        beside: ctx.arg(1),
        dentry: ctx.arg(2),
    };
    // SAFETY: a path and dentries, by the hook's prototype.
    unsafe { links(&who, from, to) }.code()
}

#[inline(always)]
unsafe fn links(who: &Current, from: Named, to: Named) -> Answer {
    let dir = dentry_of(to.beside);
    if let Some(denied) = kernels(who, hook::PATH_LINK, action::WRITE, inode(dir)) {
        return denied;
    }
    let source = classes_below(from.beside, from.dentry, from.dentry);
    let target = classes_below(to.beside, to.dentry, dir);
    let actions = match (source.is_protected(), target.is_protected()) {
        (true, _) => action::READ | action::WRITE,
        (false, true) => action::WRITE,
        (false, false) => return Answer::Go,
    };
    match arrival(hook::PATH_LINK, from, to, actions, source, target) {
        Some(what) => ask(who, &what, from, Some(to)),
        None => Answer::Deny,
    }
}

// ---- removal and creation ----

/// The first two arguments: a folder's path and a name in it.
#[inline(always)]
unsafe fn named(ctx: &LsmContext) -> Named {
    Named {
        beside: ctx.arg(0),
        dentry: ctx.arg(1),
    }
}

#[inline(always)]
fn removes_name(ctx: &LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_UNLINK) else {
        return 0;
    };
    // SAFETY: a path and a dentry, by the hooks' prototypes.
    unsafe { removes(&who, named(ctx)) }.code()
}

#[inline(always)]
fn makes_name(ctx: &LsmContext, hook: u32) -> i32 {
    let Who::Governed(who) = current(hook) else {
        return 0;
    };
    // SAFETY: a path and a dentry, by the hooks' prototypes.
    unsafe { makes(&who, hook, named(ctx)) }.code()
}

#[inline(always)]
unsafe fn removes(who: &Current, name: Named) -> Answer {
    let Some(gone) = inode_at(name.dentry) else {
        return Answer::Deny;
    };
    if let Some(denied) = kernels(who, hook::PATH_UNLINK, action::DELETE, gone) {
        return denied;
    }
    // A link on the way to a root, too.
    let own = classes_below(name.beside, name.dentry, name.dentry);
    let classes = union(own, leads_to(name.dentry));
    if !classes.is_protected() {
        return Answer::Go;
    }
    let what = about(hook::PATH_UNLINK, gone, action::DELETE, classes);
    ask(who, &what, name, None)
}

/// `security_path_unlink(dir, dentry)`.
#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    removes_name(&ctx)
}

/// `security_path_rmdir(dir, dentry)`.
#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    removes_name(&ctx)
}

/// About to make a name: nothing is there yet.
#[inline(always)]
pub unsafe fn makes(who: &Current, hook: u32, name: Named) -> Answer {
    let dir = dentry_of(name.beside);
    if let Some(denied) = kernels(who, hook, action::WRITE, inode(dir)) {
        return denied;
    }
    let classes = classes_below(name.beside, name.dentry, dir);
    if !classes.is_protected() {
        return Answer::Go;
    }
    let mut what = about(hook, inode(dir), action::WRITE, classes);
    what.key.kind = object::NEW_FILE;
    what.key.c = name_hash(name.dentry);
    ask(who, &what, name, None)
}

/// `security_path_mknod(dir, dentry, mode, dev)`: files, before `O_CREAT` makes them.
#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    makes_name(&ctx, hook::PATH_MKNOD)
}

/// `security_path_mkdir(dir, dentry, mode)`.
#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    makes_name(&ctx, hook::PATH_MAKE)
}

/// `security_path_symlink(dir, dentry, old_name)`.
#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    makes_name(&ctx, hook::PATH_MAKE)
}

// ---- length ----

/// `security_path_truncate(path)`: truncate, before 6.2 ftruncate, and open with O_TRUNC, which
/// `file_open` has judged.
#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_TRUNCATE) else {
        return 0;
    };
    let path: Kernel = ctx.arg(0);
    // SAFETY: a path, by the hook's prototype.
    unsafe {
        // ftruncate's path is the open file's.
        let file = if in_syscall(77) {
            raw(&ctx) - u64::from(offset!(file_path))
        } else {
            0
        };
        cuts(&who, path, file)
    }
    .code()
}

/// `security_file_truncate(file)`, since 6.2: ftruncate, and open with O_TRUNC.
#[lsm(hook = "file_truncate")]
pub fn file_truncate(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_TRUNCATE) else {
        return 0;
    };
    let file: Kernel = ctx.arg(0);
    // SAFETY: a file, by the hook's prototype.
    unsafe { cuts(&who, path_of(file), raw(&ctx)) }.code()
}

/// The first argument as a number: arithmetic on a typed pointer is the verifier's business.
#[inline(always)]
unsafe fn raw(ctx: &LsmContext) -> u64 {
    crate::field::copy(ctx.as_ptr().cast::<u64>()).unwrap_or(0)
}

#[inline(always)]
unsafe fn cuts(who: &Current, path: Kernel, file: u64) -> Answer {
    if in_open() {
        return Answer::Go;
    }
    let dentry = dentry_of(path);
    let on = inode(dentry);
    if let Some(denied) = kernels(who, hook::PATH_TRUNCATE, action::WRITE, on) {
        return denied;
    }
    let classes = classes_at(path);
    if !classes.is_protected() {
        return Answer::Go;
    }
    let what = about(hook::PATH_TRUNCATE, on, action::WRITE, classes);
    let name = Named {
        beside: path,
        dentry,
    };
    decide(
        who,
        &what,
        Display::Names(name, None),
        || remembered_at(file, on, dentry, action::WRITE),
        || {},
    )
}

// ---- attributes ----

#[inline(always)]
unsafe fn changes(who: &Current, name: Named) -> Answer {
    let Some(on) = inode_at(name.dentry) else {
        return Answer::Deny;
    };
    if let Some(denied) = kernels(who, hook::PATH_ATTRIBUTES, action::WRITE, on) {
        return denied;
    }
    let classes = classes_below(name.beside, name.dentry, name.dentry);
    if !classes.is_protected() {
        return Answer::Go;
    }
    let what = about(hook::PATH_ATTRIBUTES, on, action::WRITE, classes);
    ask(who, &what, name, None)
}

#[inline(always)]
fn changes_path(ctx: &LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_ATTRIBUTES) else {
        return 0;
    };
    let path: Kernel = ctx.arg(0);
    // SAFETY: a path, by the hooks' prototypes.
    unsafe {
        let name = Named {
            beside: path,
            dentry: dentry_of(path),
        };
        changes(&who, name)
    }
    .code()
}

/// `security_path_chmod(path, mode)`.
#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    changes_path(&ctx)
}

/// `security_path_chown(path, uid, gid)`.
#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    changes_path(&ctx)
}

/// The mount is not known here; the file system's root ends the walk.
#[inline(always)]
fn changes_dentry(ctx: &LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PATH_ATTRIBUTES) else {
        return 0;
    };
    let name = Named {
        beside: core::ptr::null(),
        dentry: ctx.arg(1),
    };
    // SAFETY: a dentry, by the hooks' prototypes.
    unsafe { changes(&who, name) }.code()
}

/// `security_inode_setxattr(idmap, dentry, name, value, size, flags)`.
#[lsm(hook = "inode_setxattr")]
pub fn inode_setxattr(ctx: LsmContext) -> i32 {
    changes_dentry(&ctx)
}

/// `security_inode_removexattr(idmap, dentry, name)`.
#[lsm(hook = "inode_removexattr")]
pub fn inode_removexattr(ctx: LsmContext) -> i32 {
    changes_dentry(&ctx)
}

/// `security_inode_set_acl(idmap, dentry, acl_name, kacl)`, since 6.2.
#[lsm(hook = "inode_set_acl")]
pub fn inode_set_acl(ctx: LsmContext) -> i32 {
    changes_dentry(&ctx)
}

/// `security_inode_remove_acl(idmap, dentry, acl_name)`, since 6.2.
#[lsm(hook = "inode_remove_acl")]
pub fn inode_remove_acl(ctx: LsmContext) -> i32 {
    changes_dentry(&ctx)
}
