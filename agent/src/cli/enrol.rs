//! `syshold enrol`: a token becomes a key and a gateway to ask.
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use syshold_protocol::EnrolToken;
use syshold_protocol::enrol::TokenError;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::{Outcome, show};
use crate::approver::enrol::{self, enrol};
use crate::approver::gateway::{self, Gateway, GatewayUrl, STATE_DIR};

/// Far longer than a token.
const MAX_TOKEN: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct EnrolArgs {
    /// The gateway's address for hosts
    #[arg(long, value_name = "https://HOST:PORT")]
    gateway: GatewayUrl,
    /// The file with the token from `syshold-approver enrol`; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// What people call this host [default: its host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Reach the gateway through this proxy
    #[arg(long, value_name = "http://HOST:PORT")]
    proxy: Option<String>,
    /// Replace the enrolment that is there
    #[arg(long)]
    again: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The daemon's state folder
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, hide = true)]
    state: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum EnrolError {
    #[error("this host is enrolled already; to replace that, add --again")]
    Already,
    #[error("cannot read the token from {path}: {source}")]
    TokenFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error(transparent)]
    Enrol(#[from] enrol::Error),
}

impl Failure for EnrolError {
    fn exit(&self) -> Exit {
        use enrol::Error as E;
        match self {
            Self::Already | Self::Token(_) => Exit::Configuration,
            Self::TokenFile { source, .. }
            | Self::Enrol(E::Store(
                gateway::Error::Write { source, .. } | gateway::Error::Read { source, .. },
            )) if source.kind() == io::ErrorKind::PermissionDenied => Exit::Permission,
            Self::Enrol(E::Unreachable(_)) => Exit::Unavailable,
            Self::TokenFile { .. } | Self::Runtime(_) | Self::Enrol(_) => Exit::Failure,
        }
    }
}

pub(super) fn run(args: EnrolArgs) -> Outcome {
    if Gateway::enrolled(&args.state) && !args.again {
        return Err(EnrolError::Already.into());
    }
    let token = read_token(&args.token_file)?;
    let name = args.name.unwrap_or_else(host_name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(EnrolError::Runtime)?;
    let url = args.gateway.clone();
    let host_id = runtime
        .block_on(enrol(args.gateway, args.proxy, token, name, &args.state))
        .map_err(EnrolError::from)?;
    if args.json {
        show::json(&serde_json::json!({"host_id": host_id, "gateway": url}))?;
    } else {
        show::print(&format!(
            "Enrolled with {url} as {host_id}.\nThe daemon asks there after `systemctl restart sysholdd`."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_token(path: &Path) -> Result<EnrolToken, EnrolError> {
    let mut text = Zeroizing::new(String::new());
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_TOKEN).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
    };
    read.map_err(|source| EnrolError::TokenFile {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.parse()?)
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "host".to_owned())
}
