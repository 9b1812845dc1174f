//! The evidence bundle: a ZIP of the records somebody asked for, a proof of each, the hashes of the
//! whole tree, keys, the report, and how to check it all without us. Other people's records are not
//! in it.
use std::io::{Seek, Write};
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::chain::hex;
use crate::clock;
use crate::controls::CONTROLS;
use crate::prove::ProveError;
use crate::query::Query;
use crate::reader::{ReadError, Reader};
use crate::record::{Record, csv_line};
use crate::report;
use crate::tree::{Place, peaks};
use crate::verify::Report as Proof;

const VERIFY_MD: &str = include_str!("evidence/verify.md");
const VERIFY_GO: &str = include_str!("evidence/verify.go");
/// Levels of the tree in a tile, and hashes in a full one (C2SP tlog-tiles).
const TILE_LEVELS: u8 = 8;
const TILE_WIDTH: u64 = 256;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    #[error(transparent)]
    Prove(#[from] ProveError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the ledger has no checkpoint yet, so nothing can be proven; start the daemon once")]
    NoCheckpoint,
    #[error("leaf {idx} has no commit's checkpoint yet; try again")]
    NotCovered { idx: u64 },
    #[error("cannot write the bundle: {0}")]
    Write(#[from] std::io::Error),
    #[error("cannot write the bundle: {0}")]
    Zip(#[from] zip::result::ZipError),
}

/// What is in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    /// Leaves of the tree that they are proven in.
    pub size: u64,
}

struct Bundle<W: Write + Seek> {
    zip: ZipWriter<W>,
    files: Vec<Value>,
}

impl<W: Write + Seek> Bundle<W> {
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), EvidenceError> {
        // The same ledger and query give the same bytes: no file times.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .unix_permissions(0o644);
        self.zip.start_file(name, options)?;
        self.zip.write_all(bytes)?;
        let sha256 = hex(&Sha256::digest(bytes));
        self.files
            .push(json!({"name": name, "bytes": bytes.len(), "sha256": sha256}));
        Ok(())
    }
}

/// Writes the bundle of what `query` finds; `proof` is what `verify` found in the same ledger.
pub fn write<W: Write + Seek>(
    reader: &Reader,
    query: &Query,
    proof: &Proof,
    now: Timestamp,
    to: W,
) -> Result<Summary, EvidenceError> {
    let mut bundle = Bundle {
        zip: ZipWriter::new(to),
        files: Vec::new(),
    };
    let mut records = String::new();
    let mut csv = csv_line(Record::COLUMNS);
    let mut found = Vec::new();
    let mut openings = String::new();
    let mut controls = vec![Vec::new(); CONTROLS.len()];
    query.run(reader, |leaf, record| {
        records.push_str(&leaf.body);
        records.push('\n');
        csv.push_str(&csv_line(record.fields().iter().map(String::as_str)));
        found.push(record.idx);
        for (control, supported) in CONTROLS.iter().zip(&mut controls) {
            if control.supports(record) {
                supported.push(record.idx);
            }
        }
        ControlFlow::Continue(())
    })?;
    let needed = found.last().map_or(1, |last| last + 1);
    let (note, checkpoint) = reader
        .checkpoint_for(needed)?
        .ok_or(EvidenceError::NoCheckpoint)?;
    if checkpoint.size < needed {
        return Err(EvidenceError::NotCovered { idx: needed - 1 });
    }
    bundle.add("VERIFY.md", VERIFY_MD.as_bytes())?;
    bundle.add("verify.go", VERIFY_GO.as_bytes())?;
    bundle.add("checkpoint", note.to_string().as_bytes())?;
    bundle.add("records.jsonl", records.as_bytes())?;
    for idx in &found {
        for opening in reader.salted(*idx)? {
            openings.push_str(&opening.to_string());
            openings.push('\n');
        }
    }
    bundle.add("openings.jsonl", openings.as_bytes())?;
    bundle.add("records.csv", csv.as_bytes())?;
    bundle.add("controls.csv", supported(&controls).as_bytes())?;
    let page = report::html(reader, query, proof, now)?;
    bundle.add("report.html", page.as_bytes())?;
    keys(reader, proof, &mut bundle)?;
    for idx in &found {
        let text = reader.proof_under(*idx, &note, checkpoint.size)?;
        bundle.add(&format!("proofs/{idx}.tlog-proof"), text.as_bytes())?;
    }
    tiles(reader, checkpoint.size, &mut bundle)?;
    let manifest = json!({
        "made": clock::format(now),
        "software": concat!("syshold-ledger ", env!("CARGO_PKG_VERSION")),
        "query": query.text(),
        "records": found.len(),
        "first": found.first(),
        "last": found.last(),
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root,
        "cosigned": proof.cosigned,
        "verify": proof,
        "files": bundle.files,
    });
    let text = serde_json::to_string_pretty(&manifest).unwrap_or_default() + "\n";
    bundle.add("manifest.json", text.as_bytes())?;
    bundle.zip.finish()?.flush()?;
    Ok(Summary {
        records: found.len() as u64,
        size: checkpoint.size,
    })
}

fn supported(controls: &[Vec<u64>]) -> String {
    let mut csv = csv_line(["framework", "control", "supported_by", "records", "leaves"]);
    for (control, leaves) in CONTROLS.iter().zip(controls) {
        let list: Vec<_> = leaves.iter().map(u64::to_string).collect();
        csv.push_str(&csv_line([
            control.framework,
            &control.names(),
            control.evidence,
            &leaves.len().to_string(),
            &list.join(" "),
        ]));
    }
    csv
}

fn keys<W: Write + Seek>(
    reader: &Reader,
    proof: &Proof,
    bundle: &mut Bundle<W>,
) -> Result<(), EvidenceError> {
    let identity = proof.identity.clone().unwrap_or_default();
    bundle.add("keys/identity.vkey", format!("{identity}\n").as_bytes())?;
    if let Ok(key) = identity.parse::<crate::note::VerifierKey>() {
        bundle.add("keys/identity.pem", key.pem().as_bytes())?;
    }
    let (mut epochs, mut witnesses) = (String::new(), String::new());
    for kind in ["genesis", "key_rotate", "anchor"] {
        let only = crate::reader::Filter {
            kind: Some(kind.to_owned()),
            ..Default::default()
        };
        reader.scan(&only, |leaf| {
            let value = leaf.value();
            if let Some(key) = value["keys"]["epoch"].as_str() {
                epochs.push_str(&format!("{} {key}\n", leaf.idx));
            }
            if let Some(key) = value["anchor"]["witness"].as_str() {
                witnesses.push_str(&format!("{key}\n"));
            }
            ControlFlow::Continue(())
        })?;
    }
    bundle.add("keys/epochs.txt", epochs.as_bytes())?;
    bundle.add("keys/witnesses.txt", witnesses.as_bytes())
}

/// The hashes of the tree, in tiles of up to 256.
fn tiles<W: Write + Seek>(
    reader: &Reader,
    size: u64,
    bundle: &mut Bundle<W>,
) -> Result<(), EvidenceError> {
    let top = peaks(size).next().map_or(0, |peak| peak.level);
    for level in (0..=top).step_by(usize::from(TILE_LEVELS)) {
        let hashes = size >> level;
        for n in 0..hashes.div_ceil(TILE_WIDTH) {
            let width = (hashes - n * TILE_WIDTH).min(TILE_WIDTH);
            let mut data = Vec::with_capacity(32 * width as usize);
            for at in 0..width {
                let n = n * TILE_WIDTH + at;
                data.extend(reader.hash(Place { level, n })?.0);
            }
            bundle.add(&tile_name(level / TILE_LEVELS, n, width), &data)?;
        }
    }
    Ok(())
}

/// `tile/L/x001/x234/067`, and `.p/W` when it is not full.
fn tile_name(level: u8, n: u64, width: u64) -> String {
    let mut parts = vec![format!("{:03}", n % 1000)];
    let mut rest = n / 1000;
    while rest > 0 {
        parts.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    parts.reverse();
    let partial = match width {
        TILE_WIDTH => String::new(),
        width => format!(".p/{width}"),
    };
    format!("tile/{level}/{}{partial}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_named_as_others_look_for_them() {
        assert_eq!(tile_name(0, 0, 256), "tile/0/000");
        assert_eq!(tile_name(1, 67, 3), "tile/1/067.p/3");
        assert_eq!(tile_name(0, 1_234_067, 256), "tile/0/x001/x234/067");
        for (level, n, width) in [
            (0, 0, 7),
            (3, 999, 256),
            (1, 1_000, 255),
            (0, 98_765_432, 1),
        ] {
            let theirs = tlog_tiles::Tile::new(8, level, n, width, false).path();
            // C2SP leaves out the height, which is always 8.
            assert_eq!(
                theirs.replacen("tile/8/", "tile/", 1),
                tile_name(level, n, width.into())
            );
        }
    }
}
