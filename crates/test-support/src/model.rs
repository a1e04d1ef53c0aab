//! The toy model: its shape and its numbers.

use crate::architecture::Architecture;
use crate::random::{SplitMix64, representable};
use crate::rope::RopeScaling;

/// A model small enough for a unit test. Two values with equal fields have equal weights, through every format.
///
/// Make one with [`ToyModel::new`] and change fields: `ToyModel { heads: 3, kv_heads: 3, ..ToyModel::new(arch) }`.
/// Writers panic on a shape that no real model has.
#[derive(Debug, Clone, PartialEq)]
pub struct ToyModel {
    /// The decoder family.
    pub architecture: Architecture,
    /// L.
    pub layers: usize,
    /// Hq.
    pub heads: usize,
    /// Hkv; divides `heads`.
    pub kv_heads: usize,
    /// D; even. Need not be `hidden / heads`: then the files state it.
    pub head_dim: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Rows of the embedding. From [`crate::VOCAB_MIN`] on, files carry a tokenizer.
    pub vocab: usize,
    /// Whether the output projection is the embedding.
    pub tied: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Sliding window of every layer, in tokens; not for Llama.
    pub sliding_window: Option<usize>,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Chooses the weights.
    pub seed: u64,
}

/// A weight in memory, under its Hugging Face name. Its numbers are exact in f32, f16 and bf16.
#[derive(Debug, Clone, PartialEq)]
pub struct ToyTensor {
    /// For example `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// [rows out, columns in] for a projection, [width] for a norm or a bias.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Default for ToyModel {
    fn default() -> Self {
        Self::new(Architecture::Llama)
    }
}

impl ToyModel {
    /// Two layers, grouped queries, untied, with room for the tokenizer and its merges; widths are multiples of
    /// 32, so that every GGUF kind can be written.
    pub fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            hidden: 64,
            intermediate: 96,
            vocab: 320,
            tied: false,
            rope_theta: 10_000.0,
            rope_scaling: None,
            sliding_window: None,
            context: 512,
            seed: 1,
        }
    }

    /// Every weight in the order of a forward pass.
    ///
    /// Gains over 1/sqrt(columns) keep the model interesting: activations stay near 1, attention scores have a
    /// standard deviation of about 1.5 (neither flat nor one-hot), logits of about 2.
    pub fn tensors(&self) -> Vec<ToyTensor> {
        self.check();
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors =
            vec![self.matrix("model.embed_tokens.weight", self.vocab, self.hidden, 2.0)];
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            tensors.push(self.norm(&name("input_layernorm.weight"), self.hidden));
            for (part, rows, gain) in [
                ("q_proj", query, 1.25),
                ("k_proj", kv, 1.25),
                ("v_proj", kv, 1.0),
            ] {
                let weight = name(&format!("self_attn.{part}.weight"));
                tensors.push(self.matrix(&weight, rows, self.hidden, gain));
                if self.architecture.has_qkv_bias() {
                    tensors.push(self.bias(&name(&format!("self_attn.{part}.bias")), rows));
                }
            }
            if self.architecture.has_head_norms() {
                tensors.push(self.norm(&name("self_attn.q_norm.weight"), self.head_dim));
                tensors.push(self.norm(&name("self_attn.k_norm.weight"), self.head_dim));
            }
            tensors.push(self.matrix(&name("self_attn.o_proj.weight"), self.hidden, query, 1.0));
            tensors.push(self.norm(&name("post_attention_layernorm.weight"), self.hidden));
            tensors.push(self.matrix(
                &name("mlp.gate_proj.weight"),
                self.intermediate,
                self.hidden,
                1.0,
            ));
            tensors.push(self.matrix(
                &name("mlp.up_proj.weight"),
                self.intermediate,
                self.hidden,
                1.0,
            ));
            tensors.push(self.matrix(
                &name("mlp.down_proj.weight"),
                self.hidden,
                self.intermediate,
                1.0,
            ));
        }
        tensors.push(self.norm("model.norm.weight", self.hidden));
        if !self.tied {
            tensors.push(self.matrix("lm_head.weight", self.vocab, self.hidden, 2.0));
        }
        tensors
    }

    /// Whether files state the head dim: real ones leave it out where it is the quotient, but for Qwen3.
    pub(crate) fn states_head_dim(&self) -> bool {
        self.architecture == Architecture::Qwen3 || self.head_dim * self.heads != self.hidden
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize, gain: f32) -> ToyTensor {
        let scale = gain / (columns as f32).sqrt();
        self.tensor(name, vec![rows, columns], |x| scale * x)
    }

    fn norm(&self, name: &str, width: usize) -> ToyTensor {
        self.tensor(name, vec![width], |x| 1.0 + 0.1 * x)
    }

    fn bias(&self, name: &str, width: usize) -> ToyTensor {
        self.tensor(name, vec![width], |x| 0.2 * x)
    }

    fn tensor(&self, name: &str, shape: Vec<usize>, scaled: impl Fn(f32) -> f32) -> ToyTensor {
        let mut stream = SplitMix64::of_tensor(self.seed, name);
        let len = shape.iter().product();
        let values = (0..len)
            .map(|_| representable(scaled(stream.normal())))
            .collect();
        ToyTensor {
            name: name.to_owned(),
            shape,
            values,
        }
    }

    fn check(&self) {
        assert!(
            self.heads.is_multiple_of(self.kv_heads),
            "kv_heads must divide heads: {self:?}"
        );
        assert!(
            self.head_dim.is_multiple_of(2),
            "rotary pairs need an even head_dim: {self:?}"
        );
        assert!(
            self.sliding_window.is_none() || self.architecture.may_slide(),
            "a Llama checkpoint has no sliding window: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_weights_and_another_seed_others() {
        let model = ToyModel::default();
        assert_eq!(model.tensors(), model.tensors());
        let other = ToyModel {
            seed: 2,
            ..model.clone()
        };
        assert!(
            model
                .tensors()
                .iter()
                .zip(other.tensors())
                .all(|(a, b)| a.values != b.values)
        );
    }

    #[test]
    fn tying_the_embeddings_changes_no_other_weight() {
        let untied = ToyModel::default();
        let tied = ToyModel {
            tied: true,
            ..untied.clone()
        };
        let mut expected = untied.tensors();
        assert_eq!(expected.pop().unwrap().name, "lm_head.weight");
        assert_eq!(tied.tensors(), expected);
    }

    #[test]
    fn each_architecture_has_its_own_extra_tensors() {
        let check = |architecture, suffix: &str, expected: usize| {
            let tensors = ToyModel::new(architecture).tensors();
            assert_eq!(
                tensors.iter().filter(|t| t.name.ends_with(suffix)).count(),
                expected
            );
        };
        for architecture in Architecture::ALL {
            check(
                architecture,
                ".bias",
                if architecture == Architecture::Qwen2 {
                    6
                } else {
                    0
                },
            );
            check(
                architecture,
                "_norm.weight",
                if architecture == Architecture::Qwen3 {
                    4
                } else {
                    0
                },
            );
        }
    }

    #[test]
    fn names_are_unique_and_values_fill_the_shape() {
        for architecture in Architecture::ALL {
            let tensors = ToyModel::new(architecture).tensors();
            let names: std::collections::HashSet<_> = tensors.iter().map(|t| &t.name).collect();
            assert_eq!(names.len(), tensors.len());
            assert!(
                tensors
                    .iter()
                    .all(|t| t.shape.iter().product::<usize>() == t.values.len())
            );
        }
    }
}
