//! Matrix products of 1, 8 and 512 input rows. Elements are multiply-adds.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use lava_kernels::{BlockFormat, product};

use crate::draw::Draw;

const FORMATS: [(&str, Option<BlockFormat>); 5] = [
    ("f32", None),
    ("Q4_1", Some(BlockFormat::Q4_1)),
    ("Q8_0", Some(BlockFormat::Q8_0)),
    ("Q4_K", Some(BlockFormat::Q4K)),
    ("Q6_K", Some(BlockFormat::Q6K)),
];
/// Rows and columns: the projections that end the two models' MLPs.
const MATRICES: [(usize, usize); 2] = [(576, 1536), (1536, 8960)];
const INPUT_ROWS: [usize; 3] = [1, 8, 512];

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut draw = Draw(1);
    for (rows, cols) in MATRICES {
        let mut group = criterion.benchmark_group(format!("product {rows}x{cols}"));
        for (name, format) in FORMATS {
            let matrix = draw.matrix(format, rows, cols);
            for input_rows in INPUT_ROWS {
                let x = draw.values(input_rows * cols);
                group.throughput(Throughput::Elements((input_rows * rows * cols) as u64));
                group.bench_function(BenchmarkId::new(name, input_rows), |bencher| {
                    bencher.iter(|| product(black_box(&x), black_box(&matrix)));
                });
            }
        }
        group.finish();
    }
}
