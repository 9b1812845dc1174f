//! What governed processes do when they do everything at once, for tests/cases/churn.py:
//! `run` a storm of processes, count `births`, `fill` the map of holds, `flood` the kernel's ring of events, `fuzz` with syscalls by chance.
#![expect(
    unsafe_code,
    reason = "fork and raw syscalls are what this is about; each block says why"
)]
mod births;
mod fuzz;
mod storm;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("syshold-churn: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let verb = words.next().context("run, births, fill, flood or fuzz")?;
    let rest: Vec<String> = words.collect();
    match verb.as_str() {
        "run" => storm::run(&rest),
        "births" => births::run(&rest),
        "fill" => storm::fill(&rest),
        "flood" => storm::flood(&rest),
        "fuzz" => fuzz::run(&rest),
        other => bail!("no such verb: {other}"),
    }
}

/// Small, fast and good enough: xorshift64*.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end.max(1)
    }

    pub(crate) fn of<'a, T>(&mut self, choice: &'a [T]) -> Option<&'a T> {
        choice.get(usize::try_from(self.below(choice.len() as u64)).ok()?)
    }
}
