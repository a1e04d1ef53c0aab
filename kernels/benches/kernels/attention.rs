//! Attention of a block of a prompt, and of a decode step over pages.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use lava_kernels::{
    AttentionShape, DecodeHead, Half, HeadRows, Run, causal_attention, decode_attention, mean_key,
    pack_rows, store,
};
use lava_kv::RowFormat;

use crate::draw::Draw;

/// Hq, Hkv, D.
const MODELS: [(&str, [usize; 3]); 2] = [("SmolLM2", [9, 3, 64]), ("Qwen2.5", [12, 2, 128])];
/// Tokens of a block of a prompt.
const QUERIES: usize = 512;
/// Rows of each head that a decode step reads.
const ROWS: usize = 1024;
/// Sequences of a decode step.
const BATCH: usize = 8;
/// Rows of a page in half precision.
const PAGE_ROWS: usize = 16;

/// Elements are multiply-adds of both products.
pub(crate) fn causal(criterion: &mut Criterion) {
    let mut draw = Draw(2);
    let mut group = criterion.benchmark_group("causal attention");
    for (model, [q_heads, kv_heads, head_dim]) in MODELS {
        for keys in [512, 4096] {
            let shape = AttentionShape {
                queries: QUERIES,
                keys,
                q_heads,
                kv_heads,
                head_dim,
            };
            let q = draw.values(QUERIES * q_heads * head_dim);
            let k = draw.values(keys * kv_heads * head_dim);
            let v = draw.values(keys * kv_heads * head_dim);
            let mut out = vec![0.0; q.len()];
            // Query i sees those before the block, i of the block, and itself.
            let pairs = QUERIES * shape.first_position() + QUERIES * (QUERIES + 1) / 2;
            group.throughput(Throughput::Elements(
                (2 * pairs * q_heads * head_dim) as u64,
            ));
            group.bench_function(BenchmarkId::new(model, keys), |bencher| {
                bencher.iter(|| causal_attention(&mut out, black_box(&q), &k, &v, &shape));
            });
        }
    }
    group.finish();
}

/// Elements are entries: a key row and a value row each, for all G queries of their head.
pub(crate) fn decode(criterion: &mut Criterion) {
    let mut draw = Draw(3);
    let mut group = criterion.benchmark_group(format!("decode attention, {ROWS} rows a head"));
    for (model, [q_heads, kv_heads, head_dim]) in MODELS {
        for format in RowFormat::ALL {
            let heads = BATCH * kv_heads;
            let len = q_heads / kv_heads * head_dim;
            let stored: Vec<Head> = (0..heads)
                .map(|_| Head::new(format, &mut draw, head_dim))
                .collect();
            let queries = draw.values(heads * len);
            let heads: Vec<DecodeHead<'_>> = stored
                .iter()
                .zip(queries.chunks_exact(len))
                .map(|(head, queries)| head.asked(queries))
                .collect();
            let mut out = vec![0.0; queries.len()];
            group.throughput(Throughput::Elements((heads.len() * ROWS) as u64));
            group.bench_function(BenchmarkId::new(model, format), |bencher| {
                bencher.iter(|| decode_attention(&mut out, black_box(&heads), head_dim));
            });
        }
    }
    group.finish();
}

/// The rows of one KV head, in pages of equal bytes for all formats.
struct Head {
    format: RowFormat,
    mean_key: Vec<f32>,
    pages: Vec<Page>,
}

struct Page {
    rows: usize,
    /// Of keys and of values: codes, then scales.
    halves: [Words; 2],
    /// Where scales begin.
    code_bytes: usize,
}

/// Bytes that are aligned to floats.
struct Words(Vec<u32>);

impl Words {
    fn zeros(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(4)])
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Head {
    fn new(format: RowFormat, draw: &mut Draw, head_dim: usize) -> Self {
        let [keys, values] = [0; 2].map(|_| draw.values(ROWS * head_dim));
        let of = |all| HeadRows {
            all,
            kv_heads: 1,
            head_dim,
            head: 0,
        };
        let mean_key = mean_key(of(&keys));
        let page_bytes = PAGE_ROWS * RowFormat::F16.entry_bytes(head_dim);
        let page_rows = page_bytes / format.entry_bytes(head_dim);
        let positions: Vec<usize> = (0..ROWS).collect();
        let pages = positions.chunks(page_rows).map(|positions| Page {
            rows: positions.len(),
            halves: [
                half(format, of(&keys), positions, Some(&mean_key)),
                half(format, of(&values), positions, None),
            ],
            code_bytes: positions.len() * format.code_bytes(head_dim),
        });
        Self {
            format,
            pages: pages.collect(),
            mean_key,
        }
    }

    fn asked<'a>(&'a self, queries: &'a [f32]) -> DecodeHead<'a> {
        let run = |page: &'a Page| {
            let [keys, values] = page.halves.each_ref().map(|half| {
                let (codes, scales) = half.bytes().split_at(page.code_bytes);
                Half { codes, scales }
            });
            Run {
                format: self.format,
                rows: page.rows,
                keys,
                values,
            }
        };
        DecodeHead {
            queries,
            runs: self.pages.iter().map(run).collect(),
            mean_key: &self.mean_key,
        }
    }
}

/// The key rows or the value rows of a page.
fn half(format: RowFormat, rows: HeadRows<'_>, positions: &[usize], mean: Option<&[f32]>) -> Words {
    let row_bytes = format.code_bytes(rows.head_dim);
    let mut words = Words::zeros(positions.len() * (row_bytes + format.scale_bytes()));
    if format.is_packed() {
        let packed = pack_rows(format, rows, positions, mean);
        words.bytes_mut()[..packed.len()].copy_from_slice(&packed);
        return words;
    }
    let codes = words.bytes_mut().chunks_exact_mut(row_bytes);
    for (codes, &position) in codes.zip(positions) {
        store(format, rows.row(position), codes);
    }
    words
}
