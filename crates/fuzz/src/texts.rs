//! Tokenizer and chat template, as a worker hands them to a coordinator.
//!
//! An input is a text, with its length before it, which is then encoded and put into the template; and the bytes of
//! `TextFiles.content`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lava_test_support::{HfDtype, ToyModel, VOCAB_MIN};
use lava_text::{Detokenizer, Message, TextError, TextFiles, Tokenizer, encode_chat};

use crate::cursor::{Cursor, write_part};
use crate::memory;

/// The libraries for tokenizers and templates may take more than a multiple of what they read.
const LIBRARY_BYTES_MAX: usize = 64 << 20;

thread_local! {
    static MAY_PANIC: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is somebody else's, and dealt with: the library that builds tokenizers has some, and
/// coordinators take them for a worker whose files cannot be used.
pub fn may_panic() -> bool {
    MAY_PANIC.get()
}

fn unless_it_panics<T>(step: impl FnOnce() -> T) -> Option<T> {
    MAY_PANIC.set(true);
    let result = catch_unwind(AssertUnwindSafe(step));
    MAY_PANIC.set(false);
    result.ok()
}

/// Reads, writes and uses them.
pub(crate) fn run(input: &[u8]) {
    let mut rest = Cursor(input);
    let (text, content) = (String::from_utf8_lossy(rest.part()), rest.0);
    let most = memory::SLACK_BYTES + 256 * input.len();
    let Ok(files) = memory::within(most, || TextFiles::from_bytes(content)) else {
        return;
    };
    let bytes = files.to_bytes();
    let again = TextFiles::from_bytes(&bytes).expect("what was written is read");
    assert_eq!(again.to_bytes(), bytes, "equal files give equal bytes");
    let most = most + LIBRARY_BYTES_MAX;
    let Some(Ok(tokenizer)) = memory::within(most, || unless_it_panics(|| files.tokenizer()))
    else {
        return;
    };
    let Some(Ok(ids)) = unless_it_panics(|| tokenizer.encode(&text, false)) else {
        return;
    };
    check_text(&tokenizer, &ids);
    let messages = [Message {
        role: "user".into(),
        content: text.into_owned(),
    }];
    match files.chat_template() {
        Ok(template) => {
            let chat = || encode_chat(&tokenizer, &template, &messages, "26 Nov 2026");
            memory::within(most, || unless_it_panics(chat));
        }
        Err(TextError::NoTemplate | TextError::Template { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Whatever the ids, text that comes piece by piece is the text of all their bytes.
pub(crate) fn check_text(tokenizer: &Tokenizer, ids: &[u32]) {
    let mut pieces = Detokenizer::new();
    let mut text: String = ids.iter().map(|&id| pieces.push(tokenizer, id)).collect();
    text += &pieces.finish();
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes(id)).collect();
    assert_eq!(text, String::from_utf8_lossy(&bytes));
}

/// The files of a toy.
pub(crate) fn toy() -> TextFiles {
    let folder = tempfile::tempdir().expect("the system has a place for files");
    let toy = ToyModel {
        vocab: VOCAB_MIN,
        ..ToyModel::default()
    };
    toy.write_hf(folder.path(), HfDtype::F32, 1)
        .expect("the toy is written");
    TextFiles::from_folder(folder.path()).expect("the toy is read")
}

/// The toy's.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let content = toy().to_bytes();
    let seed = |text: &str| {
        let mut out = Vec::new();
        write_part(&mut out, text.as_bytes());
        [out, content.clone()].concat()
    };
    vec![
        ("plain", seed("Hello, w\u{f6}rld")),
        ("marker", seed("a<|im_end|>b")),
    ]
}
