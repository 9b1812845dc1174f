//! Random policies, requests and facts from a small world, so that they meet each other often.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use syshold_protocol::ids::Digest;

use super::{Policy, parse};
use crate::names::Names;
use crate::request::{Actions, AgentId, Classes, Exec, Object, Privilege, Request, Transport};
use crate::rules::{BuiltIn, Facts};

const HOSTS: [&str; 3] = ["a.example", "b.example", "localhost"];
const PORTS: [&str; 5] = ["", ":53", ":80-443", ":443", ":1-65535"];
const PLACES: [&str; 16] = [
    "*",
    "a.example",
    "b.example",
    "localhost:443",
    "10.0.0.0/8",
    "10.0.0.1",
    "10.0.0.0/31",
    "0.0.0.0/0",
    "127.0.0.1",
    "0.0.0.0/8",
    "inside",
    "mixed",
    "[2001:db8::/32]",
    "[2001:db8::1]",
    "[::1]",
    "[2000::/3]",
];
const ADDRESSES: [&str; 11] = [
    "10.0.0.1",
    "10.0.0.2",
    "::ffff:10.0.0.1",
    "192.0.2.1",
    "127.0.0.1",
    "0.0.0.0",
    "::",
    "::1",
    "2001:db8::1",
    "2001:db8::2",
    "fe80::1",
];
/// Lists of programs, by the bits that they get when they come in this order.
const PROGRAMS: [&str; 3] = ["[\"/p/a\"]", "[\"/p/*\"]", "[\"/p/b\", \"/q\"]"];
const PORT_NUMBERS: [u16; 6] = [1, 53, 80, 443, 8080, 65535];

/// What [`Facts`] borrows.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) names: Names,
    pub(crate) builtin: BuiltIn,
}

impl World {
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            names: &self.names,
            builtin: &self.builtin,
        }
    }
}

pub(crate) fn parsed(text: &str) -> Policy {
    parse(text, "agent.toml").unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

/// Agents a0, a1, … and classes c0, c1, … with rules over them.
pub(crate) fn policy(
    rules: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Policy> {
    policy_text(rules).prop_map(|text| parsed(&text))
}

pub(crate) fn policy_text(
    rules: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = String> {
    let dns = select(vec!["allow", "ask"]);
    (dns, vec(rule(), rules)).prop_map(|(dns, rules)| {
        let mut text = format!("[host]\ndns = \"{dns}\"\n{HEAD}");
        for (i, rule) in rules.iter().enumerate() {
            text.push_str(&format!("[[rule]]\nname = \"r{i}\"\n{rule}"));
        }
        text
    })
}

const HEAD: &str = r#"
[[govern]]
name = "a0"
owner = "o"
[[govern]]
name = "a1"
owner = "o"
[[govern]]
name = "a2"
owner = "o"
[[protect]]
name = "c0"
paths = "/c0"
[[protect]]
name = "c1"
paths = "/c1/*.csv"
class = "pii"
[[protect]]
name = "c2"
paths = ["/c2", "/d2"]
class = "pii"
[[protect]]
name = "c3"
paths = "/c3"
class = "config"
[[network]]
name = "inside"
cidrs = ["10.0.0.0/24", "192.0.2.0/24"]
[[network]]
name = "mixed"
cidrs = ["10.0.0.2", "2001:db8::2", "127.0.0.0/8"]
"#;

/// The lines of a rule, without its name.
pub(crate) fn rule() -> impl Strategy<Value = String> {
    let list = |words: Vec<String>| format!("[\"{}\"]", words.join("\", \""));
    let some = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let all = words.len();
        subsequence(words, 1..=all)
    };
    let agent = prop_oneof![
        Just(String::new()),
        some(&["a0", "a1", "a2"]).prop_map(move |a| format!("agent = {}\n", list(a))),
    ];
    let place = (select(&PLACES[..]), select(&PORTS[..])).prop_map(|(place, port)| {
        match (place.contains(':') && !place.starts_with('['), port) {
            (true, _) | (_, "") => place.to_owned(),
            _ => format!("{place}{port}"),
        }
    });
    let keyed = move |key: &str, words: Option<Vec<String>>| {
        words.map_or_else(String::new, |words| format!("{key} = {}\n", list(words)))
    };
    let sets = || some(&["c0", "c1", "c2", "c3", "pii", "config", "credentials"]);
    let after = || proptest::option::weighted(0.3, sets());
    let network = (
        some(&["connect", "send"]),
        proptest::option::of(vec(place.clone(), 1..6)),
        after(),
    )
        .prop_map(move |(actions, to, after)| {
            let (to, after) = (keyed("to", to), keyed("after", after));
            format!("action = {}\n{to}{after}", list(actions))
        });
    // With listen, `to` is no host.
    let own = place.prop_map(
        |place| match place.contains("example") || place.contains("local") {
            true => "*:80".to_owned(),
            false => place,
        },
    );
    let listen = (
        some(&["listen", "connect"]),
        proptest::option::of(vec(own, 1..6)),
        after(),
    )
        .prop_map(move |(actions, to, after)| {
            let (to, after) = (keyed("to", to), keyed("after", after));
            format!("action = {}\n{to}{after}", list(actions))
        });
    let files = (
        some(&["read", "write", "delete"]),
        proptest::option::of(sets()),
    )
        .prop_map(move |(actions, data)| {
            format!("action = {}\n{}", list(actions), keyed("data", data))
        });
    let changes = (
        some(&["write", "delete"]),
        proptest::option::of(sets()),
        after(),
    )
        .prop_map(move |(actions, data, after)| {
            let (data, after) = (keyed("data", data), keyed("after", after));
            format!("action = {}\n{data}{after}", list(actions))
        });
    let exec = (
        select(&PROGRAMS[..]),
        proptest::option::weighted(0.3, some(&["* delete *", "git *", "?*"])),
        proptest::option::weighted(0.2, Just(vec![Digest([1; 32]).to_string()])),
    )
        .prop_map(move |(programs, argv, sha256)| {
            let (argv, sha256) = (keyed("argv", argv), keyed("sha256", sha256));
            format!("action = \"exec\"\nprograms = {programs}\n{argv}{sha256}")
        });
    let privilege = Just("action = \"privilege\"\n".to_owned());
    let verdict = prop_oneof![
        Just("verdict = \"allow\"\n"),
        Just("verdict = \"deny\"\n"),
        Just("verdict = \"ask\"\nscopes = [\"session\", \"10m\"]\nquorum = 3\nhold = \"30s\"\n"),
        Just("verdict = \"ask\"\nscopes = \"process\"\napprovers = \"privacy\"\n"),
    ];
    (
        agent,
        prop_oneof![3 => network, 1 => listen, 2 => files, 2 => changes, 2 => exec, 1 => privilege],
        verdict,
    )
        .prop_map(|(agent, what, verdict)| format!("{agent}{what}{verdict}"))
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let answers = vec((select(&HOSTS[..]), address()), 0..6);
    let deny = vec((address(), port()), 0..3);
    (answers, deny, vec(address(), 0..3)).prop_map(|(answers, deny, resolvers)| {
        let now = Instant::now();
        let mut names = Names::default();
        for (host, ip) in answers {
            names.learn(&host.parse().unwrap(), [ip], now);
        }
        let deny = deny.into_iter().map(SocketAddr::from).collect();
        World {
            names,
            builtin: BuiltIn { deny, resolvers },
        }
    })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    // Agent 3 is none of the policy's; bits 4 to 56 are no classes of it. 57 to 59 may be programs.
    let classes = prop_oneof![
        6 => vec(select(vec![0_u32, 1, 2, 3, 4, 57, 58, 59, 61]), 0..4),
        1 => Just(vec![62]),
        1 => Just(vec![63, 0]),
        1 => Just((0..64).collect()),
    ];
    let classes = classes.prop_map(|bits| bits.iter().fold(0, |all, bit| all | 1_u64 << bit));
    let taint =
        prop_oneof![2 => Just(0_u64), 2 => 0_u64..16, 1 => Just(1 << 61), 1 => Just(u64::MAX)];
    let socket = (
        address(),
        port(),
        select(vec![Transport::Tcp, Transport::Udp]),
    )
        .prop_map(|(ip, port, transport)| Object::Socket {
            cookie: 1,
            transport,
            to: SocketAddr::new(ip, port),
        });
    let network = (select(vec![1_u32, 2, 4]), socket, Just(0_u64).boxed());
    let file = Object::File {
        dev: 1,
        ino: 2,
        generation: 3,
        onto: 0,
        path: None,
    };
    let acts = select(vec![8_u32, 16, 24, 32, 48, 64, 64, 64, 72]);
    let files = (acts, Just(file), classes.boxed());
    let privilege = Object::Privilege(Privilege::Capabilities(1 << 21));
    let privilege = (Just(128_u32), Just(privilege), Just(0_u64).boxed());
    let what = prop_oneof![4 => network, 6 => files, 1 => privilege];
    (
        0_u32..4,
        what,
        taint,
        proptest::option::weighted(0.7, exec()),
    )
        .prop_map(|(agent, (actions, object, classes), taint, exec)| Request {
            agent: AgentId(agent),
            actions: Actions(actions),
            object,
            classes: Classes(classes),
            taint: Classes(taint),
            exec: exec.filter(|_| actions & 64 != 0).map(Arc::new),
        })
}

fn exec() -> impl Strategy<Value = Exec> {
    let words = select(vec!["git", "push", "delete", "x y", ""]);
    let sha256 = select(vec![None, Some(Digest([1; 32])), Some(Digest([2; 32]))]);
    (vec(words, 0..4), any::<bool>(), sha256).prop_map(|(argv, whole, sha256)| Exec {
        argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        whole,
        argv_sha256: Digest::of(&argv.concat().into_bytes()),
        sha256,
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    select(&ADDRESSES[..]).prop_map(|text| text.parse().unwrap())
}

fn port() -> impl Strategy<Value = u16> {
    select(&PORT_NUMBERS[..])
}
