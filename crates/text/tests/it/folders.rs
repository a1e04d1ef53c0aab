//! Tokenizers of Hugging Face folders, whole and broken.

use std::fs;
use std::path::Path;

use lava_test_support::{Architecture, HfDtype, ToyModel};
use lava_text::{TextError, TextFiles, Tokenizer};

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, TextError>, parts: &[&str]) {
    let text = result.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Llama);
    toy.write_hf(folder.path(), HfDtype::F16, 1).unwrap();
    folder
}

fn from_folder(folder: &Path) -> Result<Tokenizer, TextError> {
    TextFiles::from_folder(folder)?.tokenizer()
}

#[test]
fn a_folders_tokenizer_works_and_its_absence_is_named() {
    let folder = folder();
    let tokenizer = from_folder(folder.path()).unwrap();
    let ids = tokenizer.encode("<|im_start|>a b", false).unwrap();
    assert_eq!(ids[0], tokenizer.id("<|im_start|>").unwrap());
    assert!(
        tokenizer
            .end_of_text()
            .contains(&tokenizer.id("<|im_end|>").unwrap())
    );
    let files = || TextFiles::from_folder(folder.path());
    files().unwrap().chat_template().unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    says(
        from_folder(folder.path()),
        &["tokenizer_config.json is not valid JSON"],
    );
    fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    says(files().unwrap().chat_template(), &["no chat template"]);
    fs::write(folder.path().join("tokenizer.json"), "{\"model\": 3}").unwrap();
    says(
        from_folder(folder.path()),
        &["tokenizer.json", "cannot be built"],
    );
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    says(
        from_folder(folder.path()),
        &["cannot read", "tokenizer.json"],
    );
}

#[test]
fn merges_of_unknown_tokens_are_refused() {
    let folder = folder();
    let file = folder.path().join("tokenizer.json");
    let mut document: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    document["model"]["merges"] = serde_json::json!([["never", "heard"]]);
    fs::write(&file, document.to_string()).unwrap();
    says(
        from_folder(folder.path()),
        &["tokenizer.json", "cannot be built"],
    );
}

#[test]
fn settings_that_the_library_cannot_survive_are_refused() {
    for (key, value) in [
        ("continuing_subword_prefix", serde_json::json!("##########")),
        ("end_of_word_suffix", serde_json::json!("</w>")),
        ("dropout", serde_json::json!(0.5)),
        ("type", serde_json::json!("Unigram")),
    ] {
        let folder = folder();
        let file = folder.path().join("tokenizer.json");
        let mut document: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        document["model"][key] = value;
        fs::write(&file, document.to_string()).unwrap();
        says(from_folder(folder.path()), &["tokenizer.json", key]);
    }
}

#[test]
fn a_file_that_truncates_or_pads_does_not_change_a_prompt() {
    let folder = folder();
    let text = "many words and then some more ".repeat(20);
    let expected = from_folder(folder.path())
        .unwrap()
        .encode(&text, true)
        .unwrap();
    let file = folder.path().join("tokenizer.json");
    let mut document: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    document["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0,
    });
    document["padding"] = serde_json::json!({
        "strategy": {"Fixed": 4096}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    });
    fs::write(&file, document.to_string()).unwrap();
    let found = from_folder(folder.path())
        .unwrap()
        .encode(&text, true)
        .unwrap();
    assert_eq!(found, expected);
}

#[test]
fn a_decoder_of_another_kind_is_refused() {
    for decoder in [
        serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        serde_json::Value::Null,
    ] {
        let folder = folder();
        let file = folder.path().join("tokenizer.json");
        let mut document: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        document["decoder"] = decoder;
        fs::write(&file, document.to_string()).unwrap();
        says(
            from_folder(folder.path()),
            &["tokenizer.json", "decoder is", "ByteLevel"],
        );
    }
}
