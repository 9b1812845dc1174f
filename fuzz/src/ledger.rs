//! What auditors are brought: notes, checkpoints, keys, and leaves that somebody else wrote.
use syshold_ledger::note::{self, Note, Signature, VerifierKey};
use syshold_ledger::record::Record;
use syshold_ledger::witness::Submission;
use syshold_ledger::{Leaf, leaf_hash};

/// What is read is written again as it was.
pub(crate) fn note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(note) = text.parse::<Note>() {
        assert_eq!(note.to_string(), text);
    }
    if let Ok((_, checkpoint)) = note::parse_checkpoint(text) {
        assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
    }
    let _signature = Signature::parse(text);
    let _submission = text.parse::<Submission>();
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    let leaf = Leaf {
        idx: 0,
        body: text.to_owned(),
        hash: leaf_hash(data),
    };
    let _fields = Record::of(&leaf).fields();
}

pub(crate) fn notes() -> Vec<Vec<u8>> {
    let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let signature = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    [
        format!("example.com/log\n7\n{root}\n\n\u{2014} example.com/log {signature}\n"),
        "old 3\n".to_owned() + root + "\n\nexample.com/log\n7\n" + root + "\n",
        r#"{"v":1,"kind":"decision","ts":"2026-01-01T00:00:00Z","agent":{"name":"bot"},"action":{"op":"connect"},"decision":{"verdict":"deny","by":"human"}}"#.to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        let seeds: Vec<String> = notes()
            .into_iter()
            .map(|seed| String::from_utf8(seed).unwrap())
            .collect();
        note::parse_checkpoint(&seeds[0]).unwrap();
        let leaf = Leaf {
            idx: 0,
            body: seeds[2].clone(),
            hash: leaf_hash(b""),
        };
        assert!(leaf.value().is_object());
    }
}
