//! The decoder on the CPU.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor};
use lava_kernels::Matrix;

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::linear::Linear;
use crate::ops;
use crate::rope::Rope;
use crate::weights::{WeightFormat, Weights};

/// The weights of a model in this machine's memory, for its CPU.
#[derive(Debug)]
pub(crate) struct HostModel {
    config: ModelConfig,
    ends: Ends,
    layers: Vec<Layer>,
    rope: Rope,
}

/// What stands before the first layer and behind the last one.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) embedding: Matrix,
    pub(crate) norm: Vec<f32>,
    /// `None`: the embedding serves.
    pub(crate) output: Option<Matrix>,
}

#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    epsilon: f32,
    head_dim: usize,
    query_heads: usize,
    output_grams: OnceLock<Vec<f32>>,
}

/// Queries `[T, Hq, D]`, keys and values `[T, Hkv, D]` of some tokens, after RoPE.
pub(crate) struct Projected {
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

impl Projected {
    /// Those of some of the tokens.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let part = |x: &Tensor| x.narrow(0, rows.start, rows.len());
        Ok(Self {
            query: part(&self.query)?,
            key: part(&self.key)?,
            value: part(&self.value)?,
        })
    }
}

impl Ends {
    pub(crate) fn load(
        weights: &Weights,
        config: &ModelConfig,
        format: WeightFormat,
    ) -> std::result::Result<Self, LoadError> {
        let table = (config.vocabulary, config.hidden);
        Ok(Self {
            embedding: weights.matrix("model.embed_tokens.weight", table, format)?,
            norm: weights.vector("model.norm.weight", config.hidden, format)?,
            output: match config.tied_embeddings {
                true => None,
                false => Some(weights.matrix("lm_head.weight", table, format)?),
            },
        })
    }

    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        [Some(&self.embedding), self.output.as_ref()]
            .into_iter()
            .flatten()
    }
}

impl HostModel {
    pub(crate) fn new(config: ModelConfig, ends: Ends, layers: Vec<Layer>) -> Self {
        let rope = Rope::new(&config);
        Self {
            config,
            ends,
            layers,
            rope,
        }
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the weight matrices as they are held.
    pub(crate) fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(Layer::linears);
        let matrices = self.ends.matrices().chain(layers.map(Linear::matrix));
        matrices.map(|matrix| matrix.bytes().len()).sum()
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// `[tokens, hidden]`.
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let embedding = &self.ends.embedding;
        let width = embedding.cols();
        let mut rows = vec![0.0; tokens.len() * width];
        for (row, &token) in rows.chunks_exact_mut(width).zip(tokens) {
            embedding.read_row(token as usize, row);
        }
        Tensor::from_vec(rows, (tokens.len(), width), &Device::Cpu)
    }

    /// Cosines and sines of `positions`, `[2, positions, D/2]`.
    pub(crate) fn angles(&self, positions: &[usize]) -> Result<Tensor> {
        let (mut angles, sin) = self.rope.angles(positions.iter().copied());
        angles.extend(sin);
        let shape = (2, positions.len(), self.config.head_dim / 2);
        Tensor::from_vec(angles, shape, &Device::Cpu)
    }

    /// Next-token logits: `[rows, hidden]` to `[rows, V]`.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let x = ops::rms_norm(x, &self.ends.norm, self.config.rms_epsilon)?;
        let matrix = self.ends.output.as_ref().unwrap_or(&self.ends.embedding);
        let logits = ops::with_values(&x, |x| lava_kernels::product(x, matrix))?;
        Tensor::from_vec(logits, (x.dims2()?.0, matrix.rows()), &Device::Cpu)
    }
}

impl Layer {
    pub(crate) fn load(
        weights: &Weights,
        config: &ModelConfig,
        index: usize,
        format: WeightFormat,
    ) -> std::result::Result<Self, LoadError> {
        let c = config;
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let vector = |part: &str, len| weights.vector(&name(part), len, format);
        let linear = |part: &str, rows, cols, biased| {
            weights.linear(&name(part), (rows, cols), biased, format)
        };
        let rotary = |part: &str, heads| {
            let heads = (heads, c.head_dim);
            weights.rotary_linear(&name(part), heads, c.hidden, c.qkv_bias, format)
        };
        let head_norm = |part: &str| match c.qk_norm {
            true => vector(part, c.head_dim).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            attention_norm: vector("input_layernorm.weight", c.hidden)?,
            query: rotary("self_attn.q_proj", c.q_heads)?,
            key: rotary("self_attn.k_proj", c.kv_heads)?,
            value: linear(
                "self_attn.v_proj",
                c.kv_heads * c.head_dim,
                c.hidden,
                c.qkv_bias,
            )?,
            output: linear("self_attn.o_proj", c.hidden, c.q_heads * c.head_dim, false)?,
            query_norm: head_norm("self_attn.q_norm.weight")?,
            key_norm: head_norm("self_attn.k_norm.weight")?,
            mlp_norm: vector("post_attention_layernorm.weight", c.hidden)?,
            gate: linear("mlp.gate_proj", c.intermediate, c.hidden, false)?,
            up: linear("mlp.up_proj", c.intermediate, c.hidden, false)?,
            down: linear("mlp.down_proj", c.hidden, c.intermediate, false)?,
            epsilon: c.rms_epsilon,
            head_dim: c.head_dim,
            query_heads: c.q_heads,
            output_grams: OnceLock::new(),
        })
    }

    /// Hq.
    pub(crate) fn query_heads(&self) -> usize {
        self.query_heads
    }

    /// The Gram matrices of the output projection, `[Hq, D, D]`, computed when they are first needed; see
    /// [`lava_kernels::output_grams`].
    pub(crate) fn output_grams(&self) -> &[f32] {
        if let Some(grams) = self.output_grams.get() {
            return grams;
        }
        let weight = self.output.matrix().widen();
        let grams = lava_kernels::output_grams(&weight, self.query_heads, self.head_dim);
        self.output_grams.get_or_init(|| grams)
    }

    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let attention = [&self.query, &self.key, &self.value, &self.output];
        let mlp = [&self.gate, &self.up, &self.down];
        attention.into_iter().chain(mlp)
    }

    /// Queries, keys and values of `x` `[T, hidden]` at the positions of `angles`.
    pub(crate) fn project(&self, x: &Tensor, angles: &Tensor) -> Result<Projected> {
        let x = ops::rms_norm(x, &self.attention_norm, self.epsilon)?;
        let linears = [&self.query, &self.key, &self.value];
        let [query, key, value] = Linear::forward_each(linears, &x)?;
        let query = self.heads(&query, self.query_norm.as_deref())?;
        let key = self.heads(&key, self.key_norm.as_deref())?;
        Ok(Projected {
            query: ops::rotate(&query, angles)?,
            key: ops::rotate(&key, angles)?,
            value: self.heads(&value, None)?,
        })
    }

    /// `[T, heads * D]` as `[T, heads, D]`, each head normalised if the family does so.
    fn heads(&self, x: &Tensor, norm: Option<&[f32]>) -> Result<Tensor> {
        let (t, width) = x.dims2()?;
        let x = x.reshape((t, width / self.head_dim, self.head_dim))?;
        match norm {
            Some(norm) => ops::rms_norm(&x, norm, self.epsilon),
            None => Ok(x),
        }
    }

    /// The residual stream after attention and MLP. `x` is `[T, hidden]`, `attended` `[T, Hq, D]`.
    pub(crate) fn finish(&self, x: &Tensor, attended: Tensor) -> Result<Tensor> {
        let x = ops::add(x, &self.output.forward(&attended.flatten_from(1)?)?)?;
        drop(attended);
        let y = self.gated(&x)?;
        ops::add(&x, &self.down.forward(&y)?)
    }

    /// The inside of the MLP, `[T, hidden]` to `[T, intermediate]`.
    fn gated(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::rms_norm(x, &self.mlp_norm, self.epsilon)?;
        let [gate, up] = Linear::forward_each([&self.gate, &self.up], &y)?;
        drop(y);
        ops::silu_product(&gate, &up)
    }
}
