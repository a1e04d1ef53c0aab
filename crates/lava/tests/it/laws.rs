//! The laws of LAVa's three profiles, over odd sizes and degenerate scores. `policy_laws.rs` has the laws
//! that every policy obeys.

use std::ops::Range;

use expect_test::expect;
use lava::entropy::entropy;
use lava::ranking::Entries;
use lava::{
    Cascade, Config, Error, Method, Policy, Profile, RankedLayer, RankingWanted, Shape, rows_max,
};
use proptest::prelude::*;

const ONE_Q20: u64 = 1 << 20;

/// Zero has two signs and one rank.
const TIED: [f32; 5] = [0.0, -0.0, 1.0, 2.0, 3.0];

/// Scores of a layer: spread, full of ties, sharp, all equal, all zero, or one-hot.
pub(crate) fn scores_strategy(len: Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        4 => prop::collection::vec(0.0f32..1.0, len.clone()),
        2 => prop::collection::vec(prop::sample::select(&TIED[..]), len.clone()),
        2 => prop::collection::vec((0.0f32..1.0).prop_map(|x| x.powi(40)), len.clone()),
        1 => len.clone().prop_map(|len| vec![0.5; len]),
        1 => len.clone().prop_map(|len| vec![0.0; len]),
        1 => (len, any::<prop::sample::Index>()).prop_map(|(len, hot)| {
            let mut scores = vec![0.0; len];
            scores[hot.index(len)] = 3.0;
            scores
        }),
    ]
}

/// One request that evicts, and the scores `[Hkv, n]` of its layers.
#[derive(Debug, Clone)]
struct Request {
    profile: Profile,
    config: Config,
    shape: Shape,
    budget: usize,
    scores: Vec<Vec<f32>>,
}

impl Request {
    fn method(&self) -> Method {
        Method {
            policy: Policy::Lava(self.profile),
            config: self.config,
        }
    }

    fn cascade(&self) -> Cascade {
        let cascade = Cascade::new(&self.method(), self.shape, self.budget).unwrap();
        assert!(!cascade.keeps_everything());
        cascade
    }

    fn rows_max(&self) -> usize {
        rows_max(&self.method(), self.shape, self.budget)
    }

    fn push(&self, cascade: &mut Cascade, layers: Range<usize>) {
        for scores in &self.scores[layers] {
            cascade.push_layer(scores.clone().into()).unwrap();
        }
    }

    fn n(&self) -> usize {
        self.shape.tokens - self.config.window
    }

    fn finished(&self) -> Cascade {
        let mut cascade = self.cascade();
        self.push(&mut cascade, 0..self.scores.len());
        cascade
    }
}

fn request_strategy() -> impl Strategy<Value = Request> {
    let profile = prop_oneof![
        Just(Profile::Exact),
        Just(Profile::Paper),
        Just(Profile::Code)
    ];
    let alpha = prop_oneof![Just(0u32), Just(200), Just(500), Just(1000), 0u32..=1000];
    (profile, alpha, 1usize..9, 1usize..6, 2usize..60, 1usize..9)
        .prop_flat_map(|(profile, alpha_milli, layers, kv_heads, n, window)| {
            let budgets = window + 1..window + n;
            let layer = scores_strategy(kv_heads * n..kv_heads * n + 1);
            let scores = prop::collection::vec(layer, layers);
            let config = Config {
                window,
                alpha_milli,
                ..Config::default()
            };
            let shape = Shape {
                layers,
                kv_heads,
                tokens: window + n,
            };
            (Just((profile, config, shape)), budgets, scores)
        })
        .prop_map(|((profile, config, shape), budget, scores)| Request {
            profile,
            config,
            shape,
            budget,
            scores,
        })
}

/// What no score may be.
fn bad_score_strategy() -> impl Strategy<Value = f32> {
    prop_oneof![
        Just(f32::NAN),
        Just(-f32::NAN),
        Just(f32::INFINITY),
        Just(f32::NEG_INFINITY),
        Just(-f32::MIN_POSITIVE),
        -9.0f32..-1e-6,
    ]
}

/// What the cascade says of its finished layers: kept, certain, orders.
pub(crate) type View = Vec<(Vec<usize>, Vec<usize>, Vec<Vec<u32>>)>;

pub(crate) fn view(cascade: &Cascade, kv_heads: usize) -> View {
    (0..cascade.layers_done())
        .map(|layer| {
            let orders = (0..kv_heads)
                .map(|head| cascade.head_order(layer, head).to_vec())
                .collect();
            (
                cascade.kept(layer).to_vec(),
                cascade.certain(layer).to_vec(),
                orders,
            )
        })
        .collect()
}

/// As far as it is wanted, and no further.
fn ranked(scores: &[f32], kv_heads: usize, wanted: RankingWanted) -> RankedLayer {
    let entries = Entries {
        scores,
        kv_heads,
        sinks: wanted.sinks,
    };
    let heads = entries.best_heads(wanted.best);
    let alpha = wanted.alpha_milli as usize;
    let earned = |head: usize| {
        let own = heads
            .iter()
            .filter(|best| usize::from(**best) == head)
            .count();
        let earned = (1000 - alpha) * kv_heads * own + alpha * heads.len();
        (earned / (1000 * kv_heads)).min(scores.len() / kv_heads)
    };
    let counts: Vec<usize> = (0..kv_heads).map(earned).collect();
    RankedLayer {
        entropy: entropy(scores),
        positions: entries.best_positions(&counts),
        heads,
    }
}

proptest! {
    #[test]
    fn the_exact_profile_keeps_exactly_its_integer_budgets(request in request_strategy()) {
        let request = Request { profile: Profile::Exact, ..request };
        let Shape { layers, kv_heads, .. } = request.shape;
        let total = (layers * kv_heads * (request.budget - request.config.window)) as u64;
        let cascade = request.finished();
        let plans = || (0..layers).map(|layer| cascade.plan(layer).unwrap());
        let q20: Vec<u64> = plans().map(|plan| u64::from(plan.entropy_q20())).collect();
        prop_assert!(q20.iter().all(|q20| (1..=ONE_Q20).contains(q20)));
        let sum: u64 = q20.iter().sum();
        let mut budgets = 0;
        for (layer, q20) in q20.iter().enumerate() {
            let budget = total * q20 / sum;
            budgets += budget;
            prop_assert_eq!(cascade.plan(layer).unwrap().cut().budget as u64, budget);
            let kept: usize = cascade.kept(layer).iter().sum();
            prop_assert_eq!(kept as u64, budget.min((kv_heads * request.n()) as u64));
        }
        prop_assert!(budgets <= total && total - budgets < layers as u64);
    }

    #[test]
    fn a_layer_that_was_ranked_elsewhere_is_cut_as_one_whose_scores_are_here(request in request_strategy()) {
        let kv_heads = request.shape.kv_heads;
        let (mut here, mut elsewhere) = (request.cascade(), request.cascade());
        for scores in &request.scores {
            here.push_layer(scores.clone().into()).unwrap();
            let wanted = elsewhere.ranking_wanted();
            prop_assert_eq!(wanted.is_none(), request.profile == Profile::Code);
            match wanted {
                Some(wanted) => elsewhere.push_ranked(&ranked(scores, kv_heads, wanted)).unwrap(),
                None => elsewhere.push_layer(scores.clone().into()).unwrap(),
            }
            prop_assert_eq!(view(&elsewhere, kv_heads), view(&here, kv_heads));
        }
    }

    #[test]
    fn budgets_never_sum_to_more_than_what_is_contested(request in request_strategy()) {
        let Shape { layers, kv_heads, .. } = request.shape;
        let heads = if request.profile == Profile::Exact { kv_heads } else { 1 };
        let total = layers * heads * (request.budget - request.config.window);
        let mut cascade = request.cascade();
        for scores in &request.scores {
            cascade.push_layer(scores.clone().into()).unwrap();
            let done = 0..cascade.layers_done();
            let budgets = done.map(|layer| cascade.plan(layer).unwrap().cut().budget);
            prop_assert!(budgets.sum::<usize>() <= total);
        }
    }

    #[test]
    fn exact_and_paper_never_hold_more_than_the_budget(
        request in request_strategy(),
        profile in prop_oneof![Just(Profile::Exact), Just(Profile::Paper)],
    ) {
        let request = Request { profile, ..request };
        let Shape { layers, kv_heads, .. } = request.shape;
        let mut cascade = request.cascade();
        for scores in &request.scores {
            cascade.push_layer(scores.clone().into()).unwrap();
            prop_assert!(cascade.rows_kept() <= layers * kv_heads * request.budget);
        }
    }

    #[test]
    fn layers_of_equal_scores_share_evenly_but_for_a_rounded_quotient(
        request in request_strategy(),
    ) {
        let Shape { layers, kv_heads, .. } = request.shape;
        let scores = vec![vec![0.25; kv_heads * request.n()]; layers];
        let cascade = Request { scores, ..request.clone() }.finished();
        let heads = if request.profile == Profile::Exact { kv_heads } else { 1 };
        let even = heads * (request.budget - request.config.window);
        for layer in 0..layers {
            let cut = cascade.plan(layer).unwrap().cut();
            // `more_vectors.py` leaves these requests out: the f64 quotient may be just below.
            let rounded = usize::from(request.profile != Profile::Exact);
            prop_assert!((even - rounded..=even).contains(&cut.budget), "{cut:?} of {even}");
            prop_assert_eq!(cut.budget, cut.certain);
        }
    }

    #[test]
    fn a_bad_score_is_refused_with_its_layer_and_index_and_changes_nothing(
        request in request_strategy(),
        layer in any::<prop::sample::Index>(),
        index in any::<prop::sample::Index>(),
        bad in bad_score_strategy(),
    ) {
        let layer = layer.index(request.shape.layers);
        let mut cascade = request.cascade();
        request.push(&mut cascade, 0..layer);
        let before = view(&cascade, request.shape.kv_heads);

        // A second bad score follows: the first one is reported.
        let mut scores = request.scores[layer].clone();
        let index = index.index(scores.len());
        scores[index] = bad;
        *scores.last_mut().unwrap() = bad;
        match cascade.push_layer(scores.into()) {
            Err(Error::BadScore { layer: found_layer, index: found_index, score }) => {
                prop_assert_eq!((found_layer, found_index), (layer, index));
                prop_assert_eq!(score.to_bits(), bad.to_bits());
            }
            other => prop_assert!(false, "{other:?}"),
        }

        prop_assert_eq!(cascade.layers_done(), layer);
        prop_assert_eq!(view(&cascade, request.shape.kv_heads), before);
        request.push(&mut cascade, layer..request.shape.layers);
        let expected = view(&request.finished(), request.shape.kv_heads);
        prop_assert_eq!(view(&cascade, request.shape.kv_heads), expected);
    }

    #[test]
    fn a_budget_not_above_the_window_is_refused_by_name(
        request in request_strategy(),
        budget in any::<prop::sample::Index>(),
    ) {
        let window = request.config.window;
        let budget = budget.index(window + 1);
        let error = Cascade::new(&request.method(), request.shape, budget).unwrap_err();
        prop_assert_eq!(error, Error::BudgetWithinWindow { budget, window });
    }

    #[test]
    fn equal_scores_use_up_what_the_exact_profile_reserves(request in request_strategy()) {
        let Shape { layers, kv_heads, .. } = request.shape;
        let scores = vec![vec![0.25; kv_heads * request.n()]; layers];
        let request = Request { scores, profile: Profile::Exact, ..request };
        prop_assert_eq!(request.finished().rows_kept(), request.rows_max());
    }
}

#[test]
fn refusals_name_what_was_found_and_what_was_expected() {
    let method: Method = "lava+window=2".parse().unwrap();
    let shape = Shape {
        layers: 2,
        kv_heads: 1,
        tokens: 6,
    };
    let budget = Cascade::new(&method, shape, 2).unwrap_err();
    let mut cascade = Cascade::new(&method, shape, 3).unwrap();
    cascade.push_layer(vec![0.5; 4].into()).unwrap();
    let score = cascade
        .push_layer(vec![0.5, 0.5, -0.25, 0.5].into())
        .unwrap_err();
    expect![[r#"
        the budget is 2 entries per KV head and layer, expected more than the window's 2
        score 2 of layer 1 is -0.25, expected a finite number of at least zero"#]]
    .assert_eq(&format!("{budget}\n{score}"));
}
