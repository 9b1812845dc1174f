//! The kernel programs of Syshold: thin hooks, one decision.
//!
//! | hook | duty |
//! |---|---|
//! | `socket_create` | only socket kinds that can be governed; the rest is denied |
//! | `socket_connect`, `socket_sendmsg` | outbound: rules, else hold |
//! | `file_open` | every open of a protected file; enrols roots for the daemon |
//! | `file_permission`, `mmap_file` | protected files on inherited and received descriptors |
//! | `path_mknod` | creation below a protected root (`O_CREAT` must be held before it creates) |
//! | `inode_init_security_anon`, `uring_allowed` | no io_uring for the governed: its errors bypass the restart |
//! | `task_alloc`, `sched_process_fork`, `sched_process_exit`, `task_free` | who is governed, inherited and sticky |
//! | `bprm_committed_creds`, `cgroup_mkdir`, `cgroup_attach_task` | who becomes governed |
//! | `signal_generate` | tells the daemon that a held thread has a signal to handle |
//!
//! Every sensitive operation funnels into [`decide`]. Whatever cannot be told is denied.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see field::add")]
#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "nearly every line reads kernel memory"
)]

mod arguments;
mod decide;
mod field;
mod hooks;
mod identity;
mod maps;
mod newborn;
mod paths;
mod restart;
mod special;
mod spell;
mod steps;
mod tell;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier would have to accept it first.
    loop {}
}
