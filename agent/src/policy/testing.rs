//! Random policies, requests and facts from a small world, so that they meet each other often.
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{Policy, parse};
use crate::names::Names;
use crate::request::{Actions, AgentId, Classes, Object, Request, Transport};
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
    let network = (
        some(&["connect", "send"]),
        proptest::option::of(vec(place, 1..6)),
    )
        .prop_map(move |(actions, to)| {
            let to = to.map_or_else(String::new, |to| format!("to = {}\n", list(to)));
            format!("action = {}\n{to}", list(actions))
        });
    let files = (
        some(&["read", "write"]),
        proptest::option::of(some(&["c0", "c1", "c2", "pii"])),
    )
        .prop_map(move |(actions, data)| {
            let data = data.map_or_else(String::new, |data| format!("data = {}\n", list(data)));
            format!("action = {}\n{data}", list(actions))
        });
    let verdict = prop_oneof![
        Just("verdict = \"allow\"\n"),
        Just("verdict = \"deny\"\n"),
        Just("verdict = \"ask\"\nscopes = [\"session\", \"10m\"]\nquorum = 3\nhold = \"30s\"\n"),
        Just("verdict = \"ask\"\nscopes = \"process\"\napprovers = \"privacy\"\n"),
    ];
    (agent, prop_oneof![network, files], verdict)
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
    // Agent 3 is none of the policy's; class bit 3 and above neither.
    let classes = prop_oneof![4 => 0_u64..16, 1 => Just(u64::MAX)];
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
    let network = (select(vec![1_u32, 2]), socket, Just(0_u64).boxed());
    let file = Object::File {
        dev: 1,
        ino: 2,
        generation: 3,
        path: None,
    };
    let files = (select(vec![8_u32, 16, 24]), Just(file), classes.boxed());
    let what = prop_oneof![network, files];
    (0_u32..4, what).prop_map(|(agent, (actions, object, classes))| Request {
        agent: AgentId(agent),
        actions: Actions(actions),
        object,
        classes: Classes(classes),
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    select(&ADDRESSES[..]).prop_map(|text| text.parse().unwrap())
}

fn port() -> impl Strategy<Value = u16> {
    select(&PORT_NUMBERS[..])
}
