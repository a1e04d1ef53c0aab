//! Weights from a GGUF file: names translated, quantised rows kept as they are stored.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use lava_gguf::{GgmlType, Gguf, TensorInfo};

use crate::error::LoadError;
use crate::linear::Matrix;
use crate::weights::RowOrder;

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
    let bytes = gguf.read(info)?;
    let (chunks, _) = bytes.as_chunks::<4>();
    Ok(chunks
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect())
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
    let dtype = candle_type(info.kind).ok_or_else(|| LoadError::Dtype {
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
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype)?;
    let tensor = QTensor::new(storage, (rows, cols))?;
    match dtype {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
            Ok(Matrix::Dense(tensor.dequantize(&Device::Cpu)?))
        }
        _ => Ok(Matrix::Quantized(Arc::new(tensor))),
    }
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

fn candle_type(kind: GgmlType) -> Option<GgmlDType> {
    Some(match kind {
        GgmlType::F32 => GgmlDType::F32,
        GgmlType::F16 => GgmlDType::F16,
        GgmlType::BF16 => GgmlDType::BF16,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
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
