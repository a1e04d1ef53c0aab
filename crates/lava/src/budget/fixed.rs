//! Budgets that are known before the first layer.

/// Budgets per KV head that fall by the same step from layer to layer; not at all if uniform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FixedBudgets {
    first: usize,
    step: usize,
}

impl FixedBudgets {
    /// `contested` for every layer.
    pub(crate) fn uniform(contested: usize) -> FixedBudgets {
        FixedBudgets {
            first: contested,
            step: 0,
        }
    }

    /// PyramidKV: from nearly twice `contested` down to `contested / beta`, the first limited to the
    /// `n` rows there are (`pyramid_caps` of `tests/data/reference.py`). The step is rounded down, so
    /// the budgets sum to up to `(L - 1) / 2` per layer more than `L · contested`. A lone layer, where
    /// the script would divide by zero, gets `contested`.
    pub(crate) fn pyramid(layers: usize, contested: usize, n: usize, beta: usize) -> FixedBudgets {
        if layers == 1 {
            return FixedBudgets::uniform(contested);
        }
        let last = contested / beta;
        let first = contested.saturating_mul(2).saturating_sub(last).min(n);
        // With the first one limited, the two still have the mean `contested`. `contested` is below
        // `n` if anything is evicted, so neither difference is negative.
        let last = contested.saturating_mul(2).saturating_sub(first);
        FixedBudgets {
            first,
            step: first.saturating_sub(last) / (layers - 1),
        }
    }

    /// Entries per KV head of a layer, before the limit of what the layer has.
    pub(crate) fn of_layer(self, layer: usize) -> usize {
        self.first - layer * self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(layers: usize, contested: usize, n: usize, beta: usize, expected: &[usize]) {
        let pyramid = FixedBudgets::pyramid(layers, contested, n, beta);
        let found: Vec<usize> = (0..layers).map(|layer| pyramid.of_layer(layer)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_pyramid_falls_in_equal_steps() {
        check(4, 32, 192, 20, &[63, 43, 23, 3]); // pyramid_caps of vectors.json
        check(3, 10, 100, 1, &[10, 10, 10]);
        check(2, 10, 100, 50, &[20, 0]);
    }

    #[test]
    fn a_pyramid_is_not_wider_than_the_prompt() {
        check(3, 10, 12, 20, &[12, 10, 8]);
        check(1, 10, 12, 20, &[10]);
    }
}
