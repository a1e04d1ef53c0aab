//! Packing the kept rows of a head. Elements are rows.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use lava_kernels::{HeadRows, mean_key, pack_rows};
use lava_kv::RowFormat;

use crate::draw::Draw;

/// N.
const TOKENS: usize = 4096;
/// K.
const KEPT: usize = 1024;
/// Hkv and D of SmolLM2-135M.
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

pub(crate) fn bench(criterion: &mut Criterion) {
    let keys = Draw(5).values(TOKENS * KV_HEADS * HEAD_DIM);
    let rows = HeadRows {
        all: &keys,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        head: 1,
    };
    let positions: Vec<usize> = (0..KEPT).map(|i| i * (TOKENS / KEPT)).collect();
    let mean = mean_key(rows);
    let mut group = criterion.benchmark_group(format!("rows of {HEAD_DIM}"));
    group.throughput(Throughput::Elements(KEPT as u64));
    for format in RowFormat::ALL
        .into_iter()
        .filter(|format| format.is_packed())
    {
        group.bench_function(BenchmarkId::new("pack", format), |bencher| {
            bencher.iter(|| pack_rows(format, black_box(rows), &positions, Some(&mean)));
        });
    }
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("mean key", |bencher| {
        bencher.iter(|| mean_key(black_box(rows)));
    });
    group.finish();
}
