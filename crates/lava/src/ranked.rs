//! A layer that was ranked elsewhere: where its scores are, which is not here.

/// What is wanted of the next layer's ranking, at most: its budget is known when its entropy is, which may be later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankingWanted {
    /// Entries of the layer as a whole, best first; if there are fewer, all.
    pub best: usize,
    /// The head floor in thousandths. With `c` of the entries ranked in a head, and `x` ranked in all, that head's
    /// own best `floor((1 - alpha) · c + alpha · x / Hkv)` are wanted, or all if there are fewer.
    pub alpha_milli: u32,
    /// The first positions of every head, which come before all others.
    pub sinks: usize,
}

/// A layer's ranking, as far as it was [wanted](RankingWanted).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RankedLayer {
    /// Of its scores, as [`entropy`](crate::entropy::entropy) takes it.
    pub entropy: f64,
    /// The KV heads of its best entries, best first.
    pub heads: Vec<u16>,
    /// `[Hkv]`: positions of each head's own best, best first.
    pub positions: Vec<Vec<u32>>,
}
