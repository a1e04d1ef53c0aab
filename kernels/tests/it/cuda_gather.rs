//! Kept rows into pages, and mean keys.

use std::sync::OnceLock;

use bytemuck::cast_slice;
use half::f16;
use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{Compute, Gather, MeanKeys, PoolPlace, TablePlace};
use lava_kernels::{HeadRows, mean_key, pack_rows, store};
use lava_kv::{RowFormat, rows_of_page};
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("gather.cu"))
}

#[derive(Clone, Debug)]
struct Case {
    format: RowFormat,
    compute: Compute,
    head_dim: usize,
    kv_heads: usize,
    tokens: usize,
    /// Rows of each head at most, wide ones and others.
    rows: [usize; 2],
    page_rows: usize,
    seed: u64,
}

/// A row's codes and scale, of keys and then of values.
type Row = [(Vec<u8>, Vec<u8>); 2];

/// All rows, head after head, from the kernel and as the CPU stores them.
fn gather(case: &Case, runner: &Runner, order: Order) -> Result<(Vec<Row>, Vec<Row>), Fault> {
    let &Case {
        format,
        compute,
        head_dim: d,
        kv_heads,
        tokens,
        ..
    } = case;
    let mut random = Random(case.seed);
    let all = [3.0, 1.0].map(|size| random.elements(tokens * kv_heads * d, size, compute));
    let page_bytes = case.page_rows * format.wide().entry_bytes(d);
    let place = PoolPlace {
        pages: 0,
        page_bytes: page_bytes as u64,
        wide_page_rows: case.page_rows as u32,
        packed_page_rows: rows_of_page(page_bytes, format, d) as u32,
    };
    let page_rows = [place.wide_page_rows, place.packed_page_rows].map(|rows| rows as usize);

    let (mut positions, mut first_positions, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    let (mut page_count, mut expected) = (0, Vec::new());
    let mut means = Vec::new();
    for head in 0..kv_heads {
        let of_head = |all| HeadRows {
            all,
            kv_heads,
            head_dim: d,
            head,
        };
        let mean = mean_key(of_head(&all[0]));
        means.extend(mean.iter().map(|x| f16::from_f32(*x).to_bits()));
        let wide = case.rows[0].min(tokens);
        let packed = match format.is_packed() {
            true => random.below(case.rows[1] + 1),
            false => 0,
        };
        first_positions.push(positions.len() as u32);
        let kept: Vec<usize> = (0..wide + packed).map(|_| random.below(tokens)).collect();
        positions.extend(kept.iter().map(|position| *position as u32));
        let area = |rows: usize, page_rows: usize| rows.div_ceil(page_rows) as u32;
        tables.push(TablePlace {
            wide_page: page_count,
            packed_page: page_count + area(wide, page_rows[0]),
            wide_rows: wide as u32,
            packed_rows: packed as u32,
        });
        page_count += area(wide, page_rows[0]) + area(packed, page_rows[1]);
        for (index, &position) in kept.iter().enumerate() {
            let row = |half: usize| {
                let rows = of_head(&all[half]);
                if index < wide {
                    let mut words = vec![0u32; d];
                    let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                    let codes = &mut codes[..format.wide().code_bytes(d)];
                    store(format.wide(), rows.row(position), codes);
                    return (codes.to_vec(), Vec::new());
                }
                let mean = (half == 0).then_some(&*mean);
                let packed = pack_rows(format, rows, &[position], mean);
                let (codes, scale) = packed.split_at(format.code_bytes(d));
                (codes.to_vec(), scale.to_vec())
            };
            expected.push([row(0), row(1)]);
        }
    }
    let mut pages: Vec<u32> = (0..page_count).collect();
    for i in (1..pages.len()).rev() {
        pages.swap(i, random.below(i + 1));
    }

    let mut gpu = runner.gpu(order);
    let pool = PoolPlace {
        pages: gpu.undefined("pool", page_count as usize * page_bytes),
        ..place
    };
    let step = Gather {
        format,
        compute,
        head_dim: d,
        kv_heads,
        keys: gpu.filled("keys", &compute.narrow(&all[0])),
        values: gpu.filled("values", &compute.narrow(&all[1])),
        positions: gpu.filled("positions", cast_slice(&positions)),
        first_positions: gpu.filled("first positions", cast_slice(&first_positions)),
        tables: gpu.filled("tables", cast_slice(&tables)),
        pages: gpu.filled("page numbers", cast_slice(&pages)),
        mean_keys: gpu.filled("mean keys", cast_slice(&means)),
        pool,
        rows_max: case.rows[0] + case.rows[1],
    };
    launch(&mut gpu, &step.launch());
    let memory = runner.run(gpu)?;
    let pool = memory.bytes(pool.pages);
    let mut found = Vec::new();
    for table in &tables {
        for index in 0..(table.wide_rows + table.packed_rows) as usize {
            let (first, index, rows, format) = match index.checked_sub(table.wide_rows as usize) {
                None => (table.wide_page, index, page_rows[0], format.wide()),
                Some(index) => (table.packed_page, index, page_rows[1], format),
            };
            let page = pages[first as usize + index / rows] as usize * page_bytes;
            let (code, scale, at) = (format.code_bytes(d), format.scale_bytes(), index % rows);
            let half = |half: usize| {
                let codes = page + (half * rows + at) * code;
                let scales = page + 2 * rows * code + (half * rows + at) * scale;
                (
                    pool[codes..][..code].to_vec(),
                    pool[scales..][..scale].to_vec(),
                )
            };
            found.push([half(0), half(1)]);
        }
    }
    Ok((found, expected))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_are_those_of_the_cpu_to_the_bit(
        format in prop::sample::select(RowFormat::ALL[1..].to_vec()),
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]),
        wide_dim in any::<bool>(), kv_heads in 1usize..4, tokens in 1usize..90,
        wide in 0usize..40, others in 0usize..60, page_rows in 1usize..20,
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let head_dim = if wide_dim { 128 } else { 64 };
        let case = Case { format, compute, head_dim, kv_heads, tokens, rows: [wide, others], page_rows, seed };
        let (found, expected) = gather(&case, kernels(), order).map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn mean_keys_are_those_of_the_cpu(
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]),
        wide_dim in any::<bool>(), kv_heads in 1usize..4, rows in 1usize..600, seed in any::<u64>(),
    ) {
        let (found, expected) = means(compute, if wide_dim { 128 } else { 64 }, kv_heads, rows, seed, kernels(), Order::Forward)
            .map_err(|fault| TestCaseError::fail(fault.0))?;
        for (found, expected) in found.iter().zip(&expected) {
            // Rounded twice on a GPU.
            prop_assert!((found - expected).abs() <= expected.abs() / 1024.0 + 1e-7, "{found} {expected}");
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "a test's own case")]
fn means(
    compute: Compute,
    d: usize,
    kv_heads: usize,
    rows: usize,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let keys = Random(seed).elements(rows * kv_heads * d, 3.0, compute);
    let mut gpu = runner.gpu(order);
    let mut step = MeanKeys {
        compute,
        head_dim: d,
        kv_heads,
        rows,
        keys: gpu.filled("keys", &compute.narrow(&keys)),
        sums: 0,
        means: gpu.undefined("means", 2 * kv_heads * d),
    };
    step.sums = gpu.undefined("sums", step.sum_bytes());
    for one in step.launches() {
        launch(&mut gpu, &one);
    }
    let memory = runner.run(gpu)?;
    let expected = (0..kv_heads).flat_map(|head| {
        mean_key(HeadRows {
            all: &keys,
            kv_heads,
            head_dim: d,
            head,
        })
    });
    Ok((
        Compute::F16.widen(memory.bytes(step.means)),
        expected.collect(),
    ))
}

/// Kernels that the planted bugs do not need.
const UNUSED: [&str; 3] = [
    "GATHERS(Bf16, 64, bf16_64)\n",
    "GATHERS(Bf16, 128, bf16_128)\n",
    "GATHERS(F16, 128, f16_128)\n",
];

#[track_caller]
fn check_bug(from: &str, to: &str) {
    let case = Case {
        format: RowFormat::Int4,
        compute: Compute::F16,
        head_dim: 64,
        kv_heads: 2,
        tokens: 50,
        rows: [7, 40],
        page_rows: 3,
        seed: 11,
    };
    is_found("gather.cu", &UNUSED, Edit { from, to }, |runner, order| {
        let (found, expected) = gather(&case, runner, order)?;
        Ok(found == expected)
    });
}

#[test]
fn rows_of_the_wrong_head_are_found() {
    check_bug(
        "(position * p.kv_heads + head) * D",
        "(position * p.kv_heads) * D",
    );
}

#[test]
fn values_that_are_relative_to_the_mean_key_are_found() {
    check_bug("if (!is_wide && half == 0)", "if (!is_wide)");
}

#[test]
fn a_missing_barrier_of_a_warp_is_found() {
    check_bug(
        "errors[i] = sum;\n        }\n        __syncwarp();",
        "errors[i] = sum;\n        }\n",
    );
}

#[test]
fn a_row_too_many_is_found() {
    check_bug(
        "if (index >= table.wide_rows + table.packed_rows)",
        "if (index > table.wide_rows + table.packed_rows)",
    );
}

#[test]
fn a_scale_that_is_not_the_best_is_found() {
    check_bug("error < least", "error <= least * 1.1f");
}

#[test]
fn a_mean_without_its_last_key_is_found() {
    let edit = Edit {
        from: "min(p.rows, (tile + 1) * MEAN_ROWS)",
        to: "min(p.rows - 1, (tile + 1) * MEAN_ROWS)",
    };
    is_found("gather.cu", &UNUSED, edit, |runner, order| {
        let (found, expected) = means(Compute::F16, 64, 2, 300, 3, runner, order)?;
        Ok(found
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() <= b.abs() / 1024.0 + 1e-7))
    });
}
