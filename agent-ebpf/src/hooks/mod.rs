//! One file a subject, one function a hook, each as thin as its arguments allow.
mod cgroup;
mod file;
mod process;
mod signal;
mod socket;
mod uring;
