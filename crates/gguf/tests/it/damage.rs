//! Files that were cut, flipped or never were GGUF: an error or a file, never a panic.

use crate::writer::{open, sample};
use lava_gguf::Gguf;
use proptest::prelude::*;

/// Asks an opened file for all that it claims to have, and checks that it keeps its word.
fn use_all(gguf: &Gguf, file_bytes: usize) {
    for key in gguf.keys() {
        let _ = (
            gguf.str(key),
            gguf.bool(key),
            gguf.f32(key),
            gguf.u32(key),
            gguf.usize(key),
        );
        let _ = (
            gguf.strings(key),
            gguf.f32s(key),
            gguf.i32s(key),
            gguf.u32s(key),
        );
    }
    for tensor in gguf.tensors() {
        assert!(tensor.bytes <= file_bytes);
        assert_eq!(gguf.read(tensor).unwrap().len(), tensor.bytes);
    }
}

fn try_all(bytes: &[u8]) {
    if let Ok(gguf) = open(bytes) {
        use_all(&gguf, bytes.len());
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = sample().bytes();
    assert!(open(&whole).is_ok());
    for sixty_fourth in 0..64 {
        let cut = &whole[..whole.len() * sixty_fourth / 64];
        assert!(
            open(cut).is_err(),
            "cut at {} of {} bytes",
            cut.len(),
            whole.len()
        );
    }
    for len in [0, 1, 3, 4, 7, 8, 15, 16, 23, whole.len() - 1] {
        assert!(open(&whole[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn a_flipped_byte_of_the_header_is_an_error_or_another_file_but_never_a_panic() {
    let whole = sample().bytes();
    for at in 0..sample().header().len() {
        let byte = whole[at];
        for flipped in [0xFF, 0x00, byte ^ 0x01, byte ^ 0x80] {
            let mut file = whole.clone();
            file[at] = flipped;
            try_all(&file);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_after_a_good_start_never_panic(
        version in 2u32..4,
        tensors in 0u64..4,
        entries in 0u64..4,
        rest in proptest::collection::vec(0u8..14, 0..400),
    ) {
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(tensors.to_le_bytes());
        file.extend(entries.to_le_bytes());
        file.extend(rest);
        try_all(&file);
    }

    #[test]
    fn random_damage_to_a_good_file_never_panics(
        wounds in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
    ) {
        let mut file = sample().bytes();
        for (at, byte) in wounds {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(len.index(file.len()) + 1);
        try_all(&file);
    }
}
