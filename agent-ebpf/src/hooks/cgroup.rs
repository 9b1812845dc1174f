//! Units and cgroups that are governed: known by name before they exist, by id from then on.
use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use syshold_abi::{CGROUP_NAME_LEN, hook};

use crate::{
    field::{Kernel, load, offset},
    identity::{current, govern, sets_up_unit},
    maps::{CGROUP_NAMES, CGROUPS},
};

/// `cgroup_mkdir(cgrp, path)`.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let _ = current(hook::CGROUP_MKDIR);
    let cgroup: Kernel = ctx.arg(0);
    let path: *const u8 = ctx.arg(1);
    // SAFETY: a cgroup and its path, by the tracepoint's prototype.
    unsafe {
        let node: Kernel = load(cgroup, offset!(cgroup_kn));
        let name: u64 = load(node, offset!(kn_name));
        let agent = named(name as *const u8).or_else(|| named(path));
        if let Some(agent) = agent {
            let id: u64 = load(node, offset!(kn_id));
            let _ = CGROUPS.insert(&id, &agent, 0);
        }
    }
    0
}

#[inline(always)]
unsafe fn named(text: *const u8) -> Option<u32> {
    let mut name = [0u8; CGROUP_NAME_LEN];
    let read = bpf_probe_read_kernel_str(
        name.as_mut_ptr().cast(),
        CGROUP_NAME_LEN as u32,
        text.cast(),
    );
    if read <= 0 {
        return None;
    }
    CGROUP_NAMES.get(&name).copied()
}

/// `cgroup_attach_task(dst_cgrp, path, task, threadgroup)`: a running process moves in.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    let _ = current(hook::CGROUP_ATTACH);
    let cgroup: Kernel = ctx.arg(0);
    let task: Kernel = ctx.arg(2);
    // SAFETY: a cgroup and a task_struct, by the tracepoint's prototype.
    unsafe {
        let node: Kernel = load(cgroup, offset!(cgroup_kn));
        let id: u64 = load(node, offset!(kn_id));
        if let Some(agent) = CGROUPS.get(&id)
            && !sets_up_unit(task)
        {
            govern(task, *agent, hook::FORK);
        }
    }
    0
}
