//! Which eviction rule a request asks for.

use std::fmt;
use std::str::FromStr;

use crate::recipe::LayerRule;

/// The eviction rule of one request. What tells the rules apart is the table in `recipe.rs`; all but
/// the LAVa ones are baselines, and `tests/data/reference.py` states each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Keep every entry.
    Full,
    /// LAVa in one of its three profiles.
    Lava(Profile),
    /// [`Profile::Exact`] with a score that keeps more peaks and more around the strongest: the product's
    /// default. [`Method::new`](crate::Method::new) has its settings, docs/quality.md what they bring.
    LavaPeaks,
    /// LAVa without layer budgets: the same budget in every layer, heads compete as in
    /// [`Profile::Exact`].
    LavaUniform,
    /// LAVa without head budgets: the layer budgets of [`Profile::Exact`], the same number of entries
    /// in every head of a layer.
    LavaHeads,
    /// The same number of entries in every head of every layer, by pooled attention.
    SnapKv,
    /// [`Policy::SnapKv`] with layer budgets that fall from the first layer to the last.
    PyramidKv,
    /// [`Policy::SnapKv`] whose heads compete for the layer's budget, above a floor.
    AdaSnapKv,
    /// [`Policy::PyramidKv`] whose heads compete for the layer's budget, above a floor.
    AdaPyramidKv,
    /// Layer budgets by spread and change of attention, known only after the last layer.
    Cake,
    /// The first and the last positions.
    StreamingLlm,
    /// By the attention of all queries of the prompt.
    H2o,
    /// By the attention of the last query, one set for all heads of a layer.
    Tova,
    /// By chance, for evaluation only: what any score has to beat.
    Random,
}

/// The three readings of LAVa; `tests/data/reference.py` states all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// For production: Q20 entropies, integer budgets in entries, and a head floor that
    /// every prefix of a layer's order honours. Totals never exceed the budget and fall short of it
    /// by less than `L`.
    Exact,
    /// Algorithms 1 and 2 of the paper: no head floor, `f64` budgets truncated per KV head.
    Paper,
    /// The rule of the authors' released code: `f64` budgets, and a head floor taken from the whole
    /// budget, so that totals exceed the budget by about `alpha · W` per KV head and layer.
    Code,
}

/// Whether a policy can say before the last layer which entries stay in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// What is called certain is never evicted, so it can be shipped while prefill goes on.
    Exact,
    /// Nothing is certain before the last layer.
    None,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 16] = [
        Policy::Full,
        Policy::Lava(Profile::Exact),
        Policy::Lava(Profile::Paper),
        Policy::Lava(Profile::Code),
        Policy::LavaPeaks,
        Policy::LavaUniform,
        Policy::LavaHeads,
        Policy::SnapKv,
        Policy::PyramidKv,
        Policy::AdaSnapKv,
        Policy::AdaPyramidKv,
        Policy::Cake,
        Policy::StreamingLlm,
        Policy::H2o,
        Policy::Tova,
        Policy::Random,
    ];

    /// The spellings that [`Policy::from_str`] accepts; `lava` is `lava-exact`.
    pub const NAMES: [&str; 17] = {
        let mut names = ["lava"; 17];
        names[0] = Policy::ALL[0].name();
        let mut index = 1;
        while index < Policy::ALL.len() {
            names[index + 1] = Policy::ALL[index].name();
            index += 1;
        }
        names
    };

    /// Whether entries are certain before the last layer. Layer weights that are bounded give certainty;
    /// CAKE's have no bound.
    pub fn certainty(self) -> Certainty {
        match self.recipe().map(|recipe| recipe.layers) {
            Some(LayerRule::Preferences) => Certainty::None,
            _ => Certainty::Exact,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Policy::Full => "full",
            Policy::Lava(Profile::Exact) => "lava-exact",
            Policy::Lava(Profile::Paper) => "lava-paper",
            Policy::Lava(Profile::Code) => "lava-code",
            Policy::LavaPeaks => "lava-peaks",
            Policy::LavaUniform => "lava-uniform",
            Policy::LavaHeads => "lava-heads",
            Policy::SnapKv => "snapkv",
            Policy::PyramidKv => "pyramidkv",
            Policy::AdaSnapKv => "ada-snapkv",
            Policy::AdaPyramidKv => "ada-pyramidkv",
            Policy::Cake => "cake",
            Policy::StreamingLlm => "streaming-llm",
            Policy::H2o => "h2o",
            Policy::Tova => "tova",
            Policy::Random => "random",
        }
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Policy, UnknownPolicy> {
        let known = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        match known {
            Some(policy) => Ok(policy),
            None if name == "lava" => Ok(Policy::Lava(Profile::Exact)),
            None => Err(UnknownPolicy {
                found: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The request named a policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {found:?}; known are {}", Policy::NAMES.join(", "))]
pub struct UnknownPolicy {
    /// The name as it was given.
    pub found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_parses_and_prints_a_name_that_parses_back() {
        for name in Policy::NAMES {
            let policy: Policy = name.parse().unwrap();
            assert_eq!(policy.to_string().parse(), Ok(policy), "{name}");
        }
        assert_eq!("lava".parse(), Ok(Policy::Lava(Profile::Exact)));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = "kvzip".parse::<Policy>().unwrap_err();
        expect_test::expect![[r#"unknown policy "kvzip"; known are full, lava, lava-exact, lava-paper, lava-code, lava-peaks, lava-uniform, lava-heads, snapkv, pyramidkv, ada-snapkv, ada-pyramidkv, cake, streaming-llm, h2o, tova, random"#]]
        .assert_eq(&error.to_string());
    }
}
