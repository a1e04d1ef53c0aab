//! Some tokens through a layer: what prefill and decode have in common.

use lava_kernels::cuda::{
    AddAndNorm, Address, Buffer, DeviceError, Embed, Launch, Product, SiluProduct, SplitHeads,
};

use super::model::{DeviceLayer, DeviceModel};

/// Bytes of an activation.
pub(super) const NARROW: usize = 2;
/// Bytes of a number of the residual stream.
pub(super) const WIDE: usize = 4;

/// Activations of some tokens, as long as they are in a layer.
#[derive(Debug)]
pub(super) struct Work {
    /// `[T, hidden]`.
    normed: Buffer,
    /// `[T, (Hq + 2 Hkv) D]`.
    projected: Buffer,
    /// `[T, Hq, D]`.
    pub(super) queries: Buffer,
    /// `[T, Hq, D]`.
    pub(super) attended: Buffer,
    /// `[T, 2, intermediate]`.
    gate_up: Buffer,
    /// `[T, intermediate]`.
    gated: Buffer,
}

/// Some tokens on their way through the layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) model: &'a DeviceModel,
    pub(super) work: &'a Work,
    /// T.
    pub(super) tokens: usize,
    /// The residual stream, `f32` `[T, hidden]`, without what the last MLP adds to it.
    pub(super) x: Address,
    /// What the last MLP adds, `[T, hidden]`.
    pub(super) y: Address,
    /// `f32` `[T, D / 2]`.
    pub(super) cosines: Address,
    /// `f32` `[T, D / 2]`.
    pub(super) sines: Address,
}

impl Work {
    /// For at most so many tokens.
    pub(super) fn new(model: &DeviceModel, tokens: usize) -> Result<Self, DeviceError> {
        let c = &model.config;
        let buffer = |width: usize| Buffer::new(model.device(), NARROW * tokens * width);
        let queries = c.q_heads * c.head_dim;
        Ok(Self {
            normed: buffer(c.hidden)?,
            projected: buffer(queries + 2 * c.kv_heads * c.head_dim)?,
            queries: buffer(queries)?,
            attended: buffer(queries)?,
            gate_up: buffer(2 * c.intermediate)?,
            gated: buffer(c.intermediate)?,
        })
    }
}

impl Block<'_> {
    /// The residual stream of token ids `u32` `[T]`.
    pub(super) fn embed(&self, ids: Address) -> Result<(), DeviceError> {
        let embed = Embed {
            compute: self.model.compute(),
            tokens: self.tokens,
            hidden: self.model.config.hidden,
            ids,
            table: self.model.embedding.address(),
            x: self.x,
        };
        self.run(&embed.launch())
    }

    /// Queries, into [`Work`]; keys and values, `[T, Hkv, D]` each. In the first layer there is no `y`.
    pub(super) fn project(
        &self,
        layer: &DeviceLayer,
        is_first: bool,
        keys: Address,
        values: Address,
    ) -> Result<(), DeviceError> {
        let c = &self.model.config;
        self.add_and_norm((!is_first).then_some(self.y), &layer.attention_norm)?;
        let (normed, projected) = (&self.work.normed, &self.work.projected);
        let width = (c.q_heads + 2 * c.kv_heads) * c.head_dim;
        self.multiply(normed, &layer.qkv, (c.hidden, width), projected.address())?;
        let split = SplitHeads {
            compute: self.model.compute(),
            head_dim: c.head_dim,
            q_heads: c.q_heads,
            kv_heads: c.kv_heads,
            tokens: self.tokens,
            epsilon: c.rms_epsilon,
            projected: projected.address(),
            bias: layer.qkv_bias.as_ref().map(Buffer::address),
            query_norm: layer.query_norm.as_ref().map(Buffer::address),
            key_norm: layer.key_norm.as_ref().map(Buffer::address),
            cosines: self.cosines,
            sines: self.sines,
            queries: self.work.queries.address(),
            keys,
            values,
        };
        self.run(&split.launch())
    }

    /// From what attention left in [`Work`] to the end of the layer.
    pub(super) fn finish(&self, layer: &DeviceLayer) -> Result<(), DeviceError> {
        let c = &self.model.config;
        let Work {
            normed,
            attended,
            gate_up,
            gated,
            ..
        } = self.work;
        let queries = c.q_heads * c.head_dim;
        self.multiply(attended, &layer.output, (queries, c.hidden), self.y)?;
        self.add_and_norm(Some(self.y), &layer.mlp_norm)?;
        let both = (c.hidden, 2 * c.intermediate);
        self.multiply(normed, &layer.gate_up, both, gate_up.address())?;
        let gate = SiluProduct {
            compute: self.model.compute(),
            tokens: self.tokens,
            intermediate: c.intermediate,
            gate_up: gate_up.address(),
            out: gated.address(),
        };
        self.run(&gate.launch())?;
        self.multiply(gated, &layer.down, (c.intermediate, c.hidden), self.y)
    }

    /// Next-token logits behind all layers, `f32` `[T, V]`, into `out`.
    pub(super) fn logits(&self, out: &Buffer) -> Result<(), DeviceError> {
        let c = &self.model.config;
        self.add_and_norm(Some(self.y), &self.model.norm)?;
        let output = self.model.output.as_ref().unwrap_or(&self.model.embedding);
        self.model.device().multiply(&Product {
            compute: self.model.compute(),
            rows: self.tokens,
            inputs: c.hidden,
            outputs: c.vocabulary,
            x: self.work.normed.address(),
            weight: output.address(),
            out: out.part(0, WIDE * self.tokens * c.vocabulary),
            is_out_wide: true,
        })
    }

    fn add_and_norm(&self, y: Option<Address>, weight: &Buffer) -> Result<(), DeviceError> {
        let norm = AddAndNorm {
            compute: self.model.compute(),
            tokens: self.tokens,
            hidden: self.model.config.hidden,
            epsilon: self.model.config.rms_epsilon,
            x: self.x,
            y,
            weight: weight.address(),
            out: self.work.normed.address(),
        };
        self.run(&norm.launch())
    }

    /// `[T, in]` to `[T, out]`.
    fn multiply(
        &self,
        x: &Buffer,
        weight: &Buffer,
        (inputs, outputs): (usize, usize),
        out: Address,
    ) -> Result<(), DeviceError> {
        self.model.device().multiply(&Product {
            compute: self.model.compute(),
            rows: self.tokens,
            inputs,
            outputs,
            x: x.address(),
            weight: weight.address(),
            out,
            is_out_wide: false,
        })
    }

    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.model.device().run(launch)
    }
}
