//! Why a command failed, and the exit code that says so to scripts.
use std::io;
use std::process::ExitCode;

/// Exit codes, as sysexits has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Failure = 1,
    /// `selftest`: nothing is proven either way.
    NotRun = 2,
    /// The daemon or the gateway is not there.
    Unavailable = 69,
    Permission = 77,
    Configuration = 78,
    /// `run`: the command was not started.
    NotStarted = 126,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends a command.
pub(super) trait Failure: std::error::Error {
    fn exit(&self) -> Exit;

    /// Nothing is to be said: the reader of our output went away, or all has been said.
    fn is_silent(&self) -> bool {
        false
    }
}

impl<F: Failure + 'static> From<F> for Box<dyn Failure> {
    fn from(failure: F) -> Self {
        Box::new(failure)
    }
}

/// Our output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the output: {0}")]
pub(super) struct Output(#[from] io::Error);

impl Failure for Output {
    fn exit(&self) -> Exit {
        Exit::Failure
    }

    fn is_silent(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}
