//! `syshold selftest`: every known way around a hold is tried on this very host, by a scratch agent
//! that the daemon has for as long as this runs. Each is tried governed and, to prove that it is an
//! attack at all, ungoverned; as root and as an ordinary user.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use clap::Args;
use nix::unistd::User as Account;
use serde::Serialize;
use syshold_bypass::catalogue::{self, Attack, ELSEWHERE};
use syshold_bypass::ground::{Daemon, Ground, User};
use syshold_bypass::judge::{Seen, Tried, Verdict, judge};
use syshold_bypass::pass::Pass;

use super::Outcome;
use super::daemon::{DaemonError, Replies, call, call_once};
use super::failure::{Exit, Failure};
use super::show::{self, BAD, FAINT, GOOD, NOTE, safe, styled};
use crate::control::{self, Call, Reply, SelftestReport};
use crate::park::CGROUP_ROOT;

/// An attack that takes longer is ended: a hold here is answered at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// For what the daemon has seen of an attack.
const TELLS: Duration = Duration::from_secs(20);
/// Who attacks without being root, when nobody is named and nobody used sudo.
const NOBODY: &str = "nobody";

#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    /// The ordinary user that attacks [default: who used sudo, or nobody]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only these: numbers of the catalogue, or words of a title
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// The attacker's program
    #[arg(long, hide = true, default_value = "/usr/lib/syshold/syshold-bypass")]
    program: PathBuf,
}

/// Nothing is proven, either way.
#[derive(Debug, thiserror::Error)]
enum SelftestError {
    #[error("only root may attack this host: run it with sudo")]
    NotRoot,
    #[error("no user `{0}` on this host; name another with --user")]
    NoUser(String),
    #[error("`{0}` is root: --user names who attacks without being root")]
    IsRoot(String),
    #[error("no attack has such a number or title")]
    NoAttack,
    #[error("the self-test cannot be prepared: {0}")]
    Ground(std::io::Error),
    #[error("the attacker cannot be run: {0}; is /usr/lib/syshold/syshold-bypass there?")]
    Attacker(std::io::Error),
    #[error("{0}")]
    Daemon(#[from] DaemonError),
}

impl Failure for SelftestError {
    fn exit(&self) -> Exit {
        Exit::NotRun
    }
}

/// One attack, tried by root and by the user.
struct Row {
    attack: &'static Attack,
    root: Verdict,
    user: Verdict,
}

pub(super) fn run(socket: &Path, args: &SelftestArgs) -> Outcome {
    if !nix::unistd::geteuid().is_root() {
        return Err(SelftestError::NotRoot.into());
    }
    let account = account(args.user.as_deref())?;
    let attacks = catalogue::select(&args.filter);
    if attacks.is_empty() {
        return Err(SelftestError::NoAttack.into());
    }
    let user = User {
        uid: account.uid.as_raw(),
        gid: account.gid.as_raw(),
    };
    let mut ground = Ground::lay(user, &args.program).map_err(SelftestError::Ground)?;
    let session = Session::begin(socket, &mut ground)?;
    let rows = session.rows(&mut ground, &attacks, user)?;
    let report = report(&rows, &account.name);
    let call = Call::SelftestOver {
        report: report.clone(),
    };
    call_once(socket, &call).map_err(SelftestError::from)?;
    drop(ground);
    if args.json {
        show::json(&Page::of(&rows, &report))?;
    } else {
        show::print(&page(&rows, &report))?;
    }
    Ok(if report.good {
        ExitCode::SUCCESS
    } else {
        Exit::Failure.into()
    })
}

fn account(named: Option<&str>) -> Result<Account, SelftestError> {
    let by_sudo = std::env::var("SUDO_USER")
        .ok()
        .filter(|name| name != "root");
    let name = named
        .map(str::to_owned)
        .or(by_sudo)
        .unwrap_or_else(|| NOBODY.to_owned());
    match Account::from_name(&name) {
        Ok(Some(account)) if account.uid.is_root() => Err(SelftestError::IsRoot(name)),
        Ok(Some(account)) => Ok(account),
        _ => Err(SelftestError::NoUser(name)),
    }
}

/// The scratch agent is there for as long as this is.
struct Session<'a> {
    socket: &'a Path,
    seen: Receiver<Heard>,
    /// What governed processes may do with DNS, in the daemon's words.
    dns: String,
}

/// What the daemon tells.
enum Heard {
    Seen(control::Seen),
    /// That was all of it, up to where it was asked.
    Mark,
}

type Results = BTreeMap<&'static str, (Tried, Vec<Seen>)>;

impl<'a> Session<'a> {
    fn begin(socket: &'a Path, ground: &mut Ground) -> Result<Self, SelftestError> {
        let ports = ground.scene.ports;
        let approved = vec![
            ports.approved_tcp4,
            ports.approved_udp4,
            ports.approved_udp6,
        ];
        let dns = match call_once(socket, &Call::Status)? {
            Reply::Status(status) => status.dns,
            _ => return Err(DaemonError::Other.into()),
        };
        let mut replies = call(socket, &Call::Selftest { approved })?;
        let daemon = match replies.next() {
            Some(Ok(Reply::Selftest(daemon))) => daemon,
            Some(Err(error)) => return Err(error.into()),
            _ => return Err(DaemonError::Other.into()),
        };
        ground.meet(Daemon {
            pid: daemon.pid,
            pins: daemon.pins,
            cgroup: Path::new(CGROUP_ROOT).join(daemon.cgroup.trim_start_matches('/')),
        });
        Ok(Self {
            socket,
            seen: listen(replies.patient()?),
            dns,
        })
    }

    /// Governed first: what an attack does to an ungoverned host comes after all that counts.
    fn rows(
        &self,
        ground: &mut Ground,
        attacks: &[&'static Attack],
        user: User,
    ) -> Result<Vec<Row>, SelftestError> {
        let mut pass = |user, governed| self.pass(ground, attacks, user, governed);
        let root = pass(None, true)?;
        let as_user = pass(Some(user), true)?;
        let control_root = pass(None, false)?;
        let control_user = pass(Some(user), false)?;
        let nothing = (Tried::default(), Vec::new());
        let verdict = |attack: &Attack, governed: &Results, control: &Results| {
            let (tried, seen) = governed.get(attack.id).unwrap_or(&nothing);
            let (control, _) = control.get(attack.id).unwrap_or(&nothing);
            if attack.id == "24" && self.dns.contains("127.0.0.53") {
                let why = "the policy lets DNS through; `dns = \"ask\"` holds it";
                return Verdict::NotApplicable(why.to_owned());
            }
            judge(attack.expect, tried, control, seen)
        };
        Ok(attacks
            .iter()
            .map(|attack| Row {
                attack,
                root: verdict(attack, &root, &control_root),
                user: verdict(attack, &as_user, &control_user),
            })
            .collect())
    }

    /// Every attack by one attacker. One that ends its attacker is not the end of the others.
    fn pass(
        &self,
        ground: &mut Ground,
        attacks: &[&'static Attack],
        user: Option<User>,
        governed: bool,
    ) -> Result<Results, SelftestError> {
        let mut results = Results::new();
        let mut running: Option<Pass> = None;
        for attack in attacks {
            let mut pass = match running.take() {
                Some(pass) => pass,
                None => self.attacker(ground, user, governed)?,
            };
            let begin = now_ms();
            match pass.attack(ground, attack, PATIENCE) {
                Ok(tried) => {
                    let seen = self.seen_since(begin)?;
                    results.insert(attack.id, (tried, seen));
                    running = Some(pass);
                }
                Err(_) => {
                    let tried = Tried {
                        late: true,
                        ..Tried::default()
                    };
                    results.insert(attack.id, (tried, Vec::new()));
                }
            }
        }
        Ok(results)
    }

    fn attacker(
        &self,
        ground: &mut Ground,
        user: Option<User>,
        governed: bool,
    ) -> Result<Pass, SelftestError> {
        let pass = Pass::start(ground, user).map_err(SelftestError::Attacker)?;
        if governed {
            call_once(self.socket, &Call::SelftestGovern { pid: pass.pid() })?;
        }
        Ok(pass)
    }

    /// What the daemon has seen of the attack that is just over. What was held before it began is
    /// left over from another.
    fn seen_since(&self, begin: u64) -> Result<Vec<Seen>, SelftestError> {
        call_once(self.socket, &Call::SelftestMark)?;
        let mut seen = Vec::new();
        loop {
            match self.seen.recv_timeout(TELLS) {
                Ok(Heard::Mark) => return Ok(seen),
                Ok(Heard::Seen(one)) if one.held_at.is_none_or(|at| at >= begin) => {
                    seen.push(Seen {
                        pid: one.pid,
                        hold: one.hold,
                        allowed: one.verdict == "allow",
                        action: one.action,
                        object: one.object,
                        cause: one.cause,
                    });
                }
                Ok(Heard::Seen(_)) => {}
                Err(_) => return Err(DaemonError::Other.into()),
            }
        }
    }
}

/// CLOCK_BOOTTIME milliseconds, as the daemon counts.
fn now_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let now = now.map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Reads what the daemon tells, on a thread of its own, until it tells no more.
fn listen(replies: Replies) -> Receiver<Heard> {
    let (to, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for reply in replies {
            let heard = match reply {
                Ok(Reply::Seen(one)) => Heard::Seen(one),
                Ok(Reply::Marked) => Heard::Mark,
                Ok(_) => continue,
                Err(_) => return,
            };
            if to.send(heard).is_err() {
                return;
            }
        }
    });
    seen
}

fn report(rows: &[Row], user: &str) -> SelftestReport {
    let each = || {
        rows.iter()
            .flat_map(|row| [("root", row, &row.root), (user, row, &row.user)])
    };
    let release = nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |host| host.release().to_string_lossy().into_owned(),
    );
    SelftestReport {
        user: user.to_owned(),
        kernel: release,
        good: each().all(|(_, _, verdict)| verdict.is_good()),
        proven: each()
            .filter(|(_, _, verdict)| !matches!(verdict, Verdict::NotApplicable(_)))
            .count() as u32,
        results: rows
            .iter()
            .map(|row| {
                format!(
                    "{} {}: {} / {}",
                    row.attack.id,
                    row.attack.expect.name(),
                    row.root.name(),
                    row.user.name()
                )
            })
            .collect(),
        bad: each()
            .filter(|(_, _, verdict)| !verdict.is_good())
            .map(|(who, row, verdict)| {
                let why = verdict.why().unwrap_or_default();
                format!("{} {who} {}: {why}", row.attack.id, verdict.name())
            })
            .collect(),
    }
}

#[derive(Serialize)]
struct Page<'a> {
    good: bool,
    user: &'a str,
    kernel: &'a str,
    attacks: Vec<Line<'a>>,
    elsewhere: Vec<Elsewhere>,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    title: &'a str,
    expected: &'a str,
    root: Said<'a>,
    user: Said<'a>,
}

#[derive(Serialize)]
struct Said<'a> {
    verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct Elsewhere {
    id: &'static str,
    title: &'static str,
    why: &'static str,
}

impl<'a> Page<'a> {
    fn of(rows: &'a [Row], report: &'a SelftestReport) -> Self {
        let said = |verdict: &'a Verdict| Said {
            verdict: verdict.name(),
            why: verdict.why(),
        };
        Self {
            good: report.good,
            user: &report.user,
            kernel: &report.kernel,
            attacks: rows
                .iter()
                .map(|row| Line {
                    id: row.attack.id,
                    title: row.attack.title,
                    expected: row.attack.expect.name(),
                    root: said(&row.root),
                    user: said(&row.user),
                })
                .collect(),
            elsewhere: ELSEWHERE
                .iter()
                .map(|&(id, title, why)| Elsewhere { id, title, why })
                .collect(),
        }
    }
}

fn page(rows: &[Row], report: &SelftestReport) -> String {
    let mut table = show::table(&["no", "attack", "expected", "root", "user", "verdict"]);
    for row in rows {
        let both = [&row.root, &row.user];
        let proven = both
            .iter()
            .any(|verdict| !matches!(verdict, Verdict::NotApplicable(_)));
        let verdict = if both.iter().any(|verdict| !verdict.is_good()) {
            styled(BAD, "FAILED")
        } else if proven {
            styled(GOOD, "ok")
        } else {
            styled(NOTE, "-")
        };
        table.add_row([
            row.attack.id.to_owned(),
            row.attack.title.to_owned(),
            row.attack.expect.name().to_owned(),
            shown(&row.root),
            shown(&row.user),
            verdict,
        ]);
    }
    let mut page = format!("{table}\n\n");
    for row in rows {
        let both = [("root", &row.root), (report.user.as_str(), &row.user)];
        for (who, verdict) in both {
            let Some(why) = verdict.why() else { continue };
            let style = if verdict.is_good() { FAINT } else { BAD };
            let text = format!(
                "{:4} {who}: {}: {}",
                row.attack.id,
                verdict.name(),
                safe(why)
            );
            page.push_str(&format!("{}\n", styled(style, &text)));
        }
    }
    for (id, title, why) in ELSEWHERE {
        let text = format!("{id:4} not tried here ({title}): {why}");
        page.push_str(&format!("{}\n", styled(FAINT, &text)));
    }
    let head = if report.good {
        styled(GOOD, "nothing came through")
    } else {
        styled(
            BAD,
            &format!(
                "{} of these came through, or not in the way they should",
                report.bad.len()
            ),
        )
    };
    page.push_str(&format!(
        "\n{} attempts proven on {} as root and {}: {head}",
        report.proven,
        safe(&report.kernel),
        safe(&report.user)
    ));
    page
}

fn shown(verdict: &Verdict) -> String {
    let style = match verdict {
        Verdict::NotApplicable(_) => FAINT,
        verdict if verdict.is_good() => GOOD,
        _ => BAD,
    };
    styled(style, verdict.name())
}
