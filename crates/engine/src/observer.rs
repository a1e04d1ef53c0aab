//! What policies want to know of a finished layer, computed once for all requests of a pass.

use candle_core::{Result as CandleResult, Tensor};
use lava::scores::{Observation, layer_scores};
use lava::{LayerScores, ValueNorm};
use lava_kernels::{Observed, Wanted, value_norms, value_output_norms};

use crate::error::EngineError;
use crate::full_kv::FullKv;
use crate::keeping::Keeping;
use crate::ops;

/// The queries of the last tokens, collected over blocks.
pub(crate) struct LastQueries {
    rows: usize,
    queries: Option<Tensor>,
}

impl LastQueries {
    /// Of the last `rows` tokens.
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            rows,
            queries: None,
        }
    }

    /// `queries` is `[T, Hq, D]` of the next tokens.
    pub(crate) fn push(&mut self, queries: &Tensor) -> CandleResult<()> {
        let (tokens, _hq, _d) = queries.dims3()?;
        let taken = self.rows.min(tokens);
        // A copy: a narrow view would keep all of them.
        let new = queries
            .narrow(0, tokens - taken, taken)?
            .force_contiguous()?;
        self.queries = Some(match self.queries.take() {
            Some(before) => {
                let (there, _hq, _d) = before.dims3()?;
                let kept = (self.rows - taken).min(there);
                let before = before.narrow(0, there - kept, kept)?;
                Tensor::cat(&[&before, &new], 0)?
            }
            None => new,
        });
        Ok(())
    }
}

/// One finished layer, and what was found out about it so far.
pub(crate) struct Observer<'a> {
    query_heads: usize,
    output_grams: &'a dyn Fn() -> &'a [f32],
    full: &'a FullKv<'a>,
    queries: LastQueries,
    views: Vec<View>,
    /// `[Hkv]` over the first so many tokens.
    value_norms: Vec<(usize, Vec<f32>)>,
    /// `[Hkv, n]` over the first so many tokens.
    value_outputs: Vec<(usize, Vec<f32>)>,
}

/// The last `rows` queries on the first `columns` keys.
struct View {
    rows: usize,
    columns: usize,
    wanted: Wanted,
    observed: Option<Observed>,
}

impl<'a> Observer<'a> {
    /// `output_grams` are those of the layer's output projection, `[Hq, D, D]`.
    pub(crate) fn new(
        query_heads: usize,
        output_grams: &'a dyn Fn() -> &'a [f32],
        full: &'a FullKv<'a>,
        queries: LastQueries,
    ) -> Self {
        Self {
            query_heads,
            output_grams,
            full,
            queries,
            views: Vec::new(),
            value_norms: Vec::new(),
            value_outputs: Vec::new(),
        }
    }

    pub(crate) fn full(&self) -> &FullKv<'a> {
        self.full
    }

    /// Announces what a request will ask, so that the statistics of a view are taken together.
    pub(crate) fn expect(&mut self, keeping: &Keeping<'_>) {
        let rows = keeping.observing_rows();
        if rows == 0 {
            return;
        }
        let observes = keeping.request.method.observes();
        let wanted = &mut self.view(rows, columns(keeping)).wanted;
        wanted.variance |= observes.variance;
        wanted.max |= observes.max;
        wanted.entropy |= observes.entropy;
    }

    /// The layer's scores for a request that was announced.
    pub(crate) fn scores(&mut self, keeping: &Keeping<'_>) -> Result<LayerScores, EngineError> {
        let rows = keeping.observing_rows();
        if rows == 0 {
            // The policy looks at nothing.
            return Ok(LayerScores::default());
        }
        let method = &keeping.request.method;
        let observes = method.observes();
        let columns = columns(keeping);
        let norm_rows = match method.config.value_norm {
            ValueNorm::All => keeping.request.tokens.len(),
            ValueNorm::NonWindow | ValueNorm::Off => columns,
        };
        self.observe(rows, columns)?;
        if observes.value_norms {
            self.take_value_norms(norm_rows)?;
        }
        if observes.value_outputs {
            self.take_value_outputs(columns)?;
        }
        let (_n, kv_heads, _d) = self.full.key().dims3()?;
        let seen = self.view(rows, columns).observed.take();
        let seen = seen.expect("it was observed above");
        let observation = Observation {
            query_heads: self.query_heads,
            kv_heads,
            mean: &seen.mean,
            variance: &seen.variance,
            max: &seen.max,
            entropy: seen.entropy,
            rows,
            value_norms: found(&self.value_norms, norm_rows),
            value_outputs: found(&self.value_outputs, columns),
        };
        let scores = layer_scores(method, &observation);
        self.view(rows, columns).observed = Some(seen);
        Ok(scores)
    }

    fn view(&mut self, rows: usize, columns: usize) -> &mut View {
        let is_it = |view: &View| (view.rows, view.columns) == (rows, columns);
        let index = self.views.iter().position(is_it).unwrap_or_else(|| {
            self.views.push(View {
                rows,
                columns,
                wanted: Wanted::default(),
                observed: None,
            });
            self.views.len() - 1
        });
        &mut self.views[index]
    }

    fn observe(&mut self, rows: usize, columns: usize) -> CandleResult<()> {
        let wanted = self.view(rows, columns).wanted;
        if self.view(rows, columns).observed.is_some() {
            return Ok(());
        }
        let queries = self.queries.queries.as_ref();
        let queries = queries.expect("every block pushed its queries");
        let (there, _hq, _d) = queries.dims3()?;
        let last = queries.narrow(0, there - rows, rows)?.contiguous()?;
        let observed = ops::observe(&last, self.full.key(), columns, wanted)?;
        self.view(rows, columns).observed = Some(observed);
        Ok(())
    }

    fn take_value_norms(&mut self, rows: usize) -> CandleResult<()> {
        if self.value_norms.iter().all(|(known, _)| *known != rows) {
            let (_n, kv_heads, d) = self.full.value().dims3()?;
            let norms = ops::with_values(self.full.value(), |v| value_norms(v, rows, kv_heads, d))?;
            self.value_norms.push((rows, norms));
        }
        Ok(())
    }

    fn take_value_outputs(&mut self, rows: usize) -> CandleResult<()> {
        if self.value_outputs.iter().all(|(known, _)| *known != rows) {
            let (_n, kv_heads, d) = self.full.value().dims3()?;
            let grams = (self.output_grams)();
            let norms = ops::with_values(self.full.value(), |v| {
                value_output_norms(v, grams, rows, kv_heads, d)
            })?;
            self.value_outputs.push((rows, norms));
        }
        Ok(())
    }
}

/// `n`: the tokens that a request's policy may evict.
fn columns(keeping: &Keeping<'_>) -> usize {
    keeping.request.tokens.len() - keeping.cascade.window_rows()
}

/// What was taken over so many rows; nothing if it was not needed.
fn found(taken: &[(usize, Vec<f32>)], rows: usize) -> &[f32] {
    let found = taken.iter().find(|(known, _)| *known == rows);
    found.map_or(&[], |(_, values)| values)
}
