//! candle ops around our kernels. On the CPU each borrows the tensors' memory.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use lava_kernels::AttentionShape;

/// `[T, Hq, D]`, `[N, Hkv, D]` twice: causal attention of the last T tokens, `[T, Hq, D]` f32.
pub(crate) fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    q.apply_op3_no_bwd(k, v, &CausalAttention)
}

/// What the rows of `q` `[rows, Hq, D]`, the last ones of a prompt, see of the first `columns` keys of
/// `k` `[N, Hkv, D]`.
pub(crate) fn observe(
    q: &Tensor,
    k: &Tensor,
    columns: usize,
    wanted: lava_kernels::Wanted,
) -> Result<lava_kernels::Observed> {
    let shape = attention_shape(q.layout(), k.layout())?;
    with_values(q, |q| {
        with_values(k, |k| lava_kernels::observe(q, k, &shape, columns, wanted))
    })?
}

/// `[T, heads, D]` rotated by angles `[2, T, D/2]` (cosines, then sines).
pub(crate) fn rotate(x: &Tensor, angles: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(angles, &Rotate)
}

/// `[rows, len]` or `[T, heads, len]`, each row normalised by its root mean square; `weight` is `[len]`.
pub(crate) fn rms_norm(x: &Tensor, weight: &[f32], epsilon: f32) -> Result<Tensor> {
    let out = with_values(x, |x| lava_kernels::rms_norm(x, weight, epsilon))?;
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}

/// `x + y`. candle's own sum runs on a thread pool of its own, which spins beside ours.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let out = with_values(x, |x| with_values(y, |y| lava_kernels::add(x, y)))??;
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}

/// `silu(gate) * up`, element by element.
pub(crate) fn silu_product(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let out = with_values(gate, |gate| {
        with_values(up, |up| lava_kernels::silu_product(gate, up))
    })??;
    Tensor::from_vec(out, gate.shape(), &Device::Cpu)
}

/// The values of a contiguous f32 tensor on the CPU.
pub(crate) fn with_values<T>(x: &Tensor, use_values: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        bail!("expected a tensor on the CPU")
    };
    Ok(use_values(slice(storage, layout)?))
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

/// Sizes of an attention from the layouts of its queries and keys.
fn attention_shape(q: &Layout, k: &Layout) -> Result<AttentionShape> {
    let (queries, q_heads, head_dim) = q.shape().dims3()?;
    let (keys, kv_heads, _d) = k.shape().dims3()?;
    Ok(AttentionShape {
        queries,
        keys,
        q_heads,
        kv_heads,
        head_dim,
    })
}

struct CausalAttention;

impl CustomOp3 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = attention_shape(q_layout, k_layout)?;
        let (q, k, v) = (
            slice(q, q_layout)?,
            slice(k, k_layout)?,
            slice(v, v_layout)?,
        );
        let mut out = vec![0.0; q.len()];
        lava_kernels::causal_attention(&mut out, q, k, v, &shape);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }
}

struct Rotate;

impl CustomOp2 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        angles: &CpuStorage,
        angles_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_t, heads, head_dim) = x_layout.shape().dims3()?;
        let mut out = slice(x, x_layout)?.to_vec();
        let angles = slice(angles, angles_layout)?;
        let (cos, sin) = angles.split_at(angles.len() / 2);
        lava_kernels::rotate_halves(&mut out, cos, sin, heads, head_dim);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}
