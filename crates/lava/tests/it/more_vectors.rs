//! `more_vectors.json`: many small requests with scores that are exact in `f32`.

use lava::scores::layer_scores;
use lava::{Cascade, Config, Gqa, LayerScores, Method, Pool, Shape, ValueNorm};
use serde::Deserialize;

use crate::inputs::{SplitMix64, fnv, fnv_positions, mean_only};

#[derive(Deserialize)]
struct Case {
    seed: u64,
    profile: String,
    #[serde(rename = "L")]
    layers: usize,
    #[serde(rename = "Hq")]
    query_heads: usize,
    #[serde(rename = "Hkv")]
    kv_heads: usize,
    #[serde(rename = "N")]
    tokens: usize,
    #[serde(rename = "b")]
    budget: usize,
    window: usize,
    kernel: usize,
    pool: String,
    gqa: String,
    value_norm: String,
    alpha_milli: u32,
    kinds: Vec<String>,
    expected: Expected,
}

/// Axes: by layer, by step of the cascade, by KV head. All but the first are missing if everything is
/// kept.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Expected {
    keeps_everything: bool,
    scores_fnv: Vec<String>,
    entropy_q20: Vec<u32>,
    budgets: Vec<Vec<usize>>,
    lower_bounds: Vec<Vec<usize>>,
    kept: Vec<Vec<Vec<usize>>>,
    certain: Vec<Vec<Vec<usize>>>,
    order_fnv: Vec<Vec<String>>,
}

impl Case {
    fn method(&self) -> Method {
        let policy = format!("lava-{}", self.profile).parse().unwrap();
        let config = Config {
            window: self.window,
            kernel: self.kernel,
            pool: match self.pool.as_str() {
                "max" => Pool::Max,
                "avg" => Pool::Avg,
                "none" => Pool::None,
                other => panic!("unknown pool {other}"),
            },
            gqa: match self.gqa.as_str() {
                "max" => Gqa::Max,
                "mean" => Gqa::Mean,
                other => panic!("unknown group reduction {other}"),
            },
            value_norm: match self.value_norm.as_str() {
                "nonwindow" => ValueNorm::NonWindow,
                "off" => ValueNorm::Off,
                other => panic!("unknown value norm {other}"),
            },
            alpha_milli: self.alpha_milli,
            ..Config::default()
        };
        Method { policy, config }
    }

    fn shape(&self) -> Shape {
        Shape {
            layers: self.layers,
            kv_heads: self.kv_heads,
            tokens: self.tokens,
        }
    }

    /// Scores of the next layer.
    fn scores(&self, layer: usize, random: &mut SplitMix64) -> LayerScores {
        let kind = &self.kinds[layer % self.kinds.len()];
        let n = self.tokens - self.window;
        let mean_attention = rows(kind, self.query_heads, n, layer % 4, random);
        let value_norms: Vec<f32> = (0..self.kv_heads)
            .map(|_| (1 + (random.next() >> 60)) as f32 / 8.0)
            .collect();
        let method = self.method();
        let observation = mean_only(&method, &mean_attention, self.query_heads, &value_norms);
        layer_scores(&method, &observation)
    }

    /// What the crate makes of the request.
    fn found(&self) -> Expected {
        let mut cascade = Cascade::new(&self.method(), self.shape(), self.budget).unwrap();
        let mut found = Expected {
            keeps_everything: cascade.keeps_everything(),
            ..Expected::default()
        };
        if found.keeps_everything {
            return found;
        }
        let mut random = SplitMix64(self.seed);
        for layer in 0..self.layers {
            let scores = self.scores(layer, &mut random);
            found.scores_fnv.push(fnv(scores
                .scores
                .iter()
                .flat_map(|score| score.to_le_bytes())));
            cascade.push_layer(scores).unwrap();
            let done = || 0..=layer;
            let cuts = || done().map(|l| cascade.plan(l).unwrap().cut());
            found.budgets.push(cuts().map(|cut| cut.budget).collect());
            found
                .lower_bounds
                .push(cuts().map(|cut| cut.certain).collect());
            found
                .kept
                .push(done().map(|l| cascade.kept(l).to_vec()).collect());
            found
                .certain
                .push(done().map(|l| cascade.certain(l).to_vec()).collect());
        }
        for layer in 0..self.layers {
            let orders = (0..self.kv_heads).map(|head| cascade.head_order(layer, head));
            found
                .entropy_q20
                .push(cascade.plan(layer).unwrap().entropy_q20());
            found.order_fnv.push(orders.map(fnv_positions).collect());
        }
        found
    }
}

/// Mean attention `[heads, n]`, as `rows` of the script draws it.
fn rows(kind: &str, heads: usize, n: usize, squarings: usize, random: &mut SplitMix64) -> Vec<f32> {
    match kind {
        "zero" => vec![0.0; heads * n],
        "equal" => vec![0.25; heads * n],
        "one_hot" => {
            let mut rows = vec![0.0; heads * n];
            let head = random.next() as usize % heads;
            rows[head * n + random.next() as usize % n] = 0.5;
            rows
        }
        "sharp" => {
            let mut rows = vec![0.0; heads * n];
            let hot = random.next() as usize % n;
            rows[hot] = 0.5;
            rows[(hot + 1) % n] = 0.5f32.powi(21);
            rows
        }
        "random" => {
            let draw = || (random.next() >> 52) as f32 / 4096.0;
            let rows = std::iter::repeat_with(draw).take(heads * n);
            rows.map(|x| (0..squarings).fold(x, |x, _| x * x)).collect()
        }
        other => panic!("unknown kind {other}"),
    }
}

#[test]
fn many_small_requests_meet_the_script_to_the_last_integer() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../data/more_vectors.json")).unwrap();
    for case in &cases {
        assert_eq!(
            case.found(),
            case.expected,
            "seed {} of {}",
            case.seed,
            case.profile
        );
    }
    assert!(cases.len() > 150);
}
