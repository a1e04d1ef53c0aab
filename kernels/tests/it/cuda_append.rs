//! New rows into ragged pages.

use std::sync::OnceLock;

use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{Append, Compute};
use lava_kernels::store;
use lava_kv::RowFormat;
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch};
use crate::cuda_caches::{Caches, Shape};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("append.cu"))
}

/// The pool afterwards, and as it should be; what holds no row is 255.
fn append(
    shape: &Shape,
    compute: Compute,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let mut random = Random(seed);
    let mut caches = Caches::new(shape.clone(), &mut random);
    let Shape {
        format,
        layers,
        kv_heads,
        head_dim: d,
        ..
    } = *shape;
    let (batch, layer) = (shape.sequences.len(), layers - 1);
    let rows = [(); 2].map(|()| random.elements(batch * kv_heads * d, 9.0, compute));
    let mut expected = caches.pool.clone();
    for head in 0..batch * kv_heads {
        let (sequence, table) = (
            head / kv_heads,
            (head / kv_heads * layers + layer) * kv_heads + head % kv_heads,
        );
        let last = caches.tables[table].wide.count - 1;
        let places = caches.wide_row(sequence, table, last);
        for (rows, place) in rows.iter().zip(places) {
            let mut codes = vec![0u32; d];
            let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut codes);
            store(
                format.wide(),
                &rows[head * d..][..d],
                &mut codes[..place.len()],
            );
            expected[place.clone()].copy_from_slice(&codes[..place.len()]);
            // Nobody has written it so far.
            caches.held[place].fill(false);
        }
    }
    let mut gpu = runner.gpu(order);
    let (sequences, pool) = caches.put(&mut gpu);
    let step = Append {
        format,
        compute,
        head_dim: d,
        kv_heads,
        batch,
        layer,
        pool,
        sequences,
        keys: gpu.filled("keys", &compute.narrow(&rows[0])),
        values: gpu.filled("values", &compute.narrow(&rows[1])),
    };
    launch(&mut gpu, &step.launch());
    let memory = runner.run(gpu)?;
    let whole = Caches::new(shape.clone(), &mut Random(seed));
    for (byte, held) in expected.iter_mut().zip(&whole.held) {
        *byte = if *held { *byte } else { 255 };
    }
    Ok((memory.bytes(pool.pages).to_vec(), expected))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_end_where_they_belong_and_nothing_else_changes(
        format in prop::sample::select(RowFormat::ALL[1..].to_vec()),
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]),
        wide_dim in any::<bool>(), layers in 1usize..3, kv_heads in 1usize..4, page_rows in 1usize..20,
        sequences in prop::collection::vec([0usize..40, 0usize..40, 1usize..20], 1..12),
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let head_dim = if wide_dim { 128 } else { 64 };
        let shape = Shape { format, layers, kv_heads, head_dim, page_rows, sequences };
        let (found, expected) = append(&shape, compute, seed, kernels(), order)
            .map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert!(found == expected);
    }
}

#[track_caller]
fn check_bug(from: &str, to: &str) {
    let shape = Shape {
        format: RowFormat::Int4,
        layers: 2,
        kv_heads: 2,
        head_dim: 64,
        page_rows: 3,
        sequences: vec![[4, 9, 1], [7, 0, 2], [2, 5, 3]],
    };
    is_found("append.cu", &[], Edit { from, to }, |runner, order| {
        let (found, expected) = append(&shape, Compute::Bf16, 3, runner, order)?;
        Ok(found == expected)
    });
}

#[test]
fn a_row_behind_the_last_is_found() {
    check_bug("sequence.appended - 1", "sequence.appended");
}

#[test]
fn rows_of_the_next_head_are_found() {
    check_bug(
        "sequence.tables[p.layer * p.kv_heads + head % p.kv_heads]",
        "sequence.tables[p.layer * p.kv_heads + (head + 1) % p.kv_heads]",
    );
}

#[test]
fn threads_without_a_row_are_found() {
    check_bug("if (row >= 2 * heads)", "if (row >= 2 * heads + 8)");
}

#[test]
fn a_page_that_is_taken_for_shorter_is_found() {
    let sound = "page = row / page_rows, at = row % page_rows";
    check_bug(
        sound,
        "page = row / (page_rows - 1), at = row % (page_rows - 1)",
    );
}
