//! What the window's queries see of a prompt. Elements are pairs of a query and a key, over all heads; of value norms,
//! value rows.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use lava_kernels::{
    AttentionShape, Wanted, observe, output_grams, value_norms, value_output_norms,
};

use crate::draw::Draw;

/// W.
const WINDOW: usize = 32;
/// N.
const KEYS: usize = 4096;
/// Hq, Hkv, D and the hidden size of SmolLM2-135M.
const HEADS: [usize; 3] = [9, 3, 64];
const HIDDEN: usize = 576;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut draw = Draw(4);
    let [q_heads, kv_heads, head_dim] = HEADS;
    let shape = AttentionShape {
        queries: WINDOW,
        keys: KEYS,
        q_heads,
        kv_heads,
        head_dim,
    };
    let q = draw.values(WINDOW * q_heads * head_dim);
    let k = draw.values(KEYS * kv_heads * head_dim);
    let v = draw.values(KEYS * kv_heads * head_dim);
    let columns = KEYS - WINDOW;
    let mut group = criterion.benchmark_group(format!("window of {WINDOW}, {KEYS} tokens"));

    group.throughput(Throughput::Elements((q_heads * WINDOW * columns) as u64));
    let all = Wanted {
        variance: true,
        max: true,
        entropy: true,
    };
    for (name, wanted) in [("mean", Wanted::default()), ("all", all)] {
        group.bench_function(BenchmarkId::new("statistics", name), |bencher| {
            bencher.iter(|| observe(black_box(&q), &k, &shape, columns, wanted));
        });
    }

    group.throughput(Throughput::Elements((kv_heads * columns) as u64));
    group.bench_function("value norms", |bencher| {
        bencher.iter(|| value_norms(black_box(&v), columns, kv_heads, head_dim));
    });
    let grams = output_grams(&draw.values(HIDDEN * q_heads * head_dim), q_heads, head_dim);
    group.bench_function("value norms behind the output projection", |bencher| {
        bencher.iter(|| value_output_norms(black_box(&v), &grams, columns, kv_heads, head_dim));
    });
    group.finish();
}
