//! Causal attention of a prompt.

use std::sync::OnceLock;

use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{Compute, PrefillAttention};
use lava_kernels::{AttentionShape, reference};
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch, read};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("prefill.cu"))
}

#[derive(Clone, Debug)]
struct Case {
    compute: Compute,
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    rows: usize,
    first_position: usize,
    seed: u64,
}

/// How far the kernel is off, as a share of what is allowed: its output, and its logarithms of sums.
fn attend(case: &Case, runner: &Runner, order: Order) -> Result<[f64; 2], Fault> {
    let tokens = case.first_position + case.rows;
    let (q_heads, d) = (case.kv_heads * case.group, case.head_dim);
    let shape = AttentionShape {
        queries: case.rows,
        keys: tokens,
        q_heads,
        kv_heads: case.kv_heads,
        head_dim: d,
    };
    let mut random = Random(case.seed);
    let q = random.elements(case.rows * q_heads * d, 2.0, case.compute);
    let k = random.elements(tokens * case.kv_heads * d, 2.0, case.compute);
    let v = random.elements(tokens * case.kv_heads * d, 1.0, case.compute);
    let expected = reference::causal_attention(&q, &k, &v, &shape);
    let mut gpu = runner.gpu(order);
    let attention = PrefillAttention {
        compute: case.compute,
        head_dim: d,
        kv_heads: case.kv_heads,
        group: case.group,
        rows: case.rows,
        first_position: case.first_position,
        queries: gpu.filled("queries", &case.compute.narrow(&q)),
        keys: gpu.filled("keys", &case.compute.narrow(&k)),
        values: gpu.filled("values", &case.compute.narrow(&v)),
        out: gpu.undefined("out", 2 * q.len()),
        log_sums: gpu.undefined("log sums", 4 * case.rows * q_heads),
    };
    launch(&mut gpu, &attention.launch());
    let memory = runner.run(gpu)?;
    let out = case.compute.widen(memory.bytes(attention.out));
    let log_sums: Vec<f32> = read(memory.bytes(attention.log_sums));
    // Weights and the output are rounded to 11 or 8 bits; values are at most 1.
    let allowed = match case.compute {
        Compute::F16 => 1e-3,
        Compute::Bf16 => 8e-3,
    };
    let mut worst = [0.0f64; 2];
    let mut see = |at: usize, error: f64| {
        if error.is_nan() || error > worst[at] {
            worst[at] = error;
        }
    };
    for (out, expected) in out.iter().zip(&expected) {
        see(0, (f64::from(*out) - expected).abs() / allowed);
    }
    for (log_sum, expected) in log_sums
        .iter()
        .zip(crate::cuda_window::log_sums(&q, &k, &shape))
    {
        see(1, f64::from(log_sum - expected).abs() / 1e-4);
    }
    Ok(worst)
}

fn is_right(worst: [f64; 2]) -> bool {
    worst.iter().all(|share| *share < 1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn it_agrees_with_the_reference(
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]), wide_dim in any::<bool>(),
        kv_heads in 1usize..3, group in 1usize..4, rows in 1usize..150, first_position in 0usize..150,
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let head_dim = if wide_dim { 128 } else { 64 };
        let case = Case { compute, head_dim, kv_heads, group, rows, first_position, seed };
        let worst = attend(&case, kernels(), order).map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert!(is_right(worst), "{worst:?}");
    }
}

#[track_caller]
fn check_bug(from: &str, to: &str) {
    let unused = [
        "PREFILL(Bf16, 64, bf16_64)\n",
        "PREFILL(Bf16, 128, bf16_128)\n",
        "PREFILL(F16, 128, f16_128)\n",
    ];
    let case = Case {
        compute: Compute::F16,
        head_dim: 64,
        kv_heads: 2,
        group: 2,
        rows: 70,
        first_position: 60,
        seed: 2,
    };
    is_found("prefill.cu", &unused, Edit { from, to }, |runner, order| {
        Ok(is_right(attend(&case, runner, order)?))
    });
}

#[test]
fn a_query_that_sees_the_next_key_is_found() {
    check_bug(
        "key <= p.first_position + rows[j / 2]",
        "key <= p.first_position + rows[j / 2] + 1",
    );
}

#[test]
fn keys_of_another_head_are_found() {
    check_bug(
        "head = g / p.group, q_heads",
        "head = g % p.kv_heads, q_heads",
    );
}

#[test]
fn a_missing_barrier_is_found() {
    let keys = "        // The keys are there, and nobody needs the values of the tile before.\n";
    check_bug(&format!("{keys}        __syncthreads();\n"), keys);
    let values = "        // The values are there, and nobody needs the keys any more.\n";
    check_bug(&format!("{values}        __syncthreads();\n"), values);
}

#[test]
fn copies_that_are_not_waited_for_are_found() {
    let values = "        wait_for_copies<0>();\n        // The values are there";
    check_bug(values, "        // The values are there");
}

#[test]
fn a_sum_that_is_not_rescaled_is_found() {
    check_bug("sums[eight][j] *= kept[j / 2];", "(void)kept;");
}

#[test]
fn keys_behind_the_last_are_found() {
    check_bug("min(first + row, end - 1)", "min(first + row, end)");
}
