//! Arguments of an exec as the kernel side compares them.
use syshold_abi::{Arguments, SipHash};

/// Each argument ends with a NUL, as on a new program's stack. Of none the kernel makes an empty one.
pub(super) fn of(argv: &[Vec<u8>], key: [u64; 2]) -> Arguments {
    let none = [Vec::new()];
    let argv = if argv.is_empty() { &none } else { argv };
    let text: Vec<u8> = argv
        .iter()
        .flat_map(|argument| argument.iter().copied().chain([0]))
        .collect();
    let first = argv.first().map_or(0, |argument| argument.len() + 1);
    Arguments {
        all: hash(&text, key),
        rest: hash(&text[first..], key),
        begin: 0,
        len: text.len() as u32,
        first: first as u32,
        count: argv.len() as u32,
        _pad: 0,
    }
}

fn hash(text: &[u8], key: [u64; 2]) -> u64 {
    let mut hash = SipHash::new(key);
    let (words, last) = text.as_chunks::<8>();
    for word in words {
        hash.word(u64::from_le_bytes(*word));
    }
    let mut rest = [0; 8];
    rest[..last.len()].copy_from_slice(last);
    hash.end(u64::from_le_bytes(rest), text.len() as u32)
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use syshold_abi::zeros_in;

    use super::*;

    #[test]
    fn the_hash_is_siphash_2_4() {
        // The reference implementation's first vectors: key 00..0f, text 00, 01, …
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(hash(&[], key), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash(&[0], key), 0x74f8_39c5_93dc_67fd);
        for len in 0..300 {
            let text: Vec<u8> = (0..len).map(|i: u32| (i * 7) as u8).collect();
            #[expect(deprecated, reason = "the only SipHash-2-4 of std")]
            let mut other = std::hash::SipHasher::new_with_keys(key[0], key[1]);
            other.write(&text);
            assert_eq!(hash(&text, key), other.finish(), "{len}");
        }
    }

    #[test]
    fn zeros_are_counted_exactly() {
        let words = [
            0,
            u64::MAX,
            1,
            0x0100,
            0x8000_0000_0000_0000,
            0x0001_8000_7f00_ff01,
        ];
        for word in words {
            let zeros = word.to_le_bytes().iter().filter(|byte| **byte == 0).count();
            assert_eq!(zeros_in(word) as usize, zeros, "{word:#x}");
        }
    }

    #[test]
    fn the_first_argument_is_told_apart() {
        let argv = [b"tool".to_vec(), b"get".to_vec(), Vec::new()];
        let one = of(&argv, [1, 2]);
        assert_eq!((one.count, one.len, one.first), (3, 10, 5));
        let other = of(&[b"other".to_vec(), b"get".to_vec(), Vec::new()], [1, 2]);
        assert_eq!(one.rest, other.rest);
        assert_ne!(one.all, other.all);
        assert_eq!(of(&[], [1, 2]), of(&[Vec::new()], [1, 2]));
    }
}
