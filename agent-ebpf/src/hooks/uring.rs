//! io_uring is denied to the governed: a restart code would land in a completion entry.
use aya_ebpf::{macros::lsm, programs::LsmContext};
use syshold_abi::{Key, cause, hook};

use crate::{
    decide::{Answer, What, deny},
    field::{Kernel, copy, load, offset},
    identity::{Who, current},
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

/// `security_uring_allowed()`, since 6.15.
#[lsm(hook = "uring_allowed")]
pub fn uring_allowed(_ctx: LsmContext) -> i32 {
    match current(hook::URING_ALLOWED) {
        Who::Governed(who) => refuse(&who),
        Who::Daemon | Who::Ungoverned => Answer::Go,
    }
    .code()
}

#[inline(always)]
fn refuse(who: &crate::identity::Current) -> Answer {
    let what = What {
        hook: hook::IO_URING,
        key: Key::default(),
        classes: 0,
        glob: 0,
    };
    deny(who, &what, cause::IO_URING)
}
