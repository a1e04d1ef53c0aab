//! Ragged caches of a batch, on the host and in the memory of a pretended GPU.

use std::ops::Range;

use bytemuck::cast_slice;
use half::f16;
use lava_cuda_on_cpu::Gpu;
use lava_kernels::cuda::{Compute, PoolPlace, RunPlace, SequencePlace, TablePlace};
use lava_kernels::{Half, HeadRows, Run, mean_key, pack_rows, store};
use lava_kv::{RowFormat, rows_of_page};

use crate::cuda::Random;

/// Sizes of a batch of caches.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) format: RowFormat,
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Wide rows of a page.
    pub(crate) page_rows: usize,
    /// Wide rows that prefill left, packed rows, and rows appended since, of each sequence; a head has up to so many.
    pub(crate) sequences: Vec<[usize; 3]>,
}

/// Rows of one form as they lie in memory: codes of all rows, scales of all rows; of keys and of values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) count: usize,
    codes: [Vec<u8>; 2],
    scales: [Vec<u8>; 2],
}

/// One (sequence, layer, KV head).
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) wide: Rows,
    pub(crate) packed: Rows,
    pub(crate) mean_key: Vec<f32>,
    place: TablePlace,
}

pub(crate) struct Caches {
    pub(crate) shape: Shape,
    /// `[B, L, Hkv]`.
    pub(crate) tables: Vec<Table>,
    /// Pages of each sequence, by number.
    pages: Vec<Vec<u32>>,
    pub(crate) pool: Vec<u8>,
    /// Of the pool, which bytes hold rows.
    pub(crate) held: Vec<bool>,
    pub(crate) place: PoolPlace,
}

impl Rows {
    fn of(format: RowFormat, keys: &[f32], values: &[f32], d: usize, mean: &[f32]) -> Self {
        let count = keys.len() / d;
        let mut rows = Self {
            count,
            ..Self::default()
        };
        for (half, all) in [keys, values].into_iter().enumerate() {
            if format.is_packed() {
                let head = HeadRows {
                    all,
                    kv_heads: 1,
                    head_dim: d,
                    head: 0,
                };
                let positions: Vec<usize> = (0..count).collect();
                let packed = pack_rows(format, head, &positions, (half == 0).then_some(mean));
                let (codes, scales) = packed.split_at(count * format.code_bytes(d));
                (rows.codes[half], rows.scales[half]) = (codes.to_vec(), scales.to_vec());
            } else {
                // Words, so that rows are aligned.
                let mut codes = vec![0u32; all.len()];
                let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut codes);
                let codes = &mut codes[..count * format.code_bytes(d)];
                store(format, all, codes);
                rows.codes[half] = codes.to_vec();
            }
        }
        rows
    }

    /// Appends some of them as they lie on the wire.
    pub(crate) fn write(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        for half in 0..2 {
            for all in [&self.codes[half], &self.scales[half]] {
                let size = all.len().checked_div(self.count).unwrap_or(0);
                out.extend_from_slice(&all[rows.start * size..rows.end * size]);
            }
        }
    }

    /// As the kernels of the CPU see them.
    pub(crate) fn run(&self, format: RowFormat) -> Run<'_> {
        let half = |half: usize| Half {
            codes: &self.codes[half],
            scales: &self.scales[half],
        };
        Run {
            format,
            rows: self.count,
            keys: half(0),
            values: half(1),
        }
    }
}

impl Table {
    /// Where the pages of an area begin in the sequence's list.
    pub(crate) fn first_page(&self, is_packed: bool) -> u32 {
        match is_packed {
            true => self.place.packed_page,
            false => self.place.wide_page,
        }
    }
}

impl Caches {
    pub(crate) fn new(shape: Shape, random: &mut Random) -> Self {
        let (format, d) = (shape.format, shape.head_dim);
        let page_bytes = shape.page_rows * format.wide().entry_bytes(d);
        let mut caches = Self {
            tables: Vec::new(),
            pages: Vec::new(),
            pool: Vec::new(),
            held: Vec::new(),
            place: PoolPlace {
                pages: 0,
                page_bytes: page_bytes as u64,
                wide_page_rows: shape.page_rows as u32,
                packed_page_rows: rows_of_page(page_bytes, format, d) as u32,
            },
            shape,
        };
        let mut wanted = Vec::new();
        for (index, &[wide, packed, appended]) in caches.shape.sequences.clone().iter().enumerate()
        {
            caches.pages.push(Vec::new());
            for _ in 0..caches.shape.layers * caches.shape.kv_heads {
                let wide = wide.min(1 + random.below(wide + 1));
                let packed = if format.is_packed() {
                    random.below(packed + 1)
                } else {
                    0
                };
                caches.table(index, wide, packed, appended, random, &mut wanted);
            }
        }
        caches.lay_out(wanted, random);
        caches
    }

    /// Makes the rows of a table, and says which pages they need: sequence, place in its list, table, area, first row.
    fn table(
        &mut self,
        sequence: usize,
        wide: usize,
        packed: usize,
        appended: usize,
        random: &mut Random,
        wanted: &mut Vec<PageOf>,
    ) {
        let (format, d) = (self.shape.format, self.shape.head_dim);
        let offset = random.elements(d, 3.0, Compute::F16);
        let mut keys = |count: usize| -> Vec<f32> {
            let one = |i: usize| offset[i % d] + random.unit();
            let mut one = one;
            (0..count * d).map(&mut one).collect()
        };
        let (wide_keys, packed_keys) = (keys(wide + appended), keys(packed));
        let mut values = |count: usize| random.elements(count * d, 2.0, Compute::F16);
        let (wide_values, packed_values) = (values(wide + appended), values(packed));
        let mean = match packed {
            0 => vec![0.0; d],
            _ => mean_key(HeadRows {
                all: &packed_keys,
                kv_heads: 1,
                head_dim: d,
                head: 0,
            }),
        };
        let index = self.tables.len();
        let pages = &mut self.pages[sequence];
        let mut area = |rows: usize, page_rows: u32| {
            let first = pages.len() as u32;
            for start in (0..rows).step_by(page_rows as usize) {
                let at = pages.len();
                pages.push(0);
                wanted.push(PageOf {
                    sequence,
                    at,
                    table: index,
                    is_packed: false,
                    start,
                });
            }
            first
        };
        let wide_page = area(wide + appended, self.place.wide_page_rows);
        let packed_page = area(packed, self.place.packed_page_rows);
        for page in wanted.iter_mut().filter(|page| page.table == index) {
            page.is_packed = page.at >= packed_page as usize;
        }
        self.tables.push(Table {
            wide: Rows::of(format.wide(), &wide_keys, &wide_values, d, &mean),
            packed: match format.is_packed() {
                true => Rows::of(format, &packed_keys, &packed_values, d, &mean),
                false => Rows::default(),
            },
            mean_key: mean,
            place: TablePlace {
                wide_page,
                packed_page,
                wide_rows: wide as u32,
                packed_rows: packed as u32,
            },
        });
    }

    /// Puts the pages into the pool in any order.
    fn lay_out(&mut self, mut wanted: Vec<PageOf>, random: &mut Random) {
        for i in (1..wanted.len()).rev() {
            wanted.swap(i, random.below(i + 1));
        }
        let page_bytes = self.place.page_bytes as usize;
        self.pool = vec![0; wanted.len() * page_bytes];
        self.held = vec![false; self.pool.len()];
        for (number, page) in wanted.iter().enumerate() {
            self.pages[page.sequence][page.at] = number as u32;
            let table = &self.tables[page.table];
            let (rows, format, page_rows) = match page.is_packed {
                true => (
                    &table.packed,
                    self.shape.format,
                    self.place.packed_page_rows,
                ),
                false => (
                    &table.wide,
                    self.shape.format.wide(),
                    self.place.wide_page_rows,
                ),
            };
            let page_rows = page_rows as usize;
            let (code, scale) = (format.code_bytes(self.shape.head_dim), format.scale_bytes());
            let count = page_rows.min(rows.count - page.start);
            let parts = [
                (0, code, &rows.codes[0]),
                (page_rows * code, code, &rows.codes[1]),
                (2 * page_rows * code, scale, &rows.scales[0]),
                (
                    2 * page_rows * code + page_rows * scale,
                    scale,
                    &rows.scales[1],
                ),
            ];
            for (at, size, bytes) in parts {
                let at = number * page_bytes + at..number * page_bytes + at + count * size;
                self.pool[at.clone()].copy_from_slice(&bytes[page.start * size..][..count * size]);
                self.held[at].fill(true);
            }
        }
    }

    /// The tables of one layer, `[B, Hkv]`.
    pub(crate) fn layer(&self, layer: usize) -> impl Iterator<Item = &Table> {
        let (layers, kv_heads) = (self.shape.layers, self.shape.kv_heads);
        self.tables
            .chunks(layers * kv_heads)
            .flat_map(move |sequence| &sequence[layer * kv_heads..][..kv_heads])
    }

    /// Where the codes of a wide row lie in the pool: of its key and of its value.
    pub(crate) fn wide_row(&self, sequence: usize, table: usize, row: usize) -> [Range<usize>; 2] {
        let page_rows = self.place.wide_page_rows as usize;
        let size = self.shape.format.wide().code_bytes(self.shape.head_dim);
        let first = self.tables[table].place.wide_page as usize;
        let page = self.pages[sequence][first + row / page_rows] as usize;
        [0, page_rows * size].map(|half| {
            let start = page * self.place.page_bytes as usize + half + row % page_rows * size;
            start..start + size
        })
    }

    /// Copies everything; gives the address of the sequences and the place of the pool.
    pub(crate) fn put(&self, gpu: &mut Gpu) -> (u64, PoolPlace) {
        let of_sequence = self.shape.layers * self.shape.kv_heads;
        let mut places = Vec::new();
        let sequences = self.tables.chunks(of_sequence).zip(&self.pages);
        for ((tables, pages), sizes) in sequences.zip(&self.shape.sequences) {
            let table_places: Vec<TablePlace> = tables.iter().map(|table| table.place).collect();
            let means: Vec<u16> = tables
                .iter()
                .flat_map(|table| table.mean_key.iter().map(|x| f16::from_f32(*x).to_bits()))
                .collect();
            places.push(SequencePlace {
                tables: gpu.filled("tables", cast_slice(&table_places)),
                pages: gpu.filled("page numbers", cast_slice(pages)),
                mean_keys: gpu.filled("mean keys", cast_slice(&means)),
                appended: sizes[2] as u32,
                unused: 0,
            });
        }
        let sequences = gpu.filled("sequences", cast_slice(&places));
        (sequences, self.put_pool(gpu, true))
    }

    /// The numbers of a sequence's pages.
    pub(crate) fn pages(&self, sequence: usize) -> &[u32] {
        &self.pages[sequence]
    }

    /// The pool by itself, with its rows or without.
    pub(crate) fn put_pool(&self, gpu: &mut Gpu, with_rows: bool) -> PoolPlace {
        if !with_rows {
            return PoolPlace {
                pages: gpu.undefined("pool", self.pool.len()),
                ..self.place
            };
        }
        let pool = gpu.filled("pool", &self.pool);
        let mut at = 0;
        for run in self.held.chunk_by(|a, b| a == b) {
            if !run[0] {
                gpu.undefine(pool + at as u64, run.len());
            }
            at += run.len();
        }
        PoolPlace {
            pages: pool,
            ..self.place
        }
    }

    /// The pool of the first sequence with the rows of some runs only; all else is 255.
    pub(crate) fn pool_of_runs(&self, runs: &[RunPlace]) -> Vec<u8> {
        let mut pool = vec![255; self.pool.len()];
        for run in runs {
            let is_packed = run.is_packed == 1;
            let (format, page_rows) = match is_packed {
                true => (self.shape.format, self.place.packed_page_rows),
                false => (self.shape.format.wide(), self.place.wide_page_rows),
            };
            let (code, scale) = (format.code_bytes(self.shape.head_dim), format.scale_bytes());
            let page_rows = page_rows as usize;
            for row in (run.first_row..run.first_row + run.rows).map(|row| row as usize) {
                let number = self.pages[0][run.first_page as usize + row / page_rows] as usize;
                let (page, at) = (number * self.place.page_bytes as usize, row % page_rows);
                for half in 0..2 {
                    let codes = page + (half * page_rows + at) * code;
                    let scales = page + 2 * page_rows * code + (half * page_rows + at) * scale;
                    for range in [codes..codes + code, scales..scales + scale] {
                        pool[range.clone()].copy_from_slice(&self.pool[range]);
                    }
                }
            }
        }
        pool
    }
}

/// A page that a table needs.
struct PageOf {
    sequence: usize,
    /// Index in the sequence's list.
    at: usize,
    table: usize,
    is_packed: bool,
    /// Index of its first row in its area.
    start: usize,
}
