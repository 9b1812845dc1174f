//! What is protected beside the policy's own paths: this program's files, file systems that are
//! mounted below a root, and other names of what lies there.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use syshold_abi::{CLASS_OWN, CLASS_OWN_PROGRAMS, Root};

use crate::kernel::PINS;
use crate::policy;

/// Nobody governed reads these, whatever the policy says: policy, ledger, keys, sockets, pins,
/// and those of a gateway on the same host.
const OWN: [&str; 7] = [
    "/etc/syshold",
    "/var/lib/syshold",
    "/run/syshold",
    "/etc/syshold-approver",
    "/var/lib/syshold-approver",
    "/var/lib/private/syshold-approver",
    "/run/syshold-approver",
];
/// Nobody governed changes these.
const OWN_PROGRAMS: [&str; 6] = [
    "/usr/sbin/sysholdd",
    "/usr/bin/syshold",
    "/usr/bin/syshold-approver",
    "/usr/lib/systemd/system/sysholdd.service",
    "/usr/lib/systemd/system/syshold-approver.service",
    "/usr/lib/sysusers.d/syshold.conf",
];
/// Most entries below all roots that are looked at for second names.
const MOST_ENTRIES: usize = 200_000;
/// Most second names that are enrolled: the kernel's table holds 4096 roots.
const MOST_LINKS: usize = 2048;

/// A path to enrol, and what it means.
#[derive(Clone, Debug)]
pub(super) struct Enrol {
    pub(super) path: PathBuf,
    pub(super) root: Root,
}

/// Own files that are there.
pub(super) fn own() -> Vec<Enrol> {
    let of = |class: u64| {
        move |path: PathBuf| Enrol {
            path,
            root: Root {
                classes: class,
                ..Root::default()
            },
        }
    };
    let files = OWN.iter().map(PathBuf::from).chain([PathBuf::from(PINS)]);
    let programs = OWN_PROGRAMS.iter().map(PathBuf::from);
    files
        .map(of(CLASS_OWN))
        .chain(
            programs
                .chain(std::env::current_exe())
                .map(of(CLASS_OWN_PROGRAMS)),
        )
        .filter(|own| own.path.exists())
        .collect()
}

/// Mount points below the roots: there the walk up the dentries ends at the mounted file
/// system's own root.
pub(super) fn mounted_below(roots: &[policy::Root]) -> Vec<Enrol> {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else {
        return Vec::new();
    };
    let points: Vec<PathBuf> = table.lines().filter_map(mount_point).collect();
    let mut found = Vec::new();
    for root in roots {
        // Links on the way do not count in mountinfo.
        let path = fs::canonicalize(&root.path).unwrap_or_else(|_| root.path.clone());
        let below = points
            .iter()
            .filter(|point| **point != path && point.starts_with(&path));
        found.extend(below.map(|point| Enrol {
            path: point.clone(),
            root: root.to_abi(),
        }));
    }
    found
}

/// The fifth field, in which blanks are written in octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let digits = after.get(..3)?;
        text.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        rest = after.get(3..)?;
    }
    text.push_str(rest);
    Some(PathBuf::from(text))
}

/// Files below the roots that have more than one name: the other name leads past the root.
/// `classes` says what a path means; `missing` is told when there was too much to look at.
pub(super) fn linked_below(
    roots: &[policy::Root],
    classes: impl Fn(&Path) -> u64,
    missing: &mut Vec<String>,
) -> Vec<Enrol> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    // A pattern's beginning may be half the disk; what a pattern means is told by its name anyway.
    for root in roots.iter().filter(|root| root.classes.0 != 0) {
        let mut folders = vec![root.path.clone()];
        while let Some(folder) = folders.pop() {
            for path in entries(&folder) {
                looked_at += 1;
                if looked_at > MOST_ENTRIES || found.len() >= MOST_LINKS {
                    missing.push(format!(
                        "not all of {} was searched for files with more than one name",
                        root.path.display()
                    ));
                    return found;
                }
                let Ok(meta) = fs::symlink_metadata(&path) else {
                    continue;
                };
                if meta.is_dir() {
                    folders.push(path);
                } else if meta.is_file() && meta.nlink() > 1 {
                    let root = Root {
                        classes: classes(&path),
                        ..Root::default()
                    };
                    found.extend((root.classes != 0).then_some(Enrol { path, root }));
                }
            }
        }
    }
    found
}

/// A root may be a file itself.
fn entries(folder: &Path) -> Vec<PathBuf> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => vec![folder.to_owned()],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let line = "36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext4 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(mount_point("too short"), None);
    }

    #[test]
    fn a_second_name_is_found_and_a_single_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("one"), "1").unwrap();
        fs::write(inside.join("two"), "2").unwrap();
        fs::hard_link(inside.join("two"), folder.path().join("outside")).unwrap();
        let root = policy::Root {
            path: inside.clone(),
            classes: crate::request::Classes(4),
            glob_classes: crate::request::Classes(0),
            suffix: Vec::new(),
        };
        let mut missing = Vec::new();
        let found = linked_below(&[root], |_| 4, &mut missing);
        let paths: Vec<_> = found.iter().map(|enrol| enrol.path.clone()).collect();
        assert_eq!((paths, missing), (vec![inside.join("two")], Vec::new()));
        assert_eq!(found[0].root.classes, 4);
    }
}
