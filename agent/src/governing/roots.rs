//! What is protected beside the policy's own paths: this program's files, file systems that are
//! mounted below a root, and other names of what lies there.
use std::collections::BTreeMap;
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

/// The folders on the way to these: who moves one away, and puts another in its place, would have
/// the policy's path mean something else.
pub(super) fn on_the_way<'a>(roots: impl Iterator<Item = (&'a Path, &'a Root)>) -> Vec<Enrol> {
    let mut found: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for (path, root) in roots {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let ways = path.ancestors().skip(1).chain(real.ancestors().skip(1));
        for folder in ways {
            *found.entry(folder.to_owned()).or_default() |= root.classes | root.glob_classes;
        }
    }
    let enrol = |(path, leads_to)| Enrol {
        path,
        root: Root {
            leads_to,
            ..Root::default()
        },
    };
    found.into_iter().map(enrol).collect()
}

/// Mount points below the roots: there the walk up the dentries ends at the mounted file
/// system's own root. And where an overlay shows what lies below a root: what is deleted or moved
/// through it, the kernel tells of there only.
pub(super) fn mounted(roots: &[policy::Root]) -> Vec<Enrol> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<PathBuf> = table.lines().filter_map(mount_point).collect();
    let overlays: Vec<_> = table.lines().filter_map(overlay).collect();
    let mut found = Vec::new();
    for root in roots {
        let path = real(&root.path);
        let abi = root.to_abi();
        let below = points
            .iter()
            .filter(|point| **point != path && point.starts_with(&path))
            .map(|point| Enrol {
                path: point.clone(),
                root: abi,
            });
        found.extend(below);
        // A pattern speaks of the root's own names, not of those that are shown.
        let all = Root {
            classes: abi.classes | abi.glob_classes,
            glob_classes: 0,
            ..abi
        };
        let shown = overlays
            .iter()
            .filter_map(|(point, upper)| shown(&path, point, upper))
            .map(|path| Enrol { path, root: all });
        found.extend(shown);
    }
    found
}

/// Links on the way do not count in mountinfo.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Where an overlay shows what lies below a root: the place of the root in it, or the whole of it
/// where the layer is a part of the root.
fn shown(root: &Path, point: &Path, upper: &Path) -> Option<PathBuf> {
    if upper.starts_with(root) {
        return Some(point.to_owned());
    }
    Some(point.join(root.strip_prefix(upper).ok()?))
}

/// The mount point of an overlay and the layer that it writes to, as `ovl_show_options` has it; one
/// that the mounter named from its own folder is not known. The others are never written to.
fn overlay(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (_, described) = line.split_once(" - ")?;
    let mut fields = described.split(' ');
    if fields.next() != Some("overlay") {
        return None;
    }
    let upper = fields
        .nth(1)?
        .split(',')
        .find_map(|option| option.strip_prefix("upperdir="))?;
    let upper = PathBuf::from(unescaped(upper)?);
    let known = upper.is_absolute();
    known.then_some((mount_point(line)?, real(&upper)))
}

/// The fifth field.
fn mount_point(line: &str) -> Option<PathBuf> {
    unescaped(line.split(' ').nth(4)?).map(PathBuf::from)
}

/// Blanks and what separates are written in octal there (`mangle_path`).
fn unescaped(field: &str) -> Option<String> {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let digits = after.get(..3)?;
        text.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        rest = after.get(3..)?;
    }
    text.push_str(rest);
    Some(text)
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
    fn an_overlay_shows_what_its_upper_layer_holds() {
        let line = "36 35 0:50 / /mnt/o\\040v rw shared:9 - overlay none rw,lowerdir=/l:/srv/pii/a,upperdir=/u\\054p,workdir=/w";
        let (point, upper) = overlay(line).unwrap();
        assert_eq!(point, Path::new("/mnt/o v"));
        assert_eq!(upper, Path::new("/u,p"));
        let shown = |root: &str| shown(Path::new(root), &point, &upper);
        assert_eq!(shown("/u,p"), Some(point.clone()));
        assert_eq!(shown("/"), Some(point.clone()));
        assert_eq!(shown("/u,p/keys"), Some(point.join("keys")));
        assert_eq!(shown("/u,p-public"), None);
        assert_eq!(shown("/srv/pii"), None);
        for other in [
            "36 35 0:5 / /mnt rw - tmpfs none rw,upperdir=/up",
            "36 35 0:5 / /mnt ro - overlay none ro,lowerdir=/a:/b",
            "36 35 0:5 / /mnt rw - overlay none rw,lowerdir=/a,upperdir=up,workdir=w",
        ] {
            assert_eq!(overlay(other), None, "{other}");
        }
    }

    #[test]
    fn every_folder_on_the_way_leads_to_a_root_whatever_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink(real.join("a"), real.join("link")).unwrap();
        let of = |classes| Root {
            classes,
            ..Root::default()
        };
        let (one, other) = (real.join("link/b"), real.join("a/x"));
        let roots = [(one.as_path(), &of(1)), (other.as_path(), &of(2))];
        let found = on_the_way(roots.into_iter());
        let leads = |path: &Path| {
            let at = found.iter().find(|enrol| enrol.path == path);
            at.map(|enrol| enrol.root.leads_to)
        };
        assert_eq!(leads(&real), Some(3));
        assert_eq!(leads(&real.join("link")), Some(1));
        assert_eq!(leads(&real.join("a")), Some(3));
        assert_eq!((leads(&one), leads(Path::new("/"))), (None, Some(3)));
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
