//! One file a subject, one function a hook, each as thin as its arguments allow.
mod cgroup;
mod file;
mod guard;
mod process;
mod signal;
mod socket;
mod uring;
