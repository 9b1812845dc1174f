//! The kernel's numbers in words, for people and the ledger.
use syshold_abi::{cause, hook};

/// Hooks by their number.
pub(super) fn hook_name(hook: u32) -> &'static str {
    match hook {
        hook::SOCKET_CREATE => "socket_create",
        hook::SOCKET_CONNECT => "socket_connect",
        hook::SOCKET_SENDMSG => "socket_sendmsg",
        hook::FILE_OPEN => "file_open",
        hook::FILE_PERMISSION => "file_permission",
        hook::MMAP_FILE => "mmap_file",
        hook::PATH_MKNOD => "path_mknod",
        hook::TASK_ALLOC => "task_alloc",
        hook::TASK_FREE => "task_free",
        hook::IO_URING => "io_uring",
        hook::SOCKET_BIND => "socket_bind",
        hook::SOCKET_LISTEN => "socket_listen",
        hook::SOCKET_ACCEPT => "socket_accept",
        hook::SOCKET_SETSOCKOPT => "socket_setsockopt",
        hook::UNIX_CONNECT => "unix_connect",
        hook::UNIX_SEND => "unix_send",
        hook::EGRESS => "egress",
        hook::PATH_RENAME => "path_rename",
        hook::PATH_LINK => "path_link",
        hook::PATH_UNLINK => "path_unlink",
        hook::PATH_TRUNCATE => "path_truncate",
        hook::PATH_ATTRIBUTES => "path_attributes",
        hook::PATH_MAKE => "path_make",
        hook::BPRM_CHECK => "bprm_check",
        hook::BPRM_CREDS => "bprm_creds",
        hook::SETUID => "setuid",
        hook::CAPSET => "capset",
        hook::CAPABLE => "capable",
        hook::USERNS => "userns",
        hook::MOUNT => "mount",
        hook::PTRACE => "ptrace",
        hook::BPF => "bpf",
        hook::PERF => "perf",
        hook::KERNEL_CODE => "kernel_code",
        hook::KILL => "kill",
        hook::IOCTL => "ioctl",
        hook::DAEMON_TASK => "daemon_task",
        hook::URING_ALLOWED => "uring_allowed",
        _ => "other",
    }
}

/// Why the kernel denied by itself.
pub(super) fn cause_name(why: u32) -> &'static str {
    match why {
        cause::RULE => "a rule of the policy",
        cause::DAEMON_AWAY => "the daemon is away",
        cause::FULL => "a kernel map is full",
        cause::CONTEXT => "a syscall that cannot be held",
        cause::SIGNAL => "the thread could not be made to wait",
        cause::SPINNING => "restarted too often",
        cause::SOCKET_TYPE => "a kind of socket that cannot be governed",
        cause::IO_URING => "io_uring",
        cause::UNKNOWN_AGENT => "the agent is not known",
        cause::UNREADABLE => "the address cannot be read",
        cause::SELF_PROTECTION => "self-protection",
        cause::CAPABILITY => "a capability that would lift the hold",
        cause::NAMESPACE => "a user namespace, mount or chroot",
        cause::TRACE => "tracing a process of someone else",
        cause::DEVICE => "a device that is not open to the agent",
        cause::KERNEL_FS => "a file that changes the kernel",
        cause::TERMINAL => "keystrokes put into a terminal",
        cause::KERNEL_CODE => "bpf, perf events, modules or kexec",
        cause::SOCKET_OPTION => "an option that changes where packets go",
        cause::UNIX_SOCKET => "a unix socket that the policy does not name",
        cause::SETFSUID => "setfsuid",
        cause::ARGUMENTS => "arguments other than those that were approved",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_number_in_use_has_a_word_of_its_own() {
        let causes: HashSet<_> = (1..=cause::ARGUMENTS).map(cause_name).collect();
        assert_eq!(causes.len(), cause::ARGUMENTS as usize);
        assert!(!causes.contains("unknown"));
        // fork, exec, exit, signals and cgroups only watch.
        let watching = [9, 10, 11, 12, 40, 41];
        let hooks: HashSet<_> = (0..=hook::URING_ALLOWED)
            .filter(|hook| !watching.contains(hook))
            .map(hook_name)
            .collect();
        assert_eq!(
            hooks.len(),
            hook::URING_ALLOWED as usize + 1 - watching.len()
        );
        assert!(!hooks.contains("other"));
    }
}
