//! How long kernels take at least, and how long they should take: from the bytes that they have to move, the
//! operations of tensor cores and the launches. A measurement stands beside these numbers.

use lava_kv::RowFormat;

/// What a card can do, by its data sheet.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Bytes per second of its memory.
    pub bytes_per_second: f64,
    /// Operations per second of its tensor cores on 16-bit numbers, dense; a multiply-add is two.
    pub operations_per_second: f64,
}

/// NVIDIA H100 SXM5 with 80 GB.
pub const H100: Card = Card {
    bytes_per_second: 3.35e12,
    operations_per_second: 989e12,
};

/// The share of its bandwidth that a kernel gets which does nothing but move bytes.
const BANDWIDTH_SHARE: f64 = 0.7;
/// The share of tensor cores that `mma.sync` gets with softmax between: what FlashAttention-2 reports of an H100.
const OPERATIONS_SHARE: f64 = 0.35;
/// From one kernel's end to the next one's work, in seconds.
const LAUNCH_SECONDS: f64 = 3e-6;

/// What some launches have to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes that come from or go to memory, each once.
    pub bytes: f64,
    /// Operations of tensor cores.
    pub operations: f64,
    /// Launches, one after the other.
    pub launches: f64,
}

impl Work {
    /// Seconds that no kernel can beat.
    pub fn floor(&self, card: &Card) -> f64 {
        let moved = self.bytes / card.bytes_per_second;
        moved.max(self.operations / card.operations_per_second)
    }

    /// Seconds that ours should take.
    pub fn expected(&self, card: &Card) -> f64 {
        let moved = self.bytes / (BANDWIDTH_SHARE * card.bytes_per_second);
        let computed = self.operations / (OPERATIONS_SHARE * card.operations_per_second);
        moved.max(computed) + self.launches * LAUNCH_SECONDS
    }
}

/// Heads of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Hkv.
    pub kv_heads: usize,
    /// G.
    pub group: usize,
    /// D.
    pub head_dim: usize,
}

impl Heads {
    /// Bytes of a key of every KV head in 16 bits.
    fn row_bytes(&self) -> f64 {
        (2 * self.kv_heads * self.head_dim) as f64
    }

    fn q_heads(&self) -> f64 {
        (self.kv_heads * self.group) as f64
    }

    /// Of causal attention over a prompt: queries, keys and values in, the answer out.
    pub fn prefill(&self, tokens: usize) -> Work {
        let n = tokens as f64;
        let row = self.row_bytes();
        Work {
            bytes: n * row * (2.0 + 2.0 * self.group as f64),
            operations: 2.0 * self.q_heads() * self.head_dim as f64 * n * (n + 1.0),
            launches: 1.0,
        }
    }

    /// Of a layer's scores: keys and values once, what was seen, the scores twice.
    pub fn scores(&self, tokens: usize, observers: usize) -> Work {
        let n = tokens as f64;
        let seen = 4.0 * n * self.q_heads();
        let scores = 4.0 * n * self.kv_heads as f64;
        Work {
            bytes: 2.0 * n * self.row_bytes() + 2.0 * seen + 3.0 * scores,
            operations: 2.0 * observers as f64 * self.q_heads() * self.head_dim as f64 * n,
            launches: 4.0,
        }
    }

    /// Of a layer's rankings, as a whole and head by head, if so many of its entries are kept: five looks at the
    /// scores each, and sorts of what is taken.
    pub fn ranking(&self, tokens: usize, kept: usize) -> Work {
        let scores = 4.0 * (tokens * self.kv_heads) as f64;
        let capacity = kept.next_power_of_two();
        let stages = f64::from((capacity / 2048).max(1).ilog2());
        let steps = stages * (stages + 3.0) / 2.0;
        Work {
            bytes: 2.0 * (6.0 * scores + (1.0 + steps) * 16.0 * capacity as f64),
            operations: 0.0,
            launches: 2.0 * (14.0 + steps),
        }
    }

    /// Of gathering so many entries: a row in 16 bits in, as it is stored out.
    pub fn gather(&self, kept: usize, format: RowFormat) -> Work {
        let entry = 4 * self.head_dim + format.entry_bytes(self.head_dim);
        Work {
            bytes: (kept * entry) as f64,
            operations: 0.0,
            launches: 1.0,
        }
    }

    /// Of appending a token to each of a batch.
    pub fn append(&self, batch: usize) -> Work {
        Work {
            bytes: 4.0 * batch as f64 * self.row_bytes(),
            operations: 0.0,
            launches: 1.0,
        }
    }

    /// Of a decode step's attention if every head has so many wide rows and so many others. Products are made for
    /// eight queries, whatever G is.
    pub fn decode(&self, batch: usize, wide: usize, others: usize, format: RowFormat) -> Work {
        let entry = |format: RowFormat| format.entry_bytes(self.head_dim);
        let of_head = wide * entry(format.wide()) + others * entry(format);
        let heads = (batch * self.kv_heads) as f64;
        let queries = self.group.next_multiple_of(8) as f64;
        Work {
            bytes: heads * of_head as f64,
            operations: 4.0 * heads * (wide + others) as f64 * queries * self.head_dim as f64,
            launches: 2.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const LLAMA_8B: Heads = Heads {
        kv_heads: 8,
        group: 4,
        head_dim: 128,
    };
    const LAYERS: usize = 32;
    const WINDOW: usize = 32;
    const OBSERVERS: usize = 48;

    fn time(seconds: f64) -> String {
        match seconds {
            s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
            s if s < 1.0 => format!("{:.2} ms", s * 1e3),
            s => format!("{s:.2} s"),
        }
    }

    fn cells(work: &Work) -> String {
        format!(
            "{} | {}",
            time(work.floor(&H100)),
            time(work.expected(&H100))
        )
    }

    fn tables() -> String {
        let mut out = String::new();
        out += "| one layer of a prompt | N | b | floor | expected |\n|---|---:|---:|---:|---:|\n";
        for tokens in [8 << 10, 32 << 10, 128 << 10] {
            let mut line = |name: &str, budget: &str, work: Work| {
                let _ = writeln!(
                    out,
                    "| {name} | {}k | {budget} | {} |",
                    tokens >> 10,
                    cells(&work)
                );
            };
            line("attention", "", LLAMA_8B.prefill(tokens));
            line("scores", "", LLAMA_8B.scores(tokens, OBSERVERS));
            for budget in [128, 1024] {
                // The first layer may keep what all layers share.
                let most = LLAMA_8B.kv_heads * (LAYERS * (budget - WINDOW)).min(tokens - WINDOW);
                let kept = LLAMA_8B.kv_heads * budget;
                line(
                    "rankings, first layer",
                    &budget.to_string(),
                    LLAMA_8B.ranking(tokens, most),
                );
                line(
                    "rankings",
                    &budget.to_string(),
                    LLAMA_8B.ranking(tokens, kept),
                );
                line(
                    "gathering in int4",
                    &budget.to_string(),
                    LLAMA_8B.gather(kept, RowFormat::Int4),
                );
            }
        }
        out +=
            "\n| one layer of a step | cache | B | floor | expected |\n|---|---|---:|---:|---:|\n";
        for batch in [1, 8, 64] {
            let mut line = |cache: &str, work: Work| {
                let _ = writeln!(out, "| attention | {cache} | {batch} | {} |", cells(&work));
            };
            for budget in [128, 1024] {
                let others = budget - WINDOW;
                line(
                    &format!("b = {budget}, int4"),
                    LLAMA_8B.decode(batch, WINDOW, others, RowFormat::Int4),
                );
            }
            for tokens in [8usize << 10, 32 << 10, 128 << 10] {
                line(
                    &format!("full, {}k", tokens >> 10),
                    LLAMA_8B.decode(batch, tokens, 0, RowFormat::F16),
                );
            }
            let _ = writeln!(
                out,
                "| append | any | {batch} | {} |",
                cells(&LLAMA_8B.append(batch))
            );
        }
        out
    }

    #[test]
    fn the_readme_has_these_floors() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("<!-- floors -->\n\n").expect("a marker");
        let (found, _) = rest
            .split_once("\n<!-- end of floors -->")
            .expect("a marker");
        assert!(
            found == tables(),
            "kernels/README.md should have:\n\n{}",
            tables()
        );
    }
}
