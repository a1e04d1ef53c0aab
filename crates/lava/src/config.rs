//! The settings of the method.

use crate::Error;

/// Widest pool, in tokens. Clients choose the kernel, and a score costs as much work per token.
const KERNEL_MAX: usize = 255;

/// Settings of scores, layer budgets and head floors. The defaults are those of the paper's
/// experiments; [`Method::new`](crate::Method::new) changes some for some policies. A policy ignores the settings that it has no use for; each field says who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// `W`: the last `window` queries observe the prompt; their own entries are always kept. TOVA's
    /// window is one position and StreamingLLM's all of the budget but the sinks.
    pub window: usize,
    /// Queries at the end of the prompt that observe it; 0 is as many as the window has. LAVa, SnapKV
    /// and its kin, CAKE.
    pub observers: usize,
    /// Width of the pool along the positions, in tokens; odd. LAVa, SnapKV and its kin, CAKE.
    pub kernel: usize,
    /// What the pool does. Used by those who use the kernel.
    pub pool: Pool,
    /// What [`Pool::Max`] gives the neighbours of a peak, in thousandths of it. A peak as wide as the
    /// kernel (1000) keeps phrases whole, none at all (0) keeps more peaks. Used by those who use the
    /// kernel.
    pub shoulder_milli: u32,
    /// How the `G` query heads of one KV head are reduced to one score. LAVa with a score that is a
    /// mean; the baselines always take the mean, [`Score::MaxClamp`] always the maximum.
    pub gqa: Gqa,
    /// Which positions the value norm of a KV head looks at. LAVa with [`Score::Lava`] or
    /// [`Score::MaxClamp`].
    pub value_norm: ValueNorm,
    /// The head floor `alpha` in thousandths: this share of a layer's budget is spread evenly over
    /// its heads. LAVa where heads compete, but for [`Profile::Paper`](crate::Profile::Paper), and the
    /// Ada baselines.
    pub alpha_milli: u32,
    /// What an entry is worth. LAVa.
    pub score: Score,
    /// The first positions, ranked before all others in every head; they count in the budget. All
    /// policies. StreamingLLM's are 4 unless told otherwise.
    pub sinks: usize,
    /// The layer floor in thousandths: this share of the request's budget is spread evenly over the
    /// layers, the rest by their weights. LAVa with weighted layers.
    pub layer_floor_milli: u32,
    /// What the layers share the budget by. LAVa with weighted layers.
    pub layer_weight: LayerWeight,
    /// PyramidKV's `beta`: the last layer gets `1/beta` of the mean budget. The pyramids.
    pub beta: usize,
    /// CAKE's `tau_1` in thousandths: preferences grow with `entropy^(1/tau_1)`.
    pub tau1_milli: u32,
    /// CAKE's `tau_2` in thousandths: preferences grow with `variance^(1/tau_2)`.
    pub tau2_milli: u32,
    /// CAKE's `gamma` in thousandths: a score is `mean + gamma · variance`.
    pub gamma_milli: u32,
}

/// The pool along the positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pool {
    /// Maximum of a position and [shares](Config::shoulder_milli) of its neighbours; positions outside
    /// the prompt do not count.
    Max,
    /// Sum divided by the kernel; positions outside the prompt count as zero, so the edges are
    /// damped.
    Avg,
    /// No pool; the kernel is not used.
    None,
}

/// The reduction over the query heads of one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gqa {
    /// Maximum.
    Max,
    /// Mean.
    Mean,
}

/// The value norm of a KV head: the largest L1 norm among its value rows (Eq. 5 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueNorm {
    /// Over the `n` positions outside the window, as the authors' code does.
    NonWindow,
    /// Over all `N` positions, as the paper writes.
    All,
    /// No value norm: every KV head weighs the same.
    Off,
}

/// What an entry is worth to LAVa's allocation. Every score is pooled over positions, then reduced
/// over its group of query heads. None of them touches the bounds on certain entries, which rest on
/// layer weights alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Score {
    /// Mean over the window, times the value norm of the head (the paper).
    Lava,
    /// Maximum over window and group, raised to at least its mean over the head's positions, times
    /// the value norm of the head. Maximum and clamp are DefensiveKV's (arXiv 2510.13334): a mean over
    /// few observing rows forgets what only one of them needed.
    MaxClamp,
    /// Mean over the window, times the norm of the entry's value after the output projection
    /// (CriticalKV, arXiv 2502.03805, without its first stage).
    ValueOutput,
    /// [`Score::MaxClamp`], times the norm of the entry's value after the output projection.
    MaxClampValueOutput,
    /// Root mean square over the window, times the norm of the entry's value after the output
    /// projection (LaProx, arXiv 2605.07234, without its cut over all layers).
    RmsValueOutput,
}

/// What a layer's share of the budget grows with. Every weight lies in `[0, 1]`, which is what entries
/// can be certain by before the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerWeight {
    /// The normalised entropy of its scores (the paper).
    Entropy,
    /// The same for every layer.
    Uniform,
    /// The perplexity of its scores as a share of its entries, `exp(entropy · ln(Hkv · n)) / (Hkv · n)`:
    /// the number of equal scores that would be as uncertain. It tells layers apart where entropies
    /// are all close to one; because it is often far below one, less is certain early.
    Perplexity,
}

/// Spellings of a closed set, for the settings of a [`Method`](crate::Method).
macro_rules! spelled {
    ($type:ident: $($variant:ident = $name:literal),+) => {
        impl $type {
            /// Every spelling.
            pub(crate) const NAMES: &[&str] = &[$($name),+];

            pub(crate) fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name),+
                }
            }

            pub(crate) fn from_name(name: &str) -> Option<$type> {
                match name {
                    $($name => Some($type::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

spelled!(Pool: Max = "max", Avg = "avg", None = "none");
spelled!(Gqa: Max = "max", Mean = "mean");
spelled!(ValueNorm: NonWindow = "non-window", All = "all", Off = "off");
spelled!(Score: Lava = "lava", MaxClamp = "max-clamp", ValueOutput = "value-output",
    MaxClampValueOutput = "max-clamp-value-output", RmsValueOutput = "rms-value-output");
spelled!(LayerWeight: Entropy = "entropy", Uniform = "uniform", Perplexity = "perplexity");

/// Exponents up to 20; sums of attention stay within `f64` under those.
const TAU_MILLI_MIN: u32 = 50;

impl Default for Config {
    fn default() -> Config {
        Config {
            window: 32,
            observers: 0,
            kernel: 7,
            pool: Pool::Max,
            shoulder_milli: 1000,
            gqa: Gqa::Max,
            value_norm: ValueNorm::NonWindow,
            alpha_milli: 200,
            score: Score::Lava,
            sinks: 0,
            layer_floor_milli: 0,
            layer_weight: LayerWeight::Entropy,
            beta: 20,
            tau1_milli: 1000,
            tau2_milli: 1000,
            gamma_milli: 200_000,
        }
    }
}

impl Config {
    /// Queries that observe the prompt.
    pub(crate) fn observing(&self) -> usize {
        match self.observers {
            0 => self.window,
            rows => rows,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Whoever wrote the configuration: an empty window, an even kernel, a share above one, a `beta`
    /// of zero or a `tau` next to it.
    pub fn check(&self) -> Result<(), Error> {
        if self.window == 0 {
            return Err(Error::EmptyWindow);
        }
        if self.kernel.is_multiple_of(2) {
            return Err(Error::EvenKernel {
                kernel: self.kernel,
            });
        }
        if self.kernel > KERNEL_MAX {
            return Err(Error::WideKernel {
                kernel: self.kernel,
                max: KERNEL_MAX,
            });
        }
        if self.shoulder_milli > 1000 {
            return Err(Error::ShoulderAboveOne {
                shoulder_milli: self.shoulder_milli,
            });
        }
        if self.alpha_milli > 1000 {
            return Err(Error::AlphaAboveOne {
                alpha_milli: self.alpha_milli,
            });
        }
        if self.layer_floor_milli > 1000 {
            return Err(Error::LayerFloorAboveOne {
                layer_floor_milli: self.layer_floor_milli,
            });
        }
        if self.beta == 0 {
            return Err(Error::ZeroBeta);
        }
        for tau_milli in [self.tau1_milli, self.tau2_milli] {
            if tau_milli < TAU_MILLI_MIN {
                let min_milli = TAU_MILLI_MIN;
                return Err(Error::SmallTau {
                    tau_milli,
                    min_milli,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: Result<(), Error>) {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.check(), expected);
    }

    #[test]
    fn the_defaults_are_valid() {
        check(|_| (), Ok(()));
    }

    #[test]
    fn an_empty_window_is_refused() {
        check(|c| c.window = 0, Err(Error::EmptyWindow));
    }

    #[test]
    fn an_even_or_zero_kernel_is_refused() {
        for kernel in [0, 2, 6] {
            check(|c| c.kernel = kernel, Err(Error::EvenKernel { kernel }));
        }
    }

    #[test]
    fn a_pool_that_costs_too_much_is_refused() {
        let (kernel, max) = (KERNEL_MAX + 2, KERNEL_MAX);
        check(
            |c| c.kernel = kernel,
            Err(Error::WideKernel { kernel, max }),
        );
        check(|c| c.kernel = KERNEL_MAX, Ok(()));
    }

    #[test]
    fn a_share_above_one_is_refused() {
        check(|c| c.alpha_milli = 1000, Ok(()));
        check(|c| c.layer_floor_milli = 1000, Ok(()));
        check(
            |c| c.shoulder_milli = 1001,
            Err(Error::ShoulderAboveOne {
                shoulder_milli: 1001,
            }),
        );
        check(
            |c| c.alpha_milli = 1001,
            Err(Error::AlphaAboveOne { alpha_milli: 1001 }),
        );
        check(
            |c| c.layer_floor_milli = 1001,
            Err(Error::LayerFloorAboveOne {
                layer_floor_milli: 1001,
            }),
        );
    }

    #[test]
    fn what_would_divide_by_zero_is_refused() {
        check(|c| c.beta = 0, Err(Error::ZeroBeta));
        let small = |tau_milli| Error::SmallTau {
            tau_milli,
            min_milli: 50,
        };
        check(|c| c.tau1_milli = 0, Err(small(0)));
        check(|c| c.tau2_milli = 49, Err(small(49)));
        check(|c| c.tau2_milli = 50, Ok(()));
    }
}
