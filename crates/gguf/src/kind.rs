//! The element types of tensors.

/// An element type whose block layout is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are ggml's own; `elements_per_block` and `bytes_per_block` tell the rest.
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

/// One row a type: ggml's number, ggml's name, elements and bytes of a block (ggml-common.h).
const KNOWN: [(GgmlType, u32, &str, usize, usize); 15] = [
    (GgmlType::F32, 0, "F32", 1, 4),
    (GgmlType::F16, 1, "F16", 1, 2),
    (GgmlType::BF16, 30, "BF16", 1, 2),
    (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
    (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
    (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
    (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
    (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
    (GgmlType::Q8_1, 9, "Q8_1", 32, 36),
    (GgmlType::Q2K, 10, "Q2_K", 256, 84),
    (GgmlType::Q3K, 11, "Q3_K", 256, 110),
    (GgmlType::Q4K, 12, "Q4_K", 256, 144),
    (GgmlType::Q5K, 13, "Q5_K", 256, 176),
    (GgmlType::Q6K, 14, "Q6_K", 256, 210),
    (GgmlType::Q8K, 15, "Q8_K", 256, 292),
];

/// Types that are refused, so that the error can call them by name.
const UNSUPPORTED: [(u32, &str); 24] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl GgmlType {
    /// The type with ggml's number `id`.
    ///
    /// # Errors
    /// The name of a type that is not read here, or the number where it has no name.
    pub(crate) fn from_id(id: u32) -> Result<GgmlType, String> {
        if let Some(row) = KNOWN.iter().find(|row| row.1 == id) {
            return Ok(row.0);
        }
        match UNSUPPORTED.iter().find(|row| row.0 == id) {
            Some((_, name)) => Err((*name).to_owned()),
            None => Err(format!("number {id}")),
        }
    }

    /// The names of all types that are read, for messages.
    pub(crate) fn names() -> String {
        KNOWN.map(|row| row.2).join(", ")
    }

    /// ggml's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// How many elements one block holds; 1 where the type is not quantised.
    pub fn elements_per_block(self) -> usize {
        self.row().3
    }

    /// How many bytes one block takes.
    pub fn bytes_per_block(self) -> usize {
        self.row().4
    }

    fn row(self) -> (GgmlType, u32, &'static str, usize, usize) {
        *KNOWN
            .iter()
            .find(|row| row.0 == self)
            .expect("every type has a row")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_number_and_no_number_occurs_twice() {
        for (kind, id, name, ..) in KNOWN {
            assert_eq!(GgmlType::from_id(id), Ok(kind));
            assert_eq!(kind.name(), name);
            assert!(UNSUPPORTED.iter().all(|row| row.0 != id));
        }
    }

    #[test]
    fn a_type_that_is_not_read_is_called_by_its_name() {
        assert_eq!(GgmlType::from_id(16), Err("IQ2_XXS".to_owned()));
        assert_eq!(GgmlType::from_id(999), Err("number 999".to_owned()));
    }
}
