//! Numbers of one to five bytes.

/// Appends `value`.
pub(crate) fn write(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front; `None` if it is cut, longer than it need be or above `u32::MAX`.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u64;
    for index in 0..5 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            // Each number has one form, so that what is accepted is what a sender would have written.
            let is_shortest = byte != 0 || index == 0;
            return u32::try_from(value).ok().filter(|_| is_shortest);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_cut_or_overlong_ones_do_not() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u32::MAX] {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            let mut rest = &bytes[..];
            assert_eq!((read(&mut rest), rest), (Some(value), &[][..]));
            assert_eq!(read(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(read(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]), None);
        assert_eq!(read(&mut &[0xff, 0xff, 0xff, 0xff, 0x7f][..]), None);
        // Zero, and 127, in more bytes than they need.
        assert_eq!(read(&mut &[0x80, 0][..]), None);
        assert_eq!(read(&mut &[0xff, 0x80, 0][..]), None);
    }
}
