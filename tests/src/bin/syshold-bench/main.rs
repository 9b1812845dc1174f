//! Measures one operation on a test machine, in guest instructions; `cargo xtask bench` runs it.
//!
//! ```text
//! syshold-bench measure ROW SUBJECT COUNT PAUSE_MS open|read PATH
//! syshold-bench measure ROW SUBJECT COUNT PAUSE_MS connect ADDRESS:PORT
//! syshold-bench under fanotify|seccomp measure …     the same, under a peer of our own making
//! syshold-bench ledger DIR                           what one commit of the ledger costs
//! syshold-bench many COUNT PATH                      opens PATH in COUNT threads at once
//! ```
//! Each prints one JSON object: the median, and the 10th and 90th of a hundred.
mod counter;
mod peers;

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use syshold_ledger::{Draft, HostName, Kind, Ledger, leaf};

use crate::counter::{Samples, now};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("syshold-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["measure", rest @ ..] => Measurement::parse(rest)?.run()?.print(),
        ["under", peer, "measure", rest @ ..] => {
            let measurement = Measurement::parse(rest)?;
            let supervisor = match *peer {
                "fanotify" => peers::Supervisor::fanotify(measurement.operation.path()?)?,
                "seccomp" => peers::Supervisor::seccomp()?,
                other => bail!("no peer {other}"),
            };
            let figure = measurement.run()?;
            let (asked, made) = (supervisor.answered(), measurement.made());
            // Otherwise the figure would be of something else.
            ensure!(
                asked == made,
                "{peer} was asked {asked} times for {made} operations"
            );
            figure.print();
        }
        ["ledger", dir] => ledger(Path::new(dir))?.print(),
        ["many", count, path] => many(count.parse()?, Path::new(path))?,
        _ => bail!("unknown words {words:?}: see the top of tests/src/bin/syshold-bench/main.rs"),
    }
    Ok(())
}

/// One line of output.
struct Figure {
    row: String,
    subject: String,
    samples: Samples,
}

impl Figure {
    fn print(&self) {
        println!(
            r#"{{"row":"{}","subject":"{}","unit":"instructions","value":{},"low":{},"high":{},"count":{}}}"#,
            self.row,
            self.subject,
            self.samples.percentile(50),
            self.samples.percentile(10),
            self.samples.percentile(90),
            self.samples.len(),
        );
    }
}

struct Measurement {
    row: String,
    subject: String,
    count: usize,
    pause: Duration,
    operation: Operation,
}

enum Operation {
    Open(PathBuf),
    Read(PathBuf),
    Connect(SocketAddr),
}

impl Operation {
    fn path(&self) -> Result<&Path> {
        match self {
            Self::Open(path) | Self::Read(path) => Ok(path),
            Self::Connect(_) => bail!("fanotify knows files only"),
        }
    }
}

impl Measurement {
    fn parse(words: &[&str]) -> Result<Self> {
        let [row, subject, count, pause, operation, object] = words else {
            bail!("measure ROW SUBJECT COUNT PAUSE_MS OPERATION OBJECT");
        };
        Ok(Self {
            row: (*row).to_owned(),
            subject: (*subject).to_owned(),
            count: count.parse().context("COUNT")?,
            pause: Duration::from_millis(pause.parse().context("PAUSE_MS")?),
            operation: match *operation {
                "open" => Operation::Open(object.into()),
                "read" => Operation::Read(object.into()),
                "connect" => Operation::Connect(object.parse().context("ADDRESS:PORT")?),
                other => bail!("unknown operation {other}"),
            },
        })
    }

    /// The first ones fill caches and are not counted.
    fn warm_up(&self) -> usize {
        self.count / 10 + 1
    }

    fn made(&self) -> u64 {
        (self.count + self.warm_up()) as u64
    }

    fn run(&self) -> Result<Figure> {
        let mut operation: Box<dyn FnMut() -> Result<u64>> = match &self.operation {
            Operation::Open(path) => {
                let path = path.clone();
                Box::new(move || open(&path))
            }
            Operation::Read(path) => {
                let file = File::open(path)?;
                Box::new(move || read(&file))
            }
            Operation::Connect(to) => {
                let to = *to;
                let listener =
                    TcpListener::bind(to).with_context(|| format!("cannot listen on {to}"))?;
                Box::new(move || dial(&listener, to))
            }
        };
        let mut samples = Samples::default();
        for turn in 0..self.count + self.warm_up() {
            let spent = operation().with_context(|| format!("operation {turn} of {}", self.row))?;
            if turn >= self.warm_up() {
                samples.push(spent);
            }
            // Without a pause what the supervisor does afterwards is part of the next turn.
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
        Ok(Figure {
            row: self.row.clone(),
            subject: self.subject.clone(),
            samples,
        })
    }
}

/// Opens and closes.
fn open(path: &Path) -> Result<u64> {
    let start = now();
    let file = File::open(path)?;
    drop(file);
    Ok(now() - start)
}

fn read(file: &File) -> Result<u64> {
    let mut byte = [0];
    let start = now();
    let count = file.read_at(&mut byte, 0)?;
    let spent = now() - start;
    ensure!(count == 1, "an empty file");
    Ok(spent)
}

/// Makes a socket and connects it; it is closed afterwards.
fn dial(listener: &TcpListener, to: SocketAddr) -> Result<u64> {
    let start = now();
    let stream = TcpStream::connect(to)?;
    let spent = now() - start;
    let (accepted, _) = listener.accept()?;
    // Reset at once: thousands of sockets in TIME_WAIT would slow the later ones.
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    drop(stream);
    drop(accepted);
    Ok(spent)
}

/// A decision as the daemon records one, from append until it is committed.
fn ledger(dir: &Path) -> Result<Figure> {
    const COUNT: usize = 300;
    let ledger = Ledger::open(&dir.join("bench.db"), HostName::of_this_machine()?)?;
    let mut samples = Samples::default();
    for turn in 0..COUNT + COUNT / 10 {
        let start = now();
        ledger.append(decision(turn)).wait()?;
        let spent = now() - start;
        if turn >= COUNT / 10 {
            samples.push(spent);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Figure {
        row: "commit".into(),
        subject: "syshold".into(),
        samples,
    })
}

fn decision(turn: usize) -> Draft {
    Draft::new(Kind::Decision)
        .hold(&turn.to_string())
        .agent(&leaf::Agent {
            name: "bench".into(),
            owner: Some("owner@example.com".into()),
            ..leaf::Agent::default()
        })
        .field("pid", &1000)
        .field("comm", "syshold-bench")
        .field("action", "read")
        .field("object", "/srv/pii/customers.csv")
        .policy(&leaf::Policy {
            sha256: "0".repeat(64),
            rule: Some("pii".into()),
            why: Some("rule pii".into()),
        })
        .decision(&leaf::Decision {
            verdict: leaf::Verdict::Allow,
            by: leaf::DecidedBy::Grant,
            cause: Some("granted".into()),
            id: None,
            grant: None,
            expires: None,
        })
}

/// Says how many of the opens succeeded, when all of them have ended.
fn many(count: usize, path: &Path) -> Result<()> {
    const STACK: usize = 32 << 10;
    let mut threads = Vec::with_capacity(count);
    for _ in 0..count {
        let path = path.to_owned();
        let thread = std::thread::Builder::new().stack_size(STACK);
        threads.push(thread.spawn(move || File::open(path).is_ok())?);
    }
    let opened = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok())
        .filter(|opened| *opened)
        .count();
    ensure!(opened == count, "{opened} of {count} opens succeeded");
    Ok(())
}
