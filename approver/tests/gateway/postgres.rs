//! A PostgreSQL server of Debian's on loopback: TLS or nothing, a password.
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// `nobody`: the server refuses to be root.
const NOBODY: u32 = 65534;
const PASSWORD: &str = "pässword with spaces";

pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    child: Child,
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("run `cargo xtask setup`");
    let newest = versions
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .parse()
                .unwrap_or(0)
        });
    newest.expect("run `cargo xtask setup`").join("bin")
}

/// A program of the server's, as the user that owns the folder.
fn program(name: &str, dir: &Path) -> Command {
    let owner = std::fs::metadata(dir).unwrap().uid();
    let mut command = Command::new(programs().join(name));
    if std::fs::metadata("/proc/self").unwrap().uid() != owner {
        command.uid(owner).gid(NOBODY);
    }
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8");
    command
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        file("password", &format!("{PASSWORD}\n"));
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        file("server.pem", &own.cert.pem());
        file("server.key", &own.signing_key.serialize_pem());
        file(
            "hba",
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
        );
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        for name in ["password", "server.pem", "server.key", "hba", "."] {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join(name);
            if name == "server.key" {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            if root {
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let made = program("initdb", dir.path())
            .args([
                "-D",
                "data",
                "-U",
                "syshold",
                "--pwfile=password",
                "-E",
                "UTF8",
            ])
            .args(["--auth=scram-sha-256", "--no-sync", "--no-instructions"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = program("postgres", dir.path())
            .args(["-D", "data", "-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", &format!("unix_socket_directories={}", at(""))])
            .args(["-c", &format!("hba_file={}", at("hba")), "-c", "ssl=on"])
            .args(["-c", &format!("ssl_cert_file={}", at("server.pem"))])
            .args(["-c", &format!("ssl_key_file={}", at("server.key"))])
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { dir, port, child };
        let start = Instant::now();
        while server.psql("SELECT 1").is_none() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What a gateway's settings say of this server.
    pub(crate) fn settings(&self) -> String {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        format!(
            "[postgres]\nurl = \"postgresql://syshold@localhost:{}/postgres\"\npassword_file = \"{}\"\nca_file = \"{}\"\n",
            self.port,
            at("password"),
            at("server.pem")
        )
    }

    /// The rows, by the server's own client.
    pub(crate) fn psql(&self, sql: &str) -> Option<String> {
        let said = program("psql", self.dir.path())
            .args(["-h", &self.dir.path().display().to_string()])
            .args([
                "-p",
                &self.port.to_string(),
                "-U",
                "syshold",
                "-d",
                "postgres",
            ])
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        said.status.success().then(|| text.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: at once, and without leaving shared memory behind.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &pid]).status();
        let _ = self.child.wait();
    }
}
