//! How many pages a cache needs: what both ends of a reservation must agree in.

use crate::format::RowFormat;
use crate::header::CacheShape;

/// Entries of a format that a page holds.
pub fn rows_of_page(page_bytes: usize, format: RowFormat, head_dim: usize) -> usize {
    page_bytes / format.entry_bytes(head_dim)
}

impl CacheShape {
    /// Pages that the cache can need at most if prefill leaves `rows_max` rows and every table gets
    /// `appended` more. Each table ends in at most one page of each form that is not full.
    ///
    /// # Panics
    /// If a page does not hold one entry.
    pub fn pages_max(&self, page_bytes: usize, rows_max: usize, appended: usize) -> usize {
        let tables = self.tables();
        let pages =
            |rows: usize, format| rows / rows_of_page(page_bytes, format, self.head_dim) + tables;
        let appended = tables.saturating_mul(appended);
        if !self.format.is_packed() {
            return pages(rows_max.saturating_add(appended), self.format);
        }
        // A table may lack pinned rows and have others instead, but never a row of the window.
        let wide = rows_max.min(tables * self.wide_rows);
        let packed = rows_max.saturating_sub(tables * self.window_rows);
        let wide = pages(wide.saturating_add(appended), self.format.wide());
        match packed {
            0 => wide,
            rows => wide.saturating_add(pages(rows, self.format)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_fill_pages_of_their_own() {
        let shape = |format: RowFormat, wide_rows| CacheShape {
            layers: 30,
            kv_heads: 3,
            head_dim: 64,
            tokens: 2000,
            window_rows: 32,
            wide_rows,
            format,
        };
        // 16 rows of 256 bytes.
        let pages =
            |shape: CacheShape, rows: usize, appended| shape.pages_max(4096, 90 * rows, appended);
        assert_eq!(
            pages(shape(RowFormat::F16, 2000), 128, 63),
            90 * (128 + 63) / 16 + 90
        );
        let int4 = shape(RowFormat::Int4, 32);
        assert_eq!(rows_of_page(4096, RowFormat::Int4, 64), 60);
        assert_eq!(
            pages(int4, 392, 63),
            (90 * (32 + 63) / 16 + 90) + (90 * 360 / 60 + 90)
        );
        assert_eq!(pages(int4, 32, 0), 90 * 32 / 16 + 90);
        let pinned = shape(RowFormat::Int4, 36);
        assert_eq!(
            pages(pinned, 392, 0),
            (90 * 36 / 16 + 90) + (90 * 360 / 60 + 90)
        );
    }
}
