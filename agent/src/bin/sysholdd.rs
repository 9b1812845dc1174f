//! The daemon: starts everything in an order in which nothing claims what is not there yet,
//! then hands over to the driver.
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use sd_notify::NotifyState;
use syshold_agent::anchor::Anchor;
use syshold_agent::approver::gateway::Error as GatewayError;
use syshold_agent::approver::{Approver, Gateway};
use syshold_agent::control;
use syshold_agent::driver::{self, DriverError, Parts};
use syshold_agent::governing::Governing;
use syshold_agent::journal::Journal;
use syshold_agent::kernel::{self, Kernel};
use syshold_agent::park::{CGROUP_ROOT, Parking};
use syshold_agent::policy::{self, Policy};
use syshold_agent::rules::BuiltIn;
use syshold_ledger::{ClockState, HostName, Ledger, OpenError, Options};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// EX_CONFIG of sysexits.h: a restart changes nothing, so the unit does not try one, and what was said
/// is said once.
const EX_CONFIG: u8 = 78;

/// Holds the sensitive syscalls of governed processes until the policy or a person decides.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Policy and settings.
    #[arg(long, default_value = "/etc/syshold/agent.toml")]
    config: PathBuf,
    /// Keys, enrolment and, unless the policy says otherwise, the ledger.
    #[arg(long, default_value = "/var/lib/syshold")]
    state: PathBuf,
    /// Where `syshold` calls.
    #[arg(long, default_value = control::SOCKET)]
    socket: PathBuf,
}

fn main() -> ExitCode {
    abort_on_panic();
    kernel::spare_memory();
    let args = Args::parse();
    let policy = match policy::load(&args.config) {
        Ok(policy) => policy,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    start_log(policy.host().log);
    for warning in policy.warnings() {
        tracing::warn!("{warning}");
    }
    let refused = args.state.join(control::REFUSED);
    if let Err(error) = kernel::take_short_turns() {
        tracing::warn!(%error, "held threads may keep this daemon waiting for the processor");
    }
    let done = run(args, policy);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let witness = matches!(error.downcast_ref(), Some(DriverError::Witness(_)));
            let ledger = error.downcast_ref().is_some_and(OpenError::is_final);
            if logs_to_journal() {
                tracing::error!("{error}");
            } else {
                eprintln!("sysholdd: {error}");
            }
            if witness || ledger {
                // For `syshold status`, until a start goes well; the journal has it in any case.
                let _unsaid = std::fs::write(refused, error.to_string());
                return ExitCode::from(EX_CONFIG);
            }
            ExitCode::FAILURE
        }
    }
}

/// In every profile: a thread that ended would leave its part undone, and the others saying that all
/// is well. What is held stays held.
fn abort_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
}

/// The driver's thread hears of events and commits itself, without another to wake it; what TLS and
/// signatures take is spent on a thread of their own.
fn run(args: Args, policy: Policy) -> Result<(), Box<dyn std::error::Error>> {
    let network = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, policy, network.handle()))
}

async fn serve(
    args: Args,
    policy: Policy,
    network: &Handle,
) -> Result<(), Box<dyn std::error::Error>> {
    if let Err(error) = kernel::stop_dumps() {
        tracing::warn!(%error, "core dumps of this daemon are not prevented");
    }
    let ledger = Ledger::open_with(
        &policy.host().ledger,
        HostName::of_this_machine()?,
        ledger_options(),
    );
    let ledger = match ledger {
        // Another daemon governs this host.
        Err(error @ OpenError::InUse { .. }) => return Err(error.into()),
        Err(error) if policy.agents().is_empty() => return Err(error.into()),
        other => other,
    };
    let gateway = Gateway::load(&args.state);
    let builtin = BuiltIn {
        deny: gateway.as_ref().map_or_else(
            |_| Vec::new(),
            |(gateway, _)| {
                let (host, port) = gateway.address();
                addresses(&host, port)
            },
        ),
        resolvers: driver::resolvers(),
    };
    // First of all that may fail: then what is asked about is denied, and nobody is ungoverned.
    let enforced = enforce(&policy, &builtin);
    if let (Err(_), Err(error)) = (&ledger, &enforced) {
        tracing::error!(%error, "beside what follows, nothing is enforced");
    }
    let ledger = ledger?;
    let (kernel, governing) = enforced?;
    let earlier = driver::earlier(&policy.host().ledger, jiff::Timestamp::now())?;
    let mut parking = Parking::default();
    let adopted = parking.adopt(Path::new(CGROUP_ROOT))?;
    if adopted > 0 {
        tracing::info!(
            threads = adopted,
            "held threads of an earlier daemon taken up"
        );
    }
    let (events, from_gateway) = mpsc::channel(1024);
    let approver = match gateway {
        Ok((gateway, key)) => {
            let _there = network.enter();
            Some(Approver::start(gateway, key, events)?)
        }
        Err(error @ GatewayError::NotEnrolled { .. }) => {
            tracing::warn!("{error}; until then every ask rule denies");
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(approver) = &approver {
        for request in earlier.unanswered {
            approver.take_back(request);
        }
    }
    let anchor = approver.as_ref().map(|approver| {
        let path = policy.host().ledger.clone();
        Anchor::start(approver.log(), ledger.clone(), path)
    });
    let anchor = anchor.transpose()?;
    let journal = Journal::start(&ledger, policy.host().ledger.clone())?;
    let (to_driver, calls) = mpsc::channel(64);
    let _door = control::listen(&args.socket, to_driver)?;
    let parts = Parts {
        kernel,
        governing,
        parking,
        ledger,
        policy,
        policy_path: args.config,
        approver,
        anchor,
        from_gateway,
        calls,
        builtin,
        orders: earlier.orders,
    };
    let refused = args.state.join(control::REFUSED);
    let done = driver::run(parts, |headline| {
        let _none = std::fs::remove_file(refused);
        kernel::trim_memory();
        tracing::info!(headline, "enforcement is live");
        let _ = sd_notify::notify(false, &[NotifyState::Ready, NotifyState::Status(headline)]);
    })
    .await;
    journal.finish();
    Ok(done?)
}

fn enforce(
    policy: &Policy,
    builtin: &BuiltIn,
) -> Result<(Kernel, Governing), Box<dyn std::error::Error>> {
    let mut kernel = Kernel::load(Path::new(kernel::PINS))?;
    let governing = driver::enforce_alone(&mut kernel, policy, builtin)?;
    Ok((kernel, governing))
}

fn ledger_options() -> Options {
    let clock = || {
        let (synced, maxerror_us) = kernel::clock_state()?;
        Some(ClockState {
            synced,
            maxerror_us,
        })
    };
    Options {
        clock: Some(Box::new(clock)),
        // What may be personal can be redacted later without breaking a proof. The gateway's
        // answer repeats what people wrote.
        openable: [
            "process.argv",
            "process.cwd",
            "approvers.comment",
            "envelope",
        ]
        .map(str::to_owned)
        .into(),
        ..Options::default()
    }
}

/// Where the gateway listens: no governed process may go there. A gateway on this very machine
/// is reached by any of its addresses.
fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = match (host.trim_matches(['[', ']']), port).to_socket_addrs() {
        Ok(found) => found.collect(),
        Err(error) => {
            tracing::warn!(host, %error, "the gateway's name does not resolve");
            return Vec::new();
        }
    };
    let own = own_addresses();
    if found.iter().any(|to| own.contains(&to.ip())) {
        found.extend(own.into_iter().map(|ip| SocketAddr::new(ip, port)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}

/// To the journal with fields where there is one, to the terminal otherwise.
fn start_log(level: tracing::Level) {
    let filter = LevelFilter::from_level(level);
    let registry = tracing_subscriber::registry().with(filter);
    match logs_to_journal().then(tracing_journald::layer) {
        // SYSHOLD_LEAF, SYSHOLD_AGENT, …: docs/auditor.md names them.
        Some(Ok(journal)) => registry
            .with(journal.with_field_prefix(Some("SYSHOLD".to_owned())))
            .init(),
        _ => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
            .init(),
    }
}

/// Whether standard error is the journal, and not merely inherited from someone whose was:
/// `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
fn logs_to_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = nix::sys::stat::fstat(std::io::stderr());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
