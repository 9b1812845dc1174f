//! What the ledger costs on this machine, beside what it should: `cargo xtask bench ledger`.
//! One argument: how many leaves to verify, a million unless said otherwise. Prints a Markdown table.
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use syshold_ledger::leaf::{Action, Agent, DecidedBy, Decision, Object, Policy, Verdict};
use syshold_ledger::{Draft, Exit, Kind, Ledger, Options, Reader, verify};
use uuid::Uuid;

fn main() -> Result<(), Box<dyn Error>> {
    let leaves: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 1_000_000,
    };
    let dir = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o700))
        .tempdir()?;
    println!("| | found | reach | |\n|---|---:|---:|---|");
    let raw = raw_fdatasync(dir.path())?;
    row("one fdatasync of 4 KiB, p50", &ms(raw), None);
    let path = dir.path().join("ledger.db");
    let ledger = open(&path)?;
    ledger.append(policy()).wait()?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        ledger.append(decision()).wait()?;
        times.push(begin.elapsed());
    }
    let one = median(&mut times);
    let ratio = one.as_secs_f64() / raw.as_secs_f64();
    row("one decision, committed, p50", &ms(one), None);
    let found = format!("{ratio:.2} ×");
    row(
        "the same, of the fdatasync",
        &found,
        Some(("≤ 1.5 ×", ratio <= 1.5)),
    );
    let rate = crowd(&ledger)?;
    let found = format!("{rate:.0} /s");
    let reach = Some(("≥ 1,000 /s", rate >= 1000.0));
    row("durable decisions, 64 callers", &found, reach);

    let begin = Instant::now();
    let first = Reader::open(&path)?.size()?;
    let mut pending = Vec::new();
    for n in first..leaves {
        pending.push(ledger.append(decision()));
        if n % 8192 == 0 {
            for one in pending.drain(..) {
                one.wait()?;
            }
        }
    }
    for one in pending {
        one.wait()?;
    }
    let what = format!("filled to {leaves} leaves");
    row(&what, &seconds(begin.elapsed()), None);
    drop(ledger);
    let begin = Instant::now();
    drop(open(&path)?);
    let took = begin.elapsed();
    row(
        "opened again",
        &seconds(took),
        Some(("≤ 1 s", took.as_secs() < 1)),
    );
    let size = std::fs::metadata(&path)?.len();
    let each = size / Reader::open(&path)?.len()?;
    let found = format!("{each} bytes");
    row(
        "a record, on disk",
        &found,
        Some(("≤ 2,500 bytes", each <= 2500)),
    );
    let (begin, before) = (Instant::now(), cpu()?);
    let report = verify(&path, |_, _| {})?;
    let (took, of_cpu) = (begin.elapsed(), cpu()? - before);
    if report.exit() != Exit::Clean {
        return Err(format!("not clean: {:?}", report.first_bad).into());
    }
    // The reach is for a million.
    let limit = 20.0 * (leaves as f64 / 1e6).max(1e-3);
    let what = format!(
        "verify {} leaves, {} checkpoints",
        report.leaves, report.checkpoints
    );
    let reach = format!("≤ {limit:.1} s");
    let reached = took.as_secs_f64() <= limit;
    row(&what, &seconds(took), Some((&reach, reached)));
    row("… of which on the processor", &seconds(of_cpu), None);
    let peak = peak_rss()? / 1024;
    let found = format!("{peak} MiB");
    row(
        "… resident, with all of the above",
        &found,
        Some(("≤ 200 MiB", peak <= 200)),
    );
    let begin = Instant::now();
    let proof = Reader::open(&path)?.proof(leaves / 2)?;
    let what = format!("a proof of one leaf, {} bytes", proof.len());
    row(&what, &ms(begin.elapsed()), None);
    Ok(())
}

fn row(what: &str, found: &str, reach: Option<(&str, bool)>) {
    let (reach, mark) = match reach {
        Some((reach, true)) => (reach, "✓"),
        Some((reach, false)) => (reach, "✗"),
        None => ("", ""),
    };
    println!("| {what} | {found} | {reach} | {mark} |");
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn open(path: &Path) -> Result<Ledger, Box<dyn Error>> {
    Ok(Ledger::open_with(
        path,
        "web-1".parse()?,
        Options::default(),
    )?)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// What the disk itself takes, in the same run and folder.
fn raw_fdatasync(dir: &Path) -> Result<Duration, Box<dyn Error>> {
    let mut file = File::create(dir.join("raw"))?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    Ok(median(&mut times))
}

/// 64 callers that wait for each answer before they ask again, for three seconds.
fn crowd(ledger: &Ledger) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    let counts: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0_u64;
                    while begin.elapsed() < Duration::from_secs(3) {
                        if ledger.append(decision()).wait().is_ok() {
                            count += 1;
                        }
                    }
                    count
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap_or(0))
            .collect()
    });
    Ok(counts.iter().sum::<u64>() as f64 / begin.elapsed().as_secs_f64())
}

/// What this process has had of the processor.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(used.into())
}

/// The most memory this process ever had, KiB.
fn peak_rss() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

const POLICY: &str = "ababababababababababababababababababababababababababababababababab";

fn policy() -> Draft {
    Draft::new(Kind::Policy).policy(&Policy {
        sha256: POLICY[..64].into(),
        ..Policy::default()
    })
}

/// As the daemon records one.
fn decision() -> Draft {
    Draft::new(Kind::Decision)
        .request(Uuid::now_v7())
        .agent(&Agent {
            name: "support-bot".into(),
            owner: Some("alice@example.com".into()),
            model: Some("claude-sonnet".into()),
            ..Agent::default()
        })
        .action(&Action {
            op: "connect".into(),
            ..Action::default()
        })
        .object(&Object {
            kind: "socket".into(),
            addr: Some("192.0.2.7:443".into()),
            host: Some("api.example.com".into()),
            ..Object::default()
        })
        .policy(&Policy {
            sha256: POLICY[..64].into(),
            rule: Some("egress".into()),
            why: Some("no rule allows it".into()),
        })
        .decision(&Decision {
            verdict: Verdict::Deny,
            by: DecidedBy::Policy,
            cause: Some("a rule of the policy".into()),
            id: None,
            grant: None,
            expires: None,
        })
}
