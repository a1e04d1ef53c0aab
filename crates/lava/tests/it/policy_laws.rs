//! The laws that every policy obeys under every setting: what is kept only shrinks, what is certain only
//! grows and survives, and nobody holds more than was reserved.

use lava::scores::{Observation, layer_scores};
use lava::{
    Cascade, Certainty, LayerScores, Method, ObservedRows, Policy, Shape, rows_max, rows_peak,
};
use proptest::prelude::*;

use crate::laws::{View, scores_strategy, view};
use crate::oracles::method_strategy;

/// One request that evicts, and what is observed of its layers.
#[derive(Debug, Clone)]
struct Request {
    method: Method,
    shape: Shape,
    group: usize,
    budget: usize,
    /// Per layer `[Hq, N]`, of which a policy with a wide window reads less; everything that is
    /// observed is made of it.
    attention: Vec<Vec<f32>>,
}

impl Request {
    fn cascade(&self) -> Cascade {
        let cascade = Cascade::new(&self.method, self.shape, self.budget).unwrap();
        assert!(!cascade.keeps_everything());
        cascade
    }

    fn n(&self) -> usize {
        self.shape.rows_outside_window(&self.method, self.budget)
    }

    fn scores(&self, attention: &[f32]) -> LayerScores {
        let kv_heads = self.shape.kv_heads;
        let query_heads = kv_heads * self.group;
        let mean = &attention[..query_heads * self.n()];
        let map = |f: &dyn Fn(f32) -> f32| mean.iter().map(|&x| f(x)).collect::<Vec<f32>>();
        let (variance, max) = (map(&|x| x * x * 0.25), map(&|x| x * 1.5));
        let outputs: Vec<f32> = mean.iter().rev().map(|x| 1.0 + x).collect();
        let norms: Vec<f32> = (1..=kv_heads).map(|head| head as f32).collect();
        let rows = match self.method.observes().rows {
            ObservedRows::Last(rows) => rows,
            ObservedRows::All | ObservedRows::Nothing => self.shape.tokens,
        };
        layer_scores(
            &self.method,
            &Observation {
                query_heads,
                kv_heads,
                mean,
                variance: &variance,
                max: &max,
                entropy: f64::from(mean[0]) * 9.0,
                rows,
                value_norms: &norms,
                value_outputs: &outputs[..kv_heads * self.n()],
            },
        )
    }

    fn push(&self, cascade: &mut Cascade, layer: usize) {
        let scores = self.scores(&self.attention[layer]);
        cascade.push_layer(scores).unwrap();
    }
}

fn request_strategy() -> impl Strategy<Value = Request> {
    (
        method_strategy(),
        1usize..9,
        (1usize..6, 1usize..3),
        2usize..60,
    )
        .prop_flat_map(|(method, layers, (kv_heads, group), beyond)| {
            let least = match method.policy {
                Policy::StreamingLlm => method.config.sinks,
                _ => method.window(0),
            };
            let tokens = least + beyond + 1;
            let shape = Shape {
                layers,
                kv_heads,
                tokens,
            };
            let len = kv_heads * group * tokens;
            let attention = prop::collection::vec(scores_strategy(len..len + 1), layers);
            (Just((method, shape, group)), least + 1..tokens, attention)
        })
        .prop_map(|((method, shape, group), budget, attention)| Request {
            method,
            shape,
            group,
            budget,
            attention,
        })
        .prop_filter("keeps everything", |request| {
            !request
                .shape
                .keeps_everything(&request.method, request.budget)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn kept_sets_are_nested_and_certain_prefixes_grow_until_both_meet(
        request in request_strategy(),
    ) {
        let kv_heads = request.shape.kv_heads;
        let mut cascade = request.cascade();
        let mut before = View::new();
        for layer in 0..request.shape.layers {
            request.push(&mut cascade, layer);
            let after = view(&cascade, kv_heads);
            for ((kept, certain, orders), (kept_before, certain_before, orders_before)) in
                after.iter().zip(&before)
            {
                for head in 0..kv_heads {
                    prop_assert!(kept[head] <= kept_before[head]);
                    prop_assert!(certain[head] >= certain_before[head]);
                    prop_assert!(orders_before[head].starts_with(&orders[head]));
                }
            }
            for (kept, certain, orders) in &after {
                for head in 0..kv_heads {
                    prop_assert!(certain[head] <= kept[head]);
                    prop_assert_eq!(kept[head], orders[head].len());
                }
            }
            before = after;
        }
        for (kept, certain, _) in &before {
            prop_assert_eq!(kept, certain);
        }
    }

    #[test]
    fn certain_rows_survive_whatever_the_later_layers_are(
        request in request_strategy(),
        step in any::<prop::sample::Index>(),
        later in scores_strategy(5 * 2 * 70..5 * 2 * 70 + 1),
    ) {
        let step = step.index(request.shape.layers);
        let mut cascade = request.cascade();
        (0..=step).for_each(|layer| request.push(&mut cascade, layer));
        let before = view(&cascade, request.shape.kv_heads);

        for _ in step + 1..request.shape.layers {
            cascade.push_layer(request.scores(&later)).unwrap();
        }
        for (layer, (_, certain, orders)) in before.iter().enumerate() {
            for (head, order) in orders.iter().enumerate() {
                let certain = &order[..certain[head]];
                prop_assert!(cascade.head_order(layer, head).starts_with(certain));
            }
        }
    }

    #[test]
    fn a_head_keeps_the_beginning_of_its_own_ranking_after_its_sinks(
        request in request_strategy(),
    ) {
        let mut cascade = request.cascade();
        let (n, sinks) = (request.n(), request.method.config.sinks);
        for layer in 0..request.shape.layers {
            request.push(&mut cascade, layer);
        }
        for (layer, attention) in request.attention.iter().enumerate() {
            let LayerScores { scores, .. } = request.scores(attention);
            for (head, scores) in scores.chunks(n).enumerate() {
                let order = lava::reference::order(scores);
                let (mut ranking, others): (Vec<u32>, Vec<u32>) =
                    order.into_iter().partition(|&position| (position as usize) < sinks);
                ranking.extend(others);
                prop_assert!(ranking.starts_with(cascade.head_order(layer, head)));
            }
        }
    }

    #[test]
    fn no_step_holds_more_rows_than_the_peak_and_the_end_no_more_than_the_maximum(
        request in request_strategy(),
    ) {
        let peak = rows_peak(&request.method, request.shape, request.budget);
        let max = rows_max(&request.method, request.shape, request.budget);
        prop_assert!(max <= peak);
        let mut cascade = request.cascade();
        for layer in 0..request.shape.layers {
            request.push(&mut cascade, layer);
            prop_assert!(cascade.rows_kept() <= peak, "{} of {peak}", cascade.rows_kept());
        }
        prop_assert!(cascade.rows_kept() <= max, "{} of {max}", cascade.rows_kept());
    }

    #[test]
    fn a_layer_floor_and_budgets_known_before_are_certain_at_once(request in request_strategy()) {
        let Request { method, shape, budget, .. } = &request;
        let known = match method.policy {
            Policy::Cake => None,
            Policy::Lava(_) | Policy::LavaPeaks | Policy::LavaHeads => Some(method.config.layer_floor_milli == 1000),
            _ => Some(true),
        };
        let mut cascade = request.cascade();
        for layer in 0..shape.layers - 1 {
            request.push(&mut cascade, layer);
            match known {
                Some(true) => prop_assert_eq!(cascade.certain(layer), cascade.kept(layer)),
                Some(false) => {
                    let contested = budget - method.window(*budget);
                    let even = contested as u64 * u64::from(method.config.layer_floor_milli) / 1000;
                    let cut = cascade.plan(layer).unwrap().cut();
                    prop_assert!(cut.certain as u64 >= even);
                }
                None => {
                    prop_assert_eq!(method.policy.certainty(), Certainty::None);
                    prop_assert!(cascade.certain(layer).iter().all(|&rows| rows == 0));
                }
            }
        }
    }
}

#[test]
fn full_keeps_everything_under_every_setting() {
    let shape = Shape {
        layers: 2,
        kv_heads: 2,
        tokens: 50,
    };
    let method: Method = "full+window=8+sinks=4+floor=100".parse().unwrap();
    let mut cascade = Cascade::new(&method, shape, 20).unwrap();
    cascade.push_layer(LayerScores::default()).unwrap();
    assert_eq!(cascade.rows_kept(), 2 * 50);
    assert_eq!(cascade.certain(0), cascade.kept(0));
}
