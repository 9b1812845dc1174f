//! Loading, attaching and pinning; adopting what an earlier daemon left.
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{MapData, MapError};
use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::{BtfTracePoint, CgroupAttachMode, CgroupSkb, Lsm, ProgramError, links::FdLink};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader};
use syshold_abi::{self as abi, Attached, hook};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::adopt::{self, Record};
use super::offsets::{self, OffsetError};
use super::{Events, Kernel, mmap, verify};

/// Where links and maps are pinned. The version is in the path: another layout is not adopted.
pub const PINS: &str = "/sys/fs/bpf/syshold/v5";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/syshold.bpf.o"));

#[derive(Debug, Error)]
pub enum LoadError {
    #[error(
        "this sysholdd was built without its kernel programs; build it with `cargo xtask build`"
    )]
    NoObject,
    #[error("/sys/kernel/security/lsm is `{0}`: the BPF LSM is off; boot with `lsm=…,bpf`")]
    NoBpfLsm(String),
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    #[error("the kernel's type information: {0}")]
    Btf(#[from] BtfError),
    #[error("the kernel programs do not load: {0}")]
    Ebpf(EbpfError),
    #[error(
        "the kernel does not let this process load its programs ({0}); run sysholdd as root with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN, as its unit does"
    )]
    NotPermitted(EbpfError),
    #[error("the program {name} is refused by this kernel: {source}")]
    Program {
        name: &'static str,
        source: Box<ProgramError>,
    },
    #[error("the kernel lacks the hook {0}, which every policy needs")]
    NoHook(&'static str),
    #[error("{path}: {source}; mount bpffs there and run as root")]
    Pin { path: PathBuf, source: io::Error },
    #[error("the map {name}: {source}")]
    Map {
        name: &'static str,
        source: Box<MapError>,
    },
    #[error("mapping {name}: {source}")]
    Mmap {
        name: &'static str,
        source: nix::Error,
    },
    #[error("keeping the map PIDS open: {0}")]
    Pids(io::Error),
    #[error("the event ring: {0}")]
    Events(io::Error),
}

/// One attached kernel program.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    /// Index into the canary, where the daemon's own acts prove it live.
    pub canary: Option<u32>,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Lsm,
    Tracepoint,
    /// On every packet that leaves a cgroup.
    Egress,
}

/// Every socket belongs to a cgroup at or below this.
const ROOT_CGROUP: &str = "/sys/fs/cgroup";

/// Every program, in attach order: identity before enforcement, so that no governed process is
/// born unseen once anything is enforced.
pub(super) const PROGRAMS: &[(&str, Kind, Option<u32>, bool)] = &[
    (
        "sched_process_fork",
        Kind::Tracepoint,
        Some(hook::FORK),
        true,
    ),
    (
        "sched_process_exit",
        Kind::Tracepoint,
        Some(hook::EXIT),
        true,
    ),
    ("bprm_committed_creds", Kind::Lsm, Some(hook::EXEC), true),
    ("task_alloc", Kind::Lsm, Some(hook::TASK_ALLOC), true),
    ("task_free", Kind::Lsm, Some(hook::TASK_FREE), true),
    (
        "cgroup_mkdir",
        Kind::Tracepoint,
        Some(hook::CGROUP_MKDIR),
        true,
    ),
    (
        "cgroup_attach_task",
        Kind::Tracepoint,
        Some(hook::CGROUP_ATTACH),
        true,
    ),
    (
        "signal_generate",
        Kind::Tracepoint,
        Some(hook::SIGNAL),
        true,
    ),
    (
        "inode_init_security_anon",
        Kind::Lsm,
        Some(hook::IO_URING),
        true,
    ),
    ("uring_allowed", Kind::Lsm, Some(hook::URING_ALLOWED), false),
    ("socket_create", Kind::Lsm, Some(hook::SOCKET_CREATE), true),
    (
        "socket_connect",
        Kind::Lsm,
        Some(hook::SOCKET_CONNECT),
        true,
    ),
    (
        "socket_sendmsg",
        Kind::Lsm,
        Some(hook::SOCKET_SENDMSG),
        true,
    ),
    ("socket_bind", Kind::Lsm, Some(hook::SOCKET_BIND), true),
    ("socket_listen", Kind::Lsm, Some(hook::SOCKET_LISTEN), true),
    ("socket_accept", Kind::Lsm, Some(hook::SOCKET_ACCEPT), true),
    ("sock_graft", Kind::Lsm, Some(hook::SOCK_GRAFT), true),
    (
        "socket_setsockopt",
        Kind::Lsm,
        Some(hook::SOCKET_SETSOCKOPT),
        true,
    ),
    (
        "unix_stream_connect",
        Kind::Lsm,
        Some(hook::UNIX_CONNECT),
        true,
    ),
    ("unix_may_send", Kind::Lsm, Some(hook::UNIX_SEND), true),
    ("egress", Kind::Egress, Some(hook::EGRESS), true),
    ("uring_sqpoll", Kind::Lsm, None, true),
    ("uring_cmd", Kind::Lsm, None, true),
    ("uring_override_creds", Kind::Lsm, None, true),
    ("file_open", Kind::Lsm, Some(hook::FILE_OPEN), true),
    (
        "file_permission",
        Kind::Lsm,
        Some(hook::FILE_PERMISSION),
        true,
    ),
    ("mmap_file", Kind::Lsm, Some(hook::MMAP_FILE), true),
    ("path_mknod", Kind::Lsm, Some(hook::PATH_MKNOD), true),
    ("capable", Kind::Lsm, Some(hook::CAPABLE), true),
    ("userns_create", Kind::Lsm, None, true),
    ("sb_mount", Kind::Lsm, None, true),
    ("sb_umount", Kind::Lsm, None, true),
    ("sb_pivotroot", Kind::Lsm, None, true),
    ("move_mount", Kind::Lsm, None, true),
    ("path_chroot", Kind::Lsm, None, true),
    ("ptrace_access_check", Kind::Lsm, Some(hook::PTRACE), true),
    ("task_kill", Kind::Lsm, Some(hook::KILL), true),
    ("file_send_sigiotask", Kind::Lsm, None, true),
    ("task_setrlimit", Kind::Lsm, Some(hook::DAEMON_TASK), true),
    ("task_setscheduler", Kind::Lsm, None, true),
    ("task_setnice", Kind::Lsm, None, true),
    ("task_setioprio", Kind::Lsm, None, true),
    ("bpf", Kind::Lsm, Some(hook::BPF), true),
    ("perf_event_open", Kind::Lsm, Some(hook::PERF), true),
    ("kernel_read_file", Kind::Lsm, None, true),
    ("kernel_load_data", Kind::Lsm, None, true),
    ("file_ioctl", Kind::Lsm, Some(hook::IOCTL), true),
    ("file_ioctl_compat", Kind::Lsm, None, false),
    ("path_rename", Kind::Lsm, Some(hook::PATH_RENAME), true),
    ("path_link", Kind::Lsm, Some(hook::PATH_LINK), true),
    ("path_unlink", Kind::Lsm, Some(hook::PATH_UNLINK), true),
    ("path_rmdir", Kind::Lsm, None, true),
    ("path_mkdir", Kind::Lsm, Some(hook::PATH_MAKE), true),
    ("path_symlink", Kind::Lsm, None, true),
    ("path_truncate", Kind::Lsm, Some(hook::PATH_TRUNCATE), true),
    ("file_truncate", Kind::Lsm, None, false),
    ("path_chmod", Kind::Lsm, Some(hook::PATH_ATTRIBUTES), true),
    ("path_chown", Kind::Lsm, None, true),
    ("inode_setxattr", Kind::Lsm, None, true),
    ("inode_removexattr", Kind::Lsm, None, true),
    ("inode_set_acl", Kind::Lsm, None, false),
    ("inode_remove_acl", Kind::Lsm, None, false),
    (
        "bprm_check_security",
        Kind::Lsm,
        Some(hook::BPRM_CHECK),
        true,
    ),
    (
        "bprm_creds_from_file",
        Kind::Lsm,
        Some(hook::BPRM_CREDS),
        true,
    ),
    ("task_fix_setuid", Kind::Lsm, Some(hook::SETUID), true),
    ("capset", Kind::Lsm, Some(hook::CAPSET), true),
];

/// What covers a hook that this kernel has not.
#[must_use]
pub fn covered_by(name: &str) -> &'static str {
    match name {
        "uring_allowed" => "inode_init_security_anon, which sees every ring",
        "file_truncate" => "path_truncate, which ftruncate and O_TRUNC reach there",
        "file_ioctl_compat" => "file_ioctl, which 32-bit calls reach there",
        "inode_set_acl" | "inode_remove_acl" => "inode_setxattr, which ACLs reach there",
        _ => "another hook of the same subject",
    }
}

impl Kernel {
    /// Loads and attaches everything and pins it at `pins`. Maps that are pinned there already
    /// are adopted with all they hold, and so are programs, when they are the same; otherwise new
    /// links are attached over them before old ones go, so that no moment is unguarded.
    pub fn load(pins: &Path) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        check_lsm()?;
        let maps = pins.join("maps");
        let links = pins.join("links");
        for dir in [&maps, &links] {
            fs::create_dir_all(dir).map_err(|source| LoadError::Pin {
                path: dir.clone(),
                source,
            })?;
        }
        let offsets = offsets::resolve(Path::new(offsets::VMLINUX))?;
        let btf = Btf::from_sys_fs()?;
        tracing::debug!("kernel types read");
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .default_map_pin_directory(&maps)
            .override_global("OFFSETS", &offsets, true)
            .load(OBJECT)
            .map_err(loading)?;
        tracing::debug!("maps made or adopted");
        let record = take(&mut ebpf, "LOADED")?;
        let mut record = Record::new(record, &ebpf, OBJECT, &offsets, &maps);
        let attached = match record.attached(&links) {
            Some(attached) => {
                tracing::info!("the kernel programs are attached already, and the same");
                attached
            }
            None => load_anew(&mut ebpf, &btf, &links, &mut record)?,
        };
        let mut programs = Vec::with_capacity(PROGRAMS.len());
        let mut lacks = Vec::new();
        for (&(name, _, canary, _), attached) in PROGRAMS.iter().zip(attached) {
            // A hook this kernel has not is covered by another, see `covered_by`.
            if attached {
                programs.push(Program { name, canary });
            } else {
                lacks.push(name);
            }
        }
        tracing::debug!(programs = programs.len(), "programs attached and pinned");
        let kernel = Self::open(ebpf, programs, lacks, record)?;
        // Megabytes, most of them for debuggers.
        mmap::let_go(OBJECT);
        Ok(kernel)
    }

    fn open(
        mut ebpf: Ebpf,
        programs: Vec<Program>,
        lacks: Vec<&'static str>,
        record: Record,
    ) -> Result<Self, LoadError> {
        let verdicts = shared(&ebpf, "VERDICTS", abi::VERDICT_SLOTS as usize * 8)?;
        let settled = shared(&ebpf, "SETTLED", abi::VERDICT_SLOTS as usize * 8)?;
        let sequence = shared(&ebpf, "SEQUENCE", abi::sequence::LEN as usize * 8)?;
        let pids = array(&ebpf, "PIDS")?;
        let pids = mmap::Bytes::new(pids.fd(), abi::PID_LIMIT as usize).map_err(LoadError::Pids)?;
        let daemon: aya::maps::Array<MapData, abi::Daemon> = take(&mut ebpf, "DAEMON")?;
        let mut switch = daemon.get(&0, 0).map_err(|source| LoadError::Map {
            name: "DAEMON",
            source: Box::new(source),
        })?;
        if switch.hash_key == [0; 2] {
            switch.hash_key = Uuid::new_v4().as_u64_pair().into();
        }
        let events = Events(take(&mut ebpf, "EVENTS")?);
        Ok(Self {
            programs,
            lacks,
            events: poll(events)?,
            pids: Arc::new(pids),
            verdicts,
            settled,
            sequence,
            governed: take(&mut ebpf, "GOVERNED")?,
            pending: take(&mut ebpf, "PENDING")?,
            daemon,
            net_rules: take(&mut ebpf, "NET_RULES")?,
            path_rules: take(&mut ebpf, "PATH_RULE")?,
            agent_rules: take(&mut ebpf, "AGENT_RULES")?,
            devices: take(&mut ebpf, "DEVICES")?,
            unix_sockets: take(&mut ebpf, "UNIX_SOCKETS")?,
            roots: take(&mut ebpf, "ROOTS")?,
            root_bits: take(&mut ebpf, "ROOT_BITS")?,
            exes: take(&mut ebpf, "EXES")?,
            users: take(&mut ebpf, "USERS")?,
            cgroups: take(&mut ebpf, "CGROUPS")?,
            cgroup_names: take(&mut ebpf, "CGROUP_NAMES")?,
            approved_arguments: take(&mut ebpf, "APPROVED_ARGUMENTS")?,
            first_open: take(&mut ebpf, "FIRST_OPEN")?,
            canary: take(&mut ebpf, "CANARY")?,
            counts: take(&mut ebpf, "COUNTS")?,
            record,
            switch,
        })
    }
}

fn loading(error: EbpfError) -> LoadError {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return LoadError::NotPermitted(error);
        }
        cause = inner.source();
    }
    LoadError::Ebpf(error)
}

fn poll(events: Events) -> Result<AsyncFd<Events>, LoadError> {
    // SAFETY: the ring owns its map's descriptor, which stays the same and open as long as it.
    unsafe { AsyncFd::register_with_interest(events, tokio::io::Interest::READABLE) }
        .map_err(|error| LoadError::Events(error.into()))
}

fn check_lsm() -> Result<(), LoadError> {
    let path = Path::new("/sys/kernel/security/lsm");
    let list = fs::read_to_string(path).map_err(|source| LoadError::Pin {
        path: path.to_owned(),
        source,
    })?;
    if list.trim().split(',').any(|lsm| lsm == "bpf") {
        Ok(())
    } else {
        Err(LoadError::NoBpfLsm(list.trim().to_owned()))
    }
}

/// Has the verifier read every program, attaches what this kernel has a hook for, and records it.
/// Returns which were attached, by position.
fn load_anew(
    ebpf: &mut Ebpf,
    btf: &Btf,
    links: &Path,
    record: &mut Record,
) -> Result<Vec<bool>, LoadError> {
    let failed = |source| LoadError::Map {
        name: "LOADED",
        source: Box::new(source),
    };
    record.forget().map_err(failed)?;
    let lacks = verify::all(ebpf, btf)?;
    tracing::debug!("programs verified");
    let missing = PROGRAMS
        .iter()
        .find(|(name, _, _, required)| *required && lacks.contains(name));
    if let Some((name, ..)) = missing {
        return Err(LoadError::NoHook(name));
    }
    let mut attached = Vec::with_capacity(PROGRAMS.len());
    let mut numbers = Vec::with_capacity(PROGRAMS.len());
    for &(name, kind, ..) in PROGRAMS {
        let has = !lacks.contains(&name);
        numbers.push(if has {
            attach(ebpf, name, kind, links)?
        } else {
            Attached::default()
        });
        attached.push(has);
    }
    record.write(&numbers).map_err(failed)?;
    Ok(attached)
}

/// Attaches one program that was verified.
fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    kind: Kind,
    links: &Path,
) -> Result<Attached, LoadError> {
    let failed = |source| LoadError::Program {
        name,
        source: Box::new(source),
    };
    let program = ebpf.program_mut(name).ok_or(LoadError::NoObject)?;
    let link: FdLink = match kind {
        Kind::Lsm => {
            let program: &mut Lsm = program.try_into().map_err(failed)?;
            let id = program.attach().map_err(failed)?;
            program.take_link(id).map_err(failed)?.into()
        }
        Kind::Tracepoint => {
            let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
            let id = program.attach().map_err(failed)?;
            program.take_link(id).map_err(failed)?.into()
        }
        Kind::Egress => {
            let program: &mut CgroupSkb = program.try_into().map_err(failed)?;
            let unpinned = |source| LoadError::Pin {
                path: ROOT_CGROUP.into(),
                source,
            };
            let root = fs::File::open(ROOT_CGROUP).map_err(unpinned)?;
            // No flags: a link shares its cgroup with others anyway.
            let mode = CgroupAttachMode::Single;
            let id = program
                .attach(root, CgroupSkbAttachType::Egress, mode)
                .map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            link.try_into()
                .map_err(|error| unpinned(io::Error::other(error)))?
        }
    };
    let verified = program
        .info()
        .ok()
        .and_then(|info| info.verified_instruction_count());
    tracing::debug!(
        "{name} attached, {} instructions walked",
        verified.unwrap_or(0)
    );
    let path = links.join(name);
    let number = adopt::attached(&link).ok_or_else(|| LoadError::Pin {
        path: path.clone(),
        source: io::Error::other("the kernel says nothing of the link"),
    })?;
    pin(link, &path)?;
    Ok(number)
}

/// Pins the new link beside the old one and then takes its place: there is no moment without.
fn pin(link: FdLink, path: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::Pin {
        path: path.to_owned(),
        source,
    };
    // No dot: bpffs reserves names with one.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("_new");
    let fresh = PathBuf::from(fresh);
    remove_if_there(&fresh).map_err(failed)?;
    link.pin(&fresh)
        .map_err(|error| failed(io::Error::other(error)))?;
    // bpffs renames, but not over an existing pin.
    remove_if_there(path).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::NoObject)?;
    T::try_from(map).map_err(|source| LoadError::Map {
        name,
        source: Box::new(source),
    })
}

fn shared(ebpf: &Ebpf, name: &'static str, len: usize) -> Result<mmap::Shared, LoadError> {
    let len = NonZeroUsize::new(len).ok_or(LoadError::NoObject)?;
    mmap::Shared::map(array(ebpf, name)?.fd(), len)
        .map_err(|source| LoadError::Mmap { name, source })
}

fn array<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, LoadError> {
    match ebpf.map(name) {
        Some(aya::maps::Map::Array(data)) => Ok(data),
        _ => Err(LoadError::NoObject),
    }
}
