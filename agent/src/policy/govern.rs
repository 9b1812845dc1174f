//! `[[govern]]` and `[[protect]]`: who is governed, and what is protected from them.
use std::collections::HashMap;

use syshold_abi::{CGROUP_NAME_LEN, MAX_AGENTS};
use syshold_protocol::ids::Subject;

use super::built_in;
use super::class::{Class, Kind};
use super::error::Notes;
use super::exceptions::exceptions;
use super::raw::{RawAgent, RawProtect, Text};
use super::text::{Taken, file, identifier, list, noted, shown, some};
use super::{Agent, Glob, GlobError, Selector};

/// Most protected paths; the kernel's table of roots is bounded.
const MOST_PATHS: usize = 1024;
/// Most `[[protect]]`: the bits above are those of the built-in sets.
pub(super) const MOST_SETS: usize = built_in::LOWEST_BIT as usize;

pub(super) fn agents(raw: &[RawAgent], notes: &mut Notes<'_>) -> Vec<Agent> {
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
        let (shared_taint, exceptions) = exceptions(raw, notes);
        // The agent stays even if its owner is wrong: rules that name it are not.
        let owner = owner.or_else(|| "unknown".parse().ok());
        agents.extend(owner.map(|owner| Agent {
            name: raw.name.get_ref().clone(),
            owner,
            model: raw.model.as_ref().map(|model| model.get_ref().clone()),
            selectors,
            shared_taint,
            exceptions,
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

pub(super) fn classes(raw: &[RawProtect], notes: &mut Notes<'_>) -> Vec<Class> {
    let mut taken = Taken::default();
    if let Some(surplus) = raw.get(MOST_SETS) {
        notes.error(
            &surplus.name.span(),
            format!("a policy protects at most {MOST_SETS} sets of paths"),
            "give one [[protect]] several paths",
        );
    }
    if raw.iter().map(|raw| raw.paths.items.len()).sum::<usize>() > MOST_PATHS
        && let Some(last) = raw.last()
    {
        notes.error(
            &last.paths.span,
            format!("a policy protects at most {MOST_PATHS} paths"),
            "protect folders instead of single files, or use patterns",
        );
    }
    let mut classes = Vec::new();
    for (bit, raw) in (0..).zip(raw.iter().take(MOST_SETS)) {
        taken.name(&raw.name, "set of paths", notes);
        if built_in::is_one(raw.name.get_ref()) {
            let name = raw.name.get_ref();
            notes.error(
                &raw.name.span(),
                format!("the set `{name}` is built in"),
                format!(
                    "choose another name; `class = \"{name}\"` adds paths to what rules for it mean"
                ),
            );
        }
        let class = raw.class.as_ref().unwrap_or(&raw.name);
        identifier(class, notes);
        let globs = some(&raw.paths, "paths", notes)
            .filter_map(|text| noted(text, Glob::parse(text.get_ref()), GlobError::fix, notes))
            .collect();
        classes.push(Class {
            name: raw.name.get_ref().clone(),
            class: class.get_ref().clone(),
            globs,
            homes: Vec::new(),
            bit,
            kind: Kind::of_word(class.get_ref()),
            built_in: false,
        });
    }
    classes
}
