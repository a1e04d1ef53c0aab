//! Numbers from the front of an input. What is not there any more is zero, so that every input means something.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// A number of `range`, from one byte.
    pub(crate) fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + usize::from(self.u8()) % (range.end() - range.start() + 1)
    }

    /// As many of the next bytes as there are.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A part with its length, two bytes, before it.
    pub(crate) fn part(&mut self) -> &'a [u8] {
        let bytes = self.u16();
        self.take(bytes.into())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

/// Appends what [`Cursor::part`] reads.
pub(crate) fn write_part(out: &mut Vec<u8>, part: &[u8]) {
    let bytes = u16::try_from(part.len()).expect("seeds are small");
    out.extend(bytes.to_le_bytes());
    out.extend(part);
}
