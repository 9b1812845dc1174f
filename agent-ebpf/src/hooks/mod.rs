//! One file a subject, one function a hook, each as thin as its arguments allow.
mod cgroup;
mod egress;
pub mod exec;
mod file;
mod guard;
mod listen;
mod name;
mod option;
mod process;
mod signal;
mod socket;
mod unix;
mod uring;
