//! How often people may be asked: pure, no clock. What a host may file at once is in
//! [`crate::store::requests::file`].
use std::collections::{HashMap, VecDeque};

use syshold_protocol::{HostId, UnixMs};

/// The time that [`Limits::prompts_per_agent`] is for.
pub const WINDOW_MS: u64 = 10 * 60 * 1000;
/// The time that [`Limits::auto_deny_after`] is for: that many denials of the same question by people …
pub const DENIALS_MS: u64 = 60 * 60 * 1000;
/// … and it is denied without asking for so long after the last of them.
pub const AUTO_DENY_MS: u64 = 10 * 60 * 1000;
/// How many agents are remembered; beyond, nobody is told of new ones until the window has passed.
const MAX_AGENTS: usize = 100_000;

/// What is refused or kept quiet. From the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Undecided requests of one host.
    pub pending_per_host: u32,
    /// Undecided requests of one agent on one host.
    pub pending_per_agent: u32,
    /// Messages about one agent on one host in ten minutes.
    pub prompts_per_agent: u32,
    /// Denials of the same question by people in a row; 0: people are always asked.
    pub auto_deny_after: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_per_host: 2000,
            pending_per_agent: 5,
            prompts_per_agent: 20,
            auto_deny_after: 3,
        }
    }
}

/// Whether people are told of a request.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    Show,
    /// Not of this one: of the flood, once.
    Alert,
    Quiet,
}

/// When each agent asked lately.
#[derive(Debug)]
pub struct Prompts {
    most: usize,
    agents: HashMap<(HostId, String), Agent>,
}

#[derive(Debug, Default)]
struct Agent {
    shown: VecDeque<UnixMs>,
    alerted: Option<UnixMs>,
}

impl Prompts {
    /// At most `most` in any ten minutes.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            agents: HashMap::new(),
        }
    }

    /// One request of `agent` on `host`.
    pub fn ask(&mut self, now: UnixMs, host: &HostId, agent: &str) -> Prompt {
        if self.agents.len() >= MAX_AGENTS {
            self.agents.retain(|_, agent| !agent.is_idle(now));
            if self.agents.len() >= MAX_AGENTS {
                return Prompt::Quiet;
            }
        }
        let key = (host.clone(), agent.to_owned());
        let agent = self.agents.entry(key).or_default();
        while agent
            .shown
            .front()
            .is_some_and(|at| now.since(*at) >= WINDOW_MS)
        {
            agent.shown.pop_front();
        }
        if agent.shown.len() < self.most {
            agent.shown.push_back(now);
            return Prompt::Show;
        }
        if agent.alerted.is_some_and(|at| now.since(at) < WINDOW_MS) {
            return Prompt::Quiet;
        }
        agent.alerted = Some(now);
        Prompt::Alert
    }
}

impl Agent {
    fn is_idle(&self, now: UnixMs) -> bool {
        let last = self.shown.back().max(self.alerted.as_ref());
        last.is_none_or(|at| now.since(*at) >= WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    #[test]
    fn a_flood_is_one_alert_for_its_agent_alone() {
        let mut prompts = Prompts::new(2);
        let start = UnixMs::new(1_700_000_000_000);
        let mut ask = |ms, host_name, agent| prompts.ask(start.plus(ms), &host(host_name), agent);
        assert_eq!(ask(0, "a", "bot"), Prompt::Show);
        assert_eq!(ask(1, "a", "bot"), Prompt::Show);
        assert_eq!(ask(2, "a", "bot"), Prompt::Alert);
        assert_eq!(ask(3, "a", "bot"), Prompt::Quiet);
        assert_eq!(ask(4, "a", "other"), Prompt::Show, "another agent");
        assert_eq!(ask(5, "b", "bot"), Prompt::Show, "another host");
        assert_eq!(
            ask(WINDOW_MS, "a", "bot"),
            Prompt::Show,
            "the first is forgotten"
        );
        assert_eq!(
            ask(WINDOW_MS, "a", "bot"),
            Prompt::Quiet,
            "the second is not"
        );
        assert_eq!(ask(WINDOW_MS + 2, "a", "bot"), Prompt::Show);
        assert_eq!(ask(WINDOW_MS + 3, "a", "bot"), Prompt::Alert, "a new flood");
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_any_window(gaps in proptest::collection::vec(0_u64..200_000, 1..300)) {
            let mut prompts = Prompts::new(20);
            let (mut at, mut shown, mut alerts) = (1_700_000_000_000, Vec::new(), Vec::new());
            for gap in gaps {
                at += gap;
                match prompts.ask(UnixMs::new(at), &host("a"), "bot") {
                    Prompt::Show => shown.push(at),
                    Prompt::Alert => alerts.push(at),
                    Prompt::Quiet => {}
                }
            }
            prop_assert!(shown.windows(21).all(|w| w[20] - w[0] >= WINDOW_MS));
            prop_assert!(alerts.windows(2).all(|w| w[1] - w[0] >= WINDOW_MS));
        }
    }
}
