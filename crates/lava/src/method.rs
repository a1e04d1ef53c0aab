//! A policy and its settings: everything that decides what a request keeps, but for its budget.

mod text;

use crate::recipe::{ScoreRule, WindowRule};
use crate::{AlwaysKept, Config, Error, Policy, Score, ValueNorm};

pub use text::ParseMethodError;

/// What a request evicts by.
///
/// It is written as the policy's name and then its settings, each after a `+`, as in
/// `lava-exact+score=max-clamp+sinks=4+floor=100+alpha=0`; shares and CAKE's numbers are in
/// thousandths. What is not written is the default of [`Method::new`]. Printing leaves the defaults
/// out, and what is printed parses back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method {
    /// The rule.
    pub policy: Policy,
    /// Its settings.
    pub config: Config,
}

/// What has to be observed of a layer for [`layer_scores`](crate::scores::layer_scores): the fields of
/// [`Observation`](crate::scores::Observation) that must not be left empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observes {
    /// The queries that observe.
    pub rows: ObservedRows,
    /// [`Observation::mean`](crate::scores::Observation::mean).
    pub mean: bool,
    /// [`Observation::variance`](crate::scores::Observation::variance).
    pub variance: bool,
    /// [`Observation::max`](crate::scores::Observation::max).
    pub max: bool,
    /// [`Observation::entropy`](crate::scores::Observation::entropy).
    pub entropy: bool,
    /// [`Observation::value_norms`](crate::scores::Observation::value_norms).
    pub value_norms: bool,
    /// [`Observation::value_outputs`](crate::scores::Observation::value_outputs).
    pub value_outputs: bool,
}

/// Which queries of the prompt observe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedRows {
    /// The last ones, this many.
    Last(usize),
    /// All `N`.
    All,
    /// None: scores need no observation.
    Nothing,
}

impl Method {
    /// The policy with its default settings: [`Config::default`], but for two policies.
    pub fn new(policy: Policy) -> Method {
        let paper = Config::default();
        let config = match policy {
            // Chosen on three books and tried on three others (docs/quality.md): many narrow peaks for text
            // that goes on, a wide foot of each strong one for what has to be quoted, and more observers than
            // the window has rows.
            Policy::LavaPeaks => Config {
                score: Score::MaxClamp,
                observers: 48,
                kernel: 41,
                shoulder_milli: 50,
                ..paper
            },
            Policy::StreamingLlm => Config { sinks: 4, ..paper },
            _ => paper,
        };
        Method { policy, config }
    }

    /// What the engine has to observe of each layer of a request that evicts.
    pub fn observes(&self) -> Observes {
        let nothing = Observes {
            rows: ObservedRows::Nothing,
            mean: false,
            variance: false,
            max: false,
            entropy: false,
            value_norms: false,
            value_outputs: false,
        };
        let Some(recipe) = self.policy.recipe() else {
            return nothing;
        };
        let window = Observes {
            rows: ObservedRows::Last(self.config.observing()),
            ..nothing
        };
        let mean = Observes {
            mean: true,
            ..window
        };
        let value_norms = self.config.value_norm != ValueNorm::Off;
        match recipe.score {
            ScoreRule::Configured => match self.config.score {
                Score::Lava => Observes {
                    value_norms,
                    ..mean
                },
                Score::MaxClamp => Observes {
                    max: true,
                    value_norms,
                    ..window
                },
                Score::ValueOutput => Observes {
                    value_outputs: true,
                    ..mean
                },
                Score::MaxClampValueOutput => Observes {
                    max: true,
                    value_outputs: true,
                    ..window
                },
                Score::RmsValueOutput => Observes {
                    variance: true,
                    value_outputs: true,
                    ..mean
                },
            },
            ScoreRule::Snap => mean,
            ScoreRule::Cake => Observes {
                variance: true,
                entropy: true,
                ..mean
            },
            ScoreRule::AllQueries => Observes {
                rows: ObservedRows::All,
                ..mean
            },
            ScoreRule::LastQuery => Observes {
                rows: ObservedRows::Last(1),
                ..mean
            },
            ScoreRule::Position | ScoreRule::Random => nothing,
        }
    }

    /// Whether scores are those that the configuration names ([`Config::score`]), taken of the window: LAVa's.
    pub fn scores_as_configured(&self) -> bool {
        let recipe = self.policy.recipe();
        recipe.is_some_and(|recipe| recipe.score == ScoreRule::Configured)
    }

    /// How many positions at the end of the prompt every head keeps, for a prompt that has as many.
    /// `budget` is `b`: entries per KV head and layer, window included.
    pub fn window(&self, budget: usize) -> usize {
        match self.policy.recipe().map(|recipe| recipe.window) {
            Some(WindowRule::Configured) | None => self.config.window,
            Some(WindowRule::Last) => 1,
            Some(WindowRule::BudgetWithoutSinks) => budget.saturating_sub(self.config.sinks),
        }
    }

    /// Whether the budget leaves anything outside what is always kept; without that only prompts can run
    /// that are kept whole.
    ///
    /// # Errors
    /// The client, whose budget is too small; the error says the least that works.
    pub fn check_budget(&self, budget: usize) -> Result<(), Error> {
        match self.policy {
            Policy::Full => Ok(()),
            _ => self.contested(budget).map(|_| ()),
        }
    }

    /// The least budget that [`Method::check_budget`] takes, and what a smaller one lacks room for.
    pub(crate) fn budget_min(&self) -> (usize, AlwaysKept) {
        let sinks = self.config.sinks;
        match self.policy.recipe().map(|recipe| recipe.window) {
            Some(WindowRule::BudgetWithoutSinks) => {
                (sinks.saturating_add(1), AlwaysKept::Sinks(sinks))
            }
            Some(WindowRule::Configured | WindowRule::Last) | None => {
                let window = self.window(0);
                (window.saturating_add(1), AlwaysKept::Window(window))
            }
        }
    }

    /// Entries per KV head and layer that entries outside the window compete for: `b - W`.
    ///
    /// # Errors
    /// The client: the budget leaves nothing to compete for. That is how StreamingLLM without sinks
    /// works, but it needs at least one position.
    pub(crate) fn contested(&self, budget: usize) -> Result<usize, Error> {
        let window = self.window(budget);
        let sinks = self.config.sinks;
        match self.policy.recipe().map(|recipe| recipe.window) {
            Some(WindowRule::BudgetWithoutSinks) if budget <= sinks => {
                Err(Error::BudgetWithinSinks { budget, sinks })
            }
            Some(WindowRule::BudgetWithoutSinks) => Ok(sinks),
            _ if budget <= window => Err(Error::BudgetWithinWindow { budget, window }),
            _ => Ok(budget - window),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_the_policys() {
        let window = |text: &str, budget| text.parse::<Method>().unwrap().window(budget);
        assert_eq!(window("lava", 100), 32);
        assert_eq!(window("snapkv+window=8", 100), 8);
        assert_eq!(window("tova+window=8", 100), 1);
        assert_eq!(window("streaming-llm+window=8", 100), 96);
        assert_eq!(window("streaming-llm+sinks=0", 100), 100);
    }

    #[test]
    fn streaming_needs_a_budget_above_its_sinks() {
        let method = Method::new(Policy::StreamingLlm);
        let (budget, sinks) = (4, 4);
        assert_eq!(
            method.contested(budget),
            Err(Error::BudgetWithinSinks { budget, sinks })
        );
        assert_eq!(method.contested(5), Ok(4));
    }
}
