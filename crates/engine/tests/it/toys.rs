//! Toy models of every supported family.

use lava_test_support::{Architecture, RopeScaling, ToyModel};

/// Shapes that differ in everything the decoder is configured by.
pub(crate) fn models() -> Vec<ToyModel> {
    let mut all = Vec::new();
    for architecture in Architecture::ALL {
        // Grouped queries; every query head its own; one KV head for three; odd counts.
        for (heads, kv_heads, head_dim) in [(4, 2, 16), (4, 4, 8), (3, 1, 32), (9, 3, 16)] {
            // candle-transformers takes D for the quotient in these two.
            let quotient = matches!(architecture, Architecture::Llama | Architecture::Qwen2);
            all.push(ToyModel {
                heads,
                kv_heads,
                head_dim,
                hidden: if quotient { heads * head_dim } else { 64 },
                seed: all.len() as u64,
                ..ToyModel::new(architecture)
            });
        }
    }
    for architecture in [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Qwen3,
    ] {
        all.push(ToyModel {
            tied: true,
            ..ToyModel::new(architecture)
        });
    }
    all.push(llama3_scaling());
    all
}

pub(crate) fn llama3_scaling() -> ToyModel {
    ToyModel {
        rope_scaling: Some(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64,
        }),
        ..ToyModel::new(Architecture::Llama)
    }
}

/// Deterministic ids under `vocabulary`.
pub(crate) fn prompt(len: usize, vocabulary: usize) -> Vec<u32> {
    let mut x = 17u64;
    (0..len)
        .map(|_| {
            x = x
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((x >> 33) % vocabulary as u64) as u32
        })
        .collect()
}
