//! Where everything is that an attack is about. The secrets themselves are not in it: an attacker
//! that says one has read it.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Made by [`crate::ground::Ground`], read by attacks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scene {
    /// The protected folder, and one on a tmpfs.
    pub protected: PathBuf,
    pub tmpfs: PathBuf,
    /// A folder that is not protected, and one whose name begins like the protected one's.
    pub open: PathBuf,
    pub sibling: PathBuf,
    /// Protected files in odd places.
    pub deep: PathBuf,
    pub long_name: PathBuf,
    pub long_path: PathBuf,
    /// Who attacks without being root.
    pub uid: u32,
    pub gid: u32,
    pub ports: Ports,
    /// Unix sockets of an ungoverned program.
    pub unix: PathBuf,
    pub unix_datagram: PathBuf,
    pub abstract_name: String,
    pub daemon: u32,
    /// The folder of the daemon's pins, and its cgroup.
    pub pins: PathBuf,
    pub daemon_cgroup: PathBuf,
    pub victim: Victim,
    /// The program of the attacks, for those that execute one, and what the protected copy of it
    /// is to say when it runs.
    pub program: PathBuf,
    pub marker: String,
}

/// All on loopback. What goes to an approved one is allowed after it was held.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Ports {
    pub tcp4: u16,
    pub tcp6: u16,
    pub udp4: u16,
    pub udp6: u16,
    pub approved_tcp4: u16,
    pub approved_udp4: u16,
    pub approved_udp6: u16,
    /// Nobody's; the attacker is to listen there.
    pub listen: u16,
}

/// A process of the same user that is not governed and knows a secret.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Victim {
    pub pid: u32,
    /// Where in its memory the secret is, and how long it is.
    pub address: u64,
    pub len: u64,
    /// Its descriptor of the protected file.
    pub fd: i32,
}

/// Names inside the protected folder.
pub const SECRET: &str = "secret";
pub const SCRIPT: &str = "script";
pub const PROGRAM: &str = "program";
pub const LINKED: &str = "linked";
pub const FOLDER: &str = "folder";
/// A file of this name is allowed after it was held.
pub const APPROVED: &str = "approved";
