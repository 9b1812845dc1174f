//! Where the running kernel keeps its fields: resolved from its BTF, so that nothing about a
//! kernel version is compiled in. Structs are looked up by name *and* kind (a function may bear
//! the same name), members by following type ids through anonymous structs and unions.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use syshold_abi::Offsets;
use thiserror::Error;

use super::btf::Btf;

pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, Error)]
pub enum OffsetError {
    #[error(
        "cannot read the kernel's type information {path}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("the kernel's type information {0} is not BTF of this machine; please report it")]
    NotBtf(PathBuf),
    #[error("this kernel has no `struct {0}`: it is not one that Syshold knows; please report it")]
    NoStruct(String),
    #[error(
        "this kernel's `struct {0}` has no `{1}`: it is not one that Syshold knows; please report it"
    )]
    NoMember(String, String),
}

/// All offsets the kernel programs need, in bytes.
pub fn resolve(path: &Path) -> Result<Offsets, OffsetError> {
    let bytes = fs::read(path).map_err(|source| OffsetError::Read {
        path: path.to_owned(),
        source,
    })?;
    let btf = Btf::parse(&bytes).ok_or_else(|| OffsetError::NotBtf(path.to_owned()))?;
    let at = |name: &str, member: &str| offset(&btf, name, member);
    let sigaction = btf
        .struct_named("k_sigaction")
        .and_then(|id| btf.size(id))
        .ok_or_else(|| OffsetError::NoStruct("k_sigaction".to_owned()))?;
    const SIGCONT: u32 = 18;
    Ok(Offsets {
        task_flags: at("task_struct", "flags")?,
        task_pid: at("task_struct", "pid")?,
        task_tgid: at("task_struct", "tgid")?,
        task_group_leader: at("task_struct", "group_leader")?,
        task_start_boottime: at("task_struct", "start_boottime")?,
        task_exit_state: at("task_struct", "exit_state")?,
        task_signal: at("task_struct", "signal")?,
        task_sighand: at("task_struct", "sighand")?,
        task_status: at("task_struct", "thread_info.status")?,
        signal_live: at("signal_struct", "live.counter")?,
        sighand_cont_handler: at("sighand_struct", "action")?
            + (SIGCONT - 1) * sigaction
            + at("k_sigaction", "sa.sa_handler")?,
        file_inode: at("file", "f_inode")?,
        file_path: at("file", "f_path")?,
        file_mode: at("file", "f_mode")?,
        file_flags: at("file", "f_flags")?,
        path_mnt: at("path", "mnt")?,
        path_dentry: at("path", "dentry")?,
        mnt_root: at("vfsmount", "mnt_root")?,
        dentry_parent: at("dentry", "d_parent")?,
        dentry_inode: at("dentry", "d_inode")?,
        dentry_sb: at("dentry", "d_sb")?,
        dentry_name: at("dentry", "d_name.name")?,
        dentry_name_len: at("dentry", "d_name.len")?,
        sb_dev: at("super_block", "s_dev")?,
        sb_root: at("super_block", "s_root")?,
        sb_flags: at("super_block", "s_flags")?,
        inode_sb: at("inode", "i_sb")?,
        inode_ino: at("inode", "i_ino")?,
        inode_mode: at("inode", "i_mode")?,
        inode_generation: at("inode", "i_generation")?,
        sock_sk: at("socket", "sk")?,
        sock_type: at("socket", "type")?,
        sk_family: at("sock", "__sk_common.skc_family")?,
        sk_protocol: at("sock", "sk_protocol")?,
        msg_name: at("msghdr", "msg_name")?,
        msg_namelen: at("msghdr", "msg_namelen")?,
        msg_flags: at("msghdr", "msg_flags")?,
        qstr_name: at("qstr", "name")?,
        cgroup_kn: at("cgroup", "kn")?,
        kn_name: at("kernfs_node", "name")?,
        kn_id: at("kernfs_node", "id")?,
        bprm_file: at("linux_binprm", "file")?,
        task_real_parent: at("task_struct", "real_parent")?,
        task_mm: at("task_struct", "mm")?,
        task_real_cred: at("task_struct", "real_cred")?,
        task_pid_links: at("task_struct", "pid_links")?,
        mm_exe_file: at("mm_struct", "exe_file")?,
        signal_flags: at("signal_struct", "flags")?,
        userns_level: at("user_namespace", "level")?,
        inode_rdev: at("inode", "i_rdev")?,
        sb_magic: at("super_block", "s_magic")?,
        // Since 6.7; before, it is the path of the file itself.
        backing_path: at("backing_file", "user_path").unwrap_or(0),
        proc_inode_pid: at("proc_inode", "pid")?,
        proc_inode_vfs_inode: at("proc_inode", "vfs_inode")?,
        pid_tasks: at("pid", "tasks")?,
        cred_uid: at("cred", "uid")?,
        cred_euid: at("cred", "euid")?,
        cred_suid: at("cred", "suid")?,
        cred_gid: at("cred", "gid")?,
        cred_egid: at("cred", "egid")?,
        cred_cap_permitted: at("cred", "cap_permitted")?,
        cred_cap_effective: at("cred", "cap_effective")?,
        bprm_cred: at("linux_binprm", "cred")?,
        bprm_p: at("linux_binprm", "p")?,
        bprm_argc: at("linux_binprm", "argc")?,
        bprm_filename: at("linux_binprm", "filename")?,
        bprm_interp: at("linux_binprm", "interp")?,
        inode_dentries: at("inode", "i_dentry.first")?,
        // Needed before 6.7 only, see `paths::walk_hidden` on the kernel side; newer ones move it.
        dentry_alias: at("dentry", "d_u.d_alias").unwrap_or(0),
        mount_mnt: at("mount", "mnt")?,
        mount_parent: at("mount", "mnt_parent")?,
        mount_mountpoint: at("mount", "mnt_mountpoint")?,
        regs_orig_ax: at("pt_regs", "orig_ax")?,
        regs_cx: at("pt_regs", "cx")?,
        regs_dx: at("pt_regs", "dx")?,
        regs_si: at("pt_regs", "si")?,
        sock_file: at("socket", "file")?,
        sk_state: at("sock", "__sk_common.skc_state")?,
        sk_dport: at("sock", "__sk_common.skc_dport")?,
        sk_num: at("sock", "__sk_common.skc_num")?,
        sk_daddr: at("sock", "__sk_common.skc_daddr")?,
        sk_rcv_saddr: at("sock", "__sk_common.skc_rcv_saddr")?,
        sk_v6_daddr: at("sock", "__sk_common.skc_v6_daddr")?,
        sk_v6_rcv_saddr: at("sock", "__sk_common.skc_v6_rcv_saddr")?,
        msg_control: at("msghdr", "msg_control")?,
        msg_controllen: at("msghdr", "msg_controllen")?,
        unix_addr: at("unix_sock", "addr")?,
        unix_path: at("unix_sock", "path")?,
        unix_peer: at("unix_sock", "peer")?,
        unix_addr_len: at("unix_address", "len")?,
        unix_addr_name: at("unix_address", "name")?,
    })
}

/// Byte offset of a member path such as `thread_info.status`.
fn offset(btf: &Btf<'_>, name: &str, members: &str) -> Result<u32, OffsetError> {
    let mut id = btf
        .struct_named(name)
        .ok_or_else(|| OffsetError::NoStruct(name.to_owned()))?;
    let mut bits = 0;
    for member in members.split('.') {
        let found = btf
            .member(id, member)
            .ok_or_else(|| OffsetError::NoMember(name.to_owned(), members.to_owned()))?;
        bits += found.bit;
        id = found.type_id;
    }
    Ok(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever the tests run on a kernel with BTF, its offsets resolve, and those that x86-64's
    /// ABI fixes have their known values.
    #[test]
    fn running_kernel_resolves() {
        if !Path::new(VMLINUX).exists() {
            eprintln!("this kernel has no BTF; the VM tests resolve theirs");
            return;
        }
        let offsets = resolve(Path::new(VMLINUX)).unwrap();
        assert_eq!(offsets.regs_orig_ax, 120);
        assert_ne!(offsets.dentry_parent, offsets.dentry_inode);
        assert_ne!(offsets.task_pid, offsets.task_tgid);
    }

    #[test]
    fn no_btf_names_the_fix() {
        let error = resolve(Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert!(
            error.to_string().contains("CONFIG_DEBUG_INFO_BTF"),
            "{error}"
        );
    }
}
