//! The running policy: into the kernel, out of the file again, and with the addresses of its
//! names. All or nothing: what does not load changes nothing.
use std::net::IpAddr;

use super::{Driver, compose};
use crate::gate;
use crate::governing::Governing;
use crate::kernel::{Kernel, KernelError};
use crate::names::{Change, Names, Resolver, parse_resolv_conf};
use crate::policy::{self, Policy, PolicyError};
use crate::rules::{BuiltIn, Facts};

impl Driver {
    /// The running policy into the kernel: acknowledged only when it is there.
    pub(super) fn put_in_force(&mut self) -> Result<(), KernelError> {
        let facts = Facts {
            names: &self.names,
            builtin: &self.builtin,
        };
        put_in_force(&mut self.kernel, &mut self.governing, &self.policy, facts)
    }

    pub(super) fn reload_by_signal(&mut self) {
        match self.reload() {
            Ok(()) => tracing::info!(sha256 = %self.policy.digest(), "policy reloaded"),
            Err(error) => tracing::error!("{error}; the running policy stays"),
        }
    }

    /// All or nothing: a policy that does not load changes nothing.
    pub(super) fn reload(&mut self) -> Result<(), ReloadError> {
        match self.try_reload() {
            Ok(()) => {
                self.policy_problem = None;
                Ok(())
            }
            Err(error) => {
                self.policy_problem = Some(error.to_string());
                Err(error)
            }
        }
    }

    fn try_reload(&mut self) -> Result<(), ReloadError> {
        if self.selftest.is_some() {
            return Err(ReloadError::Selftest);
        }
        let mut fresh = policy::load(&self.policy_path)?;
        fresh
            .keep_places(&self.policy)
            .map_err(ReloadError::Moved)?;
        let old = std::mem::replace(&mut self.policy, fresh);
        if let Err(error) = self.put_in_force() {
            self.policy = old;
            if let Err(again) = self.put_in_force() {
                tracing::error!(%again, "the old policy could not be put back in force");
            }
            return Err(error.into());
        }
        self.governing.seed(&mut self.kernel, &self.policy);
        self.policy_loaded = jiff::Timestamp::now();
        let leaf = compose::policy_leaf(&self.policy, &self.policy_path)
            .field("old_sha256", &old.digest().to_string());
        self.record_aside(leaf);
        for leaf in compose::revoke_leaves(self.gate.grants(), "policy_changed") {
            self.record_aside(leaf);
        }
        self.watch_names();
        self.gate_step(gate::Input::PolicyChanged);
        Ok(())
    }

    pub(super) fn watch_names(&mut self) {
        if let Some(old) = self.resolver.take() {
            old.abort();
        }
        let resolver = Resolver::new(
            self.policy.host_names(),
            self.names.clone(),
            "/etc/resolv.conf".into(),
        );
        self.resolver = Some(tokio::spawn(resolver.run(self.name_changes.0.clone())));
    }

    pub(super) fn names_changed(&mut self, change: Change) {
        self.names = change.names;
        self.builtin.resolvers = change.resolvers;
        self.refresh_tables();
    }

    /// Tried again at the next tick until the kernel says what user space does.
    pub(super) fn refresh_tables(&mut self) {
        let done = self.put_in_force();
        self.tables_stale = done.is_err();
        if let Err(error) = done {
            tracing::error!(%error, "new addresses could not be put in force; trying again");
        }
    }
}

/// What the kernel does by itself, before there is a driver: what a rule asks about is denied. So a
/// start that fails later leaves nobody ungoverned.
pub fn enforce_alone(
    kernel: &mut Kernel,
    policy: &Policy,
    builtin: &BuiltIn,
) -> Result<Governing, KernelError> {
    let mut governing = Governing::default();
    kernel.introduce_daemon()?;
    let names = &Names::default();
    put_in_force(kernel, &mut governing, policy, Facts { names, builtin })?;
    governing.seed(kernel, policy);
    Ok(governing)
}

fn put_in_force(
    kernel: &mut Kernel,
    governing: &mut Governing,
    policy: &Policy,
    facts: Facts<'_>,
) -> Result<(), KernelError> {
    let compiled = policy::compile(policy, &facts);
    if compiled.spilled > 0 {
        tracing::info!(
            rules = compiled.spilled,
            "network rules judged in user space"
        );
    }
    let tables = governing.tables(kernel, policy, compiled);
    kernel.enforce(&tables)
}

/// The host's resolvers once at the start, so that DNS works from the first moment.
#[must_use]
pub fn resolvers() -> Vec<IpAddr> {
    std::fs::read_to_string("/etc/resolv.conf")
        .map_or_else(|_| Vec::new(), |text| parse_resolv_conf(&text))
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the policy cannot be put in force: {0}")]
    Kernel(#[from] KernelError),
    #[error(
        "{0} entries were removed or reordered; running processes and holds are known by their place: add new entries at the end, or restart sysholdd when none of the old ones runs"
    )]
    Moved(&'static str),
    #[error("a self-test is under way: try again when it is over")]
    Selftest,
}
