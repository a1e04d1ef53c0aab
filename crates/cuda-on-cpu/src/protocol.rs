//! What goes to a program's stdin; `machine.cpp` reads it in the same order.

use crate::gpu::{Buffer, Launch};

/// All buffers, all launches, and the end: what the buffers hold comes back then.
pub(crate) fn script(buffers: &[Buffer], launches: &[Launch], order: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for buffer in buffers {
        out.push(b'b');
        text(&mut out, buffer.name.as_bytes());
        out.extend(buffer.address.to_le_bytes());
        text(&mut out, &buffer.bytes);
        for &(first, bytes) in &buffer.undefined {
            out.push(b'u');
            out.extend((buffer.address + first as u64).to_le_bytes());
            out.extend((bytes as u64).to_le_bytes());
        }
    }
    for launch in launches {
        out.push(b'l');
        text(&mut out, launch.kernel.as_bytes());
        let sizes = launch.grid.into_iter().chain([launch.threads, 1, 1, order]);
        out.extend(sizes.flat_map(u32::to_le_bytes));
        text(&mut out, &launch.parameters);
    }
    out.push(b'e');
    out
}

/// `u64 length, bytes`.
fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}
