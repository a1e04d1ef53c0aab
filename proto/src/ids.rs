//! Token ids as bytes. A long prompt has tens of thousands; as a list of numbers each would be encoded and
//! decoded by itself.

/// Ids, given in parts, as four little-endian bytes each.
pub fn ids_to_bytes(parts: &[&[u32]]) -> Vec<u8> {
    let count: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(4 * count);
    for part in parts {
        bytes.extend(part.iter().flat_map(|id| id.to_le_bytes()));
    }
    bytes
}

/// The ids of such bytes; `None` if the last one is cut.
pub fn ids_of_bytes(bytes: &[u8]) -> Option<Vec<u32>> {
    let (ids, rest) = bytes.as_chunks::<4>();
    let ids = ids.iter().map(|id| u32::from_le_bytes(*id));
    rest.is_empty().then(|| ids.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_and_cut_ones_do_not() {
        let bytes = ids_to_bytes(&[&[1, 258], &[], &[u32::MAX]]);
        assert_eq!(bytes, [1, 0, 0, 0, 2, 1, 0, 0, 255, 255, 255, 255]);
        assert_eq!(ids_of_bytes(&bytes), Some(vec![1, 258, u32::MAX]));
        assert_eq!(ids_of_bytes(&bytes[..11]), None);
        assert_eq!(ids_of_bytes(&[]), Some(vec![]));
    }
}
