//! The obvious form of a compact cache, and how one grows: the oracle of the wire.

use std::ops::Range;

use lava_kv::{
    CacheShape, Frame, Group, Header, Inbound, Outbound, RowFormat, RowSource, Seal, Ticket,
    WireError,
};
use proptest::prelude::*;

/// Positions, keys and values of every table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlainCache {
    pub(crate) tables: Vec<PlainTable>,
}

/// Rows of one layer and KV head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlainTable {
    pub(crate) mean: Vec<u8>,
    pub(crate) positions: Vec<u32>,
    pub(crate) keys: Vec<PlainRow>,
    pub(crate) values: Vec<PlainRow>,
}

/// A row's codes and its scale.
pub(crate) type PlainRow = (Vec<u8>, Vec<u8>);

impl PlainCache {
    pub(crate) fn append(&mut self, group: &Group<'_>, kv_heads: usize) {
        let table = &mut self.tables[group.layer * kv_heads + group.head];
        assert_eq!(group.first_row, table.positions.len());
        table.positions.extend(group.positions());
        let scale_bytes = group.format.scale_bytes();
        for (half, rows) in [
            (group.keys, &mut table.keys),
            (group.values, &mut table.values),
        ] {
            let (codes, scales) = half.split_at(half.len() - group.rows * scale_bytes);
            let code_bytes = codes.len() / group.rows;
            for row in 0..group.rows {
                let codes = codes[row * code_bytes..][..code_bytes].to_vec();
                rows.push((codes, scales[row * scale_bytes..][..scale_bytes].to_vec()));
            }
        }
        assert_eq!(table.positions.len(), group.first_row + group.rows);
    }
}

/// A whole transfer: what is sent after each layer, and what must arrive.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) header: Header,
    pub(crate) cache: PlainCache,
    /// After each layer, the certain rows of all tables of finished layers.
    pub(crate) certain: Vec<Vec<usize>>,
    pub(crate) payload_bytes_max: usize,
}

struct Source<'a>(&'a Transfer);

impl RowSource for Source<'_> {
    fn position(&self, table: usize, row: usize) -> u32 {
        self.0.cache.tables[table].positions[row]
    }

    fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        let kv_heads = self.0.header.shape.kv_heads;
        for table in &self.0.cache.tables[layer * kv_heads..][..kv_heads] {
            out.extend(&table.mean);
        }
    }

    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        let table = &self.0.cache.tables[table];
        for half in [&table.keys[rows.clone()], &table.values[rows.clone()]] {
            half.iter().for_each(|(codes, _)| out.extend(codes));
            half.iter().for_each(|(_, scale)| out.extend(scale));
        }
    }
}

impl Transfer {
    pub(crate) fn rows(&self) -> u64 {
        let rows = self.cache.tables.iter().map(|table| table.positions.len());
        rows.sum::<usize>() as u64
    }

    pub(crate) fn send(&self) -> (Vec<Frame>, Seal) {
        let mut outbound = Outbound::new(self.header, self.payload_bytes_max);
        let mut frames = Vec::new();
        for certain in &self.certain {
            frames.extend(outbound.ship(certain, &Source(self)));
        }
        assert_eq!(outbound.rows(), self.rows());
        (frames, outbound.seal(7))
    }

    /// What a receiver that expects `expected` makes of it.
    pub(crate) fn receive(
        &self,
        expected: &Header,
        frames: &[Frame],
        seal: &Seal,
    ) -> Result<PlainCache, WireError> {
        let mut inbound = Inbound::new(&self.header, expected, self.rows())?;
        let mut cache = PlainCache::default();
        let tables = self.header.shape.tables();
        cache.tables.resize(tables, PlainTable::default());
        for frame in frames {
            let kv_heads = self.header.shape.kv_heads;
            let arrived = inbound.accept(frame)?;
            for mean in arrived.means {
                let table = &mut cache.tables[mean.layer * kv_heads + mean.head];
                assert!(table.mean.is_empty(), "a mean comes once");
                table.mean = mean.bytes.to_vec();
            }
            for group in arrived.groups {
                cache.append(&group, kv_heads);
            }
        }
        let receipt = inbound.seal(seal)?;
        assert_eq!(receipt.rows, self.rows());
        Ok(cache)
    }
}

/// Transfers of up to 4 layers, 3 heads and 40 tokens; sizes that make small and split frames.
pub(crate) fn transfers() -> impl Strategy<Value = Transfer> {
    let format = prop::sample::select(RowFormat::ALL.to_vec());
    let tokens = prop_oneof![8 => 1usize..40, 1 => Just(70_000usize)];
    let sizes = (
        1usize..5,
        1usize..4,
        1usize..4,
        tokens,
        1usize..9,
        (format, 0usize..4),
    );
    (sizes, 1usize..400, any::<[u8; 16]>(), any::<u64>()).prop_map(
        |(
            (layers, kv_heads, head_dim, tokens, window, (format, pinned)),
            payload_bytes_max,
            ticket,
            seed,
        )| {
            let shape = CacheShape {
                layers,
                kv_heads,
                head_dim: head_dim * 2,
                tokens,
                window_rows: window.min(tokens),
                wide_rows: match format.is_packed() {
                    true => (window + pinned).min(tokens),
                    false => tokens,
                },
                format,
            };
            let header = Header {
                ticket: Ticket(ticket),
                attempt: seed as u32 & 3,
                prompt_digest: ticket.map(|b| b.wrapping_add(1)),
                fingerprint: ticket.map(|b| b.wrapping_add(2)),
                shape,
            };
            grow(header, payload_bytes_max, seed)
        },
    )
}

/// Fills tables and decides after which layer how much of each is certain.
fn grow(header: Header, payload_bytes_max: usize, mut seed: u64) -> Transfer {
    let shape = header.shape;
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    let outside = shape.tokens - shape.window_rows;
    let mut cache = PlainCache::default();
    for _ in 0..shape.tables() {
        let kept = next(outside.min(20) + 1);
        let start = next(outside - kept + 1);
        let window = outside..shape.tokens;
        let positions: Vec<u32> = window
            .chain(start..start + kept)
            .map(|p| p as u32)
            .collect();
        let mut bytes = |len: usize| (0..len).map(|_| next(256) as u8).collect::<Vec<u8>>();
        let mut row = |row: usize| {
            let format = match row < shape.wide_rows {
                true => shape.format.wide(),
                false => shape.format,
            };
            let codes = bytes(format.code_bytes(shape.head_dim));
            (codes, bytes(format.scale_bytes()))
        };
        let keys = (0..positions.len()).map(&mut row).collect();
        let values = (0..positions.len()).map(&mut row).collect();
        let mean = bytes(shape.format.mean_bytes(shape.head_dim));
        cache.tables.push(PlainTable {
            mean,
            positions,
            keys,
            values,
        });
    }
    let full: Vec<usize> = cache.tables.iter().map(|t| t.positions.len()).collect();
    let mut certain = Vec::new();
    let mut now: Vec<usize> = Vec::new();
    for layer in 0..shape.layers {
        now.resize((layer + 1) * shape.kv_heads, shape.window_rows);
        for (rows, &full) in now.iter_mut().zip(&full) {
            *rows += next(full - *rows + 1);
        }
        if layer + 1 == shape.layers {
            now.clone_from(&full);
        }
        certain.push(now.clone());
    }
    Transfer {
        header,
        cache,
        certain,
        payload_bytes_max,
    }
}
