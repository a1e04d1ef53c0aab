//! What was observed of one layer.

use crate::{ObservedRows, Observes};

/// What the observing rows of one layer saw: causal attention over all `N` keys, without the window's
/// own columns. [`Method::observes`](crate::Method::observes) names the observing rows and the fields
/// that are needed; the others are not read and may be empty, or zero.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// `Hq`, a multiple of `Hkv`.
    pub query_heads: usize,
    /// `Hkv`.
    pub kv_heads: usize,
    /// `[Hq, n]`: mean over the observing rows. If they are [all rows](crate::ObservedRows::All), their
    /// sum does as well: a factor that all entries share moves none of them.
    pub mean: &'a [f32],
    /// `[Hq, n]`: variance over the observing rows, unbiased (divided by `rows - 1`; all zero for one
    /// row). To be summed from differences to the mean, in two passes or Welford's way: taken from
    /// rounded means of squares it would keep nothing but rounding where rows agree, and could be
    /// negative.
    pub variance: &'a [f32],
    /// `[Hq, n]`: maximum over the observing rows.
    pub max: &'a [f32],
    /// Over all query heads, observing rows and the `n` columns: `-SUM A ln(A + 1e-10)`.
    pub entropy: f64,
    /// How many rows observe.
    pub rows: usize,
    /// `[Hkv]`: largest L1 norm among the value rows of each KV head; see
    /// [`ValueNorm`](crate::ValueNorm).
    pub value_norms: &'a [f32],
    /// `[Hkv, n]`: norm of each value row after the output projection of a query head, reduced over the
    /// group; which norm and reduction is up to the caller ([`reference`](crate::reference) takes
    /// length and mean).
    pub value_outputs: &'a [f32],
}

impl<'a> Observation<'a> {
    /// # Panics
    /// If a field that is needed has a wrong length.
    pub(super) fn check(&self, observes: Observes) {
        if observes.rows == ObservedRows::Nothing {
            return;
        }
        let &Observation {
            query_heads,
            kv_heads,
            ..
        } = self;
        assert!(kv_heads > 0 && query_heads > 0, "a layer has heads");
        assert_eq!(
            query_heads % kv_heads,
            0,
            "Hq {query_heads} is a multiple of Hkv {kv_heads}"
        );
        let n = self.positions();
        let check = |name: &str, needed: bool, found: usize, expected: usize| {
            assert!(
                !needed || found == expected,
                "{name} has {found} numbers, expected {expected}: Hq {query_heads}, Hkv {kv_heads}, n {n}"
            );
        };
        check("mean", observes.mean, self.mean.len(), query_heads * n);
        check(
            "variance",
            observes.variance,
            self.variance.len(),
            query_heads * n,
        );
        check("max", observes.max, self.max.len(), query_heads * n);
        check(
            "value norms",
            observes.value_norms,
            self.value_norms.len(),
            kv_heads,
        );
        check(
            "value outputs",
            observes.value_outputs,
            self.value_outputs.len(),
            kv_heads * n,
        );
        if let ObservedRows::Last(rows) = observes.rows {
            assert!(self.rows <= rows, "no more rows observe than were asked");
        }
    }

    /// `n`. Every method that observes needs the mean or the maximum.
    pub(super) fn positions(&self) -> usize {
        self.mean.len().max(self.max.len()) / self.query_heads
    }

    /// `G`.
    pub(super) fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }

    /// Row `[n]` of one of the `[Hq, n]` fields.
    pub(super) fn row(&self, field: &'a [f32], query_head: usize) -> &'a [f32] {
        let n = self.positions();
        &field[query_head * n..][..n]
    }
}
