//! Weights in a GPU's memory.

use std::sync::{Arc, Mutex, OnceLock};

use lava_kernels::Matrix;
use lava_kernels::cuda::{Buffer, Compute, Device, DeviceError, Gpu, HEAD_DIMS};

use super::steps::Steps;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::host::{Ends, Layer};
use crate::linear::Linear;
use crate::model::OnDevice;
use crate::rope::Rope;

/// What kernels move at once, in elements: widths are multiples of it.
const EIGHT: usize = 8;

/// The weights of a model on a GPU: matrices in 16 bits, `[out, in]`; vectors in f32.
#[derive(Debug)]
pub(crate) struct DeviceModel {
    pub(super) on: OnDevice,
    pub(super) config: ModelConfig,
    pub(super) embedding: Buffer,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) norm: Buffer,
    /// `None`: the embedding serves.
    pub(super) output: Option<Buffer>,
    pub(super) rope: Rope,
    pub(super) steps: Mutex<Steps>,
}

#[derive(Debug)]
pub(crate) struct DeviceLayer {
    pub(super) attention_norm: Buffer,
    /// `[(Hq + 2 Hkv) D, hidden]`: queries, keys, values.
    pub(super) qkv: Buffer,
    pub(super) qkv_bias: Option<Buffer>,
    pub(super) query_norm: Option<Buffer>,
    pub(super) key_norm: Option<Buffer>,
    /// `[hidden, Hq D]`.
    pub(super) output: Buffer,
    pub(super) mlp_norm: Buffer,
    /// `[2 intermediate, hidden]`: gate, up.
    pub(super) gate_up: Buffer,
    /// `[hidden, intermediate]`.
    pub(super) down: Buffer,
    output_grams: OnceLock<Vec<f32>>,
}

impl OnDevice {
    /// A layer's weights, on the GPU.
    pub(crate) fn upload(
        &self,
        config: &ModelConfig,
        layer: &Layer,
    ) -> Result<DeviceLayer, LoadError> {
        check(config)?;
        let qkv = [&layer.query, &layer.key, &layer.value];
        let bias = qkv.map(Linear::bias);
        let bias: Option<Vec<f32>> = bias
            .iter()
            .all(Option::is_some)
            .then(|| bias.into_iter().flatten().flatten().copied().collect());
        let vector = |values: &[f32]| Buffer::of(&self.gpu.compute, bytemuck::cast_slice(values));
        let optional = |values: Option<&Vec<f32>>| values.map(|values| vector(values)).transpose();
        let matrices = |linears: &[&Linear]| {
            let matrices: Vec<&Matrix> = linears.iter().map(|linear| linear.matrix()).collect();
            self.matrices(&matrices)
        };
        Ok(DeviceLayer {
            attention_norm: vector(&layer.attention_norm)?,
            qkv: matrices(&qkv)?,
            qkv_bias: optional(bias.as_ref())?,
            query_norm: optional(layer.query_norm.as_ref())?,
            key_norm: optional(layer.key_norm.as_ref())?,
            output: matrices(&[&layer.output])?,
            mlp_norm: vector(&layer.mlp_norm)?,
            gate_up: matrices(&[&layer.gate, &layer.up])?,
            down: matrices(&[&layer.down])?,
            output_grams: OnceLock::new(),
        })
    }

    /// The rows of some matrices, one behind the other.
    fn matrices(&self, matrices: &[&Matrix]) -> Result<Buffer, DeviceError> {
        let rows = matrices.iter().map(|matrix| matrix.rows()).sum::<usize>();
        let row_bytes = 2 * matrices[0].cols();
        let buffer = Buffer::new(&self.gpu.compute, rows * row_bytes)?;
        let mut at = 0;
        for matrix in matrices {
            let bytes = self.compute.narrow(&matrix.widen());
            buffer.write(at, &bytes)?;
            at += bytes.len();
        }
        Ok(buffer)
    }
}

/// Whether kernels are made for the shape.
fn check(config: &ModelConfig) -> Result<(), LoadError> {
    let head_dim = config.head_dim;
    if !HEAD_DIMS.contains(&head_dim) {
        return Err(LoadError::NotOnDevice {
            what: "head dim",
            found: head_dim,
            expected: "64 or 128",
        });
    }
    let widths = [
        ("hidden size", config.hidden),
        ("intermediate size", config.intermediate),
    ];
    match widths
        .iter()
        .find(|(_, width)| !width.is_multiple_of(EIGHT))
    {
        Some(&(what, found)) => Err(LoadError::NotOnDevice {
            what,
            found,
            expected: "a multiple of 8",
        }),
        None => Ok(()),
    }
}

impl DeviceModel {
    pub(crate) fn new(
        on: OnDevice,
        config: ModelConfig,
        ends: &Ends,
        layers: Vec<DeviceLayer>,
    ) -> Result<Self, LoadError> {
        let matrix = |matrix: &Matrix| on.matrices(&[matrix]);
        Ok(Self {
            embedding: matrix(&ends.embedding)?,
            norm: Buffer::of(&on.gpu.compute, bytemuck::cast_slice(&ends.norm))?,
            output: ends.output.as_ref().map(matrix).transpose()?,
            rope: Rope::new(&config),
            steps: Mutex::default(),
            layers,
            config,
            on,
        })
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The queue that it computes on.
    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.on.gpu.compute
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.on.gpu
    }

    pub(super) fn compute(&self) -> Compute {
        self.on.compute
    }

    /// Bytes of the weight matrices as they are held.
    pub(crate) fn weight_bytes(&self) -> usize {
        let of_layer = |layer: &DeviceLayer| {
            [&layer.qkv, &layer.output, &layer.gate_up, &layer.down].map(Buffer::len)
        };
        let layers = self.layers.iter().flat_map(of_layer);
        let ends = [Some(&self.embedding), self.output.as_ref()];
        layers.sum::<usize>() + ends.into_iter().flatten().map(Buffer::len).sum::<usize>()
    }
}

impl DeviceLayer {
    /// As those of the host's layers, of the weights as they are here; computed when they are first needed.
    pub(super) fn output_grams(&self, model: &DeviceModel) -> Result<&[f32], DeviceError> {
        if let Some(grams) = self.output_grams.get() {
            return Ok(grams);
        }
        let weight = self.output.read(0, self.output.len())?;
        let weight = model.compute().widen(&weight);
        let (heads, head_dim) = (model.config.q_heads, model.config.head_dim);
        let grams = lava_kernels::output_grams(&weight, heads, head_dim);
        Ok(self.output_grams.get_or_init(|| grams))
    }
}
