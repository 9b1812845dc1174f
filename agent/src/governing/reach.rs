//! What an agent may reach beside its rules, from the policy's names to what the kernel compares:
//! sockets by folder and name, devices by number; and the home folders of this host.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use syshold_abi::{InodeKey, Place, name_hash};

use crate::policy::{Glob, PathNames, Policy, Socket};

/// Sockets that every program uses and that hand nothing on: the log, and word to systemd that a
/// service is ready.
const EVERYBODYS: [&str; 4] = [
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
    "/run/systemd/journal/dev-log",
    "/run/systemd/notify",
];
/// Most home folders looked at.
const MOST_HOMES: usize = 64;
/// Most entries of /dev looked at for one pattern.
const MOST_ENTRIES: usize = 65_536;
/// Users below this are of the system; their homes are data of services.
const FIRST_PERSON: u32 = 1000;
const NOBODY: u32 = 65_534;

/// Sockets with a path: where they are now, and whose agents may reach them, a bit each.
pub(super) fn sockets(policy: &Policy) -> BTreeMap<PathBuf, u64> {
    let mut sockets = BTreeMap::new();
    for path in EVERYBODYS {
        sockets.insert(resolved(Path::new(path)), u64::MAX);
    }
    for (agent, agent_of) in policy.agents().iter().enumerate() {
        for socket in &agent_of.exceptions.sockets {
            if let Socket::Path(path) = socket {
                *sockets.entry(resolved(path)).or_insert(0) |= 1 << agent;
            }
        }
    }
    sockets
}

/// The kernel compares where a socket was bound: links on the way there do not count.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let folder = path
        .parent()
        .and_then(|folder| fs::canonicalize(folder).ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Whether somebody named that socket; those everybody uses may be missing.
pub(super) fn is_expected(agents: u64) -> bool {
    agents != u64::MAX
}

/// The kernel's name of a socket in a folder it knows.
pub(super) fn place(folder: InodeKey, path: &Path) -> Option<Place> {
    let name = path.file_name()?.as_bytes();
    Some(Place {
        ino: folder.ino,
        name: hash(name),
        dev: folder.dev,
        _pad: 0,
    })
}

/// Abstract sockets, and whose agents may reach them.
pub(super) fn abstract_sockets(policy: &Policy) -> HashMap<Place, u64> {
    let mut places = HashMap::new();
    for (agent, agent_of) in policy.agents().iter().enumerate() {
        for socket in &agent_of.exceptions.sockets {
            if let Socket::Abstract(name) = socket {
                let place = Place {
                    name: hash(name.as_bytes()),
                    ..Place::default()
                };
                *places.entry(place).or_insert(0) |= 1 << agent;
            }
        }
    }
    places
}

fn hash(name: &[u8]) -> u64 {
    let words = name.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    name_hash(u32::try_from(name.len()).unwrap_or(u32::MAX), words)
}

/// Character devices by their number as the kernel has it, and whose agents may open them.
pub(super) fn devices(policy: &Policy, missing: &mut Vec<String>) -> BTreeMap<u32, u64> {
    let mut devices = BTreeMap::new();
    for (agent, agent_of) in policy.agents().iter().enumerate() {
        for glob in &agent_of.exceptions.devices {
            let found = matching(glob);
            if found.is_empty() {
                missing.push(format!("no character device `{glob}` on this host"));
            }
            for number in found {
                *devices.entry(number).or_insert(0) |= 1 << agent;
            }
        }
    }
    devices
}

fn matching(glob: &Glob) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut looked = 0;
    let mut paths = vec![glob.split().root];
    while let Some(path) = paths.pop() {
        looked += 1;
        // Links are followed once, at the name itself: `/dev/cdrom`.
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if meta.is_dir() && looked < MOST_ENTRIES {
            let entries = fs::read_dir(&path).into_iter().flatten();
            let entries = entries.filter_map(Result::ok);
            let real = entries.filter(|entry| {
                let link_to_folder =
                    entry.file_type().is_ok_and(|kind| kind.is_symlink()) && entry.path().is_dir();
                !link_to_folder
            });
            paths.extend(real.map(|entry| entry.path()));
        } else if meta.file_type().is_char_device()
            && PathNames::of(path.as_os_str().as_bytes()).is_some_and(|names| glob.matches(&names))
        {
            let rdev = meta.rdev();
            // As the kernel packs it, not as stat does.
            let number = major(rdev) << 20 | minor(rdev);
            found.extend(u32::try_from(number).ok());
        }
    }
    found
}

/// Home folders: root's, those of people, and whatever is in /home.
pub(super) fn homes() -> Vec<PathBuf> {
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let mut homes = homes_in(&String::from_utf8_lossy(&passwd));
    if let Ok(entries) = fs::read_dir("/home") {
        let folders = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        homes.extend(folders.map(|entry| entry.path()));
    }
    homes.into_iter().take(MOST_HOMES).collect()
}

fn homes_in(passwd: &str) -> BTreeSet<PathBuf> {
    let people = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let uid: u32 = fields.nth(2)?.parse().ok()?;
        let home = Path::new(fields.nth(2)?);
        let person = uid == 0 || uid >= FIRST_PERSON && uid != NOBODY;
        let real = home.is_absolute() && home.parent().is_some();
        (person && real).then(|| home.to_owned())
    });
    people.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse;

    fn policy(lines: &str) -> Policy {
        let text = format!(
            "[[govern]]\nname = \"a\"\nowner = \"o\"\n[[govern]]\nname = \"b\"\nowner = \"o\"\n{lines}\n"
        );
        parse(&text, "agent.toml").unwrap()
    }

    #[test]
    fn a_name_is_hashed_as_the_kernel_does() {
        // One word and a half, the rest NULs; the length tells "a" from "a\0".
        let expected = name_hash(
            11,
            [
                u64::from_le_bytes(*b".s.PGSQL"),
                u64::from_le_bytes(*b".54\0\0\0\0\0"),
            ]
            .into_iter(),
        );
        assert_eq!(hash(b".s.PGSQL.54"), expected);
        assert_ne!(hash(b"a"), hash(b"a\0"));
    }

    #[test]
    fn sockets_are_found_where_they_were_bound() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap().join("real");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let lines = format!("sockets = [\"{}\", \"@x\"]", link.display());
        // The socket is not there: what is named counts. Then it is.
        let named = fs::canonicalize(folder.path()).unwrap().join("link");
        assert_eq!(sockets(&policy(&lines)).get(&named), Some(&0b10));
        fs::write(&real, "").unwrap();
        assert_eq!(sockets(&policy(&lines)).get(&real), Some(&0b10));
        let places = abstract_sockets(&policy(&lines));
        let [(place, agents)] = places.into_iter().collect::<Vec<_>>()[..] else {
            panic!();
        };
        assert_eq!((place.ino, place.dev, place.name), (0, 0, hash(b"x")));
        assert_eq!(agents, 0b10);
    }

    #[test]
    fn devices_are_known_by_number() {
        let mut missing = Vec::new();
        let found = devices(
            &policy("devices = [\"/dev/nul*\", \"/dev/none-of-this\"]"),
            &mut missing,
        );
        assert_eq!(found.get(&(1 << 20 | 3)), Some(&0b10), "{found:?}");
        assert_eq!(found.len(), 1);
        assert!(missing[0].contains("none-of-this"), "{missing:?}");
    }

    #[test]
    fn homes_are_those_of_people() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:/bin/false\n\
             ann:x:1000:1000:Ann:/srv/ann:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n\
             odd:x:1001:1001::/:/bin/sh\nshort:x:1002\n";
        let expected: Vec<PathBuf> = vec!["/root".into(), "/srv/ann".into()];
        assert_eq!(homes_in(passwd).into_iter().collect::<Vec<_>>(), expected);
    }
}
