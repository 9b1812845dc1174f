//! Programs, and what they gain: exec of a protected program, and changes of credentials.
use aya_ebpf::{helpers::generated::bpf_get_current_task_btf, macros::lsm, programs::LsmContext};
use syshold_abi::{Key, action, cause, hook, object, privilege};

use super::file::about;
use crate::{
    arguments,
    decide::{Answer, Display, What, decide, deny},
    field::{Kernel, load, offset},
    identity::{Current, Who, current},
    maps::{PENDING, PRIVILEGED},
    paths::{classes_of, dentry_of, inode_of, key_of, path_of},
    spell::Named,
    steps::{step_done, step_is_done},
};

/// `security_bprm_check(bprm)`: the program, and again the interpreter of a script.
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::BPRM_CHECK) else {
        return 0;
    };
    let bprm: Kernel = ctx.arg(0);
    // SAFETY: a linux_binprm, by the hook's prototype.
    unsafe { runs(&who, bprm) }.code()
}

#[inline(always)]
unsafe fn runs(who: &Current, bprm: Kernel) -> Answer {
    let file: Kernel = load(bprm, offset!(bprm_file));
    let path = path_of(file);
    let classes = classes_of(file);
    let what = about(hook::BPRM_CHECK, inode_of(file), action::EXEC, classes);
    if !arguments::comes_by(who, bprm) {
        return deny(who, &what, cause::ARGUMENTS);
    }
    if !classes.is_protected() {
        return Answer::Go;
    }
    let held = PENDING
        .get_ptr(&who.tid)
        .is_some_and(|pending| (*pending).key == what.key);
    let name = Named {
        beside: path,
        dentry: dentry_of(path),
    };
    let answer = decide(
        who,
        &what,
        Display::Names(name, None),
        || step_is_done(who, &what),
        || step_done(who, &what),
    );
    if held && answer == Answer::Go && !arguments::are_known(who) {
        return deny(who, &what, cause::ARGUMENTS);
    }
    answer
}

#[inline(always)]
fn change(hook: u32, a: u64, b: u64, c: u64, extra: u64) -> What {
    What {
        hook,
        key: Key {
            kind: object::PRIVILEGE,
            actions: action::PRIVILEGE,
            a,
            b,
            c,
            extra,
        },
        classes: 0,
        glob: 0,
    }
}

/// In two halves: before 6.3 it is an array of them, and not aligned.
#[inline(always)]
unsafe fn capabilities(cred: Kernel, offset: u32) -> u64 {
    let low: u32 = load(cred, offset);
    let high: u32 = load(cred, offset + 4);
    u64::from(low) | u64::from(high) << 32
}

// ---- by a program's file ----

/// `security_bprm_creds_from_file(bprm, file)`: set-user-id, set-group-id, file capabilities. The
/// last moment before exec cannot fail any more.
#[lsm(hook = "bprm_creds_from_file")]
pub fn bprm_creds_from_file(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::BPRM_CREDS) else {
        return 0;
    };
    let bprm: Kernel = ctx.arg(0);
    // SAFETY: a linux_binprm, by the hook's prototype.
    unsafe { gains(&who, bprm) }.code()
}

#[inline(always)]
unsafe fn gains(who: &Current, bprm: Kernel) -> Answer {
    let task: Kernel = bpf_get_current_task_btf().cast_const().cast();
    let old: Kernel = load(task, offset!(task_real_cred));
    let new: Kernel = load(bprm, offset!(bprm_cred));
    let (was, is): (u32, u32) = (load(old, offset!(cred_euid)), load(new, offset!(cred_euid)));
    let (group, into): (u32, u32) = (load(old, offset!(cred_egid)), load(new, offset!(cred_egid)));
    const CAP_SETGID: u64 = 1 << 6;
    let permitted = offset!(cred_cap_permitted);
    let more = capabilities(new, permitted) & !capabilities(old, permitted);
    // Root takes any group without a program: PAM's helpers, run by a sudo that was asked about.
    let takes = was == 0 && capabilities(old, permitted) & CAP_SETGID != 0;
    if was == is && (group == into || takes) && more == 0 {
        return Answer::Go;
    }
    let file: Kernel = load(bprm, offset!(bprm_file));
    let place = key_of(inode_of(file));
    let what = change(
        hook::BPRM_CREDS,
        privilege::PROGRAM,
        u64::from(is),
        place.ino,
        u64::from(place.dev),
    );
    let path = path_of(file);
    let name = Named {
        beside: path,
        dentry: dentry_of(path),
    };
    decide(
        who,
        &what,
        Display::Names(name, None),
        || step_is_done(who, &what),
        || {
            step_done(who, &what);
            let _ = PRIVILEGED.insert(&who.tgid, &GRANTED, 0);
        },
    )
}

/// A program that people let gain its privilege takes it on and off as it likes: until the
/// process runs another one.
const GRANTED: u32 = 1;
const RUNNING: u32 = 2;

/// Exec is past the point of no return.
#[inline(always)]
pub unsafe fn runs_another(tgid: u32) {
    match PRIVILEGED.get_ptr_mut(&tgid) {
        Some(state) if *state == GRANTED => *state = RUNNING,
        Some(_) => {
            let _ = PRIVILEGED.remove(&tgid);
        }
        None => {}
    }
}

/// Does it run a program that was let gain its privilege?
#[inline(always)]
pub unsafe fn is_privileged(who: &Current) -> bool {
    PRIVILEGED
        .get_ptr(&who.tgid)
        .is_some_and(|state| *state == RUNNING)
}

// ---- by a syscall ----

/// `security_task_fix_setuid(new, old, flags)`.
#[lsm(hook = "task_fix_setuid")]
pub fn task_fix_setuid(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SETUID) else {
        return 0;
    };
    let new: Kernel = ctx.arg(0);
    let old: Kernel = ctx.arg(1);
    let flags: u32 = ctx.arg(2);
    // SAFETY: credentials, by the hook's prototype.
    unsafe { becomes(&who, new, old, flags) }.code()
}

#[inline(always)]
unsafe fn becomes(who: &Current, new: Kernel, old: Kernel, flags: u32) -> Answer {
    const LSM_SETID_FS: u32 = 8;
    let (was, is): (u32, u32) = (load(old, offset!(cred_euid)), load(new, offset!(cred_euid)));
    let group: u32 = load(new, offset!(cred_egid));
    let what = change(
        hook::SETUID,
        privilege::SETUID,
        u64::from(is),
        u64::from(group),
        0,
    );
    // setfsuid() swallows every error: a restart would look like success.
    if flags == LSM_SETID_FS {
        return deny(who, &what, cause::SETFSUID);
    }
    let (real, saved): (u32, u32) = (load(old, offset!(cred_uid)), load(old, offset!(cred_suid)));
    if was == is || was == 0 || is != 0 && (is == real || is == saved) {
        return Answer::Go;
    }
    decide(who, &what, Display::None, || is_privileged(who), || {})
}

/// `security_capset(new, old, effective, inheritable, permitted)`.
#[lsm(hook = "capset")]
pub fn capset(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::CAPSET) else {
        return 0;
    };
    let new: Kernel = ctx.arg(0);
    let old: Kernel = ctx.arg(1);
    // SAFETY: credentials, by the hook's prototype; the kernel's own module filled the new ones in.
    unsafe { raises(&who, new, old) }.code()
}

#[inline(always)]
unsafe fn raises(who: &Current, new: Kernel, old: Kernel) -> Answer {
    let effective = offset!(cred_cap_effective);
    let more = capabilities(new, effective) & !capabilities(old, effective);
    if more == 0 {
        return Answer::Go;
    }
    let what = change(hook::CAPSET, privilege::CAPSET, more, 0, 0);
    decide(who, &what, Display::None, || is_privileged(who), || {})
}
