//! Sets of paths that rules may name without a `[[protect]]`. A set is watched only when a rule
//! names it. What a host does not have is no mistake.
use super::Glob;
use super::class::{Class, Home, Kind};
use super::raw::RawPolicy;

/// The lowest bit that a set here has; programs of rules have those below.
pub(super) const LOWEST_BIT: u32 = 60;

struct Set {
    name: &'static str,
    bit: u32,
    kind: Kind,
    paths: &'static [&'static str],
    homes: &'static [&'static str],
}

const SETS: [Set; 2] = [
    Set {
        name: "credentials",
        bit: 61,
        kind: Kind::Data,
        paths: &[
            "/etc/shadow",
            "/etc/shadow-",
            "/etc/gshadow",
            "/etc/gshadow-",
            "/etc/security/opasswd",
            "/etc/krb5.keytab",
            "/etc/ssh/ssh_host_dsa_key",
            "/etc/ssh/ssh_host_ecdsa_key",
            "/etc/ssh/ssh_host_ed25519_key",
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssl/private",
            "/etc/letsencrypt/archive",
            "/etc/letsencrypt/accounts",
            "/etc/wireguard",
            "/etc/openvpn",
            "/etc/NetworkManager/system-connections",
            "/etc/kubernetes/admin.conf",
            "/etc/kubernetes/pki",
            "/etc/rancher/k3s/k3s.yaml",
            "/var/lib/kubelet/pki",
            "/var/lib/rancher/k3s/server/cred",
            "/run/secrets",
            "/run/credentials",
            "/etc/credstore",
            "/etc/credstore.encrypted",
        ],
        homes: &[
            ".ssh",
            ".gnupg",
            ".aws",
            ".azure",
            ".kube",
            ".docker/config.json",
            ".config/gcloud",
            ".config/gh",
            ".config/containers/auth.json",
            ".config/op",
            ".config/git/credentials",
            ".git-credentials",
            ".netrc",
            ".npmrc",
            ".pypirc",
            ".pgpass",
            ".my.cnf",
            ".vault-token",
            ".terraform.d/credentials.tfrc.json",
            ".cargo/credentials.toml",
            ".password-store",
            ".local/share/keyrings",
            ".claude/.credentials.json",
            ".codex/auth.json",
        ],
    },
    Set {
        name: "persistence",
        bit: LOWEST_BIT,
        kind: Kind::Config,
        paths: &[
            "/etc/anacrontab",
            "/etc/cron.d",
            "/etc/cron.daily",
            "/etc/cron.hourly",
            "/etc/cron.monthly",
            "/etc/cron.weekly",
            "/etc/crontab",
            "/var/spool/cron",
            "/var/spool/at",
            "/etc/systemd",
            "/usr/lib/systemd",
            "/usr/local/lib/systemd",
            "/run/systemd/system",
            "/run/systemd/generator",
            "/etc/init.d",
            "/etc/rc.local",
            "/etc/ld.so.preload",
            "/etc/ld.so.conf",
            "/etc/ld.so.conf.d",
            "/etc/pam.d",
            "/etc/security",
            "/etc/sudoers",
            "/etc/sudoers.d",
            "/etc/doas.conf",
            "/etc/polkit-1",
            "/etc/dbus-1",
            "/etc/passwd",
            "/etc/group",
            "/etc/profile",
            "/etc/profile.d",
            "/etc/bash.bashrc",
            "/etc/zsh",
            "/etc/environment",
            "/etc/xdg/autostart",
            "/etc/ssh/sshd_config",
            "/etc/ssh/sshd_config.d",
            "/etc/udev/rules.d",
            "/usr/lib/udev/rules.d",
            "/etc/modprobe.d",
            "/etc/modules",
            "/etc/modules-load.d",
            "/etc/sysctl.conf",
            "/etc/sysctl.d",
            "/etc/tmpfiles.d",
            "/etc/binfmt.d",
            "/etc/logrotate.conf",
            "/etc/logrotate.d",
            "/etc/apt/apt.conf.d",
            "/etc/NetworkManager/dispatcher.d",
            "/etc/network",
            "/etc/update-motd.d",
            "/etc/default/grub",
            "/etc/initramfs-tools",
            "/boot",
        ],
        homes: &[
            ".bashrc",
            ".bash_profile",
            ".bash_login",
            ".bash_logout",
            ".profile",
            ".zshrc",
            ".zshenv",
            ".zprofile",
            ".zlogin",
            ".config/fish",
            ".config/autostart",
            ".config/environment.d",
            ".config/systemd",
            ".local/share/systemd",
            ".pam_environment",
            ".ssh/authorized_keys",
            ".ssh/rc",
            ".ssh/config",
        ],
    },
];

pub(super) fn is_one(name: &str) -> bool {
    SETS.iter().any(|set| set.name == name)
}

/// The sets that some rule names.
pub(super) fn named(raw: &RawPolicy) -> Vec<Class> {
    let words = || {
        raw.rule
            .iter()
            .flat_map(|rule| [&rule.data, &rule.after])
            .flatten()
            .flat_map(|texts| &texts.items)
    };
    SETS.iter()
        .filter(|set| words().any(|text| text.get_ref() == set.name))
        .map(Set::class)
        .collect()
}

/// Their names, for those who look for one.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SETS.iter().map(|set| set.name)
}

impl Set {
    fn class(&self) -> Class {
        let globs = self.paths.iter().filter_map(|path| Glob::parse(path).ok());
        Class {
            name: self.name.to_owned(),
            class: self.name.to_owned(),
            globs: globs.collect(),
            homes: self.homes.iter().map(|name| Home::new(name)).collect(),
            bit: self.bit,
            kind: self.kind,
            built_in: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_plain_and_every_bit_its_own() {
        for set in &SETS {
            let class = set.class();
            assert_eq!(class.globs.len(), set.paths.len(), "{}", set.name);
            for glob in &class.globs {
                assert!(glob.is_literal(), "{glob}");
            }
            let homes = ["/home/ann".into(), "/root".into()];
            let roots = class.roots(&homes);
            assert_eq!(roots.len(), set.paths.len() + 2 * set.homes.len());
            for root in roots {
                assert_eq!((root.classes, root.glob_classes.0), (class.bits(), 0));
                let path = root.path.join("below");
                let path = path.to_str().unwrap().as_bytes();
                assert!(class.means(&super::super::PathNames::of(path).unwrap()));
            }
        }
        assert_ne!(SETS[0].bit, SETS[1].bit);
        assert!(SETS.iter().all(|set| set.bit >= LOWEST_BIT && set.bit < 62));
    }
}
