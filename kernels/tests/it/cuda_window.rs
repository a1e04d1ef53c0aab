//! What the window sees of a layer, value norms, and scores.

use std::sync::OnceLock;

use bytemuck::cast_slice;
use lava::scores::{Observation, layer_scores};
use lava::{Config, Gqa, Method, Policy, Profile, Score, ValueNorm};
use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{Compute, Norms, Scores, Statistic, ValueNorms, Window};
use lava_kernels::{AttentionShape, reference, value_norms};
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch, read};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("window.cu"))
}

#[derive(Clone, Debug)]
struct Case {
    compute: Compute,
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    tokens: usize,
    /// Queries that observe.
    rows: usize,
    columns: usize,
    statistic: Statistic,
    seed: u64,
}

/// `[rows, Hq]`: ln of the sum of exp(logit), in f64.
pub(crate) fn log_sums(q: &[f32], k: &[f32], s: &AttentionShape) -> Vec<f32> {
    let d = s.head_dim;
    let mut out = Vec::new();
    for row in 0..s.queries {
        for g in 0..s.q_heads {
            let query = &q[(row * s.q_heads + g) * d..][..d];
            let head = g / (s.q_heads / s.kv_heads);
            let logits = (0..=s.keys - s.queries + row).map(|i| {
                let key = &k[(i * s.kv_heads + head) * d..][..d];
                let product = query
                    .iter()
                    .zip(key)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b));
                product.sum::<f64>() / (d as f64).sqrt()
            });
            out.push(logits.map(f64::exp).sum::<f64>().ln() as f32);
        }
    }
    out
}

/// `[Hq, n]` from the kernel, and from the readable form.
fn look(case: &Case, runner: &Runner, order: Order) -> Result<(Vec<f32>, Vec<f64>), Fault> {
    let shape = AttentionShape {
        queries: case.rows,
        keys: case.tokens,
        q_heads: case.kv_heads * case.group,
        kv_heads: case.kv_heads,
        head_dim: case.head_dim,
    };
    let mut random = Random(case.seed);
    let q = random.elements(case.rows * shape.q_heads * case.head_dim, 2.0, case.compute);
    let k = random.elements(
        case.tokens * case.kv_heads * case.head_dim,
        2.0,
        case.compute,
    );
    let seen = reference::observe(&q, &k, &shape, case.columns);
    let rows = case.rows as f64;
    let expected = match case.statistic {
        Statistic::Mean => seen.mean,
        Statistic::Largest => seen.max,
        Statistic::RootMeanSquare => {
            let of = |(mean, variance): (&f64, &f64)| {
                (mean * mean + variance * (rows - 1.0) / rows).sqrt()
            };
            seen.mean.iter().zip(&seen.variance).map(of).collect()
        }
    };
    let mut gpu = runner.gpu(order);
    let window = Window {
        compute: case.compute,
        head_dim: case.head_dim,
        kv_heads: case.kv_heads,
        group: case.group,
        tokens: case.tokens,
        rows: case.rows,
        columns: case.columns,
        statistic: case.statistic,
        queries: gpu.filled("queries", &case.compute.narrow(&q)),
        keys: gpu.filled("keys", &case.compute.narrow(&k)),
        log_sums: gpu.filled("log sums", cast_slice(&log_sums(&q, &k, &shape))),
        seen: gpu.undefined("seen", 4 * expected.len()),
    };
    launch(&mut gpu, &window.launch());
    let memory = runner.run(gpu)?;
    Ok((read::<f32>(memory.bytes(window.seen)), expected))
}

/// Products of 16-bit numbers are exact, their sums and the exponentials are not.
fn is_close(found: &[f32], expected: &[f64]) -> bool {
    let close = |(found, expected): (&f32, &f64)| {
        (f64::from(*found) - expected).abs() < 1e-7 + 1e-4 * expected
    };
    found.len() == expected.len() && found.iter().zip(expected).all(close)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_window_sees_what_the_reference_sees(
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]), wide_dim in any::<bool>(),
        kv_heads in 1usize..4, group in 1usize..5, rows in 1usize..70, before in 0usize..150, window in 1usize..40,
        statistic in prop::sample::select(vec![Statistic::Mean, Statistic::RootMeanSquare, Statistic::Largest]),
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        // More queries may observe than the window has rows: some columns lie behind their positions.
        let tokens = rows.max(window) + before + 1;
        let head_dim = if wide_dim { 128 } else { 64 };
        let case = Case {
            compute, head_dim, kv_heads, group, tokens, rows, columns: tokens - window, statistic, seed,
        };
        let (found, expected) = look(&case, kernels(), order).map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert!(is_close(&found, &expected));
    }

    #[test]
    fn value_norms_are_those_of_the_cpu(
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]), wide_dim in any::<bool>(),
        kv_heads in 1usize..4, rows in 1usize..300, more in 0usize..30, seed in any::<u64>(),
    ) {
        let d = if wide_dim { 128 } else { 64 };
        let values = Random(seed).elements((rows + more) * kv_heads * d, 3.0, compute);
        let mut gpu = kernels().gpu(Order::Mixed(3));
        let norms = ValueNorms {
            compute, head_dim: d, kv_heads, rows,
            values: gpu.filled("values", &compute.narrow(&values)),
            norms: gpu.filled("norms", &vec![0; 4 * kv_heads]),
        };
        launch(&mut gpu, &norms.launch());
        let memory = kernels().run(gpu).map_err(|fault| TestCaseError::fail(fault.0))?;
        let expected = value_norms(&values, rows, kv_heads, d);
        for (found, expected) in read::<f32>(memory.bytes(norms.norms)).iter().zip(expected) {
            prop_assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");
        }
    }

    #[test]
    fn scores_and_their_entropy_are_those_of_the_method(
        kv_heads in 1usize..4, group in 1usize..5, columns in 1usize..600, kernel in 0usize..30,
        shoulder_milli in prop::sample::select(vec![0u32, 50, 1000]), score in 0usize..3, mean in any::<bool>(),
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let score = [Score::Lava, Score::MaxClamp, Score::ValueOutput][score];
        let config = Config {
            score, kernel: 2 * kernel + 1, shoulder_milli,
            gqa: if mean && score != Score::MaxClamp { Gqa::Mean } else { Gqa::Max },
            value_norm: ValueNorm::NonWindow,
            ..Config::default()
        };
        let (found, expected) = score_layer(&config, kv_heads, group, columns, seed, kernels(), order)
            .map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert!(are_scores(&found, &expected), "{:?}\n{:?}", found, expected);
    }
}

/// Scores, and their entropy.
type Scored = (Vec<f32>, f64);

fn are_scores(found: &Scored, expected: &Scored) -> bool {
    // Sums over a head are taken in another order, and then rounded.
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b;
    found.0.iter().zip(&expected.0).all(close) && (found.1 - expected.1).abs() < 1e-9
}

fn score_layer(
    config: &Config,
    kv_heads: usize,
    group: usize,
    columns: usize,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<(Scored, Scored), Fault> {
    let mut random = Random(seed);
    let mut positive =
        |count: usize| -> Vec<f32> { (0..count).map(|_| random.unit().abs().powi(4)).collect() };
    let seen = positive(kv_heads * group * columns);
    let (of_heads, of_entries) = (positive(kv_heads), positive(kv_heads * columns));
    let method = Method {
        policy: Policy::Lava(Profile::Exact),
        config: *config,
    };
    let observation = Observation {
        query_heads: kv_heads * group,
        kv_heads,
        mean: &seen,
        variance: &[],
        max: &seen,
        entropy: 0.0,
        rows: config.window,
        value_norms: &of_heads,
        value_outputs: &of_entries,
    };
    let expected = layer_scores(&method, &observation).scores;
    let mut gpu = runner.gpu(order);
    let mut scores = Scores {
        kv_heads,
        group,
        columns,
        kernel: config.kernel,
        shoulder: config.shoulder_milli as f32 / 1000.0,
        norms: match config.score {
            Score::ValueOutput => Norms::OfEntries(gpu.filled("norms", cast_slice(&of_entries))),
            _ => Norms::OfHeads(gpu.filled("norms", cast_slice(&of_heads))),
        },
        of_mean: config.gqa == Gqa::Mean,
        clamped: config.score == Score::MaxClamp,
        seen: gpu.filled("seen", cast_slice(&seen)),
        scores: gpu.undefined("scores", 4 * expected.len()),
        pooled_sums: 0,
        sums: 0,
    };
    scores.pooled_sums = gpu.undefined("pooled sums", scores.sum_bytes());
    scores.sums = gpu.undefined("sums", 2 * scores.sum_bytes());
    for one in scores.launches() {
        launch(&mut gpu, &one);
    }
    let memory = runner.run(gpu)?;
    let sums: Vec<f64> = read(memory.bytes(scores.sums));
    let (pairs, _) = sums.as_chunks::<2>();
    let total = |at: usize| pairs.iter().map(|pair| pair[at]).sum::<f64>();
    let entropy = |sum: f64, information: f64| sum.ln() - information / sum;
    let f64s = || expected.iter().map(|s| f64::from(*s)).filter(|s| *s > 0.0);
    let expected_entropy = entropy(f64s().sum(), f64s().map(|s| s * s.ln()).sum());
    let found = (
        read::<f32>(memory.bytes(scores.scores)),
        entropy(total(0), total(1)),
    );
    Ok((found, (expected, expected_entropy)))
}

/// Kernels that the planted bugs do not need.
const UNUSED: [&str; 3] = [
    "WINDOW(Bf16, 64, bf16_64)\n",
    "WINDOW(Bf16, 128, bf16_128)\n",
    "WINDOW(F16, 128, f16_128)\n",
];

#[track_caller]
fn check_look(from: &str, to: &str) {
    let case = Case {
        compute: Compute::F16,
        head_dim: 64,
        kv_heads: 2,
        group: 2,
        tokens: 150,
        rows: 45,
        columns: 140,
        statistic: Statistic::Mean,
        seed: 1,
    };
    is_found("window.cu", &UNUSED, Edit { from, to }, |runner, order| {
        let (found, expected) = look(&case, runner, order)?;
        Ok(is_close(&found, &expected))
    });
}

#[test]
fn keys_that_a_query_does_not_see_are_found() {
    check_look("key <= p.first_position + start + row", "key < p.columns");
}

#[test]
fn queries_that_are_not_there_are_found() {
    check_look("row < there && key", "key");
}

#[test]
fn a_missing_barrier_is_found() {
    let load = "const unsigned there = min(QUERIES, p.rows - start);\n";
    check_look(&format!("{load}            __syncthreads();\n"), load);
    let sums = ": 0.0f;\n            __syncthreads();\n";
    check_look(sums, ": 0.0f;\n");
}

#[test]
fn keys_of_another_head_are_found() {
    check_look(
        "(key * p.kv_heads + head) * D), t)",
        "(key * p.kv_heads) * D), t)",
    );
}

#[test]
fn a_key_behind_the_last_is_found() {
    check_look("min(first + 8 * half, p.columns - 1)", "(first + 8 * half)");
}

#[track_caller]
fn check_scores(from: &str, to: &str) {
    let config = Config {
        score: Score::MaxClamp,
        shoulder_milli: 50,
        ..Config::default()
    };
    is_found("window.cu", &UNUSED, Edit { from, to }, |runner, order| {
        let (found, expected) = score_layer(&config, 2, 3, 300, 4, runner, order)?;
        Ok(are_scores(&found, &expected))
    });
}

#[test]
fn a_pool_that_is_one_short_is_found() {
    check_scores(
        "min(at + p.reach + 1, p.columns)",
        "min(at + p.reach, p.columns)",
    );
}

#[test]
fn a_pool_that_looks_at_the_next_head_is_found() {
    check_scores("min(at + p.reach + 1, p.columns)", "(at + p.reach + 1)");
}

#[test]
fn a_missing_barrier_of_the_mean_is_found() {
    let mean = "static_cast<float>(sum / p.columns);\n    }\n";
    check_scores(&format!("{mean}    __syncthreads();\n"), mean);
}

#[test]
fn sums_that_leave_out_a_warp_are_found() {
    check_scores(
        "for (double of_warp : of_warps)\n            all += of_warp;",
        "all = of_warps[0];",
    );
}
