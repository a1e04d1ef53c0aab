//! Toy models: our decoder, candle-transformers and both file formats say the same.

use lava::Policy;
use lava_engine::{RowFormat, WeightFormat};
use lava_test_support::{Architecture, GgufKind, HfDtype, RopeScaling, ToyModel};

use crate::{ours, theirs, toys};

/// f32 sums in another order, over two layers.
const TOLERANCE: f32 = 2e-5;

#[test]
fn every_family_and_shape_agrees_with_candle_transformers() {
    for toy in toys::models() {
        let folder = tempfile::tempdir().unwrap();
        toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
        let model = ours::load(folder.path(), WeightFormat::Stored);
        let prompt = toys::prompt(75, toy.vocab);
        let fed = toys::prompt(6, toy.vocab);
        let request = ours::request(&prompt, Policy::Full, prompt.len());
        let ours = ours::logits(&model, &request, &fed);

        let mut theirs = theirs::from_folder(folder.path());
        let mut expected = vec![theirs(&prompt, 0)];
        for (i, id) in fed.iter().enumerate() {
            expected.push(theirs(&[*id], prompt.len() + i));
        }
        for (step, (ours, theirs)) in ours.iter().zip(&expected).enumerate() {
            let difference = ours::difference(ours, theirs);
            assert!(difference < TOLERANCE, "{toy:?}, step {step}: {difference}");
        }
    }
}

#[test]
fn gguf_and_safetensors_of_one_model_give_the_same_logits() {
    let yarn = ToyModel {
        rope_scaling: Some(RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
        }),
        ..ToyModel::new(Architecture::Qwen2)
    };
    let mut all = toys::models();
    all.push(yarn);
    for toy in all {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("toy.gguf");
        toy.write_hf(folder.path(), HfDtype::F32, 3).unwrap();
        toy.write_gguf(&file, GgufKind::F32).unwrap();
        let prompt = toys::prompt(100, toy.vocab);
        let request = ours::request(&prompt, Policy::Full, prompt.len());
        let run = |path| ours::logits(&ours::load(path, WeightFormat::Stored), &request, &[1]);
        let (hf, gguf) = (run(folder.path()), run(&file));
        for (hf, gguf) in hf.iter().zip(&gguf) {
            let difference = ours::difference(hf, gguf);
            // Scaling factors pass through f32 in one format only.
            assert!(difference < 1e-4, "{toy:?}: {difference}");
        }
    }
}

#[test]
fn sixteen_bit_weights_are_widened_without_loss() {
    // Toy weights are numbers that f16 and bf16 both hold exactly.
    let toy = ToyModel::new(Architecture::Llama);
    let prompt = toys::prompt(40, toy.vocab);
    let request = ours::request(&prompt, Policy::Full, prompt.len());
    let logits = |dtype| {
        let folder = tempfile::tempdir().unwrap();
        toy.write_hf(folder.path(), dtype, 1).unwrap();
        let model = ours::load(folder.path(), WeightFormat::Stored);
        ours::logits(&model, &request, &[])
    };
    let exact = logits(HfDtype::F32);
    assert_eq!(logits(HfDtype::F16), exact);
    assert_eq!(logits(HfDtype::Bf16), exact);
}

#[test]
fn quantised_weights_are_multiplied_as_if_widened() {
    let toy = ToyModel::new(Architecture::Llama);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.gguf");
    toy.write_gguf(&file, GgufKind::Q8_0).unwrap();
    let prompt = toys::prompt(40, toy.vocab);
    let request = ours::request(&prompt, Policy::Full, prompt.len());
    let run = |format| ours::logits(&ours::load(&file, format), &request, &[1, 2, 3]);
    for (quantised, widened) in run(WeightFormat::Stored)
        .iter()
        .zip(&run(WeightFormat::F32))
    {
        // candle rounds the activations of a few rows to 8 bits before a quantised product.
        assert!(ours::difference(quantised, widened) < 3e-2);
    }
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    let toy = ToyModel::new(Architecture::Qwen3);
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    for weights in [WeightFormat::Stored, WeightFormat::Q8_0] {
        let model = ours::load(folder.path(), weights);
        // From one sequence to more than a tile of products has rows.
        let lens = [150, 40, 90, 1, 33, 300, 64, 65, 200, 31, 500];
        let prompts: Vec<_> = lens.map(|len| toys::prompt(len, toy.vocab)).into();
        let requests: Vec<_> = prompts
            .iter()
            .zip(RowFormat::ALL.iter().cycle())
            .map(|(prompt, &format)| lava_engine::PrefillRequest {
                format,
                ..ours::request(prompt, Policy::Lava(lava::Profile::Exact), 48)
            })
            .collect();
        let alone: Vec<_> = requests
            .iter()
            .map(|r| ours::logits(&model, r, &[5, 6]))
            .collect();
        let mut runs: Vec<_> = requests
            .iter()
            .map(|r| ours::prefill(&model, r).unwrap())
            .collect();
        for (step, token) in [5, 6].into_iter().enumerate() {
            let caches = runs.iter_mut().map(|run| &mut run.cache);
            let mut batch: Vec<_> = caches
                .map(|cache| lava_engine::Turn { token, cache })
                .collect();
            for (logits, alone) in model.step(&mut batch).unwrap().iter().zip(&alone) {
                assert_eq!(logits, &alone[step + 1], "{weights:?}: equal to the bit");
            }
        }
    }
}
