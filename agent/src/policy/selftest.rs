//! What a host that tests itself has beside its policy: one more agent, one more protected set, and
//! no rule that speaks of them, so that all they try is asked.
use std::path::PathBuf;

use syshold_abi::MAX_AGENTS;

use super::govern::MOST_SETS;
use super::{Class, Policy, load};

/// The agent of `syshold selftest`.
pub const SELFTEST: &str = "syshold-selftest";

/// Why this policy has no room for it.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    #[error("the policy has an agent or a protected set called `{SELFTEST}`: give it another name")]
    Taken,
    #[error(
        "the policy has as many agents or protected sets as there may be, and one more of each is needed"
    )]
    Full,
    /// A folder of ours that is no pattern: not expected.
    #[error("{0}")]
    Folders(String),
}

impl Policy {
    /// This policy and, at the end of its tables, where nobody else's place changes, the agent of
    /// the self-test and the folders that are protected for it.
    pub fn with_selftest(&self, folders: &[PathBuf]) -> Result<Self, SelftestError> {
        let taken = |name: &String| name == SELFTEST;
        let mut agents = self.agents.iter().map(|agent| &agent.name);
        let mut classes = self.classes.iter().map(|class| &class.name);
        if agents.any(taken) || classes.any(taken) {
            return Err(SelftestError::Taken);
        }
        let sets = self.classes.iter().filter(|class| class.is_own()).count();
        let bit = u32::try_from(sets).unwrap_or(u32::MAX);
        let used = self.classes.iter().any(|class| class.bit == bit);
        if self.agents.len() >= MAX_AGENTS || sets >= MOST_SETS || used {
            return Err(SelftestError::Full);
        }
        let paths: Vec<String> = folders
            .iter()
            .map(|folder| format!("{:?}", folder.display().to_string()))
            .collect();
        let text = format!(
            "[[govern]]\nname = \"{SELFTEST}\"\nowner = \"{SELFTEST}\"\n\
             [[protect]]\nname = \"{SELFTEST}\"\npaths = [{}]\n",
            paths.join(", ")
        );
        let own = load::parse(&text, SELFTEST)
            .map_err(|error| SelftestError::Folders(error.to_string()))?;
        let mut policy = self.clone();
        policy.agents.extend(own.agents.into_iter().take(1));
        let class = own.classes.into_iter().find(|class| taken(&class.name));
        policy
            .classes
            .extend(class.map(|class| Class { bit, ..class }));
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Names;
    use crate::policy::{parse, testing::World};
    use crate::request::{Actions, AgentId, Classes, Object, Request};
    use crate::rules::{BuiltIn, Judgement, judge};

    const POLICY: &str = r#"
        [[govern]]
        name = "bot"
        owner = "alice"

        [[protect]]
        name = "pii"
        paths = ["/srv/pii"]

        [[rule]]
        name = "all"
        action = ["connect", "read", "write"]
        verdict = "allow"
    "#;

    fn folders() -> Vec<PathBuf> {
        vec!["/var/lib/syshold-selftest/protected".into()]
    }

    #[test]
    fn nobody_elses_place_changes_and_no_rule_is_about_the_new_ones() {
        let policy = parse(POLICY, "test").unwrap();
        let with = policy.with_selftest(&folders()).unwrap();
        assert_eq!(with.agents()[..1], policy.agents()[..]);
        assert_eq!(
            with.agent_id(SELFTEST),
            Some(AgentId(policy.agents().len() as u32))
        );
        let class = with.classes().last().unwrap();
        assert_eq!((class.name.as_str(), class.bit), (SELFTEST, 1));
        let world = World {
            names: Names::default(),
            builtin: BuiltIn::default(),
        };
        for agent in [0, 1] {
            let request = Request {
                agent: AgentId(agent),
                actions: Actions(crate::request::Action::Read.bit()),
                object: Object::File {
                    dev: 1,
                    ino: 2,
                    generation: 3,
                    onto: 0,
                    path: None,
                },
                classes: class.bits(),
                taint: Classes(0),
                exec: None,
            };
            let said = judge(&with, &request, &world.facts());
            assert!(matches!(said, Judgement::Ask(..)), "{agent}: {said:?}");
        }
        assert!(matches!(
            with.with_selftest(&folders()),
            Err(SelftestError::Taken)
        ));
    }
}
