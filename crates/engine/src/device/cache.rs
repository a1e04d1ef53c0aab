//! A compact cache whose pages are on a GPU. The host knows which page is whose, the GPU what is in them.

use std::ops::Range;
use std::sync::Arc;

use lava::Cascade;
use lava_kernels::cuda::{
    Buffer, CopyRows, Device, DeviceError, Direction, Gather, Gpu, Mark, MeanKeys, PoolPlace,
    RunPlace, SequencePlace, TablePlace, pieces,
};
use lava_kv::{Arrived, RowFormat};

use super::block::NARROW;
use super::observer::FullLayer;
use super::upload::Upload;
use crate::cache::RaggedCache;
use crate::error::EngineError;
use crate::pool::DevicePages;
use crate::table::{Area, PageTable};

/// What a cache has on a GPU besides its pages.
#[derive(Debug, Default)]
pub(crate) struct DeviceCache {
    /// `[L, Hkv, D]` in half precision, where rows are packed.
    mean_keys: Option<Buffer>,
    /// From the first step on.
    sequence: Option<Sequence>,
    /// Where its rows are all written, in the queue that wrote them.
    written: Option<Mark>,
}

/// Where the rows of a decoding sequence are, as kernels read it.
#[derive(Debug)]
struct Sequence {
    /// [`TablePlace`] `[L, Hkv]`.
    tables: Buffer,
    /// Numbers of pages, with room for what will be appended.
    pages: Buffer,
    /// Appended rows of each table that there is room for.
    appended_max: usize,
    /// Most wide rows that prefill left of a table, and most packed ones.
    rows_max: (usize, usize),
}

impl DeviceCache {
    /// Pages have changed, so that what a decoding sequence knew of them is void.
    pub(crate) fn forget_pages(&mut self) {
        self.sequence = None;
    }

    /// The mean keys of all layers.
    fn mean_keys(
        &mut self,
        device: &Arc<dyn Device>,
        bytes: usize,
    ) -> Result<&Buffer, DeviceError> {
        if self.mean_keys.is_none() {
            let zeros = Buffer::new(device, bytes)?;
            zeros.fill(0)?;
            self.mean_keys = Some(zeros);
        }
        Ok(self.mean_keys.as_ref().expect("they were just made"))
    }
}

/// Kept rows that can be copied out: those that were asked for, if the cache is on a GPU, and all otherwise.
#[derive(Debug)]
pub struct RowReader<'a> {
    cache: &'a RaggedCache,
    fetched: Option<Fetched>,
}

/// What came back from a GPU.
#[derive(Debug)]
struct Fetched {
    /// Of one layer.
    mean_keys: Vec<u8>,
    runs: Vec<FetchedRun>,
    bytes: Vec<u8>,
}

/// Consecutive rows of a table, all of one form.
#[derive(Clone, Debug)]
struct FetchedRun {
    table: usize,
    format: RowFormat,
    rows: Range<usize>,
    /// Where they begin.
    offset: usize,
}

impl RaggedCache {
    fn device_pages(&self) -> Option<&DevicePages> {
        self.reservation.on_device()
    }

    fn gpu(&self) -> Option<Gpu> {
        self.device_pages().map(|pages| pages.gpu.clone())
    }

    /// Lets a queue go on when what another one wrote is there.
    fn wait_for_rows(&self, queue: &Arc<dyn Device>) -> Result<(), DeviceError> {
        match &self.on_device.written {
            Some(mark) => queue.wait_for(mark),
            None => Ok(()),
        }
    }

    /// `[Hkv, D]` in half precision.
    fn mean_keys_of_layer(&self) -> usize {
        NARROW * self.shape().kv_heads * self.shape().head_dim
    }

    fn mean_keys_bytes(&self) -> usize {
        self.shape().layers * self.mean_keys_of_layer()
    }

    pub(super) fn pool_place(&self) -> PoolPlace {
        let pages = self.device_pages().expect("the cache is on a GPU");
        let table = &self.tables[0];
        PoolPlace {
            pages: pages.bytes.address(),
            page_bytes: self.reservation.page_bytes() as u64,
            wide_page_rows: table.wide.page_rows() as u32,
            packed_page_rows: table.packed.page_rows() as u32,
        }
    }

    /// Copies the kept rows of a layer into pages: first the window, which always stays, then the others best first,
    /// so that every later cut is a truncation.
    pub(super) fn gather(
        &mut self,
        cascade: &Cascade,
        layer: usize,
        full: &FullLayer<'_>,
    ) -> Result<(), EngineError> {
        let shape = *self.shape();
        let window = (full.tokens - cascade.window_rows()) as u32..full.tokens as u32;
        let (mut positions, mut first_positions) = (Vec::<u32>::new(), Vec::new());
        let mut rows_max = 0;
        for head in 0..shape.kv_heads {
            first_positions.push(positions.len() as u32);
            positions.extend(window.clone());
            positions.extend(cascade.head_order(layer, head));
            let rows = positions.len() - first_positions[head] as usize;
            rows_max = rows_max.max(rows);
            let wide = rows.min(shape.wide_rows);
            let table = &mut self.tables[layer * shape.kv_heads + head];
            table.wide.grow(&mut self.reservation, wide);
            table.packed.grow(&mut self.reservation, rows - wide);
        }
        let model = full.model;
        let device = model.device();
        let (bytes, of_layer) = (self.mean_keys_bytes(), self.mean_keys_of_layer());
        let mut mean_keys = 0;
        if shape.format.is_packed() {
            let all = self.on_device.mean_keys(device, bytes)?;
            mean_keys = all.part(layer * of_layer, of_layer);
            let mut means = MeanKeys {
                compute: model.compute(),
                head_dim: shape.head_dim,
                kv_heads: shape.kv_heads,
                rows: full.tokens,
                keys: full.keys.address(),
                sums: 0,
                means: mean_keys,
            };
            let sums = Buffer::new(device, means.sum_bytes())?;
            means.sums = sums.address();
            for launch in means.launches() {
                device.run(&launch)?;
            }
        }
        let (tables, pages) = places(self.layer(layer), 0);
        let mut upload = Upload::default();
        let tables = upload.add(&tables);
        let pages = upload.add(&pages);
        let positions = upload.add(&positions);
        let first_positions = upload.add(&first_positions);
        let sent = upload.send(device)?;
        let gather = Gather {
            format: shape.format,
            compute: model.compute(),
            head_dim: shape.head_dim,
            kv_heads: shape.kv_heads,
            keys: full.keys.address(),
            values: full.values.address(),
            positions: positions.within(&sent),
            first_positions: first_positions.within(&sent),
            tables: tables.within(&sent),
            pages: pages.within(&sent),
            mean_keys,
            pool: self.pool_place(),
            rows_max,
        };
        device.run(&gather.launch())?;
        self.on_device.written = Some(device.mark()?);
        Ok(())
    }

    /// For copying out rows that prefill left: those of `wanted`, which names tables `layer · Hkv + head` and entries in
    /// them, and the mean keys of one layer. From a GPU they come in one copy.
    ///
    /// # Errors
    /// The GPU's.
    ///
    /// # Panics
    /// If a table has fewer entries.
    pub fn reader(
        &self,
        mean_keys_of: usize,
        wanted: impl Iterator<Item = (usize, Range<usize>)>,
    ) -> Result<RowReader<'_>, EngineError> {
        let fetched = match self.gpu() {
            Some(gpu) => Some(self.fetch(&gpu.copies, mean_keys_of, wanted)?),
            None => None,
        };
        Ok(RowReader {
            cache: self,
            fetched,
        })
    }

    /// On the queue for copies, beside what is computed meanwhile.
    fn fetch(
        &self,
        queue: &Arc<dyn Device>,
        mean_keys_of: usize,
        wanted: impl Iterator<Item = (usize, Range<usize>)>,
    ) -> Result<Fetched, DeviceError> {
        let shape = self.shape();
        let mut copies = Copies::default();
        let mut runs = Vec::new();
        for (table, rows) in wanted {
            for (format, rows) in shape.split(rows) {
                let offset = copies.add(self, table, format, rows.clone());
                runs.push(FetchedRun {
                    table,
                    format,
                    rows,
                    offset,
                });
            }
        }
        self.wait_for_rows(queue)?;
        let buffer = Buffer::new(queue, copies.bytes)?;
        copies.run(self, queue, Direction::FromPages, &buffer)?;
        let mut mean_keys = Vec::new();
        if let Some(all) = &self.on_device.mean_keys {
            let of_layer = self.mean_keys_of_layer();
            mean_keys.resize(of_layer, 0);
            queue.read(all.part(mean_keys_of * of_layer, of_layer), &mut mean_keys)?;
        }
        Ok(Fetched {
            mean_keys,
            runs,
            bytes: buffer.read(0, copies.bytes)?,
        })
    }

    /// Adds what a frame brought.
    ///
    /// # Errors
    /// The GPU's.
    ///
    /// # Panics
    /// If the reservation is used up: whoever receives has checked that.
    pub fn receive(&mut self, arrived: &Arrived<'_>) -> Result<(), EngineError> {
        let Some(Gpu { copies: queue, .. }) = self.gpu() else {
            for mean in &arrived.means {
                self.set_mean(mean.layer, mean.head, mean.bytes);
            }
            for group in &arrived.groups {
                self.append_rows(group.layer, group.head, group.keys, group.values);
            }
            return Ok(());
        };
        let shape = *self.shape();
        let bytes = self.mean_keys_bytes();
        for mean in &arrived.means {
            let all = self.on_device.mean_keys(&queue, bytes)?;
            let head = mean.layer * shape.kv_heads + mean.head;
            all.write(head * mean.bytes.len(), mean.bytes)?;
        }
        let mut copies = Copies::default();
        let mut wire = Vec::new();
        for group in &arrived.groups {
            let index = group.layer * shape.kv_heads + group.head;
            let table = &mut self.tables[index];
            let area = match group.first_row < shape.wide_rows {
                true => &mut table.wide,
                false => &mut table.packed,
            };
            area.grow(&mut self.reservation, group.rows);
            let rows = group.first_row..group.first_row + group.rows;
            let offset = copies.add(self, index, group.format, rows);
            wire.resize(offset, 0);
            wire.extend_from_slice(group.keys);
            wire.extend_from_slice(group.values);
        }
        wire.resize(copies.bytes, 0);
        let buffer = Buffer::of(&queue, &wire)?;
        copies.run(self, &queue, Direction::ToPages, &buffer)?;
        self.on_device.written = Some(queue.mark()?);
        Ok(())
    }

    /// What kernels are told of the sequence in the step that appends one more row to each table.
    ///
    /// # Errors
    /// The GPU's.
    ///
    /// # Panics
    /// If the reservation is used up: it was made for fewer appended tokens.
    pub(super) fn sequence_place(&mut self) -> Result<SequencePlace, DeviceError> {
        let appended = self.next_position() - self.shape().tokens;
        let queue = self.gpu().expect("the cache is on a GPU").compute;
        if self.on_device.sequence.is_none() {
            self.wait_for_rows(&queue)?;
            self.on_device.sequence = Some(self.begin_sequence(&queue, appended)?);
        }
        let mean_keys = self.on_device.mean_keys.as_ref();
        let sequence = self.on_device.sequence.as_ref().expect("it was just made");
        assert!(
            appended < sequence.appended_max,
            "a request exceeds its reservation of {} pages",
            self.pages_reserved()
        );
        Ok(SequencePlace {
            tables: sequence.tables.address(),
            pages: sequence.pages.address(),
            mean_keys: mean_keys.map_or(0, Buffer::address),
            appended: appended as u32 + 1,
            unused: 0,
        })
    }

    /// At least the pieces of its largest table in the step after [`sequence_place`](Self::sequence_place).
    pub(super) fn pieces(&self) -> usize {
        let sequence = self.on_device.sequence.as_ref();
        let (wide, packed) = sequence.expect("it takes part in a step").rows_max;
        let appended = self.next_position() - self.shape().tokens + 1;
        pieces(wide + appended, packed)
    }

    /// Takes all pages that appended rows can ever need, which are reserved anyway: so the GPU is told once where they
    /// are.
    fn begin_sequence(
        &mut self,
        device: &Arc<dyn Device>,
        appended: usize,
    ) -> Result<Sequence, DeviceError> {
        let free = self.reservation.pages() - self.reservation.pages_taken();
        let needed = |more: usize| -> usize {
            let tables = self.tables.iter();
            let pages = tables.map(|table| {
                let wide = &table.wide;
                // It may have taken them before, and failed then.
                let pages = (wide.rows() + more).div_ceil(wide.page_rows());
                pages.saturating_sub(wide.numbers().len())
            });
            pages.sum()
        };
        // The most rows that the pages give to every table: fewer than one table alone could have.
        let alone = (self.reservation.pages() + 1) * self.tables[0].wide.page_rows();
        let (mut fits, mut too_many) = (0, alone + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match needed(middle) <= free {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        for table in &mut self.tables {
            let rows = table.wide.rows() + fits;
            table.wide.make_room(&mut self.reservation, rows);
        }
        let (tables, pages) = places(&self.tables, appended);
        let rows_max =
            |of: fn(&TablePlace) -> u32| tables.iter().map(of).max().unwrap_or(0) as usize;
        Ok(Sequence {
            appended_max: appended + fits,
            rows_max: (
                rows_max(|table| table.wide_rows),
                rows_max(|table| table.packed_rows),
            ),
            tables: Buffer::of(device, bytemuck::cast_slice(&tables))?,
            pages: Buffer::of(device, bytemuck::cast_slice(&pages))?,
        })
    }

    /// A step has appended a row to each table.
    pub(super) fn appended(&mut self) {
        for table in &mut self.tables {
            table.wide.grow(&mut self.reservation, 1);
        }
        self.advance();
    }
}

/// Tables, and the numbers of their pages. Wide areas have `appended` rows that prefill did not leave.
fn places(tables: &[PageTable], appended: usize) -> (Vec<TablePlace>, Vec<u32>) {
    let (mut places, mut pages) = (Vec::new(), Vec::new());
    let mut list = |area: &Area| {
        let first = pages.len() as u32;
        pages.extend(area.numbers());
        first
    };
    for table in tables {
        places.push(TablePlace {
            wide_page: list(&table.wide),
            packed_page: list(&table.packed),
            wide_rows: (table.wide.rows() - appended) as u32,
            packed_rows: table.packed.rows() as u32,
        });
    }
    (places, pages)
}

/// Runs of rows between pages and a buffer.
#[derive(Debug, Default)]
struct Copies {
    runs: Vec<RunPlace>,
    pages: Vec<u32>,
    /// Of the buffer.
    bytes: usize,
    rows_max: usize,
}

impl Copies {
    /// Adds rows of a table, all of one form, by their place among those that prefill leaves; gives where they are in
    /// the buffer. Kernels want an even number.
    fn add(
        &mut self,
        cache: &RaggedCache,
        table: usize,
        format: RowFormat,
        rows: Range<usize>,
    ) -> usize {
        let (is_packed, first_row) = cache.place(rows.start);
        let table = &cache.tables[table];
        let area = if is_packed {
            &table.packed
        } else {
            &table.wide
        };
        assert!(
            first_row + rows.len() <= area.rows(),
            "only rows that exist are copied"
        );
        // Only the pages that hold them.
        let pages =
            first_row / area.page_rows()..(first_row + rows.len()).div_ceil(area.page_rows());
        let offset = self.bytes.next_multiple_of(NARROW);
        self.runs.push(RunPlace {
            offset: offset as u64,
            first_page: self.pages.len() as u32,
            first_row: (first_row - pages.start * area.page_rows()) as u32,
            rows: rows.len() as u32,
            is_packed: u32::from(is_packed),
        });
        self.pages
            .extend(area.numbers().skip(pages.start).take(pages.len()));
        self.bytes = offset + rows.len() * format.entry_bytes(cache.shape().head_dim);
        self.rows_max = self.rows_max.max(rows.len());
        offset
    }

    fn run(
        &self,
        cache: &RaggedCache,
        device: &Arc<dyn Device>,
        direction: Direction,
        buffer: &Buffer,
    ) -> Result<(), DeviceError> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let mut upload = Upload::default();
        let (runs, pages) = (upload.add(&self.runs), upload.add(&self.pages));
        let sent = upload.send(device)?;
        let copy = CopyRows {
            format: cache.shape().format,
            head_dim: cache.shape().head_dim,
            direction,
            runs: runs.within(&sent),
            run_count: self.runs.len(),
            rows_max: self.rows_max,
            pages: pages.within(&sent),
            pool: cache.pool_place(),
            buffer: buffer.address(),
        };
        device.run(&copy.launch())
    }
}

impl RowReader<'_> {
    /// Appends the mean keys of the layer that was asked for to `out`.
    pub fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        match &self.fetched {
            Some(fetched) => out.extend_from_slice(&fetched.mean_keys),
            None => self.cache.copy_means(layer, out),
        }
    }

    /// Appends to `out` the keys of entries of a table, then their values, as they lie on the wire: all of one form,
    /// then those of the other.
    ///
    /// # Panics
    /// If they were not asked for.
    pub fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        let shape = self.cache.shape();
        let Some(fetched) = &self.fetched else {
            let (layer, head) = (table / shape.kv_heads, table % shape.kv_heads);
            return self.cache.copy_rows(layer, head, rows, out);
        };
        for (_, rows) in shape.split(rows) {
            let holds = |run: &&FetchedRun| {
                run.table == table && run.rows.start <= rows.start && rows.end <= run.rows.end
            };
            let run = fetched.runs.iter().find(holds);
            let run = run.expect("only rows that were asked for are copied");
            run.copy(&fetched.bytes, rows, shape.head_dim, out);
        }
    }
}

impl FetchedRun {
    fn copy(&self, bytes: &[u8], rows: Range<usize>, head_dim: usize, out: &mut Vec<u8>) {
        let all = self.rows.len();
        let first = rows.start - self.rows.start;
        let sizes = [self.format.code_bytes(head_dim), self.format.scale_bytes()];
        let mut at = self.offset;
        // Keys, then values.
        for size in [sizes, sizes].concat() {
            out.extend_from_slice(&bytes[at + first * size..][..rows.len() * size]);
            at += all * size;
        }
    }
}
