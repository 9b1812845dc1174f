//! From what the author wrote to a [`Policy`]; everything that is wrong is noted, not only the
//! first.
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use syshold_abi::{CGROUP_NAME_LEN, MAX_AGENTS, MAX_CLASSES};
use syshold_protocol::decision::{MAX_MINUTES, Scope};
use syshold_protocol::ids::{Digest, Subject};

use super::error::{Notes, suggest};
use super::raw::{RawAgent, RawFailure, RawHost, RawPolicy, RawProtect, RawRule, Text, Texts};
use super::target::{self, Cidr, Target};
use super::{
    Agent, Class, Dns, ENFORCED, Failure, Glob, Host, Policy, Rule, Selector, Verdict,
    default_terms, lint, lowest_bits,
};
use crate::request::{Action, Actions, Classes};
use crate::rules::{Fallback, Terms};

const DEFAULT_LEDGER: &str = "/var/lib/syshold/ledger.db";
const DEFAULT_HOLD: Duration = Duration::from_secs(5 * 60);
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_APPROVERS: i64 = 16;
const MOST_RULES: usize = 1024;
const MOST_TARGETS: usize = 4096;
/// Rule names that a [`crate::rules::Reason`] has a meaning for.
const RESERVED: [&str; 2] = ["default", "built-in"];

/// The policy, or what can be made of it; whether it may be used, `notes` knows.
pub(super) fn policy(raw: RawPolicy, digest: Digest, notes: &mut Notes<'_>) -> Policy {
    let host = host(&raw.host, notes);
    let failure = failure(&raw.failure, notes);
    let agents = agents(&raw.govern, notes);
    let classes = classes(&raw.protect, notes);
    let mut networks = Networks::default();
    let mut taken = Taken::default();
    for network in &raw.network {
        taken.name(&network.name, "network", notes);
        if network.name.get_ref().contains('.') {
            notes.error(
                &network.name.span(),
                "a network's name has no dot, so that it is never taken for a host name",
                format!("write `{}`", network.name.get_ref().replace('.', "-")),
            );
        }
        let cidrs = some(&network.cidrs, "cidrs", notes)
            .filter_map(|text| {
                noted(
                    text,
                    text.get_ref().parse::<Cidr>(),
                    target::TargetError::fix,
                    notes,
                )
            })
            .collect();
        networks.insert(network.name.get_ref().clone(), cidrs);
    }
    let mut rules = Vec::new();
    let mut names = Taken::default();
    let mut targets = 0;
    {
        let reader = RuleReader {
            agents: &agents,
            classes: &classes,
            networks: &networks,
            terms: default_terms(&host, failure),
        };
        for raw in &raw.rule {
            names.name(&raw.name, "rule", notes);
            let rule = reader.rule(raw, notes);
            targets += rule.to.as_ref().map_or(0, Vec::len);
            if rules.len() == MOST_RULES || targets > MOST_TARGETS {
                notes.error(
                    &raw.name.span(),
                    format!("a policy has at most {MOST_RULES} rules and {MOST_TARGETS} targets"),
                    "join rules, and put addresses together into networks",
                );
                break;
            }
            rules.push((rule, raw.name.span()));
        }
    }
    lint::warn(&raw, &agents, &classes, failure, &rules, notes);
    Policy {
        digest,
        host,
        failure,
        agents,
        classes,
        rules: rules.into_iter().map(|(rule, _)| rule).collect(),
        warnings: Vec::new(),
    }
}

type Networks = BTreeMap<String, Vec<Cidr>>;

fn host(raw: &RawHost, notes: &mut Notes<'_>) -> Host {
    let ledger = raw.ledger.as_ref().map(|text| file(text, notes));
    let hold = raw.hold.as_ref().and_then(|text| hold(text, notes));
    let dns = one_of(
        raw.dns.as_ref(),
        &[("allow", Dns::Allow), ("ask", Dns::Ask)],
        notes,
    );
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    Host {
        ledger: ledger.unwrap_or_else(|| PathBuf::from(DEFAULT_LEDGER)),
        hold: hold.unwrap_or(DEFAULT_HOLD),
        dns: dns.unwrap_or(Dns::Allow),
        log: one_of(raw.log.as_ref(), &levels, notes).unwrap_or(tracing::Level::INFO),
    }
}

fn failure(raw: &RawFailure, notes: &mut Notes<'_>) -> Failure {
    let mut fallback = |text: Option<&Text>| {
        let words = [("deny", Fallback::Deny), ("allow", Fallback::Allow)];
        one_of(text, &words, notes).unwrap_or(Fallback::Deny)
    };
    Failure {
        on_timeout: fallback(raw.on_timeout.as_ref()),
        on_unreachable: fallback(raw.on_unreachable.as_ref()),
        on_daemon_loss: fallback(raw.on_daemon_loss.as_ref()),
    }
}

fn agents(raw: &[RawAgent], notes: &mut Notes<'_>) -> Vec<Agent> {
    let mut taken = Taken::default();
    let mut selected: HashMap<Selector, String> = HashMap::new();
    if let Some(surplus) = raw.get(MAX_AGENTS) {
        notes.error(
            &surplus.name.span(),
            format!("a policy governs at most {MAX_AGENTS} agents"),
            "give one agent several selectors (a list) instead of one [[govern]] each",
        );
    }
    let mut agents = Vec::new();
    for raw in raw.iter().take(MAX_AGENTS) {
        taken.name(&raw.name, "agent", notes);
        let owner = noted(
            &raw.owner,
            raw.owner.get_ref().parse::<Subject>(),
            |_| "write the mail address or account name of the person who owns it".to_owned(),
            notes,
        );
        let mut selectors = Vec::new();
        for (text, selector) in selectors_of(raw, notes) {
            if let Some(other) = selected.insert(selector.clone(), raw.name.get_ref().clone()) {
                notes.error(
                    &text.span(),
                    format!("this already selects the processes of `{other}`"),
                    "let one agent select it",
                );
            }
            selectors.push(selector);
        }
        if let Some(model) = &raw.model {
            shown(model, notes);
        }
        // The agent stays even if its owner is wrong: rules that name it are not.
        let owner = owner.or_else(|| "unknown".parse().ok());
        agents.extend(owner.map(|owner| Agent {
            name: raw.name.get_ref().clone(),
            owner,
            model: raw.model.as_ref().map(|model| model.get_ref().clone()),
            selectors,
        }));
    }
    agents
}

fn selectors_of<'r>(raw: &'r RawAgent, notes: &mut Notes<'_>) -> Vec<(&'r Text, Selector)> {
    let mut selectors = Vec::new();
    for text in list(raw.unit.as_ref(), "unit", notes) {
        let name = text.get_ref();
        let suffixes = [".service", ".scope", ".slice"];
        if !suffixes
            .iter()
            .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        {
            let fix = format!("write `{name}.service`, or with .scope or .slice");
            notes.error(
                &text.span(),
                format!("`{name}` is not a unit's full name"),
                fix,
            );
        } else if name.contains(['/', '*', '?', ' ']) || name.len() >= CGROUP_NAME_LEN {
            notes.error(
                &text.span(),
                format!("`{name}` is not one unit"),
                format!("name units one by one, each shorter than {CGROUP_NAME_LEN} bytes, without wildcards"),
            );
        }
        selectors.push((text, Selector::Unit(name.clone())));
    }
    for text in list(raw.cgroup.as_ref(), "cgroup", notes) {
        let name = text.get_ref();
        let mount = "/sys/fs/cgroup";
        if let Some(rest) = name.strip_prefix(mount) {
            let fix = format!("write `{rest}`");
            notes.error(
                &text.span(),
                "a cgroup is named from the root of its hierarchy",
                fix,
            );
        } else if Glob::parse(name).is_ok_and(|path| path.is_literal()) {
            let last = name
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or_default();
            if last.len() >= CGROUP_NAME_LEN {
                let fix = format!("use a name shorter than {CGROUP_NAME_LEN} bytes");
                notes.error(&text.span(), "the cgroup's name is too long", fix);
            }
        } else {
            let fix = "write it from the root, such as `/system.slice/agents`";
            notes.error(&text.span(), format!("`{name}` is not a cgroup"), fix);
        }
        let name = name.trim_end_matches('/').to_owned();
        selectors.push((text, Selector::Cgroup(name)));
    }
    for text in list(raw.user.as_ref(), "user", notes) {
        let name = text.get_ref();
        if name == "root" || name.parse() == Ok(0_u32) {
            notes.error(
                &text.span(),
                "governing root would govern the whole host, the daemon included",
                "run the agent as a user of its own, or select its unit",
            );
        } else if name.is_empty()
            || name.contains([':', '/', ' '])
            || name.chars().any(char::is_control)
        {
            let fix = "write a user's name or number";
            notes.error(&text.span(), format!("`{name}` is not a user"), fix);
        }
        selectors.push((text, Selector::User(name.clone())));
    }
    for text in list(raw.exe.as_ref(), "exe", notes) {
        selectors.push((text, Selector::Exe(file(text, notes))));
    }
    selectors
}

fn classes(raw: &[RawProtect], notes: &mut Notes<'_>) -> Vec<Class> {
    let mut taken = Taken::default();
    if let Some(surplus) = raw.get(MAX_CLASSES) {
        notes.error(
            &surplus.name.span(),
            format!("a policy protects at most {MAX_CLASSES} sets of paths"),
            "give one [[protect]] several paths",
        );
    }
    let mut classes = Vec::new();
    for raw in raw.iter().take(MAX_CLASSES) {
        taken.name(&raw.name, "set of paths", notes);
        let class = raw.class.as_ref().unwrap_or(&raw.name);
        identifier(class, notes);
        let globs = some(&raw.paths, "paths", notes)
            .filter_map(|text| {
                noted(
                    text,
                    Glob::parse(text.get_ref()),
                    super::GlobError::fix,
                    notes,
                )
            })
            .collect();
        classes.push(Class {
            name: raw.name.get_ref().clone(),
            class: class.get_ref().clone(),
            globs,
        });
    }
    classes
}

/// What rules may refer to.
struct RuleReader<'p> {
    agents: &'p [Agent],
    classes: &'p [Class],
    networks: &'p Networks,
    terms: Terms,
}

impl RuleReader<'_> {
    fn rule(&self, raw: &RawRule, notes: &mut Notes<'_>) -> Rule {
        let name = raw.name.get_ref();
        if RESERVED.contains(&name.as_str()) {
            let fix = "choose another name";
            notes.error(
                &raw.name.span(),
                format!("the name `{name}` has a meaning of its own"),
                fix,
            );
        }
        if let Some(after) = &raw.after {
            notes.error(
                &after.span(),
                "`after` is not supported yet by this version, so the rule could not be enforced",
                "remove it; `data` on a rule for read or write holds what comes before",
            );
        }
        let actions = actions(&raw.action, notes);
        let (network, files) = (
            Action::Connect.bit() | Action::Send.bit(),
            Action::Read.bit() | Action::Write.bit(),
        );
        if let Some(to) = &raw.to
            && actions.0 & files != 0
        {
            let fix = "make two rules: one for connect and send with `to`, one for read and write";
            notes.error(
                &to.span,
                "`to` is about connections, but the rule is about files, too",
                fix,
            );
        }
        if let Some(data) = &raw.data
            && actions.0 & network != 0
        {
            let fix =
                "make two rules: one for read and write with `data`, one for connect and send";
            notes.error(
                &data.span,
                "`data` is about files, but the rule is about connections, too",
                fix,
            );
        }
        Rule {
            name: name.clone(),
            line: notes.line(&raw.name.span()),
            agents: match &raw.agent {
                None => lowest_bits(self.agents.len()),
                Some(names) => self.agent_bits(names, notes),
            },
            actions,
            to: raw.to.as_ref().map(|to| self.targets(to, notes)),
            data: match &raw.data {
                None => Classes(lowest_bits(self.classes.len())),
                Some(data) => self.class_bits(data, notes),
            },
            verdict: self.verdict(raw, notes),
        }
    }

    fn agent_bits(&self, names: &Texts, notes: &mut Notes<'_>) -> u64 {
        let known: Vec<&str> = self
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .collect();
        some(names, "agent", notes).fold(0, |bits, text| {
            let found = known.iter().position(|name| name == text.get_ref());
            if found.is_none() {
                unknown(text, "agent", &known, notes);
            }
            found.map_or(bits, |bit| bits | 1 << bit)
        })
    }

    fn class_bits(&self, names: &Texts, notes: &mut Notes<'_>) -> Classes {
        let known: Vec<&str> = self
            .classes
            .iter()
            .flat_map(|c| [c.name.as_str(), c.class.as_str()])
            .collect();
        let bits = some(names, "data", notes).fold(0, |bits, text| {
            let word = text.get_ref();
            let hits = self
                .classes
                .iter()
                .enumerate()
                .fold(0, |hits, (bit, class)| {
                    hits | u64::from(class.name == *word || class.class == *word) << bit
                });
            if hits == 0 {
                unknown(text, "protected set or class", &known, notes);
            }
            bits | hits
        });
        Classes(bits)
    }

    fn targets(&self, to: &Texts, notes: &mut Notes<'_>) -> Vec<Target> {
        let mut targets = Vec::new();
        for text in some(to, "to", notes) {
            let network = |name: &str| self.networks.get(name).map(Vec::as_slice);
            let read = target::parse(text.get_ref(), network).map_err(|error| self.closer(error));
            targets.extend(
                noted(text, read, |refused| refused.fix.clone(), notes).unwrap_or_default(),
            );
        }
        targets
    }

    /// The error, with a fix that knows the networks.
    fn closer(&self, error: target::TargetError) -> Refused {
        let known: Vec<&str> = self.networks.keys().map(String::as_str).collect();
        let near = match &error {
            target::TargetError::Unknown(name) => super::error::nearest(name, known),
            _ => None,
        };
        let fix = near.map_or_else(|| error.fix(), |near| format!("did you mean `{near}`?"));
        Refused { error, fix }
    }

    fn verdict(&self, raw: &RawRule, notes: &mut Notes<'_>) -> Verdict {
        let terms = self.terms(raw, notes);
        let words = [
            ("allow", Verdict::Allow),
            ("deny", Verdict::Deny),
            ("ask", Verdict::Ask(terms)),
        ];
        let verdict = one_of(Some(&raw.verdict), &words, notes).unwrap_or(Verdict::Deny);
        if !matches!(verdict, Verdict::Ask(_)) {
            let asking = [
                ("approvers", raw.approvers.as_ref().map(toml::Spanned::span)),
                (
                    "scopes",
                    raw.scopes.as_ref().map(|scopes| scopes.span.clone()),
                ),
                ("quorum", raw.quorum.as_ref().map(toml::Spanned::span)),
                ("hold", raw.hold.as_ref().map(toml::Spanned::span)),
            ];
            for (key, span) in asking {
                if let Some(span) = span {
                    notes.error(
                        &span,
                        format!(
                            "`{key}` has no meaning here: nobody is asked when the verdict is {}",
                            verdict.name()
                        ),
                        format!("remove `{key}`, or write `verdict = \"ask\"`"),
                    );
                }
            }
        }
        verdict
    }

    fn terms(&self, raw: &RawRule, notes: &mut Notes<'_>) -> Terms {
        let mut terms = self.terms.clone();
        if let Some(group) = &raw.approvers {
            identifier(group, notes);
            terms.approvers = Some(group.get_ref().clone());
        }
        if let Some(scopes) = &raw.scopes {
            terms.scopes.clear();
            for text in some(scopes, "scopes", notes) {
                if let Some(scope) = noted(
                    text,
                    text.get_ref().parse::<Scope>(),
                    |_| scope_fix(text.get_ref()),
                    notes,
                ) && !terms.scopes.contains(&scope)
                {
                    terms.scopes.push(scope);
                }
            }
        }
        if let Some(quorum) = &raw.quorum {
            match u32::try_from(*quorum.get_ref()) {
                Ok(people @ 1..) if *quorum.get_ref() <= MOST_APPROVERS => terms.quorum = people,
                _ => notes.error(
                    &quorum.span(),
                    format!("a quorum of {} cannot be reached", quorum.get_ref()),
                    format!("write how many people must approve, 1 to {MOST_APPROVERS}"),
                ),
            }
        }
        if let Some(text) = &raw.hold {
            terms.hold = hold(text, notes).unwrap_or(terms.hold);
        }
        terms
    }
}

/// A target that is wrong, and how to mend it in this policy.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Refused {
    error: target::TargetError,
    fix: String,
}

fn actions(raw: &Texts, notes: &mut Notes<'_>) -> Actions {
    let known: Vec<&str> = ENFORCED.iter().map(|action| action.name()).collect();
    let bits = some(raw, "action", notes).fold(0, |bits, text| {
        let word = text.get_ref().as_str();
        match Action::ALL.into_iter().find(|action| action.name() == word) {
            Some(action) if ENFORCED.contains(&action) => return bits | action.bit(),
            Some(_) => notes.error(
                &text.span(),
                format!("`{word}` is not supported yet by this version, so the rule could not be enforced"),
                format!("remove it; this version holds {}", known.join(", ")),
            ),
            None => unknown(text, "action", &known, notes),
        }
        bits
    });
    Actions(bits)
}

fn scope_fix(text: &str) -> String {
    let hours = text
        .strip_suffix('h')
        .and_then(|hours| hours.parse::<u16>().ok());
    match hours {
        Some(hours @ 1..=24) => format!("write it in minutes: `{}m`", hours * 60),
        _ => format!(
            "use `once`, `process`, `session`, or minutes up to a day: `10m` … `{MAX_MINUTES}m`"
        ),
    }
}

/// How long a syscall is held: `30s`, `5m`, `1h`.
fn hold(text: &Text, notes: &mut Notes<'_>) -> Option<Duration> {
    let word = text.get_ref();
    let unit = match word.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => 0,
    };
    let digits = word.get(..word.len().saturating_sub(1)).unwrap_or_default();
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let time = digits
        .parse()
        .ok()
        .filter(|_| plain && unit > 0)
        .and_then(|count: u64| count.checked_mul(unit))
        .map(Duration::from_secs)
        .filter(|time| !time.is_zero() && *time <= LONGEST_HOLD);
    if time.is_none() {
        notes.error(
            &text.span(),
            format!("`{word}` is not a time to hold, at most a day"),
            "write seconds, minutes or hours: `30s`, `5m`, `1h`",
        );
    }
    time
}

/// An absolute path of one file.
fn file(text: &Text, notes: &mut Notes<'_>) -> PathBuf {
    match Glob::parse(text.get_ref()) {
        Ok(path) if path.is_literal() => {}
        Ok(_) => notes.error(
            &text.span(),
            "this is one file, not a pattern",
            "write its whole path",
        ),
        Err(error) => notes.error(&text.span(), error.to_string(), error.fix()),
    }
    PathBuf::from(text.get_ref())
}

/// A name that rules, approvers and the ledger use.
fn identifier(text: &Text, notes: &mut Notes<'_>) {
    let name = text.get_ref();
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
        notes.error(
            &text.span(),
            format!("`{name}` is not a name"),
            "use 1 to 64 letters, digits, `-`, `_` and `.`",
        );
    }
}

/// A text that approvers are shown.
fn shown(text: &Text, notes: &mut Notes<'_>) {
    let words = text.get_ref();
    if words.trim().is_empty() || words.len() > 200 || words.chars().any(char::is_control) {
        notes.error(
            &text.span(),
            "this text cannot be shown to approvers",
            "use 1 to 200 bytes without control characters, or leave it out",
        );
    }
}

fn unknown(text: &Text, what: &str, known: &[&str], notes: &mut Notes<'_>) {
    notes.error(
        &text.span(),
        format!("there is no {what} `{}`", text.get_ref()),
        suggest(text.get_ref(), what, known),
    );
}

/// The value that one of few words stands for.
fn one_of<T: Clone>(text: Option<&Text>, words: &[(&str, T)], notes: &mut Notes<'_>) -> Option<T> {
    let text = text?;
    let found = words.iter().find(|(word, _)| word == text.get_ref());
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("`{}` is not one of {}", text.get_ref(), known.join(", "));
        notes.error(
            &text.span(),
            message,
            suggest(text.get_ref(), "word", &known),
        );
    }
    found.map(|(_, value)| value.clone())
}

/// The entries of a list that must have some.
fn some<'r>(texts: &'r Texts, key: &str, notes: &mut Notes<'_>) -> std::slice::Iter<'r, Text> {
    if texts.items.is_empty() {
        notes.error(
            &texts.span,
            format!("`{key}` is empty, so this matches nothing"),
            format!("name at least one, or remove `{key}`"),
        );
    }
    texts.items.iter()
}

fn list<'r>(
    texts: Option<&'r Texts>,
    key: &str,
    notes: &mut Notes<'_>,
) -> std::slice::Iter<'r, Text> {
    texts.map_or([].iter(), |texts| some(texts, key, notes))
}

/// The value, or a note of why there is none.
fn noted<T, E: std::fmt::Display>(
    text: &Text,
    result: Result<T, E>,
    fix: impl FnOnce(&E) -> String,
    notes: &mut Notes<'_>,
) -> Option<T> {
    result
        .map_err(|error| notes.error(&text.span(), error.to_string(), fix(&error)))
        .ok()
}

/// Names that are in use, and where.
#[derive(Default)]
struct Taken(HashMap<String, Range<usize>>);

impl Taken {
    fn name(&mut self, text: &Text, what: &str, notes: &mut Notes<'_>) {
        identifier(text, notes);
        if let Some(first) = self.0.get(text.get_ref()) {
            let line = notes.line(first);
            notes.error(
                &text.span(),
                format!(
                    "there is already a {what} `{}`, in line {line}",
                    text.get_ref()
                ),
                "give each its own name",
            );
        } else {
            self.0.insert(text.get_ref().clone(), text.span());
        }
    }
}
