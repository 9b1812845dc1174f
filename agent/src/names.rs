//! Names in rules, resolved and kept fresh.
//!
//! [`Names`] is a pure table; [`Resolver`] is the task that asks the host's resolver and tells
//! the driver what changed. The daemon's own look-ups are never governed.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How often a name is looked up; the resolver does not tell how long an answer lives.
const REFRESH: Duration = Duration::from_secs(30);
/// How long an address counts after the last answer that had it: connections and caches of the
/// programs outlive one answer, and round robin shows a part at a time.
const GRACE: Duration = Duration::from_secs(10 * 60);
/// Longest wait for one look-up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most addresses kept per name.
const MOST: usize = 64;
/// glibc and musl use no more `nameserver` lines.
const MOST_RESOLVERS: usize = 3;

/// The address the kernel connects to: IPv4-mapped is IPv4, unspecified is this host.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// A host name in its one spelling: lower case, no last dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name: use letters, digits, `-` and dots, at most 253")]
pub struct NotAHostName;

impl HostName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<Self, NotAHostName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // A last label of digits is a mistyped IPv4 address.
        let last = text.rsplit('.').next().unwrap_or_default();
        let address = last.bytes().all(|b| b.is_ascii_digit());
        if text.len() <= 253 && text.split('.').all(label) && !address {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(NotAHostName)
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which addresses a name has now. Pure: time is passed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    hosts: BTreeMap<HostName, BTreeMap<IpAddr, Instant>>,
}

impl Names {
    /// Whether `ip` is among the name's addresses.
    #[must_use]
    pub fn resolves_to(&self, host: &HostName, ip: IpAddr) -> bool {
        self.hosts
            .get(host)
            .is_some_and(|known| known.contains_key(&canonical(ip)))
    }

    pub fn addresses(&self, host: &HostName) -> impl Iterator<Item = IpAddr> {
        self.hosts
            .get(host)
            .into_iter()
            .flat_map(|known| known.keys().copied())
    }

    /// The names that have `ip` now, for people.
    pub fn names_of(&self, ip: IpAddr) -> impl Iterator<Item = &HostName> {
        let ip = canonical(ip);
        self.hosts
            .iter()
            .filter(move |(_, known)| known.contains_key(&ip))
            .map(|(host, _)| host)
    }

    /// Takes an answer. True if the set of addresses changed.
    pub fn learn(
        &mut self,
        host: &HostName,
        answer: impl IntoIterator<Item = IpAddr>,
        now: Instant,
    ) -> bool {
        let known = self.hosts.entry(host.clone()).or_default();
        let before: Vec<IpAddr> = known.keys().copied().collect();
        for ip in answer.into_iter().take(MOST) {
            known.insert(canonical(ip), now + GRACE);
        }
        while known.len() > MOST {
            let Some(oldest) = known
                .iter()
                .min_by_key(|(_, until)| **until)
                .map(|(ip, _)| *ip)
            else {
                break;
            };
            known.remove(&oldest);
        }
        !known.keys().copied().eq(before)
    }

    /// Forgets addresses whose grace is over. True if there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for known in self.hosts.values_mut() {
            let before = known.len();
            known.retain(|_, until| *until > now);
            changed |= known.len() != before;
        }
        changed
    }

    fn retain(&mut self, hosts: &[HostName]) {
        self.hosts.retain(|host, _| hosts.contains(host));
    }
}

/// What the driver is told: everything, so that a message may be skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub names: Names,
    /// The host's own DNS servers.
    pub resolvers: Vec<IpAddr>,
}

/// The task that keeps the names of one policy fresh.
#[derive(Debug)]
pub struct Resolver {
    hosts: Vec<HostName>,
    names: Names,
    /// Those whose last look-up failed.
    failing: BTreeSet<HostName>,
    resolv_conf: PathBuf,
    /// Whether it could not be read the last time.
    blind: bool,
}

impl Resolver {
    /// `known` is what the policy before knew; its addresses keep their grace.
    #[must_use]
    pub fn new(hosts: Vec<HostName>, mut known: Names, resolv_conf: PathBuf) -> Self {
        known.retain(&hosts);
        Self {
            hosts,
            names: known,
            failing: BTreeSet::new(),
            resolv_conf,
            blind: false,
        }
    }

    /// Runs until nobody listens. The first message comes after the first round.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        let mut last: Option<Change> = None;
        loop {
            self.round().await;
            let change = Change {
                names: self.names.clone(),
                resolvers: self.host_resolvers().await,
            };
            if last.as_ref().is_none_or(|l| !l.says_the_same_as(&change)) {
                if changes.send(change.clone()).await.is_err() {
                    return;
                }
                last = Some(change);
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(REFRESH)) => {}
                () = changes.closed() => return,
            }
        }
    }

    async fn round(&mut self) {
        let answers = look_up(&self.hosts).await;
        let now = Instant::now();
        for (host, answer) in answers {
            match answer {
                Ok(ips) => {
                    self.names.learn(&host, ips, now);
                    self.failing.remove(&host);
                }
                // Said once, not at every round.
                Err(error) => {
                    if self.failing.insert(host.clone()) {
                        tracing::warn!(%host, %error, "a name in the policy does not resolve");
                    }
                }
            }
        }
        self.names.expire(now);
    }

    async fn host_resolvers(&mut self) -> Vec<IpAddr> {
        match tokio::fs::read(&self.resolv_conf).await {
            Ok(bytes) => {
                self.blind = false;
                parse_resolv_conf(&String::from_utf8_lossy(&bytes))
            }
            Err(error) => {
                if !self.blind {
                    let path = self.resolv_conf.display();
                    tracing::warn!(%path, %error, "the host's DNS servers are unknown: DNS goes by the rules");
                }
                self.blind = true;
                Vec::new()
            }
        }
    }
}

impl Change {
    /// Same addresses; when they expire does not count.
    fn says_the_same_as(&self, other: &Self) -> bool {
        let addresses = |change: &Self| -> Vec<(HostName, Vec<IpAddr>)> {
            change
                .names
                .hosts
                .iter()
                .map(|(host, known)| (host.clone(), known.keys().copied().collect()))
                .collect()
        };
        self.resolvers == other.resolvers && addresses(self) == addresses(other)
    }
}

/// Why a name has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookUpError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("the answer was empty")]
    Empty,
}

/// Asks the host's resolver for all names at once.
pub async fn look_up(hosts: &[HostName]) -> Vec<(HostName, Result<Vec<IpAddr>, LookUpError>)> {
    let mut tasks = JoinSet::new();
    for host in hosts.iter().cloned() {
        tasks.spawn(async move {
            let answer = ask(&host).await;
            (host, answer)
        });
    }
    tasks.join_all().await
}

async fn ask(host: &HostName) -> Result<Vec<IpAddr>, LookUpError> {
    let asked = tokio::net::lookup_host((host.as_str(), 0));
    let answer = tokio::time::timeout(PATIENCE, asked)
        .await
        .map_err(|_| LookUpError::Slow)??;
    let ips: Vec<IpAddr> = answer.map(|to| to.ip()).collect();
    if ips.is_empty() {
        Err(LookUpError::Empty)
    } else {
        Ok(ips)
    }
}

/// The name servers in the text of a resolv.conf.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address = words.next().unwrap_or_default();
        let address = address.split('%').next().unwrap_or_default();
        if let Ok(ip) = address.parse().map(canonical)
            && !servers.contains(&ip)
        {
            servers.push(ip);
        }
        if servers.len() == MOST_RESOLVERS {
            break;
        }
    }
    servers
}

/// Within a fifth of `period`, so that many hosts do not ask at once.
fn jittered(period: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1000;
    // 0.8 to 1.2 of it.
    period.mul_f64(0.8 + 0.4 * (random as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn host_names_have_one_spelling() {
        assert_eq!(host("API.Example.com.").as_str(), "api.example.com");
        for bad in [
            "", ".", "a..b", "-a.b", "a-.b", "a b", "ü.de", "1.2.3.4", "x.9", "*.a",
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
        assert!("a".repeat(64).parse::<HostName>().is_err());
        assert!(format!("{}a", "ab.".repeat(84)).parse::<HostName>().is_ok());
        assert!(
            format!("{}aa", "ab.".repeat(84))
                .parse::<HostName>()
                .is_err()
        );
    }

    #[test]
    fn old_addresses_keep_a_grace() {
        let now = Instant::now();
        let api = host("api.example.com");
        let mut names = Names::default();
        assert!(names.learn(&api, [ip("192.0.2.1")], now));
        assert!(!names.learn(&api, [ip("::ffff:192.0.2.1")], now));
        let later = now + GRACE / 2;
        assert!(names.learn(&api, [ip("192.0.2.2")], later));
        assert!(names.resolves_to(&api, ip("192.0.2.1")));
        assert!(names.expire(now + GRACE));
        assert!(!names.resolves_to(&api, ip("192.0.2.1")));
        assert!(names.resolves_to(&api, ip("::ffff:192.0.2.2")));
        assert!(!names.resolves_to(&host("other.example.com"), ip("192.0.2.2")));
    }

    #[test]
    fn a_name_has_a_bounded_number_of_addresses_and_the_newest_stay() {
        let now = Instant::now();
        let api = host("api.example.com");
        let mut names = Names::default();
        for i in 0..200_u8 {
            let at = now + Duration::from_secs(i.into());
            names.learn(&api, [IpAddr::from([192, 0, 2, i])], at);
            assert!(names.addresses(&api).count() <= MOST);
        }
        assert!(names.resolves_to(&api, ip("192.0.2.199")));
        assert!(!names.resolves_to(&api, ip("192.0.2.100")));
    }

    #[test]
    fn resolv_conf_as_libc_reads_it() {
        let text = "# nameserver 192.0.2.1\nsearch example.com\nnameserver 192.0.2.2 # one\n\
                    nameserver fe80::1%eth0\r\nnameserver\nnameserver x\nNameserver 192.0.2.3\n\
                    nameserver 192.0.2.2\n;nameserver 192.0.2.4\nnameserver 127.0.0.53\nnameserver 192.0.2.5\n";
        assert_eq!(
            parse_resolv_conf(text),
            [ip("192.0.2.2"), ip("fe80::1"), ip("127.0.0.53")]
        );
        assert!(parse_resolv_conf("").is_empty());
    }

    #[test]
    fn jitter_stays_near() {
        for _ in 0..100 {
            let wait = jittered(REFRESH);
            assert!(
                (REFRESH * 4 / 5..=REFRESH * 6 / 5).contains(&wait),
                "{wait:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_resolver_tells_what_it_found_and_ends_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 192.0.2.7\n").unwrap();
        let localhost = host("localhost");
        let mut known = Names::default();
        known.learn(&host("gone.example.com"), [ip("192.0.2.1")], Instant::now());
        let resolver = Resolver::new(vec![localhost.clone()], known, resolv_conf);
        let (send, mut receive) = mpsc::channel(1);
        let task = tokio::spawn(resolver.run(send));
        let change = receive.recv().await.unwrap();
        assert!(
            change
                .names
                .addresses(&localhost)
                .all(|ip| ip.is_loopback())
        );
        assert!(change.names.addresses(&localhost).count() > 0);
        assert_eq!(change.names.hosts.len(), 1);
        assert_eq!(change.resolvers, [ip("192.0.2.7")]);
        drop(receive);
        tokio::time::timeout(Duration::from_secs(5), task)
            .await
            .unwrap()
            .unwrap();
    }

    proptest! {
        #[test]
        fn no_resolv_conf_makes_it_panic(text in any::<String>()) {
            prop_assert!(parse_resolv_conf(&text).len() <= MOST_RESOLVERS);
        }
    }
}
