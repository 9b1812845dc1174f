//! Power cuts: what a writer does to the disk is recorded with strace, and every state that a cut
//! could have left is made again, byte for byte: all of it, only what was synced, and what was synced
//! with any part of the rest, sectors torn. Each has to open, to hold every leaf that was acknowledged
//! before the cut, and to prove itself.
//!
//! Starts itself again as the writer, so it brings its own main.
#![expect(clippy::expect_used, reason = "tests with a main of their own")]
mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use common::place;
use syshold_ledger::{Draft, Exit, Kind, Ledger, Options, Reader, verify};

const DB: &str = "SYSHOLD_LEDGER_TEST_DB";
const LEAVES: u64 = 40;
const SECTOR: usize = 512;
/// About how many states are tried; more when this variable says so.
const STATES: (&str, usize) = ("SYSHOLD_LEDGER_TEST_CUTS", 400);

fn main() -> ExitCode {
    if let Some(db) = std::env::var_os(DB) {
        return write(Path::new(&db));
    }
    let name = "every_state_that_a_power_cut_leaves_is_whole";
    let filter: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let run = filter.is_empty() || filter.iter().any(|word| name.contains(word.as_str()));
    if run {
        power_cuts();
        println!("test {name} ... ok");
    }
    let (run, filtered) = (u8::from(run), u8::from(!run));
    println!(
        "\ntest result: ok. {run} passed; 0 failed; 0 ignored; 0 measured; {filtered} filtered out"
    );
    ExitCode::SUCCESS
}

fn open(path: &Path) -> Result<Ledger, syshold_ledger::OpenError> {
    let options = Options {
        ballast_bytes: 4096,
        // Several rotations, with their key files, are part of it.
        epoch_leaves: 8,
        openable: vec!["process.argv".into()],
        ..Options::default()
    };
    Ledger::open_with(path, "web-1".parse().expect("a name"), options)
}

/// The writer: prints each acknowledged leaf.
fn write(path: &Path) -> ExitCode {
    let ledger = open(path).expect("a ledger");
    for n in 0..LEAVES {
        let done = ledger
            .append(Draft::new(Kind::Review).field("n", &n))
            .wait();
        let line = format!("ack {}\n", done.expect("recorded").idx);
        std::io::stdout()
            .write_all(line.as_bytes())
            .expect("stdout");
    }
    ExitCode::SUCCESS
}

/// One thing done to the disk, or said to whoever waits.
#[derive(Debug, Clone)]
enum Step {
    Write {
        file: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        len: usize,
    },
    Create {
        file: String,
        empty: bool,
    },
    Sync {
        file: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        file: String,
    },
    Ack(u64),
}

fn record(dir: &Path, path: &Path) -> Vec<Step> {
    let trace = dir.join("trace");
    let done = Command::new("strace")
        .args(["-ff", "-ttt", "-y", "-xx", "-s", "200000", "-o"])
        .arg(&trace)
        .args([
            "-e",
            "trace=openat,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink",
        ])
        .arg(std::env::current_exe().expect("this test"))
        .env(DB, path)
        .output()
        .expect("strace: install it, it records the writes");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut timed: BTreeMap<(u64, usize, usize), Step> = BTreeMap::new();
    let files = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|file| file.expect("a file").path());
    for (thread, file) in files
        .filter(|file| file.to_string_lossy().contains("/trace."))
        .enumerate()
    {
        let text = std::fs::read_to_string(file).expect("a trace");
        for (n, line) in text.lines().enumerate() {
            let Some((time, call)) = line.split_once(' ') else {
                continue;
            };
            let Ok(time) = time.replace('.', "").parse() else {
                continue;
            };
            if let Some(step) = parse(call, path) {
                timed.insert((time, thread, n), step);
            }
        }
    }
    timed.into_values().collect()
}

/// Only calls that succeeded, on files of the ledger; the lock, the ballast and the shared index hold
/// nothing that has to survive.
fn parse(call: &str, db: &Path) -> Option<Step> {
    let (head, result) = call.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let (name, arguments) = head.split_once('(')?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let dir = db.parent()?.to_string_lossy().into_owned() + "/";
    let ours = |path: &str| {
        let name = path.strip_prefix(&dir)?;
        let kept = name.starts_with("ledger.") && !name.ends_with("-shm");
        (kept && name != "ledger.lock" && name != "ledger.ballast").then(|| name.to_owned())
    };
    let fd = || {
        let (number, rest) = arguments.split_once('<')?;
        let (path, rest) = rest.split_once('>')?;
        let path = String::from_utf8_lossy(&unescape(path)).into_owned();
        Some((number, ours(&path), rest))
    };
    let quoted = |n: usize| arguments.split('"').nth(2 * n + 1).map(unescape);
    let path = |n| ours(&String::from_utf8_lossy(&quoted(n)?));
    match name {
        "write" | "pwrite64" => {
            let (number, file, rest) = fd()?;
            let bytes = quoted(if arguments.starts_with(number) {
                0
            } else {
                return None;
            })?;
            if name == "write" && number == "1" {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Some(Step::Ack(text.trim().strip_prefix("ack ")?.parse().ok()?));
            }
            // The inode of a key that was replaced has no name any more.
            if rest.starts_with("(deleted)") {
                return None;
            }
            let at = match name {
                "pwrite64" => rest.rsplit(", ").next()?.parse().ok()?,
                _ => usize::MAX,
            };
            Some(Step::Write {
                file: file?,
                at,
                bytes,
            })
        }
        "ftruncate" => {
            let (_, file, rest) = fd()?;
            Some(Step::Truncate {
                file: file?,
                len: rest.rsplit(", ").next()?.parse().ok()?,
            })
        }
        "fsync" | "fdatasync" => Some(Step::Sync { file: fd()?.1? }),
        "rename" => Some(Step::Rename {
            from: path(0)?,
            to: path(1)?,
        }),
        "unlink" => Some(Step::Unlink { file: path(0)? }),
        "openat" if arguments.contains("O_CREAT") => {
            let file = ours(&String::from_utf8_lossy(&quoted(0)?))?;
            Some(Step::Create {
                file,
                empty: arguments.contains("O_TRUNC"),
            })
        }
        _ => None,
    }
}

/// `\x41\x42` as strace writes it with -xx; a plain text stays one.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.extend(
            part.get(..2)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
        );
        bytes.extend(part.bytes().skip(2));
    }
    bytes
}

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    /// Since the last sync.
    pending: Vec<(usize, Change)>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Write(Vec<u8>),
    Truncate,
}

impl File {
    fn apply(bytes: &mut Vec<u8>, at: usize, change: &Change, torn: Option<usize>) {
        match change {
            Change::Truncate => bytes.resize(at, 0),
            Change::Write(data) => {
                let data = &data[..torn.unwrap_or(data.len()).min(data.len())];
                if bytes.len() < at + data.len() {
                    bytes.resize(at + data.len(), 0);
                }
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    fn content(&self, mut keeps: impl FnMut(&Change) -> Option<Option<usize>>) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (at, change) in &self.pending {
            if let Some(torn) = keeps(change) {
                Self::apply(&mut bytes, *at, change, torn);
            }
        }
        bytes
    }

    fn sync(&mut self) {
        self.durable = self.content(|_| Some(None));
        self.pending.clear();
    }
}

/// Names change in order, as on a file system with a journal; contents only when synced.
fn replay(files: &mut HashMap<String, File>, step: &Step) {
    match step.clone() {
        Step::Ack(_) => {}
        Step::Create { file, empty } => {
            let file = files.entry(file).or_default();
            if empty {
                file.pending.push((0, Change::Truncate));
                file.len = 0;
            }
        }
        Step::Write { file, at, bytes } => {
            let file = files.entry(file).or_default();
            let at = if at == usize::MAX { file.len } else { at };
            file.len = file.len.max(at + bytes.len());
            file.pending.push((at, Change::Write(bytes)));
        }
        Step::Truncate { file, len } => {
            let file = files.entry(file).or_default();
            file.pending.push((len, Change::Truncate));
            file.len = len;
        }
        Step::Sync { file } => {
            if let Some(file) = files.get_mut(&file) {
                file.sync();
            }
        }
        Step::Rename { from, to } => {
            if let Some(file) = files.remove(&from) {
                files.insert(to, file);
            }
        }
        Step::Unlink { file } => drop(files.remove(&file)),
    }
}

/// A small generator: the same states every time.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most.max(1)
    }
}

fn power_cuts() {
    let (dir, path) = place();
    let steps = record(dir.path(), &path);
    let writes = steps
        .iter()
        .filter(|step| matches!(step, Step::Write { .. }))
        .count();
    let acks = steps
        .iter()
        .filter(|step| matches!(step, Step::Ack(_)))
        .count() as u64;
    assert!(
        acks == LEAVES && writes > 100,
        "{acks} acknowledged, {writes} writes recorded"
    );
    let renames = steps
        .iter()
        .filter(|step| matches!(step, Step::Rename { .. }))
        .count();
    assert!(renames >= 4, "{renames} rotations recorded");

    let states = std::env::var(STATES.0).map_or(STATES.1, |text| text.parse().expect("a number"));
    let every = (steps.len() * 3).div_ceil(states).max(1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut files: HashMap<String, File> = HashMap::new();
    let mut acknowledged: Vec<u64> = Vec::new();
    let (mut tried, mut torn_states, mut slowest) = (0, 0, Duration::ZERO);
    for (n, step) in steps.iter().enumerate() {
        replay(&mut files, step);
        if let Step::Ack(idx) = step {
            acknowledged.push(*idx);
        }
        // Around an acknowledgement or a change of names every state counts.
        let always = matches!(
            step,
            Step::Ack(_) | Step::Rename { .. } | Step::Unlink { .. } | Step::Create { .. }
        );
        if n % every != 0 && !always {
            continue;
        }
        for kind in 0..3 {
            let at: PathBuf = dir.path().join("cut");
            let _absent = std::fs::remove_dir_all(&at);
            std::fs::create_dir(&at).expect("a directory");
            for (name, file) in &files {
                let bytes = file.content(|change| match kind {
                    0 => Some(None),
                    1 => None,
                    _ if random.below(2) == 0 => None,
                    _ => Some(match change {
                        Change::Write(data) => {
                            let sectors = data.len().div_ceil(SECTOR) as u64;
                            Some(SECTOR * random.below(sectors + 1) as usize)
                        }
                        Change::Truncate => None,
                    }),
                });
                std::fs::write(at.join(name), bytes).expect("written");
            }
            torn_states += u32::from(kind == 2);
            slowest = slowest.max(examine(
                &at.join("ledger.db"),
                &acknowledged,
                &format!("after step {n}, kind {kind}: {}", brief(step)),
            ));
            tried += 1;
        }
    }
    println!(
        "figure: power cut: {tried} states after {} steps ({writes} writes, {renames} rotations), {torn_states} of them torn: {acks} leaves acknowledged, 0 lost; slowest recovery {slowest:?}",
        steps.len()
    );
}

fn brief(step: &Step) -> String {
    format!("{step:?}").chars().take(90).collect()
}

/// Opens what the cut left; gives how long that took.
fn examine(db: &Path, acknowledged: &[u64], when: &str) -> Duration {
    if acknowledged.is_empty() && !db.exists() {
        return Duration::ZERO;
    }
    let begin = Instant::now();
    let ledger = open(db).unwrap_or_else(|error| panic!("{when}: {error}"));
    let took = begin.elapsed();
    ledger
        .append(Draft::new(Kind::Review))
        .wait()
        .unwrap_or_else(|error| panic!("{when}: {error}"));
    drop(ledger);
    let report = verify(db, |_, _| {}).expect("a report");
    assert_eq!(report.exit(), Exit::Clean, "{when}: {:?}", report.first_bad);
    let reader = Reader::open(db).expect("a ledger");
    for (n, idx) in acknowledged.iter().enumerate() {
        let leaf = reader
            .show(*idx)
            .expect("readable")
            .unwrap_or_else(|| panic!("{when}: leaf {idx} was acknowledged and is lost"));
        assert_eq!(leaf.value()["n"], n, "{when}");
    }
    took
}
