//! Credentials: becoming someone else, or getting back what was given up.
use crate::act::Act;
use crate::sys::{self, In, N, Out};

const NOBODY: i64 = 65_534;

fn uid() -> i64 {
    sys::call(libc::SYS_geteuid, &mut [])
}

/// As root: gives it up, keeping the way back, and takes it.
pub(crate) fn setuid(act: &mut Act<'_>) {
    if uid() == 0 {
        // Stays root in the saved user id.
        act.call(
            "setresuid",
            libc::SYS_setresuid,
            &mut [N(NOBODY), N(NOBODY), N(0)],
        );
    }
    let done = act.call("setresuid", libc::SYS_setresuid, &mut [N(-1), N(0), N(-1)]);
    act.did(done == 0 && uid() == 0);
}

/// Drops a capability and takes it again.
pub(crate) fn capset(act: &mut Act<'_>) {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = VERSION_3.to_ne_bytes().to_vec();
    header.extend([0u8; 4]);
    let mut before = [0u8; 24];
    act.call(
        "capget",
        libc::SYS_capget,
        &mut [In(&header), Out(&mut before)],
    );
    if before.iter().all(|byte| *byte == 0) {
        return act.not_applicable("this user has no capability to take again");
    }
    let mut less = before;
    // The effective set: the first word of each half.
    less[..4].fill(0);
    less[12..16].fill(0);
    act.call("capset", libc::SYS_capset, &mut [In(&header), In(&less)]);
    let done = act.call("capset", libc::SYS_capset, &mut [In(&header), In(&before)]);
    act.did(done == 0);
}

/// It says the old id, whatever happens: asked again, the one that counts.
pub(crate) fn setfsuid(act: &mut Act<'_>) {
    if uid() != 0 {
        return act.not_applicable("only root has another id to take");
    }
    act.call("setfsuid", libc::SYS_setfsuid, &mut [N(NOBODY)]);
    let now = act.call("setfsuid", libc::SYS_setfsuid, &mut [N(-1)]);
    act.did(now == NOBODY);
}

/// The harness has put one there, and a file that only root reads.
pub(crate) fn setuid_program(act: &mut Act<'_>) {
    if uid() == 0 {
        return act.not_applicable("root gains nothing by it");
    }
    let program = act.scene.open.join("set-user-id");
    let file = act.scene.open.join("for-root");
    let words = [
        program.as_os_str().as_encoded_bytes(),
        b"show",
        file.as_os_str().as_encoded_bytes(),
    ];
    act.execute(&words);
}
