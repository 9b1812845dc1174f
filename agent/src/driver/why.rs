//! What a hold that did not go on leaves for the agent: a file that it may read, so that it can change
//! course instead of trying again, and a line in the journal. Neither decides anything.
use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use serde::{Deserialize, Serialize};
use syshold_protocol::LATE_APPROVAL_MS;

use super::{Fact, wall};
use crate::gate::{Cause, Decision, Verdict};
use crate::request::HoldId;

/// Governed processes may read here, and nothing of ours is here but this.
pub(crate) const FOLDER: &str = "/run/syshold-why";
/// Denials that one file keeps, newest first.
const KEPT: usize = 32;
/// Files that are remembered; the oldest is forgotten, not removed.
const MOST_FILES: usize = 1024;
/// Denials on their way to the disk; further ones are in the journal and in the ledger only.
const BACKLOG: usize = 256;

/// One denial, as the agent reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Denial {
    /// RFC 3339, UTC.
    pub(crate) at: String,
    pub(crate) agent: String,
    pub(crate) pid: u32,
    pub(crate) program: String,
    /// The policy's words: `connect`, `read` …
    pub(crate) action: String,
    pub(crate) object: String,
    /// `denied`, `expired`, `unreachable`, `rule` …, as in the ledger.
    pub(crate) cause: String,
    pub(crate) rule: String,
    /// Why the rule held it.
    pub(crate) why: String,
    /// What the person who denied it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What to do now, in one sentence.
    pub(crate) advice: String,
    /// Whether trying the same again can help.
    pub(crate) retry: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
}

/// The file: one for each agent and user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) v: u32,
    /// Newest first.
    pub(crate) denials: VecDeque<Denial>,
}

/// What is on its way.
struct Note {
    denial: Denial,
    /// Whose file it becomes.
    pid: u32,
}

/// Denials between their decision and their release.
#[derive(Debug)]
pub(super) struct Why {
    decided: HashMap<HoldId, Denial>,
    notes: SyncSender<Note>,
}

impl Why {
    /// Writes below `folder`, on a thread of its own: the loop waits for no disk.
    pub(super) fn below(folder: &'static str) -> Self {
        let (notes, queue) = sync_channel::<Note>(BACKLOG);
        let writer = std::thread::Builder::new().name("why".to_owned());
        let spawned = writer.spawn(move || {
            let mut files = Files::new(folder);
            for note in queue {
                if let Err(error) = files.add(note) {
                    tracing::warn!(%error, folder, "an agent could not be told why it was denied");
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "agents cannot be told why they are denied");
        }
        Self {
            decided: HashMap::new(),
            notes,
        }
    }

    /// Something was decided; told once it takes effect.
    pub(super) fn decided(&mut self, hold: HoldId, fact: &Fact, decision: &Decision) {
        if decision.verdict == Verdict::Deny {
            self.decided.insert(hold, denial(fact, decision));
        }
    }

    /// The hold was released. Without a decision that says so, a denial means that nothing could be
    /// recorded.
    pub(super) fn released(&mut self, hold: HoldId, fact: &Fact, verdict: Verdict) {
        let decided = self.decided.remove(&hold);
        if verdict != Verdict::Deny {
            return;
        }
        let denial = decided.unwrap_or_else(|| {
            let cause = ("not_recorded", "The host cannot record decisions, so nothing is allowed. Report it; try again later.", true);
            bare(fact, cause)
        });
        tracing::info!(
            agent = denial.agent,
            pid = denial.pid,
            action = denial.action,
            object = denial.object,
            cause = denial.cause,
            rule = denial.rule,
            reason = denial.reason.as_deref().unwrap_or_default(),
            request = denial.request.as_deref().unwrap_or_default(),
            "a governed process was denied"
        );
        let pid = fact.tgid;
        // Full or gone: the journal has it, and the ledger.
        let _ = self.notes.try_send(Note { denial, pid });
    }

    /// The hold is gone.
    pub(super) fn forget(&mut self, hold: HoldId) {
        self.decided.remove(&hold);
    }
}

fn denial(fact: &Fact, decision: &Decision) -> Denial {
    let approval = decision.approval.as_ref();
    let reason = approval.and_then(|approval| {
        let mut latest_first = approval.approvers.iter().rev();
        latest_first.find_map(|a| a.reason.clone())
    });
    Denial {
        rule: decision.reason.rule.clone(),
        why: decision.reason.why.clone(),
        reason,
        request: decision.request.map(|request| request.to_string()),
        ..bare(fact, words(decision.cause))
    }
}

fn bare(fact: &Fact, (cause, advice, retry): (&str, &str, bool)) -> Denial {
    Denial {
        at: wall().to_string(),
        agent: fact.agent.clone(),
        pid: fact.tgid,
        program: fact.comm.clone(),
        action: fact.request.actions.to_string(),
        object: match &fact.host {
            Some(host) => format!("{host} ({})", fact.request.object.label()),
            None => fact.request.object.label(),
        },
        cause: cause.to_owned(),
        rule: String::new(),
        why: String::new(),
        reason: None,
        advice: advice.to_owned(),
        retry,
        request: None,
    }
}

/// The cause, what to do now, and whether trying again can help.
fn words(cause: Cause) -> (&'static str, &'static str, bool) {
    const _: () = assert!(LATE_APPROVAL_MS == 30 * 60 * 1000);
    let (advice, retry) = match cause {
        Cause::Denied => (
            "A person has denied this. Do not try the same again: do without it, choose another way, or ask whoever runs you.",
            false,
        ),
        Cause::Expired => (
            "Nobody has answered in time. An approval may still come for half an hour, for one retry: go on with something else and try once more later.",
            true,
        ),
        Cause::Unreachable => (
            "The people who decide could not be asked. Go on with something else and try again later.",
            true,
        ),
        Cause::Rule => (
            "A rule of the policy denies this, always. Do not try it again.",
            false,
        ),
        Cause::TooManyPending => (
            "Too much is waiting for an answer already. Try less at once.",
            true,
        ),
        Cause::Withdrawn | Cause::Interrupted => ("The question was taken back.", true),
        Cause::Revoked => (
            "A person has taken the approval back. Do not try the same again: do without it, choose another way, or ask whoever runs you.",
            false,
        ),
        Cause::RequestNotRecorded | Cause::NotDescribed => (
            "The host could not ask about this, so it is denied. Report it; try again later.",
            true,
        ),
        Cause::Approved | Cause::Granted | Cause::SameObject | Cause::Ordered => {
            ("An approval did not cover this.", true)
        }
    };
    (cause.name(), advice, retry)
}

/// The files, and what they hold.
struct Files {
    folder: PathBuf,
    known: HashMap<PathBuf, File>,
    order: VecDeque<PathBuf>,
}

impl Files {
    fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn add(&mut self, Note { denial, pid }: Note) -> io::Result<()> {
        // A process that is gone has nobody to read; its parent has its own user's file.
        let Some((uid, gid)) = owner_of(pid) else {
            return Ok(());
        };
        let path = self.path(&denial.agent, uid);
        if !self.known.contains_key(&path) {
            self.known.insert(
                path.clone(),
                File {
                    v: 1,
                    ..File::default()
                },
            );
            self.order.push_back(path.clone());
            if self.order.len() > MOST_FILES
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        let file = self.known.entry(path.clone()).or_default();
        file.denials.push_front(denial);
        file.denials.truncate(KEPT);
        let bytes = serde_json::to_vec_pretty(file)?;
        write(&path, &bytes, (uid, gid))
    }

    fn path(&self, agent: &str, uid: u32) -> PathBuf {
        // Names of agents are words; the policy sees to it.
        self.folder.join(agent).join(format!("{uid}.json"))
    }
}

fn owner_of(pid: u32) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(format!("/proc/{pid}")).ok()?;
    Some((meta.uid(), meta.gid()))
}

/// Whole or not at all; only that user reads it. The folder is ours, so nobody puts a link there.
fn write(path: &Path, bytes: &[u8], (uid, gid): (u32, u32)) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    for made in [folder.parent().unwrap_or(folder), folder] {
        if !made.is_dir() {
            DirBuilder::new().mode(0o755).create(made)?;
            fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
        }
    }
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&fresh)?;
    fchown(&file, Some(uid), Some(gid))?;
    file.write_all(bytes)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(n: u32) -> Note {
        Note {
            denial: Denial {
                at: "2026-01-01T00:00:00.000Z".to_owned(),
                agent: "bot".to_owned(),
                pid: n,
                program: "cat".to_owned(),
                action: "read".to_owned(),
                object: "/srv/pii/a.csv".to_owned(),
                cause: "denied".to_owned(),
                rule: "pii-read".to_owned(),
                why: "it is protected".to_owned(),
                reason: Some("not this one".to_owned()),
                advice: "…".to_owned(),
                retry: false,
                request: None,
            },
            pid: std::process::id(),
        }
    }

    #[test]
    fn the_newest_come_first_and_the_file_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path().join("why"));
        for n in 0..100 {
            files.add(told(n)).unwrap();
        }
        let uid = nix::unistd::getuid();
        let path = dir.path().join(format!("why/bot/{uid}.json"));
        let file: File = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((file.v, file.denials.len()), (1, KEPT));
        assert_eq!((file.denials[0].pid, file.denials[1].pid), (99, 98));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400, "nobody else reads it");
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "nothing unfinished stays");
    }

    #[test]
    fn a_process_that_is_gone_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path().join("why"));
        let note = Note {
            pid: u32::MAX,
            ..told(1)
        };
        files.add(note).unwrap();
        assert!(!dir.path().join("why").exists());
    }

    #[test]
    fn only_what_can_help_is_called_a_retry() {
        for cause in [Cause::Denied, Cause::Rule, Cause::Revoked] {
            assert!(!words(cause).2, "{cause:?}");
        }
        for cause in [Cause::Expired, Cause::Unreachable, Cause::TooManyPending] {
            assert!(words(cause).2, "{cause:?}");
        }
        assert_eq!(
            words(Cause::Expired).0,
            "expired",
            "never a person's denial"
        );
    }
}
