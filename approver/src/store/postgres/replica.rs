//! Which of the gateways that share a database this is: a number in its folder, beside its ledger.
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rand_core::{OsRng, RngCore as _};

use crate::keys::give_to_dir_owner;
use crate::store::StoreError;

/// The folder's number, made if it has none.
pub(super) fn id(dir: &Path) -> Result<i64, StoreError> {
    let path = dir.join("replica");
    let at = |source| StoreError::Create {
        path: path.clone(),
        source,
    };
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    match made {
        Ok(mut file) => {
            let id = i64::try_from(OsRng.next_u64() >> 1).unwrap_or(i64::MAX);
            writeln!(file, "{id}")
                .and_then(|()| file.sync_all())
                .and_then(|()| give_to_dir_owner(&path))
                .map_err(at)?;
            Ok(id)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(&path).map_err(at)?;
            text.trim()
                .parse()
                .ok()
                .filter(|id| *id > 0)
                .ok_or_else(|| at(io::Error::other("not a number; remove the file")))
        }
        Err(error) => Err(at(error)),
    }
}
