//! What outsiders can send to Syshold, and what must hold whatever they send.
//!
//! A target takes any bytes. It panics when a parser does, or when what a parser let through is
//! something that it promises never to. Signatures are made here, with keys that the host pins, so
//! that what is behind them is reached: the worst that a gateway which lies could sign.
//!
//! `cargo xtask fuzz` lets libFuzzer look for such bytes; the tests below replay the seeds, whole,
//! cut and with bits flipped, in every run.
#![expect(
    clippy::expect_used,
    reason = "what cannot be set up must not pass for something that was looked at"
)]
mod agent;
mod gateway;
mod ledger;
mod signed;

/// A parser, or a family of them.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Who decides on the bytes.
    pub from: &'static str,
    pub run: fn(&[u8]),
    /// Good ones, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target {
        name: "decision",
        from: "a gateway",
        run: signed::decision,
        seeds: signed::decisions,
    },
    Target {
        name: "revocations",
        from: "a gateway",
        run: signed::revocations,
        seeds: signed::lists,
    },
    Target {
        name: "break-glass",
        from: "whoever has a key",
        run: signed::break_glass,
        seeds: signed::orders,
    },
    Target {
        name: "passkey",
        from: "a browser",
        run: signed::passkey,
        seeds: signed::registrations,
    },
    Target {
        name: "policy",
        from: "the file's writer",
        run: agent::policy,
        seeds: agent::policies,
    },
    Target {
        name: "glob",
        from: "the policy, and who names files",
        run: agent::glob,
        seeds: agent::globs,
    },
    Target {
        name: "proc",
        from: "a governed process",
        run: agent::proc,
        seeds: agent::procs,
    },
    Target {
        name: "control",
        from: "who may use the control socket",
        run: agent::control,
        seeds: agent::calls,
    },
    Target {
        name: "request",
        from: "a host",
        run: gateway::request,
        seeds: gateway::requests,
    },
    Target {
        name: "slack",
        from: "Slack, and who clicks",
        run: gateway::slack,
        seeds: gateway::clicks,
    },
    Target {
        name: "config",
        from: "the file's writer",
        run: gateway::config,
        seeds: gateway::configs,
    },
    Target {
        name: "note",
        from: "a witness, or who brings evidence",
        run: ledger::note,
        seeds: ledger::notes,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Small steps away from what is right, the same in every run.
    fn near(seed: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        let step = (seed.len() / 64).max(1);
        let cut = (0..seed.len())
            .step_by(step)
            .map(|end| seed[..end].to_vec());
        let flipped = (0..seed.len()).step_by(step).flat_map(|at| {
            [0, 1, 5, 7].map(|bit| {
                let mut bytes = seed.to_vec();
                bytes[at] ^= 1 << bit;
                bytes
            })
        });
        cut.chain(flipped)
    }

    #[test]
    fn every_target_bears_its_seeds_and_what_is_near_them() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            for seed in seeds {
                (target.run)(&seed);
                near(&seed).for_each(|bytes| (target.run)(&bytes));
            }
            (target.run)(b"");
        }
    }

    #[test]
    fn names_are_distinct() {
        for (at, target) in TARGETS.iter().enumerate() {
            assert!(TARGETS[..at].iter().all(|other| other.name != target.name));
        }
    }
}
