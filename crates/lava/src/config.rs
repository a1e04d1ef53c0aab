//! The settings of the method.

use crate::Error;

/// Settings of the score and of the head floor. The defaults are those of the paper's experiments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `W`: the last `window` queries observe the prompt; their own entries are always kept.
    pub window: usize,
    /// Width of the pool along the positions, in tokens; odd.
    pub kernel: usize,
    /// What the pool does.
    pub pool: Pool,
    /// How the `G` query heads of one KV head are reduced to one score.
    pub gqa: Gqa,
    /// Which positions the value norm of a KV head looks at.
    pub value_norm: ValueNorm,
    /// The head floor `alpha` in thousandths: this share of a layer's budget is spread evenly over
    /// its heads. [`Profile::Paper`](crate::Profile::Paper) ignores it.
    pub alpha_milli: u32,
}

/// The pool along the positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Maximum; positions outside the prompt do not count.
    Max,
    /// Sum divided by the kernel; positions outside the prompt count as zero, so the edges are
    /// damped.
    Avg,
    /// No pool; the kernel is not used.
    None,
}

/// The reduction over the query heads of one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gqa {
    /// Maximum.
    Max,
    /// Mean.
    Mean,
}

/// The value norm of a KV head: the largest L1 norm among its value rows (Eq. 5 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueNorm {
    /// Over the `n` positions outside the window, as the authors' code does.
    NonWindow,
    /// Over all `N` positions, as the paper writes.
    All,
    /// No value norm: every KV head weighs the same.
    Off,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            window: 32,
            kernel: 7,
            pool: Pool::Max,
            gqa: Gqa::Max,
            value_norm: ValueNorm::NonWindow,
            alpha_milli: 200,
        }
    }
}

impl Config {
    /// Checks every field.
    ///
    /// # Errors
    /// Whoever wrote the configuration: an empty window, an even kernel, or an `alpha` above one.
    pub fn check(&self) -> Result<(), Error> {
        if self.window == 0 {
            return Err(Error::EmptyWindow);
        }
        if self.kernel.is_multiple_of(2) {
            return Err(Error::EvenKernel {
                kernel: self.kernel,
            });
        }
        if self.alpha_milli > 1000 {
            return Err(Error::AlphaAboveOne {
                alpha_milli: self.alpha_milli,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn an_empty_window_is_refused() {
        let config = Config {
            window: 0,
            ..Config::default()
        };
        assert_eq!(config.check(), Err(Error::EmptyWindow));
    }

    #[test]
    fn an_even_or_zero_kernel_is_refused() {
        for kernel in [0, 2, 6] {
            let config = Config {
                kernel,
                ..Config::default()
            };
            assert_eq!(config.check(), Err(Error::EvenKernel { kernel }));
        }
    }

    #[test]
    fn an_alpha_above_one_is_refused() {
        let config = Config {
            alpha_milli: 1001,
            ..Config::default()
        };
        assert_eq!(
            config.check(),
            Err(Error::AlphaAboveOne { alpha_milli: 1001 })
        );
        assert_eq!(
            Config {
                alpha_milli: 1000,
                ..config
            }
            .check(),
            Ok(())
        );
    }
}
