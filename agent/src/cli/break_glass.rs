//! `syshold break-glass`: keys, orders, and bringing one to the daemon. Making and signing an order
//! needs neither the daemon nor the network, so it can be done where the keys are kept.
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use syshold_protocol::break_glass::{self, MAX_MS, Order};
use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::dsse::{self, DsseError, KeyFileError};
use syshold_protocol::{DecisionId, HostId, MAX_ENVELOPE, SigningKey, UnixMs, VERSION};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Outcome;
use super::daemon::{DaemonError, call_once};
use super::failure::{Exit, Failure};
use super::show::{self, BAD, NOTE, safe, styled};
use crate::approver::gateway::{Gateway, STATE_DIR};
use crate::control::{Call, Reply};

/// Far longer than a key.
const MAX_KEY: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct BreakGlassArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key to be kept offline, and print its line for [[break_glass]] of the policy
    Key {
        /// The new file with the private key
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write an order, signed by the first person
    Order(OrderArgs),
    /// Show an order and sign it as the second person
    Countersign {
        /// The order's file; it is changed
        order: PathBuf,
        /// The file with your private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Do not ask on a terminal
        #[arg(short, long)]
        yes: bool,
    },
    /// Show an order, and bring it into force on this host
    Use {
        /// The order's file
        order: PathBuf,
    },
    /// End every order that is in force on this host
    End,
}

#[derive(Debug, Args)]
struct OrderArgs {
    /// The agent, as the host's policy calls it
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Only what this rule asks; may be given several times [default: every rule that asks]
    #[arg(long = "rule", value_name = "NAME")]
    rules: Vec<String>,
    /// The host's id at the gateway, as `syshold enrol` printed it [default: this host]
    #[arg(long, value_name = "ID")]
    host: Option<HostId>,
    /// How long, from now
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u8).range(1..=15))]
    minutes: u8,
    /// Why it cannot wait; everybody concerned reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The file with your private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The new file with the order
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum BreakGlassError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Key { path: PathBuf, source: KeyFileError },
    #[error("{path} is no order: {source}")]
    Order { path: PathBuf, source: DsseError },
    #[error("{0}")]
    Unusable(#[from] break_glass::Refusal),
    #[error("the order cannot be signed: {0}")]
    Sign(#[from] CanonicalError),
    #[error("which host? this one is not enrolled; give --host ID")]
    Host,
    #[error("not signed")]
    Unconfirmed,
}

impl Failure for BreakGlassError {
    fn exit(&self) -> Exit {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::Permission
            }
            _ => Exit::Failure,
        }
    }
}

pub(super) fn run(socket: &Path, args: BreakGlassArgs) -> Outcome {
    match args.verb {
        Verb::Key { out } => {
            let key = SigningKey::generate();
            write_new(&out, key.to_pem().as_bytes())?;
            show::print(&format!("keys = [\"{}\"]", key.public()))?;
        }
        Verb::Order(args) => {
            let key = read_key(&args.key)?;
            let out = args.out.clone();
            let order = order(args)?;
            order.check(now()).map_err(BreakGlassError::from)?;
            let sealed = dsse::seal(&order, &key).map_err(BreakGlassError::from)?;
            write_new(&out, &sealed.envelope)?;
            print(&order)?;
            show::print("Signed by one; `syshold break-glass countersign` is for the second.")?;
        }
        Verb::Countersign { order, key, yes } => {
            let key = read_key(&key)?;
            let bytes = read(&order, MAX_ENVELOPE as u64)?;
            print(&peek(&order, &bytes)?)?;
            if !yes && io::stdin().is_terminal() {
                confirm()?;
            }
            let both = dsse::countersign::<Order>(&bytes, &key).map_err(|source| {
                BreakGlassError::Order {
                    path: order.clone(),
                    source,
                }
            })?;
            std::fs::write(&order, both).map_err(|source| BreakGlassError::Write {
                path: order,
                source,
            })?;
            show::print("Signed. Bring it to the host: `syshold break-glass use FILE`, as root.")?;
        }
        Verb::Use { order } => {
            let bytes = read(&order, MAX_ENVELOPE as u64)?;
            print(&peek(&order, &bytes)?)?;
            let order = String::from_utf8_lossy(&bytes).into_owned();
            told(call_once(socket, &Call::BreakGlass { order })?, BAD)?;
        }
        Verb::End => told(call_once(socket, &Call::BreakGlassEnd)?, NOTE)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn told(reply: Reply, style: anstyle::Style) -> Result<(), Box<dyn Failure>> {
    match reply {
        Reply::Done { text } => Ok(show::print(&styled(style, &safe_lines(&text)))?),
        _ => Err(DaemonError::Other.into()),
    }
}

fn safe_lines(text: &str) -> String {
    text.lines().map(safe).collect::<Vec<_>>().join("\n")
}

fn order(args: OrderArgs) -> Result<Order, BreakGlassError> {
    let own = || Gateway::load(Path::new(STATE_DIR)).map(|(gateway, _)| gateway.host_id);
    let host_id = match args.host {
        Some(host) => host,
        None => own().map_err(|_| BreakGlassError::Host)?,
    };
    let from = now();
    Ok(Order {
        v: VERSION,
        order_id: DecisionId(Uuid::new_v4()),
        host_id,
        agent: args.agent,
        rules: args.rules,
        reason: args.reason,
        from,
        until: from.plus((u64::from(args.minutes) * 60_000).min(MAX_MS)),
    })
}

fn print(order: &Order) -> Result<(), super::failure::Output> {
    let rules = match order.rules.len() {
        0 => "whatever it asks".to_owned(),
        _ => format!("what is asked by {}", order.rules.join(", ")),
    };
    let mut table = show::table(&["break-glass", ""]);
    for (name, value) in [
        ("order", order.order_id.to_string()),
        ("host", order.host_id.to_string()),
        ("agent", order.agent.clone()),
        ("lets through", rules),
        ("until", time(order.until)),
        ("reason", order.reason.clone()),
    ] {
        table.add_row([name.to_owned(), safe(&value)]);
    }
    show::print(&table.to_string())
}

fn time(at: UnixMs) -> String {
    i64::try_from(at.ms())
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| at.to_string(), |at| at.to_string())
}

fn confirm() -> Result<(), Box<dyn Failure>> {
    let mut ask = anstream::stderr();
    let mut answer = String::new();
    let asked = write!(ask, "{}", styled(NOTE, "Sign this order? [y/N] "))
        .and_then(|()| ask.flush())
        .and_then(|()| io::stdin().read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
        _ => Err(BreakGlassError::Unconfirmed.into()),
    }
}

fn peek(path: &Path, bytes: &[u8]) -> Result<Order, BreakGlassError> {
    dsse::peek(bytes).map_err(|source| BreakGlassError::Order {
        path: path.to_owned(),
        source,
    })
}

fn read_key(path: &Path) -> Result<SigningKey, BreakGlassError> {
    let pem = Zeroizing::new(read(path, MAX_KEY)?);
    SigningKey::from_pem(&pem).map_err(|source| BreakGlassError::Key {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, BreakGlassError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|source| BreakGlassError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

/// Never over another file, and readable by nobody else.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BreakGlassError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| BreakGlassError::Write {
            path: path.to_owned(),
            source,
        })
}

fn now() -> UnixMs {
    std::time::SystemTime::now().into()
}
