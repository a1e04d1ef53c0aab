//! The cascade: one request's prefill, layer by layer, each finished layer cut again after every
//! layer.

use crate::budget::Budgets;
use crate::entropy::entropy;
use crate::recipe::ScoreRule;
use crate::rule::{Ranking, Rule};
use crate::unobserved;
use crate::{Error, LayerPlan, LayerScores, Method, RankedLayer, RankingWanted, Shape};

/// The eviction state of one request during prefill (Algorithm 2 of the paper).
///
/// After every [`push_layer`](Cascade::push_layer), each head of each finished layer keeps the
/// first `kept` rows of its `head_order`, and the first `certain` of them are final, so they can be
/// shipped. `kept` never grows, `certain` never shrinks, and after the last layer they are equal.
/// The last `min(W, N)` rows of every head are always kept, certain at once and counted in neither.
/// Which of it is certain before the last layer, [`Policy::certainty`](crate::Policy::certainty) says.
#[derive(Debug, Clone)]
pub struct Cascade {
    shape: Shape,
    window_rows: usize,
    layers_done: usize,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Every layer has the same counts `[Hkv]`, and every head the same order.
    Everything { counts: Vec<usize>, order: Vec<u32> },
    Evicting {
        score: ScoreRule,
        rule: Rule,
        budgets: Budgets,
        plans: Vec<LayerPlan>,
    },
}

impl Cascade {
    /// `budget` is `b`: entries per KV head and layer, window included.
    ///
    /// # Errors
    /// Whoever wrote the configuration, see [`Config::check`](crate::Config::check); or the client,
    /// whose budget does not exceed the window although its prompt does, or whose prompt is too long to
    /// number.
    ///
    /// # Panics
    /// If the shape has no layers or no KV heads.
    pub fn new(method: &Method, shape: Shape, budget: usize) -> Result<Cascade, Error> {
        assert!(
            shape.layers > 0 && shape.kv_heads > 0,
            "a model has layers and KV heads"
        );
        let config = &method.config;
        config.check()?;
        shape.check()?;
        let n = shape.rows_outside_window(method, budget);
        let state = match method.policy.recipe() {
            Some(recipe) if !shape.keeps_everything(method, budget) => {
                let contested = method.contested(budget)?;
                State::Evicting {
                    score: recipe.score,
                    rule: Rule::new(recipe, config, shape, n, budget),
                    budgets: Budgets::new(recipe, config, shape, n, contested),
                    plans: Vec::with_capacity(shape.layers),
                }
            }
            _ => State::Everything {
                counts: vec![n; shape.kv_heads],
                order: (0..n as u32).collect(),
            },
        };
        Ok(Cascade {
            shape,
            window_rows: shape.window_rows(method, budget),
            layers_done: 0,
            state,
        })
    }

    /// Finishes the next layer and cuts all finished layers. Scores are `[Hkv, n]`; they are not read,
    /// and may be empty ([`LayerScores::default`]), if the cascade
    /// [keeps everything](Cascade::keeps_everything) or its method
    /// [observes nothing](crate::ObservedRows::Nothing).
    ///
    /// # Errors
    /// The engine: a score or the preference is NaN, infinite or negative. The cascade is left as it
    /// was.
    ///
    /// # Panics
    /// If all layers are finished, or there are more or fewer scores.
    pub fn push_layer(&mut self, layer_scores: LayerScores) -> Result<(), Error> {
        let layer = self.layers_done;
        assert!(layer < self.shape.layers, "all {layer} layers are finished");
        if let State::Evicting {
            score,
            rule,
            budgets,
            plans,
        } = &mut self.state
        {
            let kv_heads = self.shape.kv_heads;
            let n = self.shape.tokens - self.window_rows;
            let LayerScores { scores, preference } = layer_scores;
            let scores = unobserved::scores(*score, layer, kv_heads, n).unwrap_or(scores);
            assert_eq!(scores.len(), kv_heads * n, "scores are [Hkv, n]");
            check_scores(layer, &scores)?;
            check_preference(layer, preference)?;
            let entropy = entropy(&scores);
            budgets.add_layer(entropy, preference);
            recut(rule, budgets, plans);
            let cut = budgets.cut(layer, entropy);
            plans.push(LayerPlan::new(rule, Ranking::Scores(&scores), entropy, cut));
        }
        self.layers_done += 1;
        Ok(())
    }

    /// What has to be ranked of the next layer for [`push_ranked`](Cascade::push_ranked); none if only its scores
    /// will do, or nothing has to be.
    ///
    /// # Panics
    /// If all layers are finished.
    pub fn ranking_wanted(&self) -> Option<RankingWanted> {
        let layer = self.layers_done;
        assert!(layer < self.shape.layers, "all {layer} layers are finished");
        match &self.state {
            State::Evicting { rule, budgets, .. } => rule.wanted(budgets.next_max(layer)?),
            State::Everything { .. } => None,
        }
    }

    /// Finishes the next layer, as [`push_layer`](Cascade::push_layer) does, where its scores are somewhere else: on a
    /// GPU, which has ranked them.
    ///
    /// # Errors
    /// The engine: the entropy is NaN or not in `[0, 1]`, as of scores that are no numbers. The cascade is left as it
    /// was.
    ///
    /// # Panics
    /// If less was ranked than [was wanted](Cascade::ranking_wanted), or nothing was wanted.
    pub fn push_ranked(&mut self, ranked: &RankedLayer) -> Result<(), Error> {
        let layer = self.layers_done;
        assert!(
            self.ranking_wanted().is_some(),
            "this layer's scores are needed"
        );
        let entropy = ranked.entropy;
        if !(0.0..=1.0).contains(&entropy) {
            return Err(Error::BadEntropy { layer, entropy });
        }
        if let State::Evicting {
            rule,
            budgets,
            plans,
            ..
        } = &mut self.state
        {
            budgets.add_layer(entropy, 0.0);
            recut(rule, budgets, plans);
            let cut = budgets.cut(layer, entropy);
            plans.push(LayerPlan::new(rule, Ranking::Ranked(ranked), entropy, cut));
        }
        self.layers_done += 1;
        Ok(())
    }

    /// Whether every row of every layer is kept, certain as soon as its layer is finished, in
    /// position order. Scores are then not needed.
    pub fn keeps_everything(&self) -> bool {
        matches!(self.state, State::Everything { .. })
    }

    /// How many layers are finished.
    pub fn layers_done(&self) -> usize {
        self.layers_done
    }

    /// Rows at the end of the prompt that every head of every layer keeps: `min(W, N)`.
    pub fn window_rows(&self) -> usize {
        self.window_rows
    }

    /// Per KV head of a finished layer, `[Hkv]`: rows outside the window that are still kept.
    ///
    /// # Panics
    /// Here and below, if the layer is not finished.
    pub fn kept(&self, layer: usize) -> &[usize] {
        self.assert_done(layer);
        match &self.state {
            State::Everything { counts, .. } => counts,
            State::Evicting { plans, .. } => plans[layer].kept(),
        }
    }

    /// Per KV head of a finished layer, `[Hkv]`: rows outside the window that later layers cannot
    /// evict.
    pub fn certain(&self, layer: usize) -> &[usize] {
        self.assert_done(layer);
        match &self.state {
            State::Everything { counts, .. } => counts,
            State::Evicting { plans, .. } => plans[layer].certain(),
        }
    }

    /// Positions outside the window that a head still keeps, best first; as many as
    /// [`kept`](Cascade::kept) says.
    pub fn head_order(&self, layer: usize, head: usize) -> &[u32] {
        self.assert_done(layer);
        match &self.state {
            State::Everything { order, .. } => order,
            State::Evicting { plans, .. } => plans[layer].head_order(head),
        }
    }

    /// Entropy and budgets of a finished layer; none if the cascade keeps everything.
    pub fn plan(&self, layer: usize) -> Option<&LayerPlan> {
        self.assert_done(layer);
        match &self.state {
            State::Everything { .. } => None,
            State::Evicting { plans, .. } => Some(&plans[layer]),
        }
    }

    /// Rows that the finished layers hold now, window included: at most
    /// [`rows_peak`](crate::rows_peak), and in the end at most [`rows_max`](crate::rows_max).
    pub fn rows_kept(&self) -> usize {
        let outside: usize = (0..self.layers_done)
            .flat_map(|layer| self.kept(layer))
            .sum();
        outside + self.layers_done * self.shape.kv_heads * self.window_rows
    }

    fn assert_done(&self, layer: usize) {
        assert!(
            layer < self.layers_done,
            "layer {layer} is not among the {} finished",
            self.layers_done
        );
    }
}

/// Cuts the finished layers after one more.
fn recut(rule: &Rule, budgets: &Budgets, plans: &mut [LayerPlan]) {
    for (earlier, plan) in plans.iter_mut().enumerate() {
        plan.recut(rule, budgets.cut(earlier, plan.entropy()));
    }
}

fn check_scores(layer: usize, scores: &[f32]) -> Result<(), Error> {
    match scores.iter().position(|s| !(s.is_finite() && *s >= 0.0)) {
        Some(index) => Err(Error::BadScore {
            layer,
            index,
            score: scores[index],
        }),
        None => Ok(()),
    }
}

fn check_preference(layer: usize, preference: f64) -> Result<(), Error> {
    if preference.is_finite() && preference >= 0.0 {
        Ok(())
    } else {
        Err(Error::BadPreference { layer, preference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Policy, Profile};

    const EXACT: Policy = Policy::Lava(Profile::Exact);
    const SHAPE: Shape = Shape {
        layers: 2,
        kv_heads: 2,
        tokens: 6,
    };

    fn request(policy: Policy, shape: Shape, budget: usize) -> Result<Cascade, Error> {
        let config = Config {
            window: 2,
            ..Config::default()
        };
        Cascade::new(&Method { policy, config }, shape, budget)
    }

    fn scores(scores: &[f32]) -> LayerScores {
        scores.to_vec().into()
    }

    #[test]
    fn a_budget_not_above_the_window_is_refused() {
        for budget in [0, 2] {
            let error = request(EXACT, SHAPE, budget).unwrap_err();
            assert_eq!(error, Error::BudgetWithinWindow { budget, window: 2 });
        }
        assert!(!request(EXACT, SHAPE, 3).unwrap().keeps_everything());
    }

    #[test]
    fn a_budget_within_the_window_is_accepted_when_everything_is_kept_anyway() {
        let short = Shape { tokens: 2, ..SHAPE };
        let mut cascade = request(EXACT, short, 1).unwrap();
        cascade.push_layer(scores(&[])).unwrap();
        assert_eq!((cascade.window_rows(), cascade.kept(0)), (2, &[0, 0][..]));
        assert_eq!(cascade.rows_kept(), 4);
        assert!(request(Policy::Full, SHAPE, 0).unwrap().keeps_everything());
    }

    #[test]
    fn keeping_everything_needs_no_scores_and_is_certain_at_once() {
        for (policy, budget) in [(Policy::Full, 3), (EXACT, 6)] {
            let mut cascade = request(policy, SHAPE, budget).unwrap();
            cascade.push_layer(scores(&[])).unwrap();
            assert_eq!(cascade.kept(0), [4, 4]);
            assert_eq!(cascade.certain(0), [4, 4]);
            assert_eq!(cascade.head_order(0, 1), [0, 1, 2, 3]);
            assert!(cascade.plan(0).is_none());
            assert_eq!(cascade.rows_kept(), 12);
        }
    }

    #[test]
    fn a_bad_score_is_named_with_its_layer_and_index_and_changes_nothing() {
        let mut cascade = request(EXACT, SHAPE, 3).unwrap();
        cascade.push_layer(scores(&[0.5; 8])).unwrap();
        let before = cascade.kept(0).to_vec();
        for bad in [f32::NAN, f32::INFINITY, -1.0, f32::NEG_INFINITY] {
            let mut bad_scores = [0.25; 8];
            bad_scores[3] = bad;
            bad_scores[5] = bad;
            let error = cascade.push_layer(scores(&bad_scores)).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::BadScore {
                        layer: 1,
                        index: 3,
                        ..
                    }
                ),
                "{error}"
            );
            assert_eq!((cascade.layers_done(), cascade.kept(0)), (1, &before[..]));
        }
        cascade.push_layer(scores(&[0.25; 8])).unwrap();
        assert_eq!(cascade.layers_done(), 2);
    }

    #[test]
    #[should_panic(expected = "scores are [Hkv, n]")]
    fn scores_of_another_length_are_a_bug() {
        let _ = request(EXACT, SHAPE, 3)
            .unwrap()
            .push_layer(scores(&[0.5; 7]));
    }

    #[test]
    #[should_panic(expected = "all 2 layers are finished")]
    fn a_layer_too_many_is_a_bug() {
        let mut cascade = request(EXACT, SHAPE, 3).unwrap();
        (0..3).for_each(|_| cascade.push_layer(scores(&[0.5; 8])).unwrap());
    }

    #[test]
    fn a_bad_preference_is_named_and_changes_nothing() {
        let mut cascade = request(Policy::Cake, SHAPE, 3).unwrap();
        for preference in [f64::NAN, f64::INFINITY, -1.0] {
            let layer = LayerScores {
                preference,
                ..scores(&[0.5; 8])
            };
            let error = cascade.push_layer(layer).unwrap_err();
            assert!(
                matches!(error, Error::BadPreference { layer: 0, .. }),
                "{error}"
            );
            assert_eq!(cascade.layers_done(), 0);
        }
    }

    #[test]
    fn a_policy_that_observes_nothing_needs_no_scores() {
        let shape = Shape {
            tokens: 20,
            ..SHAPE
        };
        let streaming = Cascade::new(&Method::new(Policy::StreamingLlm), shape, 10).unwrap();
        let random = request(Policy::Random, shape, 10).unwrap();
        for (mut cascade, window_rows) in [(streaming.clone(), 6), (random, 2)] {
            cascade.push_layer(LayerScores::default()).unwrap();
            assert_eq!(cascade.window_rows(), window_rows);
            assert_eq!(cascade.kept(0), [10 - window_rows; 2]);
            assert_eq!(cascade.certain(0), cascade.kept(0));
        }
        let mut cascade = streaming;
        cascade.push_layer(LayerScores::default()).unwrap();
        assert_eq!(cascade.head_order(0, 1), [0, 1, 2, 3]);
    }
}
