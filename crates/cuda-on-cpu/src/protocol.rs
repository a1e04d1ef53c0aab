//! What goes to a program's stdin; `machine.cpp` reads it in the same order.

/// Appends `u64 length, bytes`.
fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// A buffer, filled or undefined.
pub(crate) fn buffer(
    out: &mut Vec<u8>,
    name: &str,
    address: u64,
    bytes: usize,
    filled: Option<&[u8]>,
) {
    out.push(b'b');
    text(out, name.as_bytes());
    out.extend(address.to_le_bytes());
    out.extend((bytes as u64).to_le_bytes());
    out.push(u8::from(filled.is_some()));
    out.extend(filled.unwrap_or_default());
}

/// Bytes of a filled buffer that are undefined.
pub(crate) fn undefined(out: &mut Vec<u8>, address: u64, bytes: usize) {
    out.push(b'u');
    out.extend(address.to_le_bytes());
    out.extend((bytes as u64).to_le_bytes());
}

/// A launch.
pub(crate) fn launch(
    out: &mut Vec<u8>,
    kernel: &str,
    grid: [u32; 3],
    threads: u32,
    order: u32,
    parameters: &[u8],
) {
    out.push(b'l');
    text(out, kernel.as_bytes());
    for size in grid.into_iter().chain([threads, 1, 1]).chain([order]) {
        out.extend(size.to_le_bytes());
    }
    text(out, parameters);
}

/// The end: what the buffers hold comes back.
pub(crate) fn end(out: &mut Vec<u8>) {
    out.push(b'e');
}
