//! Where a rule says a connection goes: addresses, networks, host names and ports.
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::names::{HostName, canonical};

/// One entry of a rule's `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Any(Ports),
    Net(Cidr, Ports),
    /// Whatever the name resolves to at the time.
    Host(HostName, Ports),
}

impl Target {
    #[must_use]
    pub fn ports(&self) -> Ports {
        match self {
            Self::Any(ports) | Self::Net(_, ports) | Self::Host(_, ports) => *ports,
        }
    }

    /// Whether everything that `other` means is meant here, too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let place = match (self, other) {
            (Self::Any(_), _) => true,
            (Self::Net(net, _), Self::Net(inner, _)) => net.covers(inner),
            (Self::Host(host, _), Self::Host(same, _)) => host == same,
            _ => false,
        };
        place && self.ports().covers(other.ports())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.ports();
        match self {
            Self::Any(_) => f.write_str("*")?,
            Self::Net(net, _) if ports == Ports::ALL => return net.fmt(f),
            Self::Net(net, _) if net.is_v4() => net.fmt(f)?,
            Self::Net(net, _) => write!(f, "[{net}]")?,
            Self::Host(host, _) => host.fmt(f)?,
        }
        if ports == Ports::ALL {
            Ok(())
        } else {
            write!(f, ":{ports}")
        }
    }
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    lo: u16,
    hi: u16,
}

impl Ports {
    pub const ALL: Self = Self {
        lo: 0,
        hi: u16::MAX,
    };

    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { lo: port, hi: port }
    }

    #[must_use]
    pub const fn lo(self) -> u16 {
        self.lo
    }

    #[must_use]
    pub const fn hi(self) -> u16 {
        self.hi
    }

    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.lo <= port && port <= self.hi
    }

    const fn covers(self, other: Self) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }
}

impl FromStr for Ports {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError::Port(text.to_owned());
        let port = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|&port: &u16| plain && port > 0)
        };
        let (lo, hi) = text.split_once('-').unwrap_or((text, text));
        let (lo, hi) = port(lo).zip(port(hi)).ok_or_else(wrong)?;
        if lo <= hi {
            Ok(Self { lo, hi })
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lo == self.hi {
            write!(f, "{}", self.lo)
        } else {
            write!(f, "{}-{}", self.lo, self.hi)
        }
    }
}

/// A network in the kernel's form: IPv4 lives in ::ffff:0:0/96. Host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    prefix: u32,
}

impl Cidr {
    /// Every address of both families.
    pub const EVERYTHING: Self = Self { base: 0, prefix: 0 };

    #[must_use]
    pub fn host(ip: IpAddr) -> Self {
        Self {
            base: mapped(ip),
            prefix: 128,
        }
    }

    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        mapped(ip) & self.mask() == self.base
    }

    /// Of an address to listen at: 0.0.0.0 and :: are themselves.
    #[must_use]
    pub fn contains_own(&self, ip: IpAddr) -> bool {
        let bits = match ip.to_canonical() {
            IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => u128::from(v6),
        };
        bits & self.mask() == self.base
    }

    #[must_use]
    pub const fn base(&self) -> u128 {
        self.base
    }

    #[must_use]
    pub const fn mask(&self) -> u128 {
        match 128 - self.prefix {
            128 => 0,
            bits => u128::MAX << bits,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && other.base & self.mask() == self.base
    }

    fn is_v4(&self) -> bool {
        self.prefix >= 96 && self.base >> 32 == 0xffff
    }
}

/// The 128 bits the kernel compares.
fn mapped(ip: IpAddr) -> u128 {
    match canonical(ip) {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl FromStr for Cidr {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let wrong = || TargetError::Address(text.to_owned());
        // Not `canonical`: a written 0.0.0.0 is a network's base, not a way to say localhost.
        let (base, most) = match ip.parse().map_err(|_| wrong())? {
            IpAddr::V4(v4) => (u128::from(v4.to_ipv6_mapped()), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(wrong());
            }
            Some(digits) => digits.parse().map_err(|_| wrong())?,
        };
        if prefix > most {
            return Err(wrong());
        }
        let prefix = prefix + 128 - most;
        let mask = Self { base, prefix }.mask();
        let net = Self {
            base: base & mask,
            prefix,
        };
        if net.base != base {
            return Err(TargetError::HostBits {
                given: text.to_owned(),
                network: net,
            });
        }
        let all_v4 = Self {
            base: 0xffff_0000_0000,
            prefix: 96,
        };
        if prefix < 96 && net.covers(&all_v4) {
            return Err(TargetError::CoversV4(text.to_owned()));
        }
        Ok(net)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = Ipv6Addr::from(self.base);
        let (ip, prefix, most) = match v6.to_ipv4_mapped() {
            Some(v4) if self.is_v4() => (IpAddr::V4(v4), self.prefix - 96, 32),
            _ => (IpAddr::V6(v6), self.prefix, 128),
        };
        if prefix == most {
            write!(f, "{ip}")
        } else {
            write!(f, "{ip}/{prefix}")
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("`{0}` is not a port or a range of ports")]
    Port(String),
    #[error("`{0}` is not an IP address or network")]
    Address(String),
    #[error("`{given}` has bits set behind its prefix")]
    HostBits { given: String, network: Cidr },
    #[error("`{0}` also holds the IPv4-mapped addresses, so it would mean all of IPv4, too")]
    CoversV4(String),
    #[error("`{0}` is a URL; the kernel sees only an address and a port")]
    Url(String),
    #[error("`{0}` has a wildcard in a host name; names are resolved, patterns cannot be")]
    Wildcard(String),
    #[error("`{0}` is neither a network of this policy nor a host name with a port")]
    Unknown(String),
    #[error("`{0}` is not a host name")]
    Host(String),
}

impl TargetError {
    pub(super) fn fix(&self) -> String {
        match self {
            Self::Port(_) => "use 1 to 65535, or a range such as 8000-8999".to_owned(),
            Self::Address(text) if text.matches(':').count() > 1 => {
                "write `2001:db8::/32`, or with a port `[2001:db8::/32]:443`".to_owned()
            }
            Self::Address(_) => "write `10.0.0.7`, `10.0.0.0/8` or `10.0.0.0/8:443`".to_owned(),
            Self::HostBits { network, .. } => format!("write `{network}`"),
            Self::CoversV4(_) => {
                "write `2000::/3` for the public IPv6 Internet, or `*` for every address".to_owned()
            }
            Self::Url(text) => {
                let rest = text
                    .split_once("://")
                    .map_or(text.as_str(), |(_, rest)| rest);
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let port = if host.contains(':') { "" } else { ":443" };
                format!("write `{host}{port}`")
            }
            Self::Wildcard(_) => {
                "list the names, or put the addresses into a [[network]]".to_owned()
            }
            Self::Unknown(name) => {
                format!("add a [[network]] named `{name}`, or write host and port: `{name}:443`")
            }
            Self::Host(_) => {
                "use letters, digits, `-` and dots; other scripts as punycode (xn--…)".to_owned()
            }
        }
    }
}

/// Reads one entry of `to`; `network` tells what a name of this policy stands for.
pub(super) fn parse<'n>(
    text: &str,
    network: impl Fn(&str) -> Option<&'n [Cidr]>,
) -> Result<Vec<Target>, TargetError> {
    if text.contains("://") {
        return Err(TargetError::Url(text.to_owned()));
    }
    let net = |net, ports| Ok(vec![Target::Net(net, ports)]);
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, tail) = rest
            .split_once(']')
            .ok_or_else(|| TargetError::Address(text.to_owned()))?;
        let inner: Cidr = inner.parse()?;
        return match tail.strip_prefix(':') {
            Some(ports) => net(inner, ports.parse()?),
            None if tail.is_empty() => net(inner, Ports::ALL),
            None => Err(TargetError::Address(text.to_owned())),
        };
    }
    if text.matches(':').count() > 1 {
        return net(text.parse()?, Ports::ALL);
    }
    let (head, ports) = match text.split_once(':') {
        Some((head, ports)) => (head, Some(ports.parse()?)),
        None => (text, None),
    };
    let every = ports.unwrap_or(Ports::ALL);
    if head == "*" {
        return Ok(vec![Target::Any(every)]);
    }
    if let Some(nets) = network(head) {
        return Ok(nets.iter().map(|net| Target::Net(*net, every)).collect());
    }
    let numeric = |b: u8| b.is_ascii_digit() || b == b'.';
    if head.contains('/') || (!head.is_empty() && head.bytes().all(numeric)) {
        return net(head.parse()?, every);
    }
    if head.contains(['*', '?']) {
        return Err(TargetError::Wildcard(head.to_owned()));
    }
    let host: HostName = head
        .parse()
        .map_err(|_| TargetError::Host(head.to_owned()))?;
    if ports.is_none() && !head.contains('.') {
        return Err(TargetError::Unknown(head.to_owned()));
    }
    Ok(vec![Target::Host(host, every)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, TargetError> {
        let eu = [
            "10.20.0.0/16".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        let targets = parse(text, |name| (name == "eu").then_some(&eu[..]))?;
        let shown: Vec<_> = targets.iter().map(ToString::to_string).collect();
        Ok(shown.join(" "))
    }

    #[test]
    fn what_can_be_said() {
        let table = [
            ("*", "*"),
            ("*:443", "*:443"),
            ("*:8000-8999", "*:8000-8999"),
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.7:22", "10.0.0.7:22"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:80", "10.0.0.0/8:80"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1", "::1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("[::1]:80", "[::1]:80"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("2000::/3", "2000::/3"),
            ("eu", "10.20.0.0/16 2001:db8::/32"),
            ("eu:443", "10.20.0.0/16:443 [2001:db8::/32]:443"),
            ("API.Example.com.:443", "api.example.com:443"),
            ("example.com", "example.com"),
            ("localhost:8080", "localhost:8080"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot() {
        let table = [
            ("", "not a host name", "letters"),
            (
                "https://example.com/x",
                "is a URL",
                "write `example.com:443`",
            ),
            ("10.20.0.1/16", "bits set", "write `10.20.0.0/16`"),
            ("10.20.0.0/33", "not an IP", "write `10.0.0.7`"),
            ("10.20.0.0/+8", "not an IP", "write `10.0.0.7`"),
            ("10.20.0", "not an IP", "write"),
            ("999.1.1.1:80", "not an IP", "write"),
            ("::/0", "all of IPv4", "2000::/3"),
            ("::ffff:0:0/95", "bits set", "write `::fffe:0:0/95`"),
            ("2001:db8::/32:443", "not an IP", "[2001:db8::/32]:443"),
            ("[::1", "not an IP", "write"),
            ("[::1]80", "not an IP", "write"),
            ("example.com:0", "not a port", "1 to 65535"),
            ("example.com:70000", "not a port", "1 to 65535"),
            ("example.com:90-80", "not a port", "1 to 65535"),
            ("example.com:+80", "not a port", "1 to 65535"),
            ("*.example.com:443", "wildcard", "[[network]]"),
            ("us", "neither a network", "[[network]] named `us`"),
            ("exa mple.com:1", "not a host name", "letters"),
            ("bücher.example:1", "not a host name", "punycode"),
        ];
        for (text, message, fix) in table {
            let error = read(text).expect_err(text);
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.fix().contains(fix), "{text}: {}", error.fix());
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("127.0.0.0/8", "0.0.0.0", true),
            ("::1", "::", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
        ];
        for (net, ip, expected) in table {
            let net: Cidr = net.parse().unwrap();
            assert_eq!(net.contains(ip.parse().unwrap()), expected, "{net} {ip}");
        }
        assert!(Cidr::EVERYTHING.contains("203.0.113.9".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = read(&text);
        }

        #[test]
        fn what_is_shown_can_be_read(ip in any::<u128>(), prefix in 0_u32..=128, lo in 1_u16.., more in any::<u16>()) {
            let mask = Cidr { base: 0, prefix }.mask();
            let Ok(net) = Cidr { base: ip & mask, prefix }.to_string().parse::<Cidr>() else {
                return Ok(());
            };
            let target = Target::Net(net, Ports { lo, hi: lo.saturating_add(more) });
            let again = parse(&target.to_string(), |_| None);
            prop_assert_eq!(again, Ok(vec![target]));
        }
    }
}
