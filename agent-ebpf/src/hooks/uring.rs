//! io_uring is denied to the governed: a restart code would land in a completion entry.
use aya_ebpf::{macros::lsm, programs::LsmContext};
use syshold_abi::{Key, cause, hook};

use crate::{
    decide::{Answer, What, deny},
    field::{Kernel, copy, load, offset},
    identity::{Current, Who, current},
    paths::{dentry_of, path_of},
};

/// `security_inode_init_security_anon(inode, name, context_inode)`: rings are anonymous inodes.
#[lsm(hook = "inode_init_security_anon")]
pub fn inode_init_security_anon(ctx: LsmContext) -> i32 {
    let name: Kernel = ctx.arg(1);
    // SAFETY: a struct qstr, by the hook's prototype.
    unsafe { ring(name) }.code()
}

#[inline(always)]
unsafe fn ring(name: Kernel) -> Answer {
    let Who::Governed(who) = current(hook::IO_URING) else {
        return Answer::Go;
    };
    let text: u64 = load(name, offset!(qstr_name));
    match copy(text as *const [u8; 10]) {
        Some(text) if text != *b"[io_uring]" => Answer::Go,
        _ => refuse(&who),
    }
}

/// `security_uring_sqpoll()`: a kernel thread that submits for whoever made the ring.
#[lsm(hook = "uring_sqpoll")]
pub fn uring_sqpoll(_ctx: LsmContext) -> i32 {
    no_ring(hook::URING_EXTRAS)
}

/// `security_uring_cmd(cmd)`: commands straight to a driver.
#[lsm(hook = "uring_cmd")]
pub fn uring_cmd(_ctx: LsmContext) -> i32 {
    no_ring(hook::URING_EXTRAS)
}

/// `security_uring_override_creds(new)`: submitting as somebody else.
#[lsm(hook = "uring_override_creds")]
pub fn uring_override_creds(_ctx: LsmContext) -> i32 {
    no_ring(hook::URING_EXTRAS)
}

/// `security_uring_allowed()`, since 6.15.
#[lsm(hook = "uring_allowed")]
pub fn uring_allowed(_ctx: LsmContext) -> i32 {
    no_ring(hook::URING_ALLOWED)
}

#[inline(always)]
fn no_ring(seen_by: u32) -> i32 {
    match current(seen_by) {
        Who::Governed(who) => refuse(&who),
        Who::Daemon | Who::Ungoverned => Answer::Go,
    }
    .code()
}

/// Mapping a ring that came from someone else: what is put into it may run as them.
#[inline(always)]
pub unsafe fn mapped(who: &Current, file: Kernel) -> Answer {
    let dentry = dentry_of(path_of(file));
    let name: u64 = load(dentry, offset!(dentry_name));
    match copy(name as *const [u8; 10]) {
        Some(name) if name != *b"[io_uring]" => Answer::Go,
        _ => refuse(who),
    }
}

#[inline(always)]
fn refuse(who: &Current) -> Answer {
    let what = What {
        hook: hook::IO_URING,
        key: Key::default(),
        classes: 0,
        glob: 0,
    };
    deny(who, &what, cause::IO_URING)
}
