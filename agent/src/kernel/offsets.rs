//! Where the running kernel keeps its fields: resolved from its BTF, so that nothing about a
//! kernel version is compiled in. Structs are looked up by name *and* kind (a function may bear
//! the same name), members by following type ids through anonymous structs and unions.
use std::path::{Path, PathBuf};

use btf::btf::{Btf, FlattenedType, Type};
use syshold_abi::Offsets;
use thiserror::Error;

pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, Error)]
pub enum OffsetError {
    #[error(
        "cannot read the kernel's type information {path}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    Read { path: PathBuf, source: btf::error::Error },
    #[error("this kernel has no `struct {0}`: it is not one that Syshold knows; please report it")]
    NoStruct(String),
    #[error("this kernel's `struct {0}` has no `{1}`: it is not one that Syshold knows; please report it")]
    NoMember(String, String),
}

/// All offsets the kernel programs need, in bytes.
pub fn resolve(path: &Path) -> Result<Offsets, OffsetError> {
    let btf = Btf::from_file(path)
        .map_err(|source| OffsetError::Read { path: path.to_owned(), source })?;
    let at = |name: &str, member: &str| offset(&btf, name, member);
    let sigaction = u32::try_from(struct_named(&btf, "k_sigaction")?.bits / 8).unwrap_or(u32::MAX);
    const SIGCONT: u32 = 18;
    Ok(Offsets {
        task_flags: at("task_struct", "flags")?,
        task_pid: at("task_struct", "pid")?,
        task_tgid: at("task_struct", "tgid")?,
        task_group_leader: at("task_struct", "group_leader")?,
        task_start_boottime: at("task_struct", "start_boottime")?,
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
        bprm_cred: at("linux_binprm", "cred")?,
        cred_uid: at("cred", "uid.val")?,
        regs_orig_ax: at("pt_regs", "orig_ax")?,
    })
}

fn struct_named<'a>(btf: &'a Btf, name: &str) -> Result<&'a FlattenedType, OffsetError> {
    btf.get_types()
        .iter()
        .find(|ty| {
            ty.num_refs == 0
                && matches!(ty.base_type, Type::Struct(_) | Type::Union(_))
                && ty.name.as_deref() == Some(name)
        })
        .ok_or_else(|| OffsetError::NoStruct(name.to_owned()))
}

/// Byte offset of a member path such as `thread_info.status`.
fn offset(btf: &Btf, name: &str, members: &str) -> Result<u32, OffsetError> {
    let mut ty = struct_named(btf, name)?;
    let mut bits = 0;
    for member in members.split('.') {
        let found = find(btf, ty, member, 0)
            .ok_or_else(|| OffsetError::NoMember(name.to_owned(), members.to_owned()))?;
        bits += found.0;
        ty = found.1;
    }
    Ok(bits / 8)
}

/// A member by name, also inside anonymous structs and unions; offset in bits.
fn find<'a>(
    btf: &'a Btf,
    ty: &'a FlattenedType,
    name: &str,
    depth: u32,
) -> Option<(u32, &'a FlattenedType)> {
    const DEEPEST: u32 = 8;
    let (Type::Struct(body) | Type::Union(body)) = &ty.base_type else { return None };
    if depth == DEEPEST {
        return None;
    }
    body.members.iter().find_map(|member| {
        let member_type = btf.get_type_by_id(member.type_id).ok()?;
        match member.name.as_deref() {
            Some(own) if own == name => Some((member.offset, member_type)),
            None | Some("") => find(btf, member_type, name, depth + 1)
                .map(|(inner, inner_type)| (member.offset + inner, inner_type)),
            Some(_) => None,
        }
    })
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
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }
}
