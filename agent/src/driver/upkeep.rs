//! Redacting, pruning and rotating keys while the daemon has the ledger open: the one writer does it
//! between two commits, and holds are decided meanwhile.
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use syshold_ledger::Ledger;
use syshold_ledger::cli::Work;

use crate::control::{Asked, Refusal, Reply};

/// One at a time: what is pruned is what the plan was made for.
static ONE: Mutex<()> = Mutex::new(());

/// Does it on a thread of its own and answers there. `by`: whom the ledger names. That no governed
/// process asks is the driver's to see to, as for every call.
pub fn answer(asked: Asked, work: Work, ledger: Ledger, db: PathBuf, by: String) {
    // Who may read the ledger may also say that it is read.
    let notice = work.is_notice();
    if asked.peer.uid != 0 && !notice {
        let text = "only root may change the ledger";
        return asked.answer(Reply::refused(Refusal::Permission, text));
    }
    tokio::task::spawn_blocking(move || {
        let _one = (!notice).then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner));
        let reply = match work.carry_out(&ledger, &db, &by) {
            Ok(text) => {
                tracing::info!(by, text = text.trim_end(), "the ledger was added to");
                Reply::Done { text }
            }
            Err(error) => Reply::refused(Refusal::Failed, error.to_string()),
        };
        asked.answer(reply);
    });
}
