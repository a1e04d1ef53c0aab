//! Small GGUF vocabularies that are wrong in one place: each its own error, none a panic.

use std::io::Write;

use lava_gguf::Gguf;
use lava_text::{ChatTemplate, Detokenizer, Message, TextError, TextFiles, Tokenizer, encode_chat};
use tempfile::NamedTempFile;

const U32: u32 = 4;
const I32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Metadata entries: a key, its type and the bytes of its value.
#[derive(Clone)]
struct Metadata(Vec<(String, u32, Vec<u8>)>);

/// A vocabulary with one merge and one marker, and a template that uses both special tokens.
fn sample() -> Metadata {
    Metadata(Vec::new())
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "smollm")
        .strings("tokenizer.ggml.tokens", &["a", "b", "Ġ", "ab", "<|im_end|>"])
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 1, 3])
        .strings("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 4)
        .string(
            "tokenizer.chat_template",
            "{{ bos_token }}{% for m in messages %}{{ m.content.strip() }}{{ eos_token }}{% endfor %}",
        )
}

impl Metadata {
    fn set(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self = self.without(key);
        self.0.push((key.to_owned(), kind, value));
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.0.retain(|(name, _, _)| name != key);
        self
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.set(key, U32, value.to_le_bytes().to_vec())
    }

    fn string(self, key: &str, value: &str) -> Self {
        self.set(key, STRING, text(value))
    }

    fn strings(self, key: &str, values: &[&str]) -> Self {
        let elements = values.iter().map(|value| text(value)).collect();
        self.array(key, STRING, elements)
    }

    fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements = values.iter().map(|value| value.to_le_bytes().to_vec());
        self.array(key, I32, elements.collect())
    }

    fn array(self, key: &str, kind: u32, elements: Vec<Vec<u8>>) -> Self {
        let count = elements.len() as u64;
        let head = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
        self.set(key, ARRAY, [head, elements.concat()].concat())
    }

    /// A GGUF file of version 3 without tensors.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend((self.0.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.0 {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        bytes
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// The file has no name any more, but stays readable while it is open.
fn open(bytes: &[u8]) -> Result<Gguf, TextError> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Ok(Gguf::open(file.path())?)
}

fn tokenizer(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    TextFiles::from_gguf(&open(&metadata.bytes())?)?.tokenizer()
}

fn template(metadata: &Metadata) -> Result<ChatTemplate, TextError> {
    TextFiles::from_gguf(&open(&metadata.bytes())?)?.chat_template()
}

#[track_caller]
fn says<T: std::fmt::Debug>(found: Result<T, TextError>, parts: &[&str]) {
    let text = found.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn the_sample_itself_is_good() {
    let tokenizer = tokenizer(&sample()).unwrap();
    assert_eq!(
        tokenizer.encode("ab a<|im_end|>", false).unwrap(),
        [3, 2, 0, 4]
    );
    assert_eq!(tokenizer.end_of_text(), [4]);
    let messages = [Message {
        role: "user".to_owned(),
        content: " b ".to_owned(),
    }];
    let chat = template(&sample()).unwrap().render(&messages, "");
    assert_eq!(chat.unwrap(), "ab<|im_end|>");
}

#[test]
fn a_missing_key_is_named() {
    for key in [
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ] {
        let found = tokenizer(&sample().without(key));
        says(found, &["has no key", key]);
    }
    let no_template = template(&sample().without("tokenizer.chat_template"));
    assert!(matches!(no_template, Err(TextError::NoTemplate)));
}

#[test]
fn keys_that_may_be_missing_are_not_missed() {
    for key in [
        "tokenizer.ggml.pre",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
    ] {
        let metadata = sample().without(key);
        assert_eq!(
            tokenizer(&metadata).unwrap().encode("ab", false).unwrap(),
            [3]
        );
        template(&metadata).unwrap();
    }
}

#[test]
fn a_key_of_another_type_is_named_with_both_types() {
    for key in [
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
    ] {
        says(tokenizer(&sample().u32(key, 7)), &[key, "is of type u32"]);
    }
    let key = "tokenizer.ggml.eos_token_id";
    let metadata = sample().string(key, "x");
    says(tokenizer(&metadata), &[key, "is of type string"]);
    says(template(&metadata), &[key, "is of type string"]);
    let key = "tokenizer.chat_template";
    says(template(&sample().u32(key, 7)), &[key, "is of type u32"]);
}

#[test]
fn an_unknown_tokenizer_is_named_with_the_known_ones() {
    let check = |key, known: &str| {
        let found = tokenizer(&sample().string(key, "no-such"));
        assert!(matches!(found, Err(TextError::UnknownTokenizer { .. })));
        says(found, &[key, "no-such", known]);
    };
    check("tokenizer.ggml.model", "gpt2");
    check("tokenizer.ggml.pre", "smollm, qwen2");
}

#[test]
fn merges_that_the_vocabulary_cannot_follow_are_refused() {
    for merge in ["a c", "c a", "b a", "a", "", "a  b", "a b a"] {
        let found = tokenizer(&sample().strings("tokenizer.ggml.merges", &[merge]));
        assert!(
            matches!(found, Err(TextError::Tokenizer { .. })),
            "{merge:?}: {found:?}"
        );
    }
}

#[test]
fn ids_outside_the_vocabulary_are_no_special_tokens() {
    for id in [5, 1 << 31, u32::MAX] {
        let metadata = sample()
            .u32("tokenizer.ggml.eos_token_id", id)
            .u32("tokenizer.ggml.bos_token_id", id);
        // The marker in the vocabulary still ends an answer.
        assert_eq!(tokenizer(&metadata).unwrap().end_of_text(), [4]);
        let found = template(&metadata).unwrap().render(&[], "");
        assert_eq!(found.unwrap(), "");
    }
}

#[test]
fn odd_vocabularies_work_or_are_refused_but_never_panic() {
    for tokens in [
        &[][..],
        &[""],
        &["a", "a", "a", "b", "ab"],
        &["a", "b", "ab", "", "\u{0}"],
        &["a", "b", "ab", "字", "Ā"],
    ] {
        for types in [
            &[][..],
            &[3; 1],
            &[3; 9],
            &[4; 5],
            &[-1, i32::MIN, i32::MAX],
        ] {
            let metadata = sample()
                .strings("tokenizer.ggml.tokens", tokens)
                .i32s("tokenizer.ggml.token_type", types);
            use_all(&metadata.bytes());
        }
    }
}

/// Whether the file gave a tokenizer, after asking it and the template for all they can do.
fn use_all(bytes: &[u8]) -> bool {
    let Ok(files) = open(bytes).and_then(|gguf| TextFiles::from_gguf(&gguf)) else {
        return false;
    };
    let messages = [Message {
        role: "user".to_owned(),
        content: "ab 12\n字 it's<|im_end|>".to_owned(),
    }];
    let template = files.chat_template();
    let chat = template
        .as_ref()
        .map(|template| template.render(&messages, ""));
    let Ok(tokenizer) = files.tokenizer() else {
        return false;
    };
    let chat = chat.ok().and_then(Result::ok);
    if let Ok(template) = &template {
        let _ = encode_chat(&tokenizer, template, &messages, "");
    }
    let mut detokenizer = Detokenizer::new();
    for text in [chat.as_deref().unwrap_or(""), &messages[0].content] {
        for id in tokenizer.encode(text, true).unwrap_or_default() {
            detokenizer.push(&tokenizer, id);
        }
    }
    detokenizer.finish();
    true
}

#[test]
fn a_flipped_byte_is_an_error_or_another_vocabulary_but_never_a_panic() {
    let whole = sample().bytes();
    assert!(use_all(&whole));
    let mut refusals = 0;
    for at in 0..whole.len() {
        let byte = whole[at];
        for flipped in [!byte, byte ^ 0x01, byte ^ 0x80, 0x00, 0xFF] {
            let mut file = whole.clone();
            file[at] = flipped;
            refusals += usize::from(!use_all(&file));
        }
    }
    assert!(refusals > whole.len(), "only {refusals} flips were noticed");
}

/// Wrong: `encode` promises an error here, but the tokenizer library drops what it cannot spell and
/// even merges across the gap. Real vocabularies have all 256 bytes.
#[test]
fn text_that_a_vocabulary_cannot_spell_is_dropped_today() {
    let tokenizer = tokenizer(&sample()).unwrap();
    assert_eq!(tokenizer.encode("axb", false).unwrap(), [3]);
}
