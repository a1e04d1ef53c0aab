//! Bad tokenizers and templates: each its own error, none a panic, none a hang.

use std::fs;
use std::path::Path;

use lava_gguf::Gguf;
use lava_test_support::{Architecture, GgufKind, HfDtype, ToyModel};
use lava_text::{ChatTemplate, Message, TextError, Tokenizer};

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.into(),
        content: content.into(),
    }
}

fn render(template: &str, messages: &[Message]) -> Result<String, TextError> {
    ChatTemplate::new(template.into(), "<s>".into(), "</s>".into())?.render(messages, "24 Nov 2026")
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, TextError>, parts: &[&str]) {
    let text = result.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn templates_may_use_python_string_methods() {
    let template = "{% for m in messages %}{% if m.content.startswith('/') %}{{ m.content.split('/')[-1].strip().title() }}\
        {% else %}{{ m['content'].replace('a', 'b').rstrip() + eos_token }}{% endif %}{% endfor %}{{ strftime_now('%d %b %Y') }}";
    let messages = [
        message("user", "/x/ some words "),
        message("user", "banana \n"),
    ];
    assert_eq!(
        render(template, &messages).unwrap(),
        "Some Wordsbbnbnb</s>24 Nov 2026"
    );
}

#[test]
fn a_template_that_refuses_or_fails_says_why() {
    let messages = [message("user", "hi")];
    says(
        render("{{ raise_exception('roles must alternate') }}", &messages),
        &["roles must alternate"],
    );
    says(render("line\n{% if %}", &messages), &["chat_template:2"]);
    says(render("{{ nothing.at.all }}", &messages), &["undefined"]);
}

#[test]
fn a_template_without_end_is_stopped() {
    let endless =
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}";
    says(render(endless, &[]), &["fuel"]);
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Llama);
    toy.write_hf(folder.path(), HfDtype::F16, 1).unwrap();
    folder
}

fn from_folder(folder: &Path) -> Result<Tokenizer, TextError> {
    Tokenizer::from_folder(folder)
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
    ChatTemplate::from_folder(folder.path()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    says(
        from_folder(folder.path()),
        &["tokenizer_config.json is not valid JSON"],
    );
    fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    says(
        ChatTemplate::from_folder(folder.path()).map(|_| ()),
        &["no chat template"],
    );
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
fn a_damaged_gguf_vocabulary_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.gguf");
    let toy = ToyModel {
        layers: 1,
        ..ToyModel::new(Architecture::Llama)
    };
    toy.write_gguf(&file, GgufKind::F16).unwrap();
    let bytes = fs::read(&file).unwrap();
    let gguf = Gguf::open(&file).unwrap();
    let header = gguf
        .tensors()
        .iter()
        .map(|tensor| tensor.offset)
        .min()
        .unwrap() as usize;
    let mut refusals = 0;
    for at in (0..header).step_by(5) {
        for flip in [0x01, 0x80] {
            let mut broken = bytes.clone();
            broken[at] ^= flip;
            fs::write(&file, broken).unwrap();
            let tokenizer = match Gguf::open(&file) {
                Ok(gguf) => Tokenizer::from_gguf(&gguf).map(|_| ()),
                Err(error) => Err(error.into()),
            };
            refusals += usize::from(tokenizer.is_err());
        }
    }
    assert!(refusals > 50, "only {refusals} flips were noticed");
}

#[test]
fn unknown_tokenizers_of_gguf_files_list_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.gguf");
    ToyModel::new(Architecture::Llama)
        .write_gguf(&file, GgufKind::F16)
        .unwrap();
    let bytes = fs::read(&file).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = bytes
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to);
        fs::write(&file, changed).unwrap();
        Tokenizer::from_gguf(&Gguf::open(&file).unwrap())
    };
    says(
        replaced(b"smollm", b"smellm"),
        &["tokenizer.ggml.pre", "smellm", "qwen2"],
    );
    says(
        replaced(b"gpt2", b"bert"),
        &["tokenizer.ggml.model", "bert", "gpt2"],
    );
    says(
        replaced(b"tokenizer.ggml.merges", b"tokenizer.ggml.merjes"),
        &["tokenizer.ggml.merges"],
    );
}
