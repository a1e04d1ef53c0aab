//! The least GGUF writer that the tests need: it writes what it is told, right or wrong.

use lava_gguf::{Gguf, GgufError};
use std::io::Write;
use tempfile::NamedTempFile;

/// A file in the making. The counts follow from what was added, unless a test overrides them.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) entry_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer {
            version: 3,
            alignment: 32,
            entry_count: None,
            tensor_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// A metadata entry of type `kind` with the given bytes for its value.
    pub(crate) fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Writer {
        self.entries
            .push([text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Writer {
        self.entry(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Writer {
        self.entry(key, 8, &text(value))
    }

    pub(crate) fn strings(self, key: &str, values: &[&str]) -> Writer {
        let texts: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.array(key, 8, values.len() as u64, &texts)
    }

    /// An array of `count` elements of type `kind`, with the given bytes for all of them.
    pub(crate) fn array(self, key: &str, kind: u32, count: u64, elements: &[u8]) -> Writer {
        self.entry(key, 9, &array(kind, count, elements))
    }

    /// A row of the tensor table, with no data. `dims` are in the file's order: innermost first.
    pub(crate) fn row(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Writer {
        let dims_count = (dims.len() as u32).to_le_bytes().to_vec();
        let dims = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let (kind, offset) = (kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec());
        self.tensors
            .push([text(name), dims_count, dims, kind, offset].concat());
        self
    }

    /// A tensor and its data, behind those that were added before.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Writer {
        self.data
            .resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend(data);
        self.row(name, dims, kind, offset)
    }

    /// All bytes before the data section, without the padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let tensor_count = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        let entry_count = self.entry_count.unwrap_or(self.entries.len() as u64);
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensor_count.to_le_bytes());
        bytes.extend(entry_count.to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }

    pub(crate) fn open(&self) -> Result<Gguf, GgufError> {
        open(&self.bytes())
    }
}

/// A string as the format has it: its length, then its bytes.
pub(crate) fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// An array as the format has it: element type, count, elements.
pub(crate) fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), &count.to_le_bytes()[..], elements].concat()
}

/// Opens `bytes` as a file. The file has no name any more, but stays readable while it is open.
pub(crate) fn open(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::open(on_disk(bytes).path())
}

pub(crate) fn on_disk(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// One of everything: all scalar types, flat and nested arrays, plain and quantised tensors.
pub(crate) fn sample() -> Writer {
    let inner = array(5, 2, &[1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    Writer::new()
        .string("general.architecture", "llama")
        .u32("general.alignment", 32)
        .entry("a.u8", 0, &[200])
        .entry("a.i8", 1, &[0xFE])
        .entry("a.u16", 2, &40_000u16.to_le_bytes())
        .entry("a.i16", 3, &(-300i16).to_le_bytes())
        .entry("a.i32", 5, &(-70_000i32).to_le_bytes())
        .entry("a.f32", 6, &1.5f32.to_le_bytes())
        .entry("a.bool", 7, &[1])
        .entry("a.u64", 10, &(1u64 << 40).to_le_bytes())
        .entry("a.i64", 11, &(-1i64).to_le_bytes())
        .entry("a.f64", 12, &2.5f64.to_le_bytes())
        .strings("a.strings", &["", "naïve", "<|im_end|>"])
        .array(
            "a.f32s",
            6,
            2,
            &[0.25f32.to_le_bytes(), 4f32.to_le_bytes()].concat(),
        )
        .array("a.u32s", 4, 1, &7u32.to_le_bytes())
        .array("a.bools", 7, 3, &[1, 0, 1])
        .array("a.nested", 9, 2, &[inner, array(8, 1, &text("x"))].concat())
        .tensor("plain", &[3, 2], 0, &(0..24).collect::<Vec<u8>>())
        .tensor("quantised", &[32, 2, 1], 3, &[7; 40])
        .tensor("half", &[2], 1, &[1, 2, 3, 4])
}
