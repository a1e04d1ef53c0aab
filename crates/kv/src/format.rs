//! How key and value rows are stored, in pages and on the wire.

use std::fmt;
use std::str::FromStr;

/// The form of the rows that compete for a budget. What is always kept (the window, pinned rows) and what
/// is appended while decoding lies in [`RowFormat::wide`] beside them.
///
/// A row of D elements is its codes and then its scale. Float formats have no scale. The *packed* ones
/// store `value = scale * (code + offset)` of a rotated row, with keys taken relative to their head's
/// mean over the prompt; `lava_kernels` says exactly how and does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowFormat {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Packed: 256 even levels.
    Int8,
    /// Packed: e4m3, 4 bits of exponent and 3 of mantissa.
    Fp8,
    /// Packed: 16 even levels.
    Int4,
}

/// Bytes of a packed row's scale, in half precision.
const SCALE_BYTES: usize = 2;

/// Bytes of an element of a head's mean key, in half precision.
const MEAN_BYTES: usize = 2;

impl RowFormat {
    /// All of them.
    pub const ALL: [RowFormat; 6] = [
        RowFormat::F32,
        RowFormat::F16,
        RowFormat::Bf16,
        RowFormat::Int8,
        RowFormat::Fp8,
        RowFormat::Int4,
    ];

    /// As it is written in requests and configurations.
    pub fn name(self) -> &'static str {
        match self {
            RowFormat::F32 => "f32",
            RowFormat::F16 => "f16",
            RowFormat::Bf16 => "bf16",
            RowFormat::Int8 => "int8",
            RowFormat::Fp8 => "fp8",
            RowFormat::Int4 => "int4",
        }
    }

    /// Whether rows are rotated and scaled.
    pub fn is_packed(self) -> bool {
        self.wide() != self
    }

    /// The form of rows that do not compete: itself, or half precision beside packed rows.
    pub fn wide(self) -> RowFormat {
        match self {
            RowFormat::F32 | RowFormat::F16 | RowFormat::Bf16 => self,
            RowFormat::Int8 | RowFormat::Fp8 | RowFormat::Int4 => RowFormat::F16,
        }
    }

    /// Bytes of the codes of a key row or a value row of `head_dim` elements (an even number).
    pub fn code_bytes(self, head_dim: usize) -> usize {
        match self {
            RowFormat::F32 => 4 * head_dim,
            RowFormat::F16 | RowFormat::Bf16 => 2 * head_dim,
            RowFormat::Int8 | RowFormat::Fp8 => head_dim,
            RowFormat::Int4 => head_dim / 2,
        }
    }

    /// Bytes of a row's scale.
    pub fn scale_bytes(self) -> usize {
        match self.is_packed() {
            true => SCALE_BYTES,
            false => 0,
        }
    }

    /// Bytes of an entry: a key row and a value row.
    pub fn entry_bytes(self, head_dim: usize) -> usize {
        2 * (self.code_bytes(head_dim) + self.scale_bytes())
    }

    /// Bytes of a head's mean key, which its packed rows are relative to.
    pub fn mean_bytes(self, head_dim: usize) -> usize {
        match self.is_packed() {
            true => MEAN_BYTES * head_dim,
            false => 0,
        }
    }

    /// Its number on the wire, from 1.
    pub fn number(self) -> u8 {
        let at = Self::ALL.iter().position(|format| *format == self);
        1 + at.expect("ALL is all") as u8
    }
}

impl fmt::Display for RowFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text names no row format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown row format {found:?}; known are {}", RowFormat::ALL.map(RowFormat::name).join(", "))]
pub struct UnknownRowFormat {
    /// The text as it was given.
    pub found: String,
}

impl FromStr for RowFormat {
    type Err = UnknownRowFormat;

    /// # Errors
    /// Whoever wrote the text; the error lists what is known.
    fn from_str(text: &str) -> Result<RowFormat, UnknownRowFormat> {
        let known = RowFormat::ALL
            .into_iter()
            .find(|format| format.name() == text);
        known.ok_or_else(|| UnknownRowFormat {
            found: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_others_are_refused_with_all_of_them() {
        for format in RowFormat::ALL {
            assert_eq!(format.name().parse(), Ok(format));
        }
        assert_eq!(
            "int5".parse::<RowFormat>().unwrap_err().to_string(),
            "unknown row format \"int5\"; known are f32, f16, bf16, int8, fp8, int4"
        );
    }

    #[test]
    fn an_entry_of_64_elements_has_these_bytes() {
        let bytes = RowFormat::ALL.map(|format| format.entry_bytes(64));
        assert_eq!(bytes, [512, 256, 256, 132, 132, 68]);
        assert_eq!(RowFormat::Int4.mean_bytes(64), 128);
        assert_eq!(RowFormat::F16.mean_bytes(64), 0);
    }
}
