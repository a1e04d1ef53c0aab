//! What is done to each element between products: 512 tokens of a prompt and one of a decode step. Elements are those
//! of the output.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use lava_kernels::{add, rms_norm, rotate_halves, silu_product};

use crate::draw::Draw;

/// Sizes of SmolLM2-135M.
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const HEADS: usize = 9;
const HEAD_DIM: usize = 64;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut draw = Draw(6);
    let mut group = criterion.benchmark_group("elementwise");
    for tokens in [1, 512] {
        let elements = |len: usize| Throughput::Elements((tokens * len) as u64);
        let [x, y] = [0; 2].map(|_| draw.values(tokens * HIDDEN));
        let weight = draw.values(HIDDEN);
        group.throughput(elements(HIDDEN));
        group.bench_function(BenchmarkId::new("norm", tokens), |bencher| {
            bencher.iter(|| rms_norm(black_box(&x), &weight, 1e-5));
        });
        group.bench_function(BenchmarkId::new("residual", tokens), |bencher| {
            bencher.iter(|| add(black_box(&x), &y));
        });

        let [gate, up] = [0; 2].map(|_| draw.values(tokens * INNER));
        group.throughput(elements(INNER));
        group.bench_function(BenchmarkId::new("silu", tokens), |bencher| {
            bencher.iter(|| silu_product(black_box(&gate), &up));
        });

        let mut heads = draw.values(tokens * HEADS * HEAD_DIM);
        let angles = draw.values(tokens * HEAD_DIM / 2);
        let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
        let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
        group.throughput(elements(HEADS * HEAD_DIM));
        group.bench_function(BenchmarkId::new("rope", tokens), |bencher| {
            bencher.iter(|| rotate_halves(black_box(&mut heads), &cos, &sin, HEADS, HEAD_DIM));
        });
    }
    group.finish();
}
