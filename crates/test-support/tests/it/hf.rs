//! Folders, read back with the safetensors crate.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use lava_test_support::{Architecture, HfDtype, RopeScaling, ToyModel};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

type Loaded = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn read_weights(path: &Path) -> Loaded {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let pairs = |data: &[u8]| data.chunks(2).map(|b| [b[0], b[1]]).collect::<Vec<_>>();
    file.iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data
                    .chunks(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
                Dtype::F16 => pairs(data)
                    .into_iter()
                    .map(|b| f16::from_le_bytes(b).to_f32())
                    .collect(),
                Dtype::BF16 => pairs(data)
                    .into_iter()
                    .map(|b| bf16::from_le_bytes(b).to_f32())
                    .collect(),
                other => panic!("unexpected dtype {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect()
}

fn in_memory(model: &ToyModel) -> Loaded {
    model
        .tensors()
        .into_iter()
        .map(|t| (t.name, (t.shape, t.values)))
        .collect()
}

fn config_of(model: &ToyModel) -> Value {
    let dir = tempfile::tempdir().unwrap();
    model.write_hf(dir.path(), HfDtype::F32, 1).unwrap();
    read_json(&dir.path().join("config.json"))
}

#[test]
fn every_dtype_reads_back_as_the_weights_in_memory() {
    for architecture in Architecture::ALL {
        let model = ToyModel::new(architecture);
        for dtype in [HfDtype::F32, HfDtype::F16, HfDtype::Bf16] {
            let dir = tempfile::tempdir().unwrap();
            model.write_hf(dir.path(), dtype, 1).unwrap();
            let loaded = read_weights(&dir.path().join("model.safetensors"));
            assert!(loaded == in_memory(&model), "{architecture:?} {dtype:?}");
        }
    }
}

#[test]
fn the_index_leads_to_every_tensor_once() {
    let model = ToyModel::default();
    let dir = tempfile::tempdir().unwrap();
    model.write_hf(dir.path(), HfDtype::F16, 3).unwrap();
    assert!(!dir.path().join("model.safetensors").exists());

    let index = read_json(&dir.path().join("model.safetensors.index.json"));
    let weight_map = index["weight_map"].as_object().unwrap();
    let files: HashSet<_> = weight_map
        .values()
        .map(|file| file.as_str().unwrap())
        .collect();
    assert_eq!(files.len(), 3);
    let mut loaded = Loaded::new();
    for file in files {
        for (name, tensor) in read_weights(&dir.path().join(file)) {
            assert_eq!(weight_map[&name], file);
            assert!(
                loaded.insert(name, tensor).is_none(),
                "a tensor lies in two shards"
            );
        }
    }
    assert!(loaded == in_memory(&model));
    let values: usize = loaded.values().map(|(_, values)| values.len()).sum();
    assert_eq!(index["metadata"]["total_size"], values * 2);
}

#[test]
fn the_config_states_what_real_ones_state() {
    let llama = config_of(&ToyModel::default());
    assert_eq!(llama["architectures"][0], "LlamaForCausalLM");
    assert_eq!(llama["torch_dtype"], "float32");
    assert!(
        llama.get("head_dim").is_none(),
        "64 / 4 is 16: nothing to state"
    );
    assert!(llama["rope_scaling"].is_null());

    let wide = config_of(&ToyModel {
        head_dim: 32,
        ..ToyModel::default()
    });
    assert_eq!(wide["head_dim"], 32);

    let mistral = ToyModel::new(Architecture::Mistral);
    assert!(config_of(&mistral)["sliding_window"].is_null());
    let sliding = ToyModel {
        sliding_window: Some(64),
        ..mistral
    };
    assert_eq!(config_of(&sliding)["sliding_window"], 64);

    let qwen2 = ToyModel::new(Architecture::Qwen2);
    let off = config_of(&qwen2);
    assert_eq!(
        (&off["use_sliding_window"], &off["sliding_window"]),
        (&false.into(), &512.into())
    );
    let on = config_of(&ToyModel {
        sliding_window: Some(64),
        ..qwen2
    });
    assert_eq!(
        (&on["use_sliding_window"], &on["sliding_window"]),
        (&true.into(), &64.into())
    );

    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 128,
    };
    let scaled = config_of(&ToyModel {
        rope_scaling: Some(yarn),
        ..ToyModel::default()
    });
    assert_eq!(scaled["rope_scaling"]["rope_type"], "yarn");
    assert_eq!(
        scaled["rope_scaling"]["original_max_position_embeddings"],
        128
    );
}

#[test]
fn a_vocabulary_that_is_too_small_leaves_the_tokenizer_out() {
    for (vocab, has_tokenizer) in [(258, false), (259, true)] {
        let dir = tempfile::tempdir().unwrap();
        let model = ToyModel {
            vocab,
            ..ToyModel::default()
        };
        model.write_hf(dir.path(), HfDtype::F32, 1).unwrap();
        assert_eq!(dir.path().join("tokenizer.json").exists(), has_tokenizer);
        assert_eq!(
            dir.path().join("tokenizer_config.json").exists(),
            has_tokenizer
        );
    }
}
