//! The command line of `syshold-approver`.
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;
use syshold_ledger::cli::LedgerArgs;
use syshold_protocol::{EnrolToken, HostId, Subject, UnixMs};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{self, Config, ConfigError};
use crate::evidence::{self, EvidenceError};
use crate::host_api::now;
use crate::keys::{Keys, KeysError};
use crate::serve::{Gateway, ServeError};
use crate::store::hosts::TOKEN_LIFE_MS;
use crate::store::notices;
use crate::store::people::{Account, AccountError};
use crate::store::{Store, StoreError};
use crate::token::{PERSONAL, Secret};

mod hosts;
mod oidc;
mod passkeys;
mod report;
mod standing;

/// sysexits.h: EX_CONFIG.
const EXIT_CONFIG: u8 = 78;

/// The remote approver: hosts ask it, people answer through it.
#[derive(Debug, Parser)]
#[command(name = "syshold-approver", version, arg_required_else_help = true)]
pub struct Args {
    /// The settings; see docs/approver.md
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state folder, in place of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

/// The command line of `syshold-approver`, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
enum Verb {
    /// Make keys, certificates and state (`serve` does it too)
    Init {
        /// A name or address hosts reach this gateway by; may be repeated
        #[arg(long = "name", value_name = "HOST")]
        names: Vec<String>,
        #[command(flatten)]
        out: Out,
    },
    /// Run the gateway
    Serve,
    /// Print a single-use token that a host enrols with
    #[command(visible_alias = "enrol")]
    EnrolToken {
        /// How long it is good, in minutes, at most 60
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=60))]
        minutes: u64,
        #[command(flatten)]
        out: Out,
    },
    /// People who may answer
    #[command(subcommand)]
    Accounts(Accounts),
    /// Keys by which people sign in and sign approvals
    #[command(subcommand)]
    Passkeys(passkeys::Passkeys),
    /// Who somebody at the identity provider is here
    #[command(subcommand)]
    Oidc(oidc::Oidc),
    /// People in the place of others, for a time
    #[command(subcommand)]
    Delegate(standing::Delegate),
    /// Show every group: its members, who is on call, who is asked when nobody answers
    Roster {
        #[command(flatten)]
        out: Out,
    },
    /// Enrolled hosts and their ledgers
    #[command(subcommand)]
    Hosts(hosts::Hosts),
    /// Print the key that decisions are signed with, for `syshold ledger verify --gateway-key`
    DecisionKey {
        #[command(flatten)]
        out: Out,
    },
    /// Print the key that cosigns the ledgers of hosts, for `syshold ledger verify --witness`
    WitnessKey {
        #[command(flatten)]
        out: Out,
    },
    /// How people use this
    #[command(subcommand)]
    Report(report::Report),
    /// Read and prove the gateway's ledger
    Ledger(LedgerArgs),
    /// Check the configuration
    Check,
}

#[derive(Debug, Subcommand)]
enum Accounts {
    /// Add a person and print the personal token, once
    Add {
        name: String,
        /// Compared with an agent's owner and launcher, who may not approve
        #[arg(long)]
        email: Subject,
        /// A group that rules ask (`approvers = "privacy"`); may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        #[command(flatten)]
        out: Out,
    },
    /// List everybody
    List {
        #[command(flatten)]
        out: Out,
    },
    /// End a person's token and sessions, at once
    Disable {
        name: String,
        #[command(flatten)]
        out: Out,
    },
    /// Forget which chat accounts are a person's
    Unlink {
        name: String,
        #[command(flatten)]
        out: Out,
    },
    /// Replace a person's token; also brings a disabled account back
    Token {
        name: String,
        #[command(flatten)]
        out: Out,
    },
}

/// How to answer.
#[derive(Debug, clap::Args)]
struct Out {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0:?} is neither a host name nor an IP address")]
    Name(String),
    #[error("{0:?} is no account name: use 1 to 64 of a-z A-Z 0-9 . _ -")]
    AccountName(String),
    #[error("{0:?} is no mail address such as alice@example.com")]
    Email(String),
    #[error("{0:?} is no group name: use 1 to 64 of a-z A-Z 0-9 . _ -")]
    Group(String),
    #[error("there is no account {0:?}; see `syshold-approver accounts list`")]
    NoAccount(String),
    #[error("there is no passkey {0:?}; see `syshold-approver passkeys list`")]
    NoPasskey(String),
    #[error("no identity provider is configured: add [oidc] with `issuer` and `client_id`")]
    NoOidc,
    #[error("a subject has 1 to 255 bytes: copy it from the sign-in page or the provider")]
    Subject,
    #[error("that subject signs in as {0}; end that first: `syshold-approver oidc unlink SUBJECT`")]
    Linked(String),
    #[error("nobody is linked to that subject; see `syshold-approver oidc list`")]
    NoLink,
    #[error("browsers bind no key to {0}: set inbox_url (or names) to a host name")]
    NoSite(String),
    #[error("there is no delegation {0} that goes on; see `syshold-approver delegate list`")]
    NoDelegation(i64),
    #[error("{0:?} is no length of time: write hours or days, such as 12h or 14d, at most 90d")]
    Time(String),
    #[error("{0} answers in their own place already")]
    OwnPlace(String),
    #[error("there is no host {0}; see `syshold-approver hosts list`")]
    NoHost(HostId),
    #[error("nothing of a ledger of {0} was cosigned; see `syshold-approver hosts list`")]
    NoLog(HostId),
    #[error("{}: no gateway has been set up here; run `syshold-approver init` or start the service", .0.display())]
    NotSetUp(PathBuf),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write the answer: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match execute(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("syshold-approver: {error}");
            match error {
                Failure::Config(_)
                | Failure::NoSite(_)
                | Failure::Serve(ServeError::Channel(_) | ServeError::Listen { .. }) => {
                    ExitCode::from(EXIT_CONFIG)
                }
                Failure::Name(_)
                | Failure::AccountName(_)
                | Failure::Email(_)
                | Failure::Time(_)
                | Failure::OwnPlace(_)
                | Failure::Group(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn execute(args: Args) -> Result<ExitCode, Failure> {
    let path = args
        .config
        .clone()
        .unwrap_or_else(|| config::DEFAULT_PATH.into());
    let mut config = Config::load(&path, args.config.is_some())?;
    if let Some(dir) = &args.dir {
        config.dir.clone_from(dir);
    }
    match args.verb {
        Verb::Init { names, out } => init(&config, names, &out)?,
        Verb::Serve => serve(&config)?,
        Verb::EnrolToken { minutes, out } => enrol_token(&config, minutes, &out)?,
        Verb::Accounts(verb) => accounts(&config, verb)?,
        Verb::Passkeys(verb) => passkeys::run(&config, verb)?,
        Verb::Oidc(verb) => oidc::run(&config, verb)?,
        Verb::Delegate(verb) => standing::delegate(&config, verb)?,
        Verb::Roster { out } => standing::roster(&config, &out)?,
        Verb::Hosts(verb) => hosts::run(&config, verb)?,
        Verb::WitnessKey { out } => hosts::witness_key(&config, &out)?,
        Verb::DecisionKey { out } => hosts::decision_key(&config, &out)?,
        Verb::Report(verb) => report::run(&config, verb)?,
        Verb::Ledger(args) => {
            let db = config.dir.join(evidence::FILE);
            return Ok(syshold_ledger::cli::run_at(&args, &db));
        }
        Verb::Check => {
            writeln!(io::stdout(), "{}: good", path.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init(config: &Config, names: Vec<String>, out: &Out) -> Result<(), Failure> {
    if let Some(bad) = names.iter().find(|name| !config::is_name(name)) {
        return Err(Failure::Name(bad.clone()));
    }
    let keys = Keys::open_or_init(&config.dir, &names)?;
    Store::of(config, false)?;
    let (dir, ca) = (config.dir.display(), keys.ca_sha256());
    let value = json!({"dir": config.dir, "ca_sha256": ca, "decision_key": keys.decision.public()});
    let text = format!(
        "state: {dir}\nCA:    {dir}/ca.pem (sha256 {ca})\nnext:  syshold-approver accounts add NAME --email ADDRESS; syshold-approver serve"
    );
    out.print(&value, &text)
}

fn serve(config: &Config) -> Result<(), Failure> {
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let signal = stop_signal().map_err(Failure::Runtime)?;
        let gateway = Gateway::start(config).await?;
        tracing::info!(hosts = %gateway.hosts, people = %gateway.people, inbox = gateway.inbox_url, "ready");
        let _ = sd_notify::notify(true, &[sd_notify::NotifyState::Ready]);
        gateway
            .until(async {
                signal.await;
                let _ = sd_notify::notify(true, &[sd_notify::NotifyState::Stopping]);
                tracing::info!("stopping");
            })
            .await?;
        Ok(())
    })
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn log() {
    let filter = std::env::var("SYSHOLD_LOG")
        .ok()
        .and_then(|levels| levels.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    if io::stderr().is_terminal() {
        registry.with(lines).init();
    } else {
        registry.with(lines.with_ansi(false).without_time()).init();
    }
}

fn enrol_token(config: &Config, minutes: u64, out: &Out) -> Result<(), Failure> {
    let (keys, store) = open(config)?;
    let token = EnrolToken::generate(keys.ca_sha256());
    let life = (minutes * 60_000).min(TOKEN_LIFE_MS);
    let expires_at = store.add_enrol_token(&token, now(), life)?;
    let text = token.reveal();
    out.print(&json!({"token": *text, "expires_at": expires_at}), &text)?;
    note(&format!(
        "good once, until {expires_at}; hand it to whoever enrols the host, on a private way"
    ))
}

fn accounts(config: &Config, verb: Accounts) -> Result<(), Failure> {
    let (_, store) = open(config)?;
    match verb {
        Accounts::Add {
            name,
            email,
            groups,
            out,
        } => add_account(&store, name, email, groups, &out),
        Accounts::List { out } => {
            let all = store.accounts()?;
            let rows = all.iter().map(|a| {
                vec![
                    a.name.clone(),
                    a.email.to_string(),
                    a.groups.join(" "),
                    a.made_at.to_string(),
                    ended(a.disabled_at),
                ]
            });
            out.table(&all, &["name", "email", "groups", "since", "state"], rows)
        }
        Accounts::Disable { name, out } => {
            if !store.disable_account(&name, now())? {
                return Err(Failure::NoAccount(name));
            }
            out.print(
                &json!({"name": name, "disabled": true}),
                &format!("{name} can answer no more"),
            )
        }
        Accounts::Unlink { name, out } => {
            if !store
                .accounts()?
                .iter()
                .any(|a| a.name.eq_ignore_ascii_case(&name))
            {
                return Err(Failure::NoAccount(name));
            }
            let count = store.write(|tx| notices::unlink(tx, &name))?;
            out.print(
                &json!({"name": name, "unlinked": count}),
                &format!("{name}: {count} chat accounts forgotten"),
            )
        }
        Accounts::Token { name, out } => {
            let token = Secret::generate(PERSONAL);
            if !store.replace_token(&name, token.digest())? {
                return Err(Failure::NoAccount(name));
            }
            hand_out(
                &json!({"name": name, "token": token.reveal()}),
                &token,
                &out,
            )
        }
    }
}

fn add_account(
    store: &Store,
    name: String,
    email: Subject,
    groups: Vec<String>,
    out: &Out,
) -> Result<(), Failure> {
    if !is_word(&name) {
        return Err(Failure::AccountName(name));
    }
    if let Some(bad) = groups.iter().find(|group| !is_word(group)) {
        return Err(Failure::Group(bad.clone()));
    }
    if !is_email(email.as_str()) {
        return Err(Failure::Email(email.to_string()));
    }
    let token = Secret::generate(PERSONAL);
    let account = Account {
        name,
        email,
        groups,
        made_at: now(),
        disabled_at: None,
    };
    store.add_account(&account, token.digest())?;
    hand_out(
        &json!({"name": account.name, "email": account.email, "token": token.reveal()}),
        &token,
        out,
    )
}

/// ASCII only: two addresses that look the same are one here, or are refused.
fn is_email(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"\"<>()[],;:\\@".contains(&b))
    };
    text.split_once('@')
        .is_some_and(|(local, domain)| part(local) && part(domain))
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn hand_out(value: &serde_json::Value, token: &Secret, out: &Out) -> Result<(), Failure> {
    out.print(value, token.reveal())?;
    note("this personal token is shown once; keep it like a password")
}

fn ended(at: Option<UnixMs>) -> String {
    at.map_or_else(|| "active".to_owned(), |at| format!("disabled {at}"))
}

fn open(config: &Config) -> Result<(Keys, Store), Failure> {
    if !config.dir.join("ca.pem").exists() {
        return Err(Failure::NotSetUp(config.dir.clone()));
    }
    Ok((Keys::open(&config.dir)?, Store::of(config, false)?.0))
}

/// For people only, never in the way of a pipe.
fn note(text: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stderr(), "{text}")?)
}

impl Out {
    fn print(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(value)?)?;
        } else {
            writeln!(out, "{text}")?;
        }
        Ok(())
    }

    fn table(
        &self,
        value: &impl Serialize,
        header: &[&str],
        rows: impl Iterator<Item = Vec<String>>,
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(header)
            .add_rows(rows);
        self.print(value, &table.trim_fmt())
    }
}
