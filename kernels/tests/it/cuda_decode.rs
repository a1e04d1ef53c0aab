//! Decode attention over ragged pages, and the bugs that its tests find.

use std::sync::OnceLock;

use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{Compute, DecodeStep, pieces};
use lava_kernels::{DecodeHead, reference};
use lava_kv::RowFormat;
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch};
use crate::cuda_caches::{Caches, Shape};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("decode.cu"))
}

struct Case {
    shape: Shape,
    compute: Compute,
    group: usize,
    layer: usize,
    seed: u64,
}

/// `[B, Hq, D]` from the kernels, and from the readable form.
fn attend(case: &Case, runner: &Runner, order: Order) -> Result<(Vec<f32>, Vec<f64>), Fault> {
    let mut random = Random(case.seed);
    let caches = Caches::new(case.shape.clone(), &mut random);
    let Shape {
        format,
        kv_heads,
        head_dim,
        ..
    } = case.shape;
    let batch = case.shape.sequences.len();
    let len = case.group * head_dim;
    let queries = random.elements(batch * kv_heads * len, 2.0, case.compute);
    let mut expected = Vec::new();
    for (table, queries) in caches.layer(case.layer).zip(queries.chunks(len)) {
        let runs = vec![table.wide.run(format.wide()), table.packed.run(format)];
        let head = DecodeHead {
            queries,
            runs,
            mean_key: &table.mean_key,
        };
        expected.extend(reference::decode_attention(&head, head_dim));
    }

    let mut gpu = runner.gpu(order);
    let (sequences, pool) = caches.put(&mut gpu);
    let most = caches
        .layer(case.layer)
        .map(|t| pieces(t.wide.count, t.packed.count))
        .max();
    let mut step = DecodeStep {
        format,
        compute: case.compute,
        head_dim,
        kv_heads,
        group: case.group,
        batch,
        layer: case.layer,
        pool,
        sequences,
        queries: gpu.filled("queries", &case.compute.narrow(&queries)),
        out: gpu.undefined("out", 2 * queries.len()),
        partials: 0,
        pieces: most.unwrap(),
    };
    step.partials = gpu.undefined("partials", step.partial_bytes());
    for one in step.launches() {
        launch(&mut gpu, &one);
    }
    let memory = runner.run(gpu)?;
    Ok((case.compute.widen(memory.bytes(step.out)), expected))
}

/// The largest difference, as a share of what is allowed.
fn worst(found: &[f32], expected: &[f64], case: &Case) -> f64 {
    // Queries are rounded to 11 bits, or to 8 where rows are in bf16, which moves a logit of ours by 1e-3 or 8e-3 and
    // an answer by up to four times as much: values are at most 2. The answer has the bits of its type.
    let allowed = match (case.shape.format, case.compute) {
        (RowFormat::Bf16, _) => 5e-2,
        (_, Compute::F16) => 8e-3,
        (_, Compute::Bf16) => 1.6e-2,
    };
    let error = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs();
    let worst = found
        .iter()
        .zip(expected)
        .map(error)
        .fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a });
    worst / allowed
}

fn shape(format: RowFormat, head_dim: usize, sequences: &[[usize; 3]]) -> Shape {
    Shape {
        format,
        layers: 2,
        kv_heads: 2,
        head_dim,
        page_rows: 5,
        sequences: sequences.to_vec(),
    }
}

/// A case in which every planted bug shows.
fn telling(format: RowFormat) -> Case {
    Case {
        shape: shape(format, 64, &[[300, 270, 3], [1, 600, 1]]),
        compute: Compute::F16,
        group: 3,
        layer: 1,
        seed: 5,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_agrees_with_the_reference(
        format in prop::sample::select(RowFormat::ALL[1..].to_vec()),
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]),
        wide_dim in any::<bool>(), kv_heads in 1usize..4, group in 1usize..12, page_rows in 1usize..20,
        sequences in prop::collection::vec([0usize..40, 0usize..700, 1usize..20], 1..4),
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let shape = Shape {
            format, layers: 2, kv_heads, head_dim: if wide_dim { 128 } else { 64 }, page_rows, sequences,
        };
        let case = Case { shape, compute, group, layer: 1, seed };
        let (found, expected) = attend(&case, kernels(), order).map_err(|fault| TestCaseError::fail(fault.0))?;
        let worst = worst(&found, &expected, &case);
        prop_assert!(worst < 1.0, "{worst}");
    }
}

#[track_caller]
fn check_bug(format: RowFormat, from: &str, to: &str) {
    let case = telling(format);
    let unused = [
        "DECODES(Bf16, 64, bf16_64)\n",
        "DECODES(Bf16, 128, bf16_128)\n",
        "DECODES(F16, 128, f16_128)\n",
    ];
    is_found("decode.cu", &unused, Edit { from, to }, |runner, order| {
        let (found, expected) = attend(&case, runner, order)?;
        Ok(worst(&found, &expected, &case) < 1.0)
    });
}

#[test]
fn a_page_that_is_taken_for_longer_is_found() {
    let sound = "page = row / page_rows, at = row % page_rows";
    check_bug(
        RowFormat::Int4,
        sound,
        "page = row / (page_rows + 1), at = row % (page_rows + 1)",
    );
}

#[test]
fn a_missing_barrier_is_found() {
    let keys = "multiply_keys<Rows, D>(s, p, piece);\n";
    let barrier = "    __syncthreads();\n";
    check_bug(RowFormat::Int4, &format!("{keys}{barrier}"), keys);
    let rows = "find_rows<Rows, D>(s, p, piece);\n";
    check_bug(RowFormat::F16, &format!("{rows}{barrier}"), rows);
}

#[test]
fn a_missing_barrier_of_a_warp_is_found() {
    let sum = "x[b] = difference;\n        }\n";
    check_bug(
        RowFormat::Int4,
        &format!("{sum}        __syncwarp();\n"),
        sum,
    );
}

#[test]
fn the_queries_of_the_next_head_are_found() {
    let sound = "(batch * p.kv_heads + piece.head) * p.group";
    check_bug(
        RowFormat::F16,
        sound,
        "(batch * p.kv_heads + (piece.head + 1) % p.kv_heads) * p.group",
    );
}

#[test]
fn the_mean_key_of_another_layer_is_found() {
    let sound = "static_cast<uint64_t>(p.layer * p.kv_heads + piece.head) * D";
    check_bug(
        RowFormat::Int8,
        sound,
        "static_cast<uint64_t>(piece.head) * D",
    );
}

#[test]
fn rows_that_are_not_there_but_have_weight_are_found() {
    check_bug(
        RowFormat::F16,
        "rows[half] < piece.rows ? logit : MINUS_INFINITY",
        "logit",
    );
}

#[test]
fn a_piece_that_is_one_row_short_is_found() {
    check_bug(
        RowFormat::Fp8,
        "piece.table.packed_rows - piece.start",
        "piece.table.packed_rows - piece.start - 1",
    );
}

#[test]
fn pieces_that_are_merged_without_their_maxima_are_found() {
    check_bug(RowFormat::Int4, "exp_fast(partial[0] - largest)", "1.0f");
}
