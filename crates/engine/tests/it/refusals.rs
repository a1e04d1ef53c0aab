//! Bad models and bad requests: each its own error, none a panic.

use std::fs;
use std::path::Path;

use lava::{Policy, Profile};
use lava_engine::{EngineError, LoadError, Model, ModelFiles, SamplingParams, WeightFormat};
use lava_test_support::{Architecture, GgufKind, HfDtype, ToyModel};

use crate::{ours, toys};

fn load(path: &Path) -> Result<Model, LoadError> {
    let files = ModelFiles::find(path.to_str().unwrap(), false)?;
    Model::load(&files, WeightFormat::Stored, &mut |_, _| {})
}

/// The whole chain of causes, as a user reads it.
fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    let error = load(path).map(|_| "a model").unwrap_err();
    let text = message(&error);
    for part in expected {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

fn folder(toy: &ToyModel) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    folder
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let file = folder.join("config.json");
    let mut config = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    edit(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

#[test]
fn a_wrong_shape_names_file_tensor_and_both_shapes() {
    let folder = folder(&ToyModel::new(Architecture::Llama));
    edit_config(folder.path(), |config| {
        config["intermediate_size"] = 128.into()
    });
    let expected = [
        "model.safetensors",
        "mlp.gate_proj.weight",
        "[96, 64]",
        "[128, 64]",
    ];
    refused(folder.path(), &expected);
}

#[test]
fn a_missing_tensor_names_file_and_tensor() {
    let folder = folder(&ToyModel::new(Architecture::Llama));
    edit_config(folder.path(), |config| {
        config["model_type"] = "qwen2".into()
    });
    refused(
        folder.path(),
        &[
            "model.safetensors",
            "layers.0.self_attn.q_proj.bias",
            "missing",
        ],
    );
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let folder = folder(&ToyModel::new(Architecture::Llama));
    edit_config(folder.path(), |config| {
        config["model_type"] = "gemma3".into()
    });
    refused(
        folder.path(),
        &[
            "config.json",
            "gemma3",
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
        ],
    );
}

#[test]
fn an_unknown_scaling_and_contradicting_sizes_are_refused() {
    let folder = folder(&ToyModel::new(Architecture::Llama));
    edit_config(folder.path(), |config| {
        config["rope_scaling"] = serde_json::json!({"rope_type": "longrope", "factor": 2.0});
    });
    refused(
        folder.path(),
        &["config.json", "rope_type", "longrope", "yarn"],
    );
    edit_config(folder.path(), |config| {
        config["rope_scaling"] = serde_json::Value::Null;
        config["num_key_value_heads"] = 3.into();
    });
    refused(
        folder.path(),
        &["query heads", "multiple of the 3 KV heads"],
    );
    edit_config(folder.path(), |config| {
        config["num_hidden_layers"] = 0.into()
    });
    refused(folder.path(), &["number of layers is 0"]);
}

#[test]
fn a_truncated_or_missing_weight_file_is_named() {
    let folder = folder(&ToyModel::new(Architecture::Llama));
    let file = folder.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for cut in (0..64).map(|i| bytes.len() * i / 64) {
        fs::write(&file, &bytes[..cut]).unwrap();
        refused(folder.path(), &["model.safetensors"]);
    }
    fs::remove_file(&file).unwrap();
    refused(folder.path(), &["cannot read", "model.safetensors"]);
    fs::write(folder.path().join("config.json"), "{").unwrap();
    refused(folder.path(), &["config.json is not valid"]);
}

#[test]
fn a_name_that_is_nothing_says_what_would_be_something() {
    let error = ModelFiles::find("no-such-model", false).unwrap_err();
    assert!(error.to_string().contains("no-such-model") && error.to_string().contains(".gguf"));
}

#[test]
fn a_gguf_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.gguf");
    ToyModel::new(Architecture::Llama)
        .write_gguf(&file, GgufKind::Q8_0)
        .unwrap();
    let bytes = fs::read(&file).unwrap();
    for i in 0..64 {
        fs::write(&file, &bytes[..bytes.len() * i / 64]).unwrap();
        refused(&file, &["toy.gguf"]);
    }
}

#[test]
fn a_gguf_with_a_flipped_header_byte_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.gguf");
    let toy = ToyModel {
        layers: 1,
        ..ToyModel::new(Architecture::Qwen2)
    };
    toy.write_gguf(&file, GgufKind::Q8_0).unwrap();
    let bytes = fs::read(&file).unwrap();
    let gguf = lava_gguf::Gguf::open(&file).unwrap();
    let header = gguf
        .tensors()
        .iter()
        .map(|tensor| tensor.offset)
        .min()
        .unwrap() as usize;
    let mut refusals = 0;
    // A stride that is prime to the alignment of every field reaches all kinds of bytes.
    for at in (0..header).step_by(7) {
        for flip in [0x01, 0x80, 0xFF] {
            let mut broken = bytes.clone();
            broken[at] ^= flip;
            fs::write(&file, broken).unwrap();
            if let Err(error) = load(&file) {
                assert!(!message(&error).is_empty());
                refusals += 1;
            }
        }
    }
    assert!(refusals > 100, "only {refusals} flips were noticed");
}

#[test]
fn bad_requests_are_refused_by_name() {
    let toy = ToyModel {
        sliding_window: Some(200),
        ..ToyModel::new(Architecture::Mistral)
    };
    let folder = folder(&toy);
    let model = load(folder.path()).unwrap();
    let lava = Policy::Lava(Profile::Exact);
    let refusal = |tokens: &[u32], budget| {
        let request = ours::request(tokens, lava, budget);
        ours::prefill(&model, &request)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let ids = |len| toys::prompt(len, toy.vocab);
    assert!(refusal(&[], 64).contains("the prompt is empty"));
    assert!(refusal(&ids(512), 64).contains("context is 512"));
    assert!(refusal(&ids(201), 64).contains("sliding window of 200"));
    assert!(refusal(&[1, 320], 64).contains("token id 320 is outside the vocabulary of 320"));
    assert!(refusal(&ids(100), 32).contains("budget is 32"));
    assert!(ours::prefill(&model, &ours::request(&ids(200), lava, 33)).is_ok());
}

#[test]
fn sampling_values_out_of_range_are_refused_by_name() {
    let base = SamplingParams::default;
    let cases = [
        (
            "temperature",
            SamplingParams {
                temperature: f32::NAN,
                ..base()
            },
        ),
        (
            "temperature",
            SamplingParams {
                temperature: -1.0,
                ..base()
            },
        ),
        (
            "top_p",
            SamplingParams {
                top_p: f32::NAN,
                ..base()
            },
        ),
        (
            "top_p",
            SamplingParams {
                top_p: 0.0,
                ..base()
            },
        ),
        (
            "min_p",
            SamplingParams {
                min_p: 1.5,
                ..base()
            },
        ),
        (
            "top_k",
            SamplingParams {
                top_k: Some(0),
                ..base()
            },
        ),
        (
            "repetition_penalty",
            SamplingParams {
                repetition_penalty: 0.0,
                ..base()
            },
        ),
        (
            "frequency_penalty",
            SamplingParams {
                frequency_penalty: f32::INFINITY,
                ..base()
            },
        ),
        (
            "presence_penalty",
            SamplingParams {
                presence_penalty: f32::NAN,
                ..base()
            },
        ),
        (
            "top_logprobs",
            SamplingParams {
                top_logprobs: 21,
                ..base()
            },
        ),
    ];
    for (name, params) in cases {
        match params.check() {
            Err(EngineError::Sampling { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
