//! The rows of one (layer, KV head), in pages.

use std::ops::Range;

use lava_kernels::{Half, Run};
use lava_kv::{RowFormat, rows_of_page};

use crate::pool::{Page, Reservation};

/// Rows of a head in two areas: those in the wide form (the window, pinned rows, and what is appended) and
/// packed ones. Caches whose rows are not packed have the first area only.
#[derive(Debug)]
pub struct PageTable {
    /// `[D]`, as packed keys are relative to it; zeros where nothing is packed.
    pub(crate) mean_key: Vec<f32>,
    pub(crate) wide: Area,
    pub(crate) packed: Area,
}

impl PageTable {
    /// Entries.
    pub fn rows(&self) -> usize {
        self.wide.rows + self.packed.rows
    }

    /// Its entries, page by page: the wide ones, then the packed ones.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.wide.runs().chain(self.packed.runs())
    }

    /// What packed keys are relative to, `[D]`.
    pub fn mean_key(&self) -> &[f32] {
        &self.mean_key
    }
}

/// Rows of one form. A page holds key codes, value codes, key scales and value scales of its rows, each
/// part with room for all of them; so the codes lie where their size aligns them.
#[derive(Debug)]
pub(crate) struct Area {
    format: RowFormat,
    head_dim: usize,
    page_rows: usize,
    pages: Vec<Page>,
    rows: usize,
}

/// Where the codes and scales of a half lie in a page: bytes of the first row's, and of each.
struct Layout {
    code_bytes: usize,
    scale_bytes: usize,
    /// Of keys, of values.
    codes: [usize; 2],
    scales: [usize; 2],
}

impl Area {
    pub(crate) fn new(format: RowFormat, head_dim: usize, page_bytes: usize) -> Self {
        Self {
            format,
            head_dim,
            page_rows: rows_of_page(page_bytes, format, head_dim),
            pages: Vec::new(),
            rows: 0,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn layout(&self) -> Layout {
        let (code_bytes, scale_bytes) = (
            self.format.code_bytes(self.head_dim),
            self.format.scale_bytes(),
        );
        let (codes, scales) = (self.page_rows * code_bytes, self.page_rows * scale_bytes);
        Layout {
            code_bytes,
            scale_bytes,
            codes: [0, codes],
            scales: [2 * codes, 2 * codes + scales],
        }
    }

    fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let layout = self.layout();
        self.pages.iter().enumerate().map(move |(index, page)| {
            let rows = self.page_rows.min(self.rows - index * self.page_rows);
            let bytes = page.bytes();
            let half = |half: usize| Half {
                codes: &bytes[layout.codes[half]..][..rows * layout.code_bytes],
                scales: &bytes[layout.scales[half]..][..rows * layout.scale_bytes],
            };
            Run {
                format: self.format,
                rows,
                keys: half(0),
                values: half(1),
            }
        })
    }

    /// Rows of a page.
    pub(crate) fn page_rows(&self) -> usize {
        self.page_rows
    }

    /// The numbers of its pages, which are on a GPU.
    pub(crate) fn numbers(&self) -> impl ExactSizeIterator<Item = u32> {
        self.pages.iter().map(Page::number)
    }

    /// Has pages for so many rows, or more.
    pub(crate) fn make_room(&mut self, reservation: &mut Reservation, rows: usize) {
        while self.pages.len() * self.page_rows < rows {
            self.pages.push(reservation.take());
        }
    }

    /// Adds rows that are written elsewhere.
    pub(crate) fn grow(&mut self, reservation: &mut Reservation, rows: usize) {
        self.rows += rows;
        self.make_room(reservation, self.rows);
    }

    /// Adds a row. `write` gets the bytes of codes and scale of the key, then of the value.
    pub(crate) fn push(
        &mut self,
        reservation: &mut Reservation,
        mut write: impl FnMut(usize, &mut [u8], &mut [u8]),
    ) {
        let row = self.rows % self.page_rows;
        if self.rows == self.pages.len() * self.page_rows {
            self.pages.push(reservation.take());
        }
        let layout = self.layout();
        let page = self.pages.last_mut().expect("a page was just ensured");
        let bytes = page.bytes_mut();
        for half in 0..2 {
            // Codes lie before scales.
            let (codes, scales) = bytes.split_at_mut(layout.scales[half]);
            write(
                half,
                &mut codes[layout.codes[half] + row * layout.code_bytes..][..layout.code_bytes],
                &mut scales[row * layout.scale_bytes..][..layout.scale_bytes],
            );
        }
        self.rows += 1;
    }

    /// Adds rows as they lie on the wire: each half is the codes of all rows and then their scales.
    ///
    /// # Panics
    /// If the halves are not whole rows, or the reservation is used up.
    pub(crate) fn append(&mut self, reservation: &mut Reservation, keys: &[u8], values: &[u8]) {
        let layout = self.layout();
        let row_bytes = layout.code_bytes + layout.scale_bytes;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(row_bytes));
        let rows = keys.len() / row_bytes;
        let mut done = 0;
        while done < rows {
            let first = self.rows % self.page_rows;
            if self.rows == self.pages.len() * self.page_rows {
                self.pages.push(reservation.take());
            }
            let take = (rows - done).min(self.page_rows - first);
            let page = self.pages.last_mut().expect("a page was just ensured");
            let bytes = page.bytes_mut();
            for (half, source) in [keys, values].into_iter().enumerate() {
                let (codes, scales) = source.split_at(rows * layout.code_bytes);
                for (source, start, size) in [
                    (codes, layout.codes[half], layout.code_bytes),
                    (scales, layout.scales[half], layout.scale_bytes),
                ] {
                    bytes[start + first * size..][..take * size]
                        .copy_from_slice(&source[done * size..][..take * size]);
                }
            }
            self.rows += take;
            done += take;
        }
    }

    /// Appends `rows` to `out` as they lie on the wire: keys, then values.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub(crate) fn copy(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        assert!(rows.end <= self.rows, "only rows that exist are copied");
        let layout = self.layout();
        for half in 0..2 {
            for (start, size) in [
                (layout.codes[half], layout.code_bytes),
                (layout.scales[half], layout.scale_bytes),
            ] {
                let mut row = rows.start;
                while row < rows.end {
                    let first = row % self.page_rows;
                    let take = (rows.end - row).min(self.page_rows - first);
                    let page = self.pages[row / self.page_rows].bytes();
                    out.extend_from_slice(&page[start + first * size..][..take * size]);
                    row += take;
                }
            }
        }
    }

    /// Keeps the first `rows` rows and gives the pages behind them back.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn truncate(&mut self, reservation: &mut Reservation, rows: usize) {
        assert!(rows <= self.rows, "a truncation never adds rows");
        self.rows = rows;
        for page in self.pages.drain(rows.div_ceil(self.page_rows)..) {
            reservation.give_back(page);
        }
    }
}
