//! Rows between pages and the wire.

use std::sync::OnceLock;

use bytemuck::cast_slice;
use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{CopyRows, Direction, RunPlace};
use lava_kv::RowFormat;
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch};
use crate::cuda_caches::{Caches, Shape};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("copy.cu"))
}

/// What is there afterwards, and what should be: of runs of every area of a sequence.
fn copy(
    shape: &Shape,
    direction: Direction,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let mut random = Random(seed);
    let caches = Caches::new(shape.clone(), &mut random);
    let (mut wire, mut runs) = (Vec::new(), Vec::new());
    for table in &caches.tables {
        for is_packed in [false, true] {
            let rows = if is_packed {
                &table.packed
            } else {
                &table.wide
            };
            let first = random.below(rows.count + 1);
            let count = random.below(rows.count - first + 1);
            runs.push(RunPlace {
                offset: wire.len() as u64,
                first_page: table.first_page(is_packed),
                first_row: first as u32,
                rows: count as u32,
                is_packed: u32::from(is_packed),
            });
            rows.write(first..first + count, &mut wire);
        }
    }
    let rows_max = runs.iter().map(|run| run.rows).max().unwrap_or(0).max(1);
    let mut gpu = runner.gpu(order);
    let (held, filled) = match direction {
        Direction::FromPages => (true, false),
        Direction::ToPages => (false, true),
    };
    let pages = gpu.filled("page numbers", cast_slice(caches.pages(0)));
    let pool = caches.put_pool(&mut gpu, held);
    let buffer = match filled {
        true => gpu.filled("wire", &wire),
        false => gpu.undefined("wire", wire.len()),
    };
    let rows = CopyRows {
        format: shape.format,
        head_dim: shape.head_dim,
        direction,
        runs: gpu.filled("runs", cast_slice(&runs)),
        run_count: runs.len(),
        rows_max: rows_max as usize,
        pages,
        pool,
        buffer,
    };
    launch(&mut gpu, &rows.launch());
    let memory = runner.run(gpu)?;
    Ok(match direction {
        Direction::FromPages => (memory.bytes(buffer).to_vec(), wire),
        // Rows that are in no run keep what nobody wrote.
        Direction::ToPages => (
            memory.bytes(pool.pages).to_vec(),
            caches.pool_of_runs(&runs),
        ),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_arrive_as_they_were(
        format in prop::sample::select(RowFormat::ALL[1..].to_vec()), wide_dim in any::<bool>(),
        kv_heads in 1usize..4, page_rows in 1usize..20, sizes in [0usize..90, 0usize..200, 1usize..9],
        direction in prop::sample::select(vec![Direction::ToPages, Direction::FromPages]),
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let head_dim = if wide_dim { 128 } else { 64 };
        let shape = Shape { format, layers: 2, kv_heads, head_dim, page_rows, sequences: vec![sizes] };
        let (found, expected) = copy(&shape, direction, seed, kernels(), order)
            .map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert!(found == expected);
    }
}

#[track_caller]
fn check_bug(from: &str, to: &str) {
    let shape = Shape {
        format: RowFormat::Int8,
        layers: 1,
        kv_heads: 3,
        head_dim: 64,
        page_rows: 5,
        sequences: vec![[70, 150, 1]],
    };
    for direction in [Direction::ToPages, Direction::FromPages] {
        is_found("copy.cu", &[], Edit { from, to }, |runner, order| {
            let (found, expected) = copy(&shape, direction, 9, runner, order)?;
            Ok(found == expected)
        });
    }
}

#[test]
fn rows_behind_the_run_are_found() {
    check_bug(
        "min(run.rows, (blockIdx.x + 1) * ROWS)",
        "(blockIdx.x + 1) * ROWS",
    );
}

#[test]
fn values_without_the_scales_of_keys_before_them_are_found() {
    check_bug("* (code_bytes + scale_bytes)", "* code_bytes");
}

#[test]
fn a_page_that_is_taken_for_longer_is_found() {
    let sound = "page = row / page_rows, at = row % page_rows";
    check_bug(
        sound,
        "page = row / (page_rows + 1), at = row % (page_rows + 1)",
    );
}

#[test]
fn steps_that_are_too_wide_are_found() {
    check_bug("if (sides % 16 == 0)", "if (bytes % 16 == 0)");
}
