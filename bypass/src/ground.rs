//! The other end of every attack: folders, listeners, a victim. What happened is measured here.
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::act::Said;
use crate::catalogue::{Effect, Where};
use crate::scene::{FOLDER, LINKED, PROGRAM, Ports, SCRIPT, SECRET, Scene, Victim};
use crate::sys::{self, In, N};

/// Where the attacks happen. Its `protected` is what the daemon has to protect, and so is [`TMPFS`].
pub const ROOT: &str = "/var/lib/syshold-selftest";
/// On a tmpfs.
pub const TMPFS: &str = "/run/syshold-selftest";

/// The folders that a daemon has to protect for these attacks.
#[must_use]
pub fn protected() -> [PathBuf; 2] {
    [Path::new(ROOT).join("protected"), PathBuf::from(TMPFS)]
}

/// Names in `open` that stay from one attack to the next.
const STAYS: [&str; 8] = [
    "bind",
    "bind-sockets",
    "overlay",
    "mount",
    "unmount",
    LINKED,
    "set-user-id",
    "for-root",
];
const DEPTH: usize = 300;
const LONG_PATH: usize = 4000;
const LONG_NAME: usize = 65;

/// Whose files and processes it all is.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// What is known of the daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    pub pid: u32,
    pub pins: PathBuf,
    pub cgroup: PathBuf,
}

/// The harness's end. Dropping it takes everything away again.
#[derive(Debug)]
pub struct Ground {
    pub scene: Scene,
    servers: Servers,
    user: User,
    /// In every protected file: new for each attack.
    secret: String,
    /// Of files that are there for good.
    secrets: Vec<String>,
    inodes: BTreeMap<PathBuf, u64>,
    before: BTreeMap<PathBuf, Entry>,
    victim: Option<Child>,
    listens: bool,
}

#[derive(Debug)]
struct Servers {
    tcp4: TcpListener,
    tcp6: TcpListener,
    approved_tcp4: TcpListener,
    streams: TcpListener,
    udp4: UdpSocket,
    udp6: UdpSocket,
    approved_udp4: UdpSocket,
    approved_udp6: UdpSocket,
    unix: UnixListener,
    unix_datagram: UnixDatagram,
    named: UnixListener,
}

/// What a file is, as far as an attack could change it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: u32,
    content: Vec<u8>,
    marked: bool,
}

impl Ground {
    /// Makes everything, in a mount namespace of this process's own: to be called before it has
    /// threads. `program`: the attacker's.
    pub fn lay(user: User, program: &Path) -> io::Result<Self> {
        own_mounts()?;
        let root = Path::new(ROOT);
        clear(root)?;
        let [protected, tmpfs] = protected();
        let open = root.join("open");
        let sibling = root.join("protected-public");
        for folder in [root, &protected, &open, &sibling, &tmpfs] {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, Permissions::from_mode(0o755))?;
            chown(folder, Some(user.uid), Some(user.gid))?;
        }
        let servers = Servers::open(root)?;
        let long: PathBuf = long_path(&protected);
        let scene = Scene {
            deep: deep_path(&protected),
            long_name: protected.join("n".repeat(LONG_NAME)),
            long_path: long,
            uid: user.uid,
            gid: user.gid,
            ports: servers.ports()?,
            unix: root.join("sockets/stream"),
            unix_datagram: root.join("sockets/datagram"),
            abstract_name: ABSTRACT.to_owned(),
            daemon: 0,
            pins: PathBuf::new(),
            daemon_cgroup: PathBuf::new(),
            victim: Victim::default(),
            program: program.to_owned(),
            marker: token("marker")?,
            protected,
            tmpfs,
            open,
            sibling,
        };
        let mut ground = Self {
            secrets: vec![scene.marker.clone()],
            scene,
            servers,
            user,
            secret: String::new(),
            inodes: BTreeMap::new(),
            before: BTreeMap::new(),
            victim: None,
            listens: false,
        };
        ground.once()?;
        ground.renew()?;
        ground.mount();
        Ok(ground)
    }

    /// The daemon that these attacks are about.
    pub fn meet(&mut self, daemon: Daemon) {
        self.scene.daemon = daemon.pid;
        self.scene.pins = daemon.pins;
        self.scene.daemon_cgroup = daemon.cgroup;
    }

    /// What stays from one attack to the next.
    fn once(&mut self) -> io::Result<()> {
        let scene = self.scene.clone();
        for name in ["bind", "bind-sockets", "overlay", "mount", "unmount"] {
            self.folder(&scene.open.join(name))?;
        }
        self.folder(&scene.protected.join(FOLDER))?;
        for deep in [&scene.deep, &scene.long_path] {
            let mut folder = scene.protected.clone();
            let below = deep.strip_prefix(&scene.protected).unwrap_or(deep);
            for name in below.parent().into_iter().flat_map(Path::components) {
                folder.push(name);
                self.folder(&folder)?;
            }
        }
        self.write(&scene.protected.join(LINKED), b"")?;
        let link = scene.open.join(LINKED);
        fs::hard_link(scene.protected.join(LINKED), link)?;
        self.write(&scene.sibling.join("other"), b"harmless\n")?;
        let public = token("public")?;
        self.write(&scene.sibling.join(SECRET), public.as_bytes())?;
        let for_root = token("root")?;
        let file = scene.open.join("for-root");
        fs::write(&file, &for_root)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        self.secrets.extend([public, for_root]);
        let program = scene.open.join("set-user-id");
        fs::copy(&scene.program, &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o4755))?;
        let program = scene.protected.join(PROGRAM);
        fs::copy(&scene.program, &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        chown(&program, Some(self.user.uid), Some(self.user.gid))
    }

    /// Best effort: an attack whose mount is not there says so.
    fn mount(&self) {
        let open = &self.scene.open;
        bind(&self.scene.protected, &open.join("bind"));
        if let Some(sockets) = self.scene.unix.parent() {
            bind(sockets, &open.join("bind-sockets"));
        }
        let layers = format!(
            "lowerdir={}:{}\0",
            self.scene.protected.display(),
            self.scene.sibling.display()
        );
        mount(
            b"overlay\0",
            &open.join("overlay"),
            b"overlay\0",
            layers.as_bytes(),
        );
    }

    /// A process of the attacker's user that knows a secret and has the protected file open.
    pub fn place_victim(&mut self, root: bool) -> io::Result<()> {
        self.end_victim();
        let secret = token("victim")?;
        let mut command = Command::new(&self.scene.program);
        command
            .arg("victim")
            .arg(self.scene.protected.join(SECRET))
            .env_clear()
            .env("SECRET", &secret)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if !root {
            command.uid(self.user.uid).gid(self.user.gid);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let mut words = line.split_whitespace().filter_map(|word| word.parse().ok());
        let mut next = || words.next().unwrap_or(0);
        self.scene.victim = Victim {
            pid: child.id(),
            address: next(),
            len: next(),
            fd: i32::try_from(next()).unwrap_or(-1),
        };
        self.secrets.push(secret);
        self.victim = Some(child);
        Ok(())
    }

    fn end_victim(&mut self) {
        if let Some(mut child) = self.victim.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The protected file, read and write, and a connection: the attacker's end and ours.
    pub(crate) fn descriptors(&self) -> io::Result<(File, TcpStream, TcpStream)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.scene.protected.join(SECRET))?;
        let theirs = TcpStream::connect(self.servers.streams.local_addr()?)?;
        self.servers.streams.set_nonblocking(false)?;
        let (ours, _) = self.servers.streams.accept()?;
        ours.set_nonblocking(true)?;
        Ok((file, theirs, ours))
    }

    /// Everything as it was, with a new secret.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        self.servers.drain();
        self.listens = false;
        let scene = self.scene.clone();
        let moved = scene.open.join("moved-root");
        if !scene.protected.exists() && moved.exists() {
            fs::rename(moved, &scene.protected)?;
        }
        self.bring_back(&scene.protected.join(FOLDER))?;
        self.folder(&scene.protected.join(FOLDER))?;
        self.folder(&scene.protected.join("empty"))?;
        self.secret = token("secret")?;
        let text = format!("{}\n", self.secret);
        for file in [
            scene.protected.join(SECRET),
            scene.protected.join(LINKED),
            scene.protected.join(FOLDER).join(SECRET),
            scene.protected.join(FOLDER).join(".bashrc"),
            scene.deep.clone(),
            scene.long_name.clone(),
            scene.long_path.clone(),
            scene.tmpfs.join(SECRET),
        ] {
            self.bring_back(&file)?;
            self.write(&file, text.as_bytes())?;
        }
        let script = scene.protected.join(SCRIPT);
        self.bring_back(&script)?;
        self.write(
            &script,
            format!("#!/bin/sh\necho {}\n", self.secret).as_bytes(),
        )?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        for name in ["fresh", "approved"] {
            remove(&scene.protected.join(name));
        }
        for entry in fs::read_dir(&scene.open)?.filter_map(Result::ok) {
            if !STAYS.iter().any(|name| entry.file_name() == *name) {
                remove(&entry.path());
            }
        }
        // An attack may have taken it away.
        let unmount = scene.open.join("unmount");
        if fs::metadata(&unmount)?.dev() == fs::metadata(&scene.open)?.dev() {
            mount(b"tmpfs\0", &unmount, b"tmpfs\0", b"size=64k\0");
        }
        self.before = self.look();
        Ok(())
    }

    /// A file or folder that an attack has moved out comes back: others have it open by its inode.
    fn bring_back(&mut self, path: &Path) -> io::Result<()> {
        if let Some(ino) = self.inodes.get(path)
            && fs::symlink_metadata(path).map_or(0, |meta| meta.ino()) != *ino
        {
            let there = fs::read_dir(&self.scene.open)?.filter_map(Result::ok);
            for entry in there {
                if entry.metadata().is_ok_and(|meta| meta.ino() == *ino) {
                    remove(path);
                    fs::rename(entry.path(), path)?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        chown(path, Some(self.user.uid), Some(self.user.gid))?;
        self.inodes
            .insert(path.to_owned(), fs::symlink_metadata(path)?.ino());
        Ok(())
    }

    /// In place: others have it open, or a link to it.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        chown(path, Some(self.user.uid), Some(self.user.gid))?;
        let name = sys::path(path);
        sys::call(libc::SYS_removexattr, &mut [In(&name), In(MARK)]);
        self.inodes.insert(path.to_owned(), file.metadata()?.ino());
        Ok(())
    }

    fn look(&self) -> BTreeMap<PathBuf, Entry> {
        let mut found = BTreeMap::new();
        let folders = [
            self.scene.protected.clone(),
            self.scene.protected.join(FOLDER),
        ];
        for folder in folders {
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                let Ok(meta) = fs::symlink_metadata(&path) else {
                    continue;
                };
                let is_program = path.ends_with(PROGRAM);
                let content = if meta.is_file() && !is_program {
                    fs::read(&path).unwrap_or_default()
                } else {
                    Vec::new()
                };
                let name = sys::path(&path);
                let marked = sys::call(libc::SYS_lgetxattr, &mut [In(&name), In(MARK), N(0), N(0)]);
                let entry = Entry {
                    mode: meta.mode(),
                    owner: meta.uid(),
                    content,
                    marked: marked >= 0,
                };
                found.insert(path, entry);
            }
        }
        found
    }

    /// While an attack is under way: tries what only works meanwhile.
    pub(crate) fn meanwhile(&mut self, effect: Effect) {
        if effect != Effect::Listens || self.listens {
            return;
        }
        let to = (std::net::Ipv4Addr::LOCALHOST, self.scene.ports.listen).into();
        self.listens = TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_ok();
    }

    /// Did it happen?
    pub(crate) fn happened(&self, effect: Effect, said: Option<&Said>, ends: Ends<'_>) -> bool {
        let is_secret = |text: &str| {
            text.contains(&self.secret) || self.secrets.iter().any(|one| text.contains(one))
        };
        match effect {
            Effect::Secret => said.is_some_and(|said| is_secret(&said.got)),
            Effect::Copied => fs::read_dir(&self.scene.open).is_ok_and(|mut entries| {
                entries.any(|entry| {
                    entry.is_ok_and(|entry| {
                        entry.file_name() != LINKED
                            && fs::read(entry.path()).is_ok_and(|bytes| {
                                String::from_utf8_lossy(&bytes).contains(&self.secret)
                            })
                    })
                })
            }),
            Effect::Changed => self.look() != self.before,
            Effect::Arrived(place) => self.servers.arrived(place, ends),
            Effect::Listens => self.listens,
            Effect::Returned => said.is_some_and(|said| said.did),
        }
    }
}

/// Our ends of the attacker's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) inherited: &'a TcpStream,
    pub(crate) given: &'a TcpStream,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.end_victim();
        for name in ["unmount", "overlay", "bind-sockets", "bind", "mount"] {
            let path = sys::path(&self.scene.open.join(name));
            let detach = libc::MNT_DETACH.into();
            sys::call(libc::SYS_umount2, &mut [In(&path), N(detach)]);
        }
        let _ = fs::remove_dir_all(TMPFS);
        let _ = clear(Path::new(ROOT));
    }
}

const ABSTRACT: &str = "syshold-selftest";
const MARK: &[u8] = b"user.attack\0";

impl Servers {
    fn open(root: &Path) -> io::Result<Self> {
        let tcp = |address: &str| -> io::Result<TcpListener> {
            let listener = TcpListener::bind((address, 0))?;
            // std listens with a backlog of 128, and nobody accepts until an attack is over.
            let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
            sys::call(libc::SYS_listen, &mut [N(fd.into()), N(4096)]);
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let udp = |address: &str| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((address, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let folder = root.join("sockets");
        fs::create_dir_all(&folder)?;
        let name = SocketAddr::from_abstract_name(ABSTRACT)?;
        let servers = Self {
            tcp4: tcp("127.0.0.1")?,
            tcp6: tcp("::1")?,
            approved_tcp4: tcp("127.0.0.1")?,
            streams: TcpListener::bind("127.0.0.1:0")?,
            udp4: udp("127.0.0.1")?,
            udp6: udp("::1")?,
            approved_udp4: udp("127.0.0.1")?,
            approved_udp6: udp("::1")?,
            unix: UnixListener::bind(folder.join("stream"))?,
            unix_datagram: UnixDatagram::bind(folder.join("datagram"))?,
            named: UnixListener::bind_addr(&name)?,
        };
        for socket in ["stream", "datagram"] {
            fs::set_permissions(folder.join(socket), Permissions::from_mode(0o777))?;
        }
        servers.unix.set_nonblocking(true)?;
        servers.unix_datagram.set_nonblocking(true)?;
        servers.named.set_nonblocking(true)?;
        Ok(servers)
    }

    fn ports(&self) -> io::Result<Ports> {
        // Free a moment ago: nobody else is given it soon.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Ports {
            tcp4: self.tcp4.local_addr()?.port(),
            tcp6: self.tcp6.local_addr()?.port(),
            udp4: self.udp4.local_addr()?.port(),
            udp6: self.udp6.local_addr()?.port(),
            approved_tcp4: self.approved_tcp4.local_addr()?.port(),
            approved_udp4: self.approved_udp4.local_addr()?.port(),
            approved_udp6: self.approved_udp6.local_addr()?.port(),
            listen,
        })
    }

    fn drain(&self) {
        for listener in [&self.tcp4, &self.tcp6, &self.approved_tcp4] {
            while listener.accept().is_ok() {}
        }
        for socket in [
            &self.udp4,
            &self.udp6,
            &self.approved_udp4,
            &self.approved_udp6,
        ] {
            while socket.recv(&mut [0; 64]).is_ok() {}
        }
        while self.unix.accept().is_ok() {}
        while self.named.accept().is_ok() {}
        while self.unix_datagram.recv(&mut [0; 64]).is_ok() {}
    }

    fn arrived(&self, place: Where, ends: Ends<'_>) -> bool {
        let mut byte = [0; 1];
        let mut from = |mut stream: &TcpStream| stream.read(&mut byte).is_ok_and(|len| len > 0);
        match place {
            Where::Tcp4 => self.tcp4.accept().is_ok(),
            Where::Tcp6 => self.tcp6.accept().is_ok(),
            Where::ApprovedTcp4 => self.approved_tcp4.accept().is_ok(),
            Where::Udp4 => self.udp4.recv(&mut [0; 64]).is_ok(),
            Where::Udp6 => self.udp6.recv(&mut [0; 64]).is_ok(),
            Where::ApprovedUdp4 => self.approved_udp4.recv(&mut [0; 64]).is_ok(),
            Where::Unix => self.unix.accept().is_ok(),
            Where::UnixDatagram => self.unix_datagram.recv(&mut [0; 64]).is_ok(),
            Where::Abstract => self.named.accept().is_ok(),
            Where::Stream => from(ends.inherited),
            Where::GivenStream => from(ends.given),
        }
    }
}

/// What this process mounts is nobody else's.
fn own_mounts() -> io::Result<()> {
    let unshared = sys::call(libc::SYS_unshare, &mut [N(libc::CLONE_NEWNS.into())]);
    if unshared < 0 {
        return Err(io::Error::from_raw_os_error(-unshared as i32));
    }
    let private = (libc::MS_REC | libc::MS_PRIVATE) as i64;
    sys::call(
        libc::SYS_mount,
        &mut [In(b"none\0"), In(b"/\0"), N(0), N(private), N(0)],
    );
    Ok(())
}

fn mount(what: &[u8], at: &Path, kind: &[u8], data: &[u8]) -> i64 {
    let at = sys::path(at);
    sys::call(
        libc::SYS_mount,
        &mut [In(what), In(&at), In(kind), N(0), In(data)],
    )
}

fn bind(what: &Path, at: &Path) {
    let (what, at) = (sys::path(what), sys::path(at));
    let flags = libc::MS_BIND as i64;
    sys::call(
        libc::SYS_mount,
        &mut [In(&what), In(&at), In(b"none\0"), N(flags), N(0)],
    );
}

/// Removes what an earlier run left, and only a folder of ours.
fn clear(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let _ = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
}

fn deep_path(protected: &Path) -> PathBuf {
    let mut path = protected.join("deep");
    path.extend(std::iter::repeat_n("d", DEPTH));
    path.join(SECRET)
}

fn long_path(protected: &Path) -> PathBuf {
    let mut path = protected.join("long");
    let room = |path: &Path| LONG_PATH - 1 - SECRET.len() - path.as_os_str().len();
    while room(&path) > 1 {
        let len = (room(&path) - 1).min(250);
        path.push("l".repeat(len));
    }
    path.join(SECRET)
}

/// Words that nobody can guess.
fn token(what: &str) -> io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{what}-{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_long_and_deep_as_they_say() {
        let folder = Path::new("/var/lib/syshold-selftest/protected");
        assert_eq!(long_path(folder).as_os_str().len(), LONG_PATH);
        assert!(deep_path(folder).components().count() > DEPTH);
    }
}
