//! The container of GGUF version 3: header, metadata, tensor table, aligned data. Little-endian throughout.

use std::io::{self, Write};

/// Data of every tensor starts at a multiple of this, counted from the start of the data.
pub(crate) const ALIGNMENT: usize = 32;

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum GgufValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    Texts(Vec<String>),
}

/// A tensor with its data already in the encoding that `type_id` names.
#[derive(Debug, Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// Row-major, outermost first, as everywhere in this crate; the file has it the other way round.
    pub(crate) shape: Vec<usize>,
    pub(crate) type_id: u32,
    pub(crate) data: Vec<u8>,
}

/// What a GGUF file holds, in file order.
#[derive(Debug, Clone, Default)]
pub(crate) struct GgufFile {
    pub(crate) metadata: Vec<(String, GgufValue)>,
    pub(crate) tensors: Vec<GgufTensor>,
}

impl GgufFile {
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bytes = self.header();
        pad(&mut bytes);
        for tensor in &self.tensors {
            bytes.extend(&tensor.data);
            pad(&mut bytes);
        }
        out.write_all(&bytes)
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        push_len(&mut bytes, self.tensors.len());
        push_len(&mut bytes, self.metadata.len());
        for (key, value) in &self.metadata {
            push_text(&mut bytes, key);
            push_value(&mut bytes, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            push_text(&mut bytes, &tensor.name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor
                .shape
                .iter()
                .rev()
                .for_each(|&len| push_len(&mut bytes, len));
            bytes.extend(tensor.type_id.to_le_bytes());
            push_len(&mut bytes, offset);
            offset += tensor.data.len().next_multiple_of(ALIGNMENT);
        }
        bytes
    }
}

fn push_value(bytes: &mut Vec<u8>, value: &GgufValue) {
    let push_type = |bytes: &mut Vec<u8>, id: u32| bytes.extend(id.to_le_bytes());
    const I32: u32 = 5;
    const TEXT: u32 = 8;
    const ARRAY: u32 = 9;
    match value {
        GgufValue::U32(x) => {
            push_type(bytes, 4);
            bytes.extend(x.to_le_bytes());
        }
        GgufValue::F32(x) => {
            push_type(bytes, 6);
            bytes.extend(x.to_le_bytes());
        }
        GgufValue::Bool(x) => {
            push_type(bytes, 7);
            bytes.push(u8::from(*x));
        }
        GgufValue::Text(text) => {
            push_type(bytes, TEXT);
            push_text(bytes, text);
        }
        GgufValue::I32s(values) => {
            push_type(bytes, ARRAY);
            push_type(bytes, I32);
            push_len(bytes, values.len());
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        GgufValue::Texts(texts) => {
            push_type(bytes, ARRAY);
            push_type(bytes, TEXT);
            push_len(bytes, texts.len());
            texts.iter().for_each(|text| push_text(bytes, text));
        }
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    push_len(bytes, text.len());
    bytes.extend(text.as_bytes());
}

fn push_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.extend((len as u64).to_le_bytes());
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_has_the_bytes_of_the_specification() {
        let file = GgufFile {
            metadata: vec![("k".into(), GgufValue::U32(7))],
            tensors: vec![GgufTensor {
                name: "t".into(),
                shape: vec![2, 3],
                type_id: 0,
                data: vec![0xaa; 24],
            }],
        };
        let mut expected = b"GGUF\x03\0\0\0".to_vec();
        for word in [1u64, 1, 1] {
            expected.extend(word.to_le_bytes());
        }
        expected.extend(b"k\x04\0\0\0\x07\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0");
        for dimension in [3u64, 2] {
            expected.extend(dimension.to_le_bytes());
        }
        expected.extend([0; 4 + 8]);
        expected.resize(96, 0);
        expected.extend([0xaa; 24]);
        expected.resize(128, 0);

        let mut bytes = Vec::new();
        file.write(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }
}
