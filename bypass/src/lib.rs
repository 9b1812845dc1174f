//! The ways around a hold that are known, each as an attack that a host tries on itself.
//!
//! | Module | What it does |
//! |---|---|
//! | `catalogue` | every attack: number, title, what is expected, how its effect is measured |
//! | `attacks` | what each does, syscall by syscall |
//! | `act` | what an attacker has at hand, and the one line that it says |
//! | `runner` | the attacker's process: a child for each attack |
//! | `scene` | where everything is: folders, ports, processes |
//! | `ground` | the other end: files, listeners, a victim; whether an effect happened |
//! | `pass` | one attacker, root or not, governed or not: every attack in turn |
//! | `judge` | from what was expected, done and seen to a verdict; pure |
//!
//! An attacker is never believed about its effect: whether bytes were read, a connection came or a
//! file changed is measured at the other end. Where the only effect is what a syscall returns, that
//! is what counts. Everything an attack does to this host without Syshold (the control) is undone
//! or changes nothing: a system setting is written as it is, a signal is one that is ignored.
//!
//! Unsafe code: `sys` and a few attacks that share memory or write machine code.
#![expect(
    unsafe_code,
    reason = "raw syscalls and machine code; each block says why"
)]
pub mod act;
mod attacks;
pub mod catalogue;
pub mod ground;
pub mod judge;
pub mod pass;
pub mod runner;
pub mod scene;
mod sys;
mod wire;
