//! Little-endian numbers and texts from a stream whose length is known.

use crate::error::Fault;
use std::io::Read;

/// Reads forward and knows how many bytes are left, so that no length in the file is believed
/// before it is compared with that.
pub(crate) struct Reader<R> {
    stream: R,
    len: u64,
    left: u64,
}

impl<R: Read> Reader<R> {
    /// A reader over `stream`, which holds `len` bytes.
    pub(crate) fn new(stream: R, len: u64) -> Reader<R> {
        Reader {
            stream,
            len,
            left: len,
        }
    }

    /// How many bytes were read so far.
    pub(crate) fn position(&self) -> u64 {
        self.len - self.left
    }

    /// Refuses `count` items of at least `bytes_each` bytes where fewer bytes are left.
    /// The count is safe to loop over and to reserve for afterwards.
    pub(crate) fn expect(
        &self,
        count: u64,
        bytes_each: u64,
        what: impl Fn() -> String,
    ) -> Result<usize, Fault> {
        let needed = count.saturating_mul(bytes_each);
        if needed > self.left {
            return Err(Fault::Cut {
                what: what(),
                needed,
                present: self.left,
            });
        }
        usize::try_from(count).map_err(|_| Fault::Cut {
            what: what(),
            needed,
            present: self.left,
        })
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: impl Fn() -> String,
    ) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self, what: impl Fn() -> String) -> Result<u32, Fault> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: impl Fn() -> String) -> Result<u64, Fault> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A text: its length in eight bytes, then UTF-8.
    pub(crate) fn string(&mut self, what: impl Fn() -> String) -> Result<String, Fault> {
        let len = self.u64(&what)?;
        let mut bytes = vec![0; self.expect(len, 1, &what)?];
        self.fill(&mut bytes, &what)?;
        String::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { what: what() })
    }

    fn fill(&mut self, bytes: &mut [u8], what: impl Fn() -> String) -> Result<(), Fault> {
        self.expect(bytes.len() as u64, 1, what)?;
        self.stream.read_exact(bytes).map_err(Fault::Io)?;
        self.left -= bytes.len() as u64;
        Ok(())
    }
}
