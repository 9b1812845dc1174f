//! Bits of agents and classes: the kernel knows them by nothing else, so a reload must not hand
//! one to another.
use std::collections::HashMap;

use super::class::{Class, Kind};
use super::{Policy, built_in};
use crate::request::Classes;

impl Policy {
    /// Gives programs of rules the bits that they had in `old`. Fails with the table that keeps its
    /// entries no longer at their places: running processes and pending holds are known by them.
    pub fn keep_places(&mut self, old: &Self) -> Result<(), &'static str> {
        let names = |policy: &Self| -> Vec<String> {
            policy
                .agents
                .iter()
                .map(|agent| agent.name.clone())
                .collect()
        };
        if !names(self).starts_with(&names(old)) {
            return Err("[[govern]]");
        }
        let sets = |policy: &Self| -> Vec<String> {
            let own = policy.classes.iter().filter(|class| class.is_own());
            own.map(|class| class.name.clone()).collect()
        };
        if !sets(self).starts_with(&sets(old)) {
            return Err("[[protect]]");
        }
        let known: Vec<&Class> = old.classes.iter().filter(|c| is_programs(c)).collect();
        let sets = self.classes.iter().filter(|class| !is_programs(class));
        let mut used = sets
            .chain(known.iter().copied())
            .fold(0, |used, class| used | class.bits().0);
        if self
            .classes
            .iter()
            .any(|new| new.is_own() && known.iter().any(|old| old.bit == new.bit))
        {
            return Err("[[protect]]");
        }
        let mut moves: HashMap<u32, u32> = HashMap::new();
        for class in self.classes.iter_mut().filter(|class| is_programs(class)) {
            let before = known.iter().find(|old| old.globs == class.globs);
            let bit = match before {
                Some(old) => old.bit,
                None => (0..built_in::LOWEST_BIT)
                    .rev()
                    .find(|bit| used >> bit & 1 == 0)
                    .ok_or("the programs of [[rule]]")?,
            };
            used |= 1 << bit;
            moves.insert(class.bit, bit);
            class.bit = bit;
        }
        for run in self.rules.iter_mut().filter_map(|rule| rule.run.as_mut()) {
            let bits = run.programs.iter().map(|bit| {
                let bit = bit as u32;
                1 << moves.get(&bit).copied().unwrap_or(bit)
            });
            run.programs = Classes(bits.fold(0, |all, bit: u64| all | bit));
        }
        Ok(())
    }
}

fn is_programs(class: &Class) -> bool {
    class.kind == Kind::Programs
}

#[cfg(test)]
mod tests {
    use crate::policy::testing::parsed;

    fn text(sets: &[&str], programs: &[&str]) -> String {
        let mut text = "[[govern]]\nname = \"a\"\nowner = \"o\"\n".to_owned();
        for set in sets {
            text += &format!("[[protect]]\nname = \"{set}\"\npaths = \"/{set}\"\n");
        }
        for (i, programs) in programs.iter().enumerate() {
            text += &format!(
                "[[rule]]\nname = \"r{i}\"\naction = \"exec\"\nprograms = \"{programs}\"\nverdict = \"deny\"\n"
            );
        }
        text
    }

    #[test]
    fn programs_keep_their_bits_wherever_their_rules_go() {
        let old = parsed(&text(&["p"], &["/bin/x", "/bin/y"]));
        let bit_of = |policy: &crate::policy::Policy, path: &str| {
            let class = policy.classes().iter();
            let class = class
                .clone()
                .find(|c| c.globs.iter().any(|g| g.to_string() == path));
            class.map(|class| class.bit)
        };
        let mut new = parsed(&text(
            &["p", "q"],
            &["/bin/z", "/bin/y", "/bin/y", "/bin/w"],
        ));
        new.keep_places(&old).unwrap();
        assert_eq!(bit_of(&new, "/bin/y"), bit_of(&old, "/bin/y"));
        // What is gone leaves its bit unused: a held syscall may still carry it.
        let gone = bit_of(&old, "/bin/x").unwrap();
        let bits: Vec<u32> = new.classes().iter().map(|class| class.bit).collect();
        assert!(!bits.contains(&gone), "{bits:?}");
        let mut all = bits.clone();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), bits.len(), "{bits:?}");
        for rule in new.rules() {
            let programs = rule.run.as_ref().unwrap().programs;
            let [bit] = programs.iter().collect::<Vec<_>>()[..] else {
                panic!("{programs:?}");
            };
            assert!(new.class(bit).is_some(), "{bit}");
        }
        assert_eq!(new.rules()[1].run, new.rules()[2].run);
    }

    #[test]
    fn what_cannot_stay_is_refused() {
        let old = parsed(&text(&["p", "q"], &[]));
        for sets in [&["p"][..], &["q", "p"], &["x", "p", "q"]] {
            let mut new = parsed(&text(sets, &[]));
            assert_eq!(new.keep_places(&old), Err("[[protect]]"), "{sets:?}");
        }
        let many: Vec<String> = (0..50).map(|i| format!("/bin/a{i}")).collect();
        let more: Vec<String> = (0..50).map(|i| format!("/bin/b{i}")).collect();
        let all = |list: &[String]| {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            parsed(&text(&["p"], &list))
        };
        let error = all(&more).keep_places(&all(&many)).unwrap_err();
        assert!(error.contains("programs"), "{error}");
    }
}
