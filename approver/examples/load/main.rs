//! Load on one gateway, the real program in a process of its own: hosts that each wait with many requests,
//! a person who decides, and then a day of requests in a few minutes. `cargo xtask bench gateway` runs it.
//!
//! Exit status 1: something is beyond its reach.
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use syshold_protocol::RequestId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use uuid::Uuid;

use report::Report;
use world::{Gateway, Host, Person};

mod report;
mod world;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// The gateway's program
    #[arg(long)]
    gateway: PathBuf,
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// How many requests wait at once, over all hosts
    #[arg(long, default_value_t = 10_000)]
    waiting: usize,
    /// How many of them are decided and timed, one after the other
    #[arg(long, default_value_t = 1000)]
    decisions: usize,
    /// How many requests the day has, each filed, waited for, answered and reported on
    #[arg(long, default_value_t = 20_000)]
    day: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// How many calls are under way while requests are filed.
const AT_ONCE: usize = 64;
/// How many requests are under way in the day; and what the longest poll of a host is.
const AT_ONCE_IN_A_DAY: usize = 16;
const POLL: Duration = Duration::from_secs(25);
/// From the decision to the host's answer.
const ANSWER_MS: f64 = 250.0;
/// What an allocator keeps differs by a few MiB; a leak of 1 KiB a request would be 15.
const GROWTH_MIB: f64 = 5.0;

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::parse();
    let mut report = Report::new(arguments.json);
    report.machine("before")?;
    let gateway = Gateway::start(&arguments.gateway).await?;
    let person = gateway.person()?;
    report.say("idle: memory", gateway.memory()?, "MiB");

    let hosts = gateway.enrol(arguments.hosts).await?;
    report.say(
        "hosts enrolled, each with a connection",
        hosts.len() as f64,
        "",
    );
    report.say("… memory", gateway.memory()?, "MiB");

    let begun = Instant::now();
    let requests = file(&hosts, arguments.waiting).await?;
    let rate = requests.len() as f64 / begun.elapsed().as_secs_f64();
    report.say("requests filed", requests.len() as f64, "");
    report.say("… a second", rate, "/s");

    decide(
        &mut report,
        &gateway,
        &hosts,
        &person,
        &requests,
        arguments.decisions,
    )
    .await?;
    // Their polls are over; the requests are still there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    report.say("nobody waits any more: memory", gateway.memory()?, "MiB");
    report.machine("then")?;

    day(&mut report, &gateway, &hosts, &person, arguments.day).await?;
    let refused = world::REFUSED.load(Ordering::Relaxed) as f64;
    report.within("polls told to come again (503)", refused, "", 0.0);
    report.machine("at the end")?;
    let well = report.finish()?;
    Ok(ExitCode::from(u8::from(!well)))
}

async fn file(hosts: &[Arc<Host>], count: usize) -> Result<Vec<RequestId>, Error> {
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    let mut filed = JoinSet::new();
    for index in 0..count {
        let seat = Arc::clone(&seats).acquire_owned().await?;
        let host = Arc::clone(&hosts[index % hosts.len()]);
        filed.spawn(async move {
            let id = host.ask(index).await;
            drop(seat);
            (index, id)
        });
    }
    let mut requests = vec![RequestId(Uuid::nil()); count];
    while let Some(done) = filed.join_next().await {
        let (index, id) = done?;
        requests[index] = id?;
    }
    Ok(requests)
}

/// All of `requests` are waited for; some are approved, and each is timed until its host has the answer
/// and has checked the signature.
async fn decide(
    report: &mut Report,
    gateway: &Gateway,
    hosts: &[Arc<Host>],
    person: &Person,
    requests: &[RequestId],
    count: usize,
) -> Result<(), Error> {
    let (told, mut answers) = mpsc::unbounded_channel();
    let polling = Arc::new(AtomicUsize::new(0));
    let (mut polls, all) = (JoinSet::new(), requests.len());
    for (index, id) in requests.iter().enumerate() {
        let (host, id) = (Arc::clone(&hosts[index % hosts.len()]), *id);
        let (told, polling) = (told.clone(), Arc::clone(&polling));
        polls.spawn(async move {
            // Hosts do not all begin in the same instant.
            tokio::time::sleep(POLL.mul_f64(index as f64 / all as f64)).await;
            polling.fetch_add(1, Ordering::Relaxed);
            let decided = host.decided(id).await;
            drop(told.send((id, decided.map(|_| Instant::now()))));
        });
    }
    while polling.load(Ordering::Relaxed) < requests.len() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Every poll has begun at the gateway too, and the first have begun anew.
    tokio::time::sleep(POLL).await;
    report.say("all wait, a poll each: memory", gateway.memory()?, "MiB");
    let before = gateway.cpu()?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    report.say(
        "… CPU of one processor",
        (gateway.cpu()? - before) * 10.0,
        "%",
    );

    let (mut took, before) = (Vec::new(), gateway.cpu()?);
    let step = (requests.len() / count.max(1)).max(1);
    for id in requests.iter().step_by(step).take(count) {
        let shown = person.show(*id).await?;
        let begun = Instant::now();
        person.approve(*id, &shown).await?;
        let (answered, at) = answers.recv().await.ok_or("nobody polls")?;
        if answered != *id {
            return Err(format!("{answered} was answered in place of {id}").into());
        }
        took.push(at?.duration_since(begun));
    }
    report.say("decisions timed", took.len() as f64, "");
    let each = (gateway.cpu()? - before) * 1000.0 / took.len().max(1) as f64;
    report.times("decision → host's answer", took, Some(ANSWER_MS));
    report.say("… the gateway's CPU, with all polls", each, "ms");
    polls.shutdown().await;
    Ok(())
}

/// A day's requests; whether memory stayed where it was.
async fn day(
    report: &mut Report,
    gateway: &Gateway,
    hosts: &[Arc<Host>],
    person: &Arc<Person>,
    count: usize,
) -> Result<(), Error> {
    let begun = Instant::now();
    let (before, cpu) = (gateway.disk()?, gateway.cpu()?);
    let seats = Arc::new(Semaphore::new(AT_ONCE_IN_A_DAY));
    let mut turns: JoinSet<Result<Option<Duration>, Error>> = JoinSet::new();
    let (mut quarters, mut took) = (Vec::new(), Vec::new());
    for index in 0..count {
        let seat = Arc::clone(&seats).acquire_owned().await?;
        let (host, person) = (Arc::clone(&hosts[index % hosts.len()]), Arc::clone(person));
        turns.spawn(async move {
            let time = turn(&host, &person, index).await;
            drop(seat);
            time
        });
        while let Some(done) = turns.try_join_next() {
            took.extend(done??);
        }
        if (index + 1) % (count / 4).max(1) == 0 {
            quarters.push(gateway.memory()?);
        }
    }
    while let Some(done) = turns.join_next().await {
        took.extend(done??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    report.say("a day: requests", count as f64, "");
    report.say("… in", seconds, "s");
    report.say("… a second", count as f64 / seconds, "/s");
    report.times("… decision → host's answer", took, None);
    let each = (gateway.cpu()? - cpu) * 1000.0 / count.max(1) as f64;
    report.say("… the gateway's CPU, a request", each, "ms");
    for (index, memory) in quarters.iter().enumerate() {
        report.say(
            &format!("… memory after quarter {}", index + 1),
            *memory,
            "MiB",
        );
    }
    let grew = match quarters.as_slice() {
        [first, .., last] => last - first,
        _ => 0.0,
    };
    report.within("… growth since the first quarter", grew, "MiB", GROWTH_MIB);
    let disk = (gateway.disk()? - before) * 1024.0 / count as f64;
    report.say("… on disk, a request", disk, "KiB");
    Ok(())
}

/// One request from the question to what came of it: of ten one is denied and one withdrawn, as days go.
/// How long the host waited for the answer after it was given.
async fn turn(host: &Arc<Host>, person: &Person, index: usize) -> Result<Option<Duration>, Error> {
    let id = host.ask(index).await?;
    let waits = Arc::clone(host);
    let waiting = tokio::spawn(async move {
        let decision = waits.decided(id).await?;
        Ok::<_, Error>((decision, Instant::now()))
    });
    let shown = person.show(id).await?;
    let begun = Instant::now();
    match index % 10 {
        3 => person.deny(id).await?,
        7 => host.withdraw(id).await?,
        _ => person.approve(id, &shown).await?,
    }
    let (decision, at) = waiting.await??;
    host.report(id, &decision).await?;
    Ok((index % 10 != 7).then(|| at.duration_since(begun)))
}
