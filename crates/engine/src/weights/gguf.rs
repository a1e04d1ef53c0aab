//! Weights from a GGUF file: names translated, quantised rows kept as they are stored.

use half::{bf16, f16};
use lava_gguf::{GgmlType, Gguf, TensorInfo};
use lava_kernels::{BlockFormat, Matrix};

use crate::error::LoadError;
use crate::weights::{RowOrder, elements};

/// Whether the file's q and k rows are in the interleaved layout: files of architecture `llama`
/// are, those of the Qwen family are not.
pub(crate) fn interleaves_rotary_rows(gguf: &Gguf) -> Result<bool, LoadError> {
    Ok(gguf.str("general.architecture")? == "llama")
}

/// A vector under its Hugging Face name, f32.
pub(crate) fn vector(gguf: &Gguf, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
    let name = gguf_name(name);
    check_shape(gguf, gguf.tensor(&name)?, &[len])?;
    f32_values(gguf, &name)
}

/// A one-dimensional f32 tensor under its GGUF name.
pub(crate) fn f32_values(gguf: &Gguf, name: &str) -> Result<Vec<f32>, LoadError> {
    let info = gguf.tensor(name)?;
    if info.kind != GgmlType::F32 {
        return Err(LoadError::Dtype {
            file: gguf.path().to_owned(),
            tensor: name.into(),
            found: format!("{:?}", info.kind),
            expected: "F32",
        });
    }
    Ok(elements(&gguf.read(info)?, f32::from_le_bytes))
}

/// A matrix `[rows, cols]` under its Hugging Face name. Rows are reordered as whole rows of blocks,
/// so quantised ones stay bit-equal.
pub(crate) fn matrix(
    gguf: &Gguf,
    name: &str,
    rows: usize,
    cols: usize,
    order: RowOrder,
) -> Result<Matrix, LoadError> {
    let name = gguf_name(name);
    let info = gguf.tensor(&name)?;
    check_shape(gguf, info, &[rows, cols])?;
    let kind = stored_as(info.kind).ok_or_else(|| LoadError::Dtype {
        file: gguf.path().to_owned(),
        tensor: name.clone(),
        found: format!("{:?}", info.kind),
        expected: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or a K type",
    })?;
    let stored = gguf.read(info)?;
    let bytes = match order {
        RowOrder::AsStored => stored,
        RowOrder::Interleaved { .. } => {
            let row_bytes = stored.len() / rows;
            (0..rows)
                .flat_map(|row| &stored[order.stored_row(row) * row_bytes..][..row_bytes])
                .copied()
                .collect()
        }
    };
    Ok(match kind {
        Stored::Blocks(format) => Matrix::quantised(format, &bytes, rows, cols),
        Stored::Floats(widen) => Matrix::dense(&widen(&bytes), rows, cols),
    })
}

/// How the values of a matrix lie in a file.
enum Stored {
    Blocks(BlockFormat),
    /// What makes f32 of them.
    Floats(fn(&[u8]) -> Vec<f32>),
}

fn check_shape(gguf: &Gguf, info: &TensorInfo, expected: &[usize]) -> Result<(), LoadError> {
    if info.dims == expected {
        return Ok(());
    }
    Err(LoadError::Shape {
        file: gguf.path().to_owned(),
        tensor: info.name.clone(),
        found: info.dims.clone(),
        expected: expected.to_vec(),
    })
}

fn stored_as(kind: GgmlType) -> Option<Stored> {
    Some(match kind {
        GgmlType::F32 => Stored::Floats(|bytes| elements(bytes, f32::from_le_bytes)),
        GgmlType::F16 => {
            Stored::Floats(|bytes| elements(bytes, |x| f16::from_le_bytes(x).to_f32()))
        }
        GgmlType::BF16 => {
            Stored::Floats(|bytes| elements(bytes, |x| bf16::from_le_bytes(x).to_f32()))
        }
        GgmlType::Q4_0 => Stored::Blocks(BlockFormat::Q4_0),
        GgmlType::Q4_1 => Stored::Blocks(BlockFormat::Q4_1),
        GgmlType::Q5_0 => Stored::Blocks(BlockFormat::Q5_0),
        GgmlType::Q5_1 => Stored::Blocks(BlockFormat::Q5_1),
        GgmlType::Q8_0 => Stored::Blocks(BlockFormat::Q8_0),
        GgmlType::Q2K => Stored::Blocks(BlockFormat::Q2K),
        GgmlType::Q3K => Stored::Blocks(BlockFormat::Q3K),
        GgmlType::Q4K => Stored::Blocks(BlockFormat::Q4K),
        GgmlType::Q5K => Stored::Blocks(BlockFormat::Q5K),
        GgmlType::Q6K => Stored::Blocks(BlockFormat::Q6K),
        // Formats of activations; no file stores weights in them.
        GgmlType::Q8_1 | GgmlType::Q8K => return None,
    })
}

/// GGUF spelling of a Hugging Face tensor name.
fn gguf_name(name: &str) -> String {
    const PARTS: [(&str, &str); 11] = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let layer = name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'));
    let Some((index, rest)) = layer else {
        return name.into();
    };
    for (hf, gguf) in PARTS {
        if let Some(kind) = rest
            .strip_prefix(hf)
            .and_then(|kind| kind.strip_prefix('.'))
        {
            return format!("blk.{index}.{gguf}.{kind}");
        }
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::gguf_name;

    #[test]
    fn names_are_translated() {
        for (hf, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            (
                "model.layers.12.self_attn.q_proj.bias",
                "blk.12.attn_q.bias",
            ),
            (
                "model.layers.0.self_attn.k_norm.weight",
                "blk.0.attn_k_norm.weight",
            ),
            (
                "model.layers.3.post_attention_layernorm.weight",
                "blk.3.ffn_norm.weight",
            ),
        ] {
            assert_eq!(gguf_name(hf), gguf);
        }
    }
}
