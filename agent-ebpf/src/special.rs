//! Files that are not data: devices, and what the kernel shows as files. Told by device number
//! and by the file system's magic, never by path.
use syshold_abi::{cause, pid_byte};

use crate::{
    field::{Kernel, copy, load, offset},
    identity::{Current, byte_of},
    maps::DEVICES,
};

/// Why an open for reading or writing is denied outright.
#[inline(always)]
pub unsafe fn refused(who: &Current, inode: Kernel, writes: bool) -> Option<u32> {
    const S_IFMT: u16 = 0o170_000;
    const S_IFCHR: u16 = 0o020_000;
    const S_IFBLK: u16 = 0o060_000;
    let mode: u16 = load(inode, offset!(inode_mode));
    match mode & S_IFMT {
        S_IFBLK => Some(cause::DEVICE),
        S_IFCHR if !is_open_to(who, load(inode, offset!(inode_rdev))) => Some(cause::DEVICE),
        _ if writes && is_kernels(who, inode) => Some(cause::KERNEL_FS),
        _ => None,
    }
}

/// A character device that is harmless, or that the policy opens to this agent.
#[inline(always)]
unsafe fn is_open_to(who: &Current, device: u32) -> bool {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    match major {
        // null zero full random urandom
        1 if matches!(minor, 3 | 5 | 7 | 8 | 9) => true,
        // tty ptmx
        5 if matches!(minor, 0 | 2) => true,
        // pts
        136..=143 => true,
        _ => match DEVICES.get_ptr(&device) {
            Some(agents) => who.agent() < 64 && *agents >> (who.agent() & 63) & 1 == 1,
            None => false,
        },
    }
}

/// On a file system through which the kernel is changed; /proc is the agent's below its own
/// processes.
#[inline(always)]
pub unsafe fn is_kernels(who: &Current, inode: Kernel) -> bool {
    const PROC: u64 = 0x9fa0;
    let sb: Kernel = load(inode, offset!(inode_sb));
    let magic: u64 = load(sb, offset!(sb_magic));
    if magic == PROC {
        return !is_own_process(who, inode);
    }
    matches!(
        magic,
        // cgroup2 cgroup bpf tracefs debugfs securityfs sysfs configfs efivarfs
        0x6367_7270 | 0x0027_e0eb | 0xcafe_4a11 | 0x7472_6163 | 0x6462_6720 | 0x7363_6673
            | 0x6265_6572 | 0x6265_6570 | 0xde5e_81e4
            // binfmt_misc selinux smack apparmor pstore resctrl nfsd fusectl
            | 0x4249_4e4d | 0xf97c_ff8c | 0x4341_5d53 | 0x5a3c_69f0 | 0x6165_676c
            | 0x0765_5821 | 0x6e66_7364 | 0x6573_5543
    )
}

/// Below /proc/PID of a process of the same agent? `struct proc_inode` surrounds the inode.
#[inline(always)]
unsafe fn is_own_process(who: &Current, inode: Kernel) -> bool {
    process_of(inode).is_some_and(|tgid| byte_of(tgid) == who.byte)
        && who.byte == pid_byte(who.agent())
}

#[inline(always)]
unsafe fn process_of(inode: Kernel) -> Option<u32> {
    let around = inode as u64 - u64::from(offset!(proc_inode_vfs_inode));
    let pid = copy((around + u64::from(offset!(proc_inode_pid))) as *const u64)?;
    if pid == 0 {
        return None;
    }
    // The first task of that PID: `tasks[PIDTYPE_PID]` is linked through `pid_links[PIDTYPE_PID]`.
    let link = copy((pid + u64::from(offset!(pid_tasks))) as *const u64)?;
    if link == 0 {
        return None;
    }
    let task = link - u64::from(offset!(task_pid_links));
    copy((task + u64::from(offset!(task_tgid))) as *const u32)
}
