//! The size of a request.

use crate::{Error, Method, Policy};

/// The size of a request's cache before eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// `L`, at least 1.
    pub layers: usize,
    /// `Hkv`, at least 1.
    pub kv_heads: usize,
    /// `N`.
    pub tokens: usize,
}

impl Shape {
    /// Rows of the window per (layer, KV head): `min(W, N)`. Here and below, `budget` is `b`: entries
    /// per KV head and layer, window included.
    pub fn window_rows(&self, method: &Method, budget: usize) -> usize {
        method.window(budget).min(self.tokens)
    }

    /// Rows per (layer, KV head) that do not compete: the window and the sinks.
    pub fn pinned_rows(&self, method: &Method, budget: usize) -> usize {
        let rows = method.window(budget).saturating_add(method.config.sinks);
        rows.min(self.tokens)
    }

    /// `n`: rows outside the window per (layer, KV head).
    pub fn rows_outside_window(&self, method: &Method, budget: usize) -> usize {
        self.tokens - self.window_rows(method, budget)
    }

    /// Whether nothing is ever evicted: by policy, or because the prompt fits the budget of
    /// `budget` entries per KV head and layer, or because nothing competes. Without this rule a
    /// prompt that fits would still lose entries of its low-entropy layers.
    ///
    /// It looks at this prompt only: a request that began so and is continued must go on under
    /// [`Policy::Full`].
    pub fn keeps_everything(&self, method: &Method, budget: usize) -> bool {
        let outside = self.rows_outside_window(method, budget);
        method.policy == Policy::Full
            || self.tokens <= budget
            || self.kv_heads.saturating_mul(outside) <= 1
    }

    /// # Errors
    /// Whoever let the request in: its entries do not fit the integers that number them.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let &Shape {
            layers,
            kv_heads,
            tokens,
        } = self;
        let fits = u16::try_from(kv_heads).is_ok()
            && kv_heads
                .checked_mul(tokens)
                .is_some_and(|entries| u32::try_from(entries).is_ok())
            && layers.checked_mul(kv_heads * tokens).is_some();
        fits.then_some(()).ok_or(Error::TooManyEntries {
            layers,
            kv_heads,
            tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    #[track_caller]
    fn check_keeps(tokens: usize, budget: usize, kv_heads: usize, expected: bool) {
        let shape = Shape {
            layers: 2,
            kv_heads,
            tokens,
        };
        let method = Method::new(Policy::Lava(Profile::Exact));
        assert_eq!(shape.keeps_everything(&method, budget), expected);
    }

    #[test]
    fn a_prompt_that_fits_its_budget_keeps_everything() {
        check_keeps(100, 100, 2, true);
        check_keeps(101, 100, 2, false);
    }

    #[test]
    fn a_prompt_within_the_window_keeps_everything() {
        check_keeps(32, 8, 2, true);
        check_keeps(33, 8, 2, false);
    }

    #[test]
    fn a_lone_entry_outside_the_window_has_nothing_to_compete_with() {
        check_keeps(33, 8, 1, true);
        check_keeps(34, 8, 1, false);
    }

    #[test]
    fn a_request_that_cannot_be_numbered_is_refused() {
        for (layers, kv_heads, tokens) in [
            (1, 1 << 16, 1),
            (1, 8, 1 << 29),
            (usize::MAX, 2, 2),
            (1, 2, usize::MAX),
        ] {
            let shape = Shape {
                layers,
                kv_heads,
                tokens,
            };
            assert_eq!(
                shape.check(),
                Err(Error::TooManyEntries {
                    layers,
                    kv_heads,
                    tokens
                })
            );
        }
        let largest = Shape {
            layers: 128,
            kv_heads: 8,
            tokens: (1 << 29) - 1,
        };
        assert_eq!(largest.check(), Ok(()));
    }
}
