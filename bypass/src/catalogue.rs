//! Every attack: number, title, what is expected, and how its effect is measured. The numbers are
//! those of the bypass catalogue; from 69 on, what came later.
use crate::act::Act;
use crate::attacks::{creds, files, guard, names, network, process, ring, unix};

/// One way around a hold.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// A number, and a letter where there are several ways: `27b`.
    pub id: &'static str,
    pub title: &'static str,
    pub expect: Expect,
    pub effect: Effect,
    pub(crate) act: fn(&mut Act<'_>),
}

/// What has to become of it when it is governed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Held: a decision about it is in the ledger, and nothing comes through.
    Held,
    /// Refused by the kernel side, with EPERM or EACCES.
    Denied,
    /// Either of the two: which one depends on the kernel's version or on what comes first.
    HeldOrDenied,
    /// Refused, though the syscall cannot say so.
    Silent,
    /// Held, allowed because its object is approved, and then it works.
    Approved,
    /// Not held: this is nobody's business.
    Free,
}

impl Expect {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Denied => "denied",
            Self::HeldOrDenied => "held or denied",
            Self::Silent => "refused",
            Self::Approved => "held, allowed",
            Self::Free => "free",
        }
    }
}

/// What is measured at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The attacker says what only the protected file, or the victim, knows.
    Secret,
    /// A file outside the protected folder holds it now.
    Copied,
    /// Something in the protected folder is not as it was.
    Changed,
    /// A connection or a datagram came.
    Arrived(Where),
    /// The harness could connect to what the attacker listens on.
    Listens,
    /// Nothing but what the syscalls returned.
    Returned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
    ApprovedTcp4,
    ApprovedUdp4,
    Unix,
    UnixDatagram,
    Abstract,
    /// Bytes on the connection that was made before.
    Stream,
    /// The same, the one given for this attack.
    GivenStream,
}

/// Lines of the catalogue that a running host cannot try on itself, and where they are tried.
pub const ELSEWHERE: [(&str, &str, &str); 2] = [
    (
        "66",
        "the daemon dies while something is held, and starts again",
        "it would leave this host without its daemon; tests/cases/loss.py does it",
    ),
    (
        "67",
        "more holds than the kernel's map takes, more forks than it can govern",
        "it would stop every agent of this host; tests/cases/churn.py does it",
    ),
];

macro_rules! attacks {
    ($($id:literal $expect:ident $effect:expr, $act:path, $title:literal;)*) => {
        &[$(Attack {
            id: $id,
            title: $title,
            expect: Expect::$expect,
            effect: $effect,
            act: $act,
        }),*]
    };
}

use Effect::{Arrived, Changed, Copied, Listens, Returned, Secret};
use Where::{
    Abstract, ApprovedTcp4, GivenStream, Stream, Tcp4, Tcp6, Udp4, Udp6, Unix, UnixDatagram,
};

/// All of them, by number.
pub const ATTACKS: &[Attack] = attacks! {
    "1" Held Arrived(Tcp4), network::connect4, "connect by TCP";
    "1b" Held Arrived(Tcp6), network::connect6, "connect by TCP over IPv6";
    "2" Held Arrived(Tcp4), network::connect_mapped, "connect to ::ffff:127.0.0.1";
    "2b" Held Arrived(Tcp4), network::connect_any, "connect to 0.0.0.0";
    "3" Approved Arrived(ApprovedTcp4), network::connect_twice, "non-blocking connect, allowed, and again";
    "4" Held Arrived(Tcp4), network::connect_threads, "two threads connect at once, 40 times each";
    "5" Approved Arrived(ApprovedTcp4), network::connect_beside, "an allowed connect beside a sibling that is held";
    "6" Held Arrived(Udp4), network::send4, "UDP sendto";
    "6b" Held Arrived(Udp6), network::send6, "UDP sendto over IPv6";
    "6c" Held Arrived(Udp4), network::connect_and_send, "UDP connect, then send";
    "6d" Held Arrived(Udp4), network::send_message, "UDP sendmsg";
    "7" Held Arrived(Udp4), network::send_unspecified, "UDP sendto with AF_UNSPEC";
    "8" Held Arrived(Udp4), network::connect_then_elsewhere, "UDP connect to an allowed place, then sendto another";
    "9" Held Arrived(Udp4), network::send_several, "sendmmsg to an allowed place and to another";
    "10" Held Arrived(Tcp4), network::fast_open, "sendto with MSG_FASTOPEN";
    "11" Denied Returned, network::routing_option, "IPV6_RTHDR";
    "11b" Denied Returned, network::ip_options, "IP_OPTIONS with a source route";
    "11c" Denied Returned, network::transparent, "IP_TRANSPARENT";
    "12" Denied Returned, network::routing_message, "sendmsg with a routing header in its control message";
    "12b" Denied Returned, network::options_message, "sendmsg with IP options in its control message";
    "13" Denied Returned, network::raw, "a raw socket";
    "14" Denied Returned, network::packet, "a packet socket";
    "15" Denied Returned, network::mptcp, "MPTCP";
    "15b" Denied Returned, network::sctp, "SCTP";
    "16" Denied Returned, network::vsock, "a socket to the hypervisor";
    "16b" Denied Returned, network::algorithm, "AF_ALG";
    "16c" Denied Returned, network::express, "AF_XDP";
    "17" Denied Returned, ring::setup, "io_uring_setup";
    "18" Denied Arrived(Tcp4), ring::connect, "connect through an inherited io_uring";
    "18b" Denied Secret, ring::open, "open and read through an inherited io_uring";
    "19" Held Listens, network::listen, "listen on 0.0.0.0";
    "20" HeldOrDenied Arrived(Unix), unix::connect, "connect to an ungoverned program's unix socket";
    "20b" HeldOrDenied Arrived(UnixDatagram), unix::datagram, "a datagram to an ungoverned program's unix socket";
    "20c" HeldOrDenied Arrived(UnixDatagram), unix::connected_datagram, "the same, connected";
    "21" HeldOrDenied Arrived(Unix), unix::by_link, "the same socket by a symbolic link";
    "21b" HeldOrDenied Arrived(Unix), unix::relative, "the same socket by a relative path";
    "21c" HeldOrDenied Arrived(Unix), unix::by_bind, "the same socket through a bind mount";
    "22" HeldOrDenied Arrived(Abstract), unix::abstract_name, "an abstract unix socket";
    "23" HeldOrDenied Returned, unix::bus, "D-Bus, where systemd starts what it is asked to";
    "23b" HeldOrDenied Returned, unix::systemd, "systemd's private socket";
    "24" Held Returned, network::resolver, "DNS to 127.0.0.53";
    "24b" HeldOrDenied Returned, unix::varlink, "varlink";
    "25" Held Arrived(Stream), network::sendfile_inherited, "sendfile into an inherited connection";
    "25b" Held Arrived(Stream), network::splice_inherited, "splice into an inherited connection";
    "25c" Held Arrived(Stream), network::write_inherited, "write to an inherited connection";
    "26" Held Arrived(GivenStream), network::send_given, "send on a connection received by SCM_RIGHTS";
    "27" Held Secret, files::open, "open";
    "27b" Held Secret, files::openat, "openat by a folder's descriptor";
    "27c" Held Secret, files::openat2, "openat2";
    "27d" Held Changed, files::creat, "creat";
    "27e" Held Secret, files::by_symlink, "open through a symbolic link";
    "28" Held Secret, files::path_descriptor, "O_PATH, reopened through /proc/self/fd";
    "29" Held Secret, files::read_inherited, "read on an inherited descriptor";
    "29b" Held Secret, files::read_given, "read on a descriptor received by SCM_RIGHTS";
    "29c" Held Changed, files::write_inherited, "write on an inherited descriptor";
    "30" Held Secret, files::map_inherited, "mmap of an inherited descriptor";
    "31" Held Copied, files::copy_range, "copy_file_range out";
    "31b" Held Copied, files::clone_range, "FICLONE out";
    "32" Held Secret, files::sendfile, "sendfile into a pipe";
    "32b" Held Secret, files::splice, "splice into a pipe";
    "32c" Held Secret, files::aio, "io_submit";
    "32d" Held Secret, files::vectors, "preadv2";
    "33" Denied Secret, files::by_handle, "open_by_handle_at";
    "34" Held Secret, files::run_script, "execute a protected script";
    "34b" Held Secret, files::run_descriptor, "execveat of a protected script by O_PATH";
    "35" HeldOrDenied Secret, names::link_out, "link out, then open";
    "36" Held Secret, names::linked_before, "a hard link from before";
    "37" HeldOrDenied Secret, names::rename_out, "rename out, then open";
    "37b" HeldOrDenied Secret, names::exchange, "RENAME_EXCHANGE with a file outside, then open";
    "37c" HeldOrDenied Secret, names::rename_root, "rename the protected folder itself, then open";
    "37d" HeldOrDenied Secret, names::rename_folder, "rename a folder out, then open";
    "37e" HeldOrDenied Changed, names::rename_in, "rename over a protected file";
    "38" HeldOrDenied Secret, guard::chroot, "chroot, then open";
    "39" HeldOrDenied Secret, guard::bind_mount, "mount --bind, then open";
    "39b" HeldOrDenied Secret, guard::open_tree, "open_tree, then open";
    "39c" HeldOrDenied Returned, guard::new_mount, "fsopen and fsmount";
    "40" HeldOrDenied Secret, guard::user_namespace, "a user and mount namespace, an overlay, then open";
    "40b" HeldOrDenied Returned, guard::only_user_namespace, "a user namespace";
    "41" Denied Returned, guard::block_device, "open a disk";
    "41b" Denied Returned, guard::memory, "open /dev/mem";
    "41c" Denied Returned, guard::kcore, "open /proc/kcore";
    "41d" Denied Returned, guard::scsi, "open a SCSI generic device";
    "42" Denied Returned, guard::make_device, "mknod of a disk, then open";
    "43" Denied Returned, guard::trace, "ptrace an ungoverned process";
    "43b" Denied Secret, guard::read_memory, "process_vm_readv";
    "43c" HeldOrDenied Secret, guard::take_descriptor, "pidfd_getfd";
    "44" Denied Secret, guard::environment, "/proc/PID/environ of an ungoverned process";
    "44b" Denied Secret, guard::memory_file, "/proc/PID/mem of an ungoverned process";
    "44c" HeldOrDenied Secret, guard::its_descriptor, "/proc/PID/fd of an ungoverned process";
    "44d" HeldOrDenied Secret, guard::its_root, "/proc/PID/root of an ungoverned process";
    "45" Held Secret, files::own_child, "/proc/PID/fd of an own child";
    "46" Approved Changed, files::exclusive_approved, "O_CREAT|O_EXCL below the folder, allowed";
    "46b" Held Changed, files::exclusive, "O_CREAT|O_EXCL below the folder";
    "47" Held Changed, files::truncate, "truncate";
    "47b" Held Changed, files::ftruncate, "ftruncate of an inherited descriptor";
    "47c" Held Changed, files::open_truncate, "O_TRUNC";
    "47d" Held Changed, names::unlink, "unlink";
    "47e" Held Changed, files::allocate, "fallocate punches a hole";
    "47f" HeldOrDenied Changed, names::make_folder, "mkdir";
    "47g" HeldOrDenied Changed, names::make_symlink, "symlink";
    "47h" HeldOrDenied Changed, names::make_node, "mknod of a FIFO";
    "47i" HeldOrDenied Changed, names::remove_folder, "rmdir";
    "47j" HeldOrDenied Changed, names::change_mode, "chmod";
    "47k" HeldOrDenied Changed, names::change_attribute, "setxattr";
    "47l" HeldOrDenied Changed, names::link_in, "a link from outside";
    "47m" HeldOrDenied Changed, names::nameless, "O_TMPFILE, then linkat";
    "47n" HeldOrDenied Changed, names::write_map, "a shared mapping that is written";
    "48" Held Secret, files::deep, "a file 300 folders deep";
    "49" Denied Returned, process::other_cgroup, "move to another cgroup";
    "50" Held Secret, process::daemonize, "setsid, double fork, exec";
    "50b" Held Arrived(Tcp4), process::daemonize_connect, "setsid, double fork, connect";
    "51" HeldOrDenied Arrived(Tcp4), process::into_cgroup, "clone3 into another cgroup, connect";
    "52" Held Arrived(Tcp4), process::continued, "a sibling sends SIGCONT without end";
    "53" HeldOrDenied Arrived(Tcp4), process::traced, "a tracer that swallows every signal";
    "54" Held Arrived(Tcp4), process::vforked, "a vfork child connects";
    "55" HeldOrDenied Arrived(Tcp4), process::first_of_namespace, "the first process of a PID namespace connects";
    "56" Held Arrived(Tcp4), process::handler, "a SIGCONT handler that connects elsewhere";
    "57" Held Arrived(Tcp4), process::killed, "SIGKILL while held";
    "58" Denied Returned, guard::bpf, "bpf()";
    "58b" Denied Returned, guard::pins, "rename a pin";
    "58c" Denied Returned, guard::pin_folder, "rmdir of the pins";
    "58d" Denied Returned, guard::unmount, "umount";
    "59" Denied Returned, guard::ftrace, "write ftrace_enabled";
    "59b" Denied Returned, guard::core_pattern, "write core_pattern";
    "59c" Denied Returned, guard::modprobe, "write modprobe";
    "59d" Denied Returned, guard::sysrq, "open sysrq-trigger to write";
    "60" Denied Returned, guard::kill, "a signal to the daemon";
    "60b" Denied Returned, guard::kill_by_descriptor, "pidfd_send_signal to the daemon";
    "60c" Denied Returned, guard::kill_cgroup, "cgroup.kill of the daemon";
    "60d" Denied Returned, guard::score, "oom_score_adj of the daemon";
    "60e" Denied Returned, guard::limits, "prlimit of the daemon";
    "60f" Denied Returned, guard::priority, "setpriority of the daemon";
    "60g" Denied Returned, guard::scheduler, "sched_setscheduler of the daemon";
    "61" Denied Returned, guard::keystrokes, "TIOCSTI";
    "62" Denied Returned, guard::module, "init_module";
    "62b" Denied Returned, guard::kexec, "kexec_load";
    "62c" Denied Returned, guard::swap, "swapon";
    "62d" Denied Returned, guard::perf, "perf_event_open";
    "62e" Denied Returned, guard::reboot, "reboot";
    "63" Held Returned, creds::setuid, "setuid(0)";
    "63b" Held Returned, creds::capset, "capset";
    "63c" Silent Returned, creds::setfsuid, "setfsuid";
    "63d" HeldOrDenied Secret, creds::setuid_program, "a set-user-id program";
    "64" Held Arrived(Tcp4), process::connect32, "connect by int 0x80";
    "64b" Held Secret, process::open32, "open by int 0x80";
    "64c" HeldOrDenied Arrived(Tcp4), process::connect_x32, "connect by x32";
    "65" HeldOrDenied Arrived(Tcp4), process::rewritten_address, "an address rewritten by another process while it is held";
    "65b" HeldOrDenied Secret, process::rewritten_path, "a path rewritten by another process while it is held";
    "68" Held Changed, files::append, "append to a start-up file below the folder";
    "69" Held Secret, files::overlay, "an overlay whose lower folder is protected";
    "70" Held Secret, files::tmpfs, "a protected folder on a tmpfs";
    "71" Held Secret, files::bound, "a bind mount from before";
    "72" Held Secret, files::other_mount_namespace, "a folder's descriptor from another mount namespace";
    "73" Held Secret, files::long_name, "a name of 65 bytes";
    "74" Held Secret, files::long_path, "a path of 4,000 bytes";
    "75" Free Secret, files::sibling, "a folder whose name begins like the protected one's";
    "76" Held Arrived(Tcp4), process::other_name, "a process that calls itself sysholdd";
    "77" Held Secret, process::loader, "ld-linux.so as the program";
    "78" Held Secret, process::memory_program, "a program in memory";
    "79" HeldOrDenied Secret, process::bubblewrap, "bubblewrap";
    "80" HeldOrDenied Secret, process::podman, "podman unshare";
    "81" Held Secret, files::btrfs, "a protected folder on btrfs";
    "82" HeldOrDenied Secret, guard::enter_namespace, "setns into the first process's mount namespace";
    "83" Held Secret, files::listed_descriptor, "a descriptor passed on to an own child";
};

/// Those whose number or title a word means; all when there is none.
#[must_use]
pub fn select(words: &[String]) -> Vec<&'static Attack> {
    ATTACKS
        .iter()
        .filter(|attack| words.is_empty() || words.iter().any(|word| attack.is_meant(word)))
        .collect()
}

impl Attack {
    /// `27` means 27 and 27b, `27b` that one, anything else is part of a title.
    fn is_meant(&self, word: &str) -> bool {
        let number = self.id.trim_end_matches(|c: char| c.is_ascii_lowercase());
        self.id == word || number == word || self.title.contains(word) && !is_id(word)
    }
}

fn is_id(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The catalogue's 68 lines are all there, once, in order.
    #[test]
    fn every_line_of_the_catalogue_is_here() {
        let ids: Vec<&str> = ATTACKS.iter().map(|attack| attack.id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        let number = |id: &str| -> u32 {
            id.trim_end_matches(|c: char| c.is_ascii_lowercase())
                .parse()
                .unwrap()
        };
        let mut numbers: BTreeSet<u32> = ids.iter().map(|id| number(id)).collect();
        numbers.extend(ELSEWHERE.map(|(id, ..)| number(id)));
        assert!((1..=83).all(|n| numbers.contains(&n)), "{numbers:?}");
        assert!(ids.is_sorted_by_key(|id| (number(id), id.len(), *id)));
    }

    #[test]
    fn words_select_by_number_and_title() {
        let of = |word: &str| -> Vec<&str> {
            select(&[word.to_owned()])
                .iter()
                .map(|attack| attack.id)
                .collect()
        };
        assert_eq!(of("15"), ["15", "15b"]);
        assert_eq!(of("15b"), ["15b"]);
        assert_eq!(of("TIOCSTI"), ["61"]);
        assert!(of("99").is_empty());
        assert_eq!(select(&[]).len(), ATTACKS.len());
    }
}
