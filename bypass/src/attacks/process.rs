//! Processes that are more than a process: other cgroups, other tables of syscalls, other names.
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::local4;
use crate::act::{Act, close};
use crate::scene::{PROGRAM, SECRET};
use crate::sys::{self, In, N, Out};

/// A connect with nothing around it: for children, handlers and threads.
fn plain_connect(port: u16) -> i64 {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let fd = sys::call(
        libc::SYS_socket,
        &mut [N(libc::AF_INET.into()), N(kind.into()), N(0)],
    );
    let done = sys::call(libc::SYS_connect, &mut [N(fd), In(&local4(port)), N(16)]);
    close(fd);
    done
}

/// The error number as an exit status.
fn status_of(returned: i64) -> i32 {
    i32::try_from(-returned.min(0)).unwrap_or(1).min(250)
}

/// Waits for a child that exits so.
fn tell_child(act: &mut Act<'_>, name: &str, pid: i64) {
    let status = sys::wait(pid);
    act.tell(name, -i64::from(status));
}

pub(crate) fn other_cgroup(act: &mut Act<'_>) {
    let fd = act.open(
        std::path::Path::new("/sys/fs/cgroup/cgroup.procs"),
        libc::O_WRONLY,
    );
    let done = act.call("write", libc::SYS_write, &mut [N(fd), In(b"0\n"), N(2)]);
    act.did(done > 0);
    close(fd);
}

/// Runs something as nobody's child, in a session of its own; its output comes back.
fn daemonized(act: &mut Act<'_>, what: impl Fn() -> i64) {
    let (from, to) = act.pipe();
    let child = sys::fork(|| {
        sys::call(libc::SYS_setsid, &mut []);
        sys::fork(|| {
            sys::call(libc::SYS_dup2, &mut [N(to), N(1)]);
            let errno = status_of(what());
            // How it went, where the attacker reads it.
            let text = format!("errno={errno};");
            let len = text.len() as i64;
            sys::call(libc::SYS_write, &mut [N(1), In(text.as_bytes()), N(len)]);
            0
        });
        0
    });
    close(to);
    sys::wait(child);
    let before = act.said.got.len();
    loop {
        let had = act.said.got.len();
        act.drain(from);
        if act.said.got.len() == had {
            break;
        }
    }
    let said = act.said.got[before..].to_owned();
    let errno = said
        .split("errno=")
        .nth(1)
        .and_then(|rest| rest.split(';').next()?.parse::<i64>().ok());
    if let Some(errno) = errno {
        act.tell("its syscall", -errno);
    } else if said.contains("not permitted") {
        act.tell("its syscall", -i64::from(libc::EPERM));
    }
}

pub(crate) fn daemonize(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join(SECRET));
    let program = b"/bin/cat\0";
    let table: Vec<u8> = [program.as_ptr() as u64, path.as_ptr() as u64, 0]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    daemonized(act, || {
        sys::call(libc::SYS_dup2, &mut [N(1), N(2)]);
        sys::call(
            libc::SYS_execve,
            &mut [In(program), In(&table), In(&[0u8; 8])],
        )
    });
}

pub(crate) fn daemonize_connect(act: &mut Act<'_>) {
    let port = act.scene.ports.tcp4;
    daemonized(act, || plain_connect(port));
}

pub(crate) fn into_cgroup(act: &mut Act<'_>) {
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let cgroup = act.open(root, libc::O_RDONLY | libc::O_DIRECTORY);
    let mut arguments = [0u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = cgroup as u64;
    let bytes = arguments.map(u64::to_ne_bytes);
    let port = act.scene.ports.tcp4;
    let child = sys::call(libc::SYS_clone3, &mut [In(bytes.as_flattened()), N(88)]);
    if child == 0 {
        let status = status_of(plain_connect(port));
        sys::call(libc::SYS_exit_group, &mut [N(status.into())]);
    }
    act.tell("clone3", child.min(0));
    if child > 0 {
        tell_child(act, "connect", child);
    }
}

pub(crate) fn continued(act: &mut Act<'_>) {
    let own = sys::call(libc::SYS_getpid, &mut []);
    let noise = sys::fork(|| {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            sys::call(libc::SYS_kill, &mut [N(own), N(libc::SIGCONT.into())]);
        }
        0
    });
    for _ in 0..5 {
        let done = plain_connect(act.scene.ports.tcp4);
        act.tell("connect", done);
    }
    sys::call(libc::SYS_kill, &mut [N(noise), N(libc::SIGKILL.into())]);
    sys::wait(noise);
}

pub(crate) fn traced(act: &mut Act<'_>) {
    const TRACEME: i64 = 0;
    const CONT: i64 = 7;
    const WALL: i64 = 0x4000_0000;
    let port = act.scene.ports.tcp4;
    let child = sys::fork(|| {
        sys::call(libc::SYS_ptrace, &mut [N(TRACEME), N(0), N(0), N(0)]);
        status_of(plain_connect(port))
    });
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut status = [0u8; 4];
        let waited = sys::call(
            libc::SYS_wait4,
            &mut [N(child), Out(&mut status), N(WALL), N(0)],
        );
        let status = i32::from_ne_bytes(status);
        if waited < 0 || libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            act.tell("connect", -i64::from(libc::WEXITSTATUS(status)));
            return;
        }
        if Instant::now() > end {
            sys::call(libc::SYS_kill, &mut [N(child), N(libc::SIGKILL.into())]);
        }
        // Whatever the signal was: it is not passed on.
        sys::call(libc::SYS_ptrace, &mut [N(CONT), N(child), N(0), N(0)]);
    }
}

extern "C" fn connect_in_child(port: *mut libc::c_void) -> i32 {
    status_of(plain_connect(port as usize as u16))
}

pub(crate) fn vforked(act: &mut Act<'_>) {
    let port = usize::from(act.scene.ports.tcp4) as *mut libc::c_void;
    let child = sys::vfork(connect_in_child, port);
    tell_child(act, "connect", child);
}

pub(crate) fn first_of_namespace(act: &mut Act<'_>) {
    let done = act.call(
        "unshare",
        libc::SYS_unshare,
        &mut [N(libc::CLONE_NEWPID.into())],
    );
    if done < 0 {
        return;
    }
    let port = act.scene.ports.tcp4;
    let child = sys::fork(|| status_of(plain_connect(port)));
    tell_child(act, "connect", child);
}

/// Where the handler below connects to.
static ELSEWHERE: AtomicU16 = AtomicU16::new(0);

extern "C" fn connect_elsewhere(_signal: i32) {
    let port = ELSEWHERE.swap(0, Ordering::SeqCst);
    if port != 0 {
        plain_connect(port);
    }
}

/// Held for the allowed place, and in the handler for the other one, in the same thread.
pub(crate) fn handler(act: &mut Act<'_>) {
    ELSEWHERE.store(act.scene.ports.tcp4, Ordering::SeqCst);
    sys::on_signal(libc::SIGCONT, connect_elsewhere);
    let done = plain_connect(act.scene.ports.approved_tcp4);
    act.tell("connect", done);
    // Where no signal came, nothing is held: the handler runs all the same.
    let own = sys::call(libc::SYS_getpid, &mut []);
    sys::call(libc::SYS_kill, &mut [N(own), N(libc::SIGCONT.into())]);
}

pub(crate) fn killed(act: &mut Act<'_>) {
    let port = act.scene.ports.tcp4;
    for wait_us in [1_000, 20_000, 100_000, 500_000] {
        let child = sys::fork(|| {
            loop {
                plain_connect(port);
            }
        });
        std::thread::sleep(Duration::from_micros(wait_us));
        sys::call(libc::SYS_kill, &mut [N(child), N(libc::SIGKILL.into())]);
        tell_child(act, "killed", child);
    }
}

pub(crate) fn connect32(act: &mut Act<'_>) {
    const SOCKET: u32 = 359;
    const CONNECT: u32 = 362;
    let Some(memory) = sys::shared(4096) else {
        return act.not_applicable("no memory below 2 GB");
    };
    memory[..16].copy_from_slice(&local4(act.scene.ports.tcp4));
    let fd = sys::call32(SOCKET, libc::AF_INET as u32, libc::SOCK_STREAM as u32, 0);
    act.tell("socket", fd.into());
    let done = sys::call32(CONNECT, fd as u32, memory.as_ptr() as u32, 16);
    act.tell("connect", done.into());
}

pub(crate) fn open32(act: &mut Act<'_>) {
    const OPEN: u32 = 5;
    let Some(memory) = sys::shared(4096) else {
        return act.not_applicable("no memory below 2 GB");
    };
    let path = sys::path(&act.scene.protected.join(SECRET));
    memory[..path.len()].copy_from_slice(&path);
    let fd = sys::call32(OPEN, memory.as_ptr() as u32, 0, 0);
    act.tell("open", fd.into());
    act.read(fd.into());
}

pub(crate) fn connect_x32(act: &mut Act<'_>) {
    const X32: i64 = 0x4000_0000;
    let fd = act.socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    let to = local4(act.scene.ports.tcp4);
    let done = act.call(
        "connect (x32)",
        libc::SYS_connect | X32,
        &mut [N(fd), In(&to), N(16)],
    );
    if done == -i64::from(libc::ENOSYS) {
        act.not_applicable("this kernel has no x32");
    }
    close(fd);
}

/// How often, at least, and how long.
const TRIES: u32 = 15;
const TRYING: Duration = Duration::from_secs(1);

/// A child that writes one and the other there, in turns, until it is killed.
fn rewriter(at: usize, one: &[u8], other: &[u8]) -> i64 {
    sys::fork(|| {
        loop {
            for bytes in [one, other] {
                // SAFETY: memory of `sys::shared`, larger than any of the two; the race is the
                // attack.
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len());
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    })
}

pub(crate) fn rewritten_address(act: &mut Act<'_>) {
    let Some(memory) = sys::shared(4096) else {
        return act.not_applicable("no shared memory");
    };
    let (approved, other) = (
        local4(act.scene.ports.approved_tcp4),
        local4(act.scene.ports.tcp4),
    );
    memory[..16].copy_from_slice(&approved);
    let child = rewriter(memory.as_ptr() as usize, &approved, &other);
    let begin = Instant::now();
    let mut tries = 0;
    while tries < TRIES || begin.elapsed() < TRYING {
        tries += 1;
        let fd = sys::call(libc::SYS_socket, &mut [N(2), N(1), N(0)]);
        let done = sys::call(libc::SYS_connect, &mut [N(fd), In(&memory[..16]), N(16)]);
        act.tell("connect", done);
        close(fd);
    }
    sys::call(libc::SYS_kill, &mut [N(child), N(libc::SIGKILL.into())]);
    sys::wait(child);
}

pub(crate) fn rewritten_path(act: &mut Act<'_>) {
    let Some(memory) = sys::shared(4096) else {
        return act.not_applicable("no shared memory");
    };
    let mut harmless = sys::path(&act.scene.sibling.join("other"));
    let mut secret = sys::path(&act.scene.protected.join(SECRET));
    let len = harmless.len().max(secret.len());
    harmless.resize(len, 0);
    secret.resize(len, 0);
    memory[..len].copy_from_slice(&harmless);
    let child = rewriter(memory.as_ptr() as usize, &harmless, &secret);
    let begin = Instant::now();
    let mut tries = 0;
    // Until the other path was met, however it went.
    let mut met = false;
    while tries < TRIES || !met && begin.elapsed() < TRYING * 10 {
        tries += 1;
        let fd = sys::call(
            libc::SYS_openat,
            &mut [N(libc::AT_FDCWD.into()), In(memory), N(0), N(0)],
        );
        act.tell("openat", fd.min(0));
        met |= fd < 0;
        if fd >= 0 {
            let mut bytes = [0u8; 64];
            let len = sys::call(libc::SYS_read, &mut [N(fd), Out(&mut bytes), N(64)]);
            let text = &bytes[..usize::try_from(len).unwrap_or(0)];
            met |= text != b"harmless\n";
            act.got(text);
            close(fd);
        }
    }
    sys::call(libc::SYS_kill, &mut [N(child), N(libc::SIGKILL.into())]);
    sys::wait(child);
}

pub(crate) fn other_name(act: &mut Act<'_>) {
    act.call(
        "prctl",
        libc::SYS_prctl,
        &mut [N(libc::PR_SET_NAME.into()), In(b"sysholdd\0")],
    );
    let done = plain_connect(act.scene.ports.tcp4);
    act.tell("connect", done);
}

/// The loader maps the program: it is never executed itself.
pub(crate) fn loader(act: &mut Act<'_>) {
    let program = act.scene.protected.join(PROGRAM);
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"];
    let found = loaders
        .iter()
        .find(|path| std::path::Path::new(path).exists());
    let Some(loader) = found else {
        return act.not_applicable("no dynamic loader here");
    };
    let marker = act.scene.marker.clone();
    let words = [
        loader.as_bytes(),
        program.as_os_str().as_encoded_bytes(),
        b"hello",
        marker.as_bytes(),
    ];
    act.execute(&words);
}

/// A copy of the attacker's own program, which reads the file.
pub(crate) fn memory_program(act: &mut Act<'_>) {
    let Ok(image) = std::fs::read(&act.scene.program) else {
        return act.not_applicable("the program cannot be read");
    };
    let fd = act.call(
        "memfd_create",
        libc::SYS_memfd_create,
        &mut [In(b"x\0"), N(0)],
    );
    let mut rest = image.as_slice();
    while !rest.is_empty() {
        let len = rest.len() as i64;
        let wrote = sys::call(libc::SYS_write, &mut [N(fd), In(rest), N(len)]);
        let Ok(wrote @ 1..) = usize::try_from(wrote) else {
            return act.not_applicable("memory for the program");
        };
        rest = &rest[wrote..];
    }
    let own = sys::call(libc::SYS_getpid, &mut []);
    let path = format!("/proc/{own}/fd/{fd}");
    let file = act.scene.protected.join(SECRET);
    act.execute(&[
        path.as_bytes(),
        b"show",
        file.as_os_str().as_encoded_bytes(),
    ]);
}

fn contained(act: &mut Act<'_>, tool: &str, words: &[&str]) {
    if !std::path::Path::new(tool).exists() {
        return act.not_applicable(format!("no {tool} here"));
    }
    let file = act.scene.protected.join(SECRET);
    let mut all: Vec<&[u8]> = vec![tool.as_bytes()];
    all.extend(words.iter().map(|word| word.as_bytes()));
    all.push(b"/bin/cat");
    all.push(file.as_os_str().as_encoded_bytes());
    let status = act.execute(&all);
    if status != 0 {
        // They say so in words; the error number is not theirs to keep.
        act.tell("refused", -i64::from(libc::EPERM));
    }
}

pub(crate) fn bubblewrap(act: &mut Act<'_>) {
    contained(act, "/usr/bin/bwrap", &["--ro-bind", "/", "/"]);
}

pub(crate) fn podman(act: &mut Act<'_>) {
    contained(act, "/usr/bin/podman", &["unshare"]);
}
