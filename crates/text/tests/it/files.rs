//! Text files as bytes: the same text in another process, and bytes that are damaged.

use std::fs;
use std::path::Path;

use lava_test_support::{Architecture, HfDtype, ToyModel};
use lava_text::{Detokenizer, Message, TextError, TextFiles, encode_chat};

use crate::models;

const TEXT: &str = "The 12 hens and thé 你好\n\tit's <|im_start|>user<|im_end|> e\u{301}";

fn toy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Qwen2);
    toy.write_hf(folder.path(), HfDtype::F16, 1).unwrap();
    folder
}

fn messages() -> [Message; 2] {
    [("system", "Be brief."), ("user", TEXT)].map(|(role, content)| Message {
        role: role.to_owned(),
        content: content.to_owned(),
    })
}

#[track_caller]
fn round_trip(files: &TextFiles) {
    let bytes = files.to_bytes();
    let copy = TextFiles::from_bytes(&bytes).unwrap();
    assert!(copy.to_bytes() == bytes, "other bytes at the second time");
    let (here, there) = (files.tokenizer().unwrap(), copy.tokenizer().unwrap());
    for wrap in [false, true] {
        let ids = here.encode(TEXT, wrap).unwrap();
        assert_eq!(there.encode(TEXT, wrap).unwrap(), ids);
    }
    assert!(!here.end_of_text().is_empty());
    assert_eq!(there.end_of_text(), here.end_of_text());
    let templates = (
        files.chat_template().unwrap(),
        copy.chat_template().unwrap(),
    );
    let chat = templates.0.render(&messages(), "24 Nov 2026").unwrap();
    assert_eq!(
        templates.1.render(&messages(), "24 Nov 2026").unwrap(),
        chat
    );
}

#[test]
fn bytes_carry_the_text_of_gguf_files() {
    round_trip(&models::smollm2());
    round_trip(&models::qwen2());
}

#[test]
fn bytes_carry_the_text_of_folders() {
    for architecture in [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Mistral,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let toy = ToyModel::new(architecture);
        toy.write_hf(folder.path(), HfDtype::F16, 1).unwrap();
        round_trip(&TextFiles::from_folder(folder.path()).unwrap());
    }
}

#[test]
fn copies_of_a_model_have_equal_bytes_and_other_models_have_others() {
    let (here, there) = (toy(), toy());
    let bytes = |folder: &Path| TextFiles::from_folder(folder).unwrap().to_bytes();
    assert_eq!(bytes(here.path()), bytes(there.path()));
    // Only the order of keys and the space between them.
    let file = there.path().join("tokenizer.json");
    let text = fs::read_to_string(&file).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = document.as_object().unwrap().iter().rev();
    let entries: Vec<String> = entries
        .map(|(key, value)| format!("{key:?} : {value}"))
        .collect();
    fs::write(&file, format!("{{\n{}\n}}", entries.join(",\n"))).unwrap();
    assert_ne!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(bytes(here.path()), bytes(there.path()));
    fs::write(there.path().join("chat_template.jinja"), "another").unwrap();
    assert_ne!(bytes(here.path()), bytes(there.path()));
}

#[test]
fn a_missing_template_stays_missing_and_errors_name_what_they_can() {
    let folder = toy();
    fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    let file = folder.path().join("tokenizer.json");
    fs::write(&file, "{}").unwrap();
    let files = TextFiles::from_folder(folder.path()).unwrap();
    let copy = TextFiles::from_bytes(&files.to_bytes()).unwrap();
    for files in [&files, &copy] {
        let template = files.chat_template();
        assert!(matches!(template, Err(TextError::NoTemplate)));
    }
    let text = |files: &TextFiles| files.tokenizer().unwrap_err().to_string();
    assert!(text(&files).starts_with(&file.display().to_string()));
    assert!(text(&copy).starts_with("text files from another process: the tokenizer"));
}

#[test]
fn bytes_cut_anywhere_are_refused() {
    let check = |bytes: &[u8]| {
        let found = TextFiles::from_bytes(bytes);
        assert!(matches!(found, Err(TextError::Bytes(_))), "{}", bytes.len());
    };
    let bytes = TextFiles::from_folder(toy().path()).unwrap().to_bytes();
    (0..bytes.len()).for_each(|len| check(&bytes[..len]));
    check(&[&bytes[..], b"x"].concat());
    check(&bytes.repeat(2));
    let bytes = models::smollm2().to_bytes();
    for len in [1, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        check(&bytes[..len]);
    }
}

#[test]
fn bytes_of_another_shape_are_refused() {
    let nested = "[".repeat(100_000);
    let deep = format!(r#"{{"tokenizer":{}"#, "[".repeat(100_000));
    for bytes in [
        "",
        "null",
        "{}",
        "[]",
        &nested,
        &deep,
        r#"{"tokenizer":{},"end_of_text":[-1]}"#,
        r#"{"tokenizer":{},"end_of_text":[4294967296]}"#,
        r#"{"tokenizer":{},"end_of_text":[],"chat_template":3}"#,
        r#"{"tokenizer":{},"end_of_text":[],"origin":"/"}"#,
        r#"{"tokenizer":{},"tokenizer":{},"end_of_text":[]}"#,
    ] {
        let found = TextFiles::from_bytes(bytes.as_bytes());
        assert!(matches!(found, Err(TextError::Bytes(_))), "{bytes:.80}");
    }
}

/// Whether the bytes gave text files that can encode, after asking them for all they can do.
fn use_all(bytes: &[u8]) -> bool {
    let Ok(files) = TextFiles::from_bytes(bytes) else {
        return false;
    };
    let (Ok(tokenizer), template) = (files.tokenizer(), files.chat_template()) else {
        return false;
    };
    let chat = template
        .and_then(|template| encode_chat(&tokenizer, &template, &messages(), "24 Nov 2026"));
    let mut detokenizer = Detokenizer::new();
    for ids in [chat, tokenizer.encode(TEXT, true)] {
        for id in ids.unwrap_or_default() {
            detokenizer.push(&tokenizer, id);
        }
    }
    detokenizer.finish();
    true
}

#[test]
fn flipped_bytes_are_an_error_or_other_text_but_never_a_panic() {
    let whole = TextFiles::from_folder(toy().path()).unwrap().to_bytes();
    assert!(use_all(&whole));
    let mut refusals = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        // Another bit at each byte; the low ones mostly give other JSON, the high ones no UTF-8.
        bytes[at] ^= 1 << (at % 8);
        refusals += usize::from(!use_all(&bytes));
    }
    assert!(refusals > whole.len() / 4, "only {refusals} were noticed");
}

#[test]
fn steps_on_which_the_library_can_panic_are_refused() {
    for (key, step) in [
        (
            "pre_tokenizer",
            serde_json::json!({"type": "FixedLength", "length": 0}),
        ),
        (
            "pre_tokenizer",
            serde_json::json!({"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]}),
        ),
        (
            "normalizer",
            serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
    ] {
        let folder = toy();
        let file = folder.path().join("tokenizer.json");
        let text = fs::read_to_string(&file).unwrap();
        let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
        document[key] = step;
        fs::write(&file, document.to_string()).unwrap();
        let files = TextFiles::from_folder(folder.path()).unwrap();
        let text = files.tokenizer().unwrap_err().to_string();
        assert!(
            text.contains("tokenizer.json") && text.contains(key),
            "{text}"
        );
    }
}
