//! From the bytes before the tensor data to checked tables. No file is opened here.

use crate::error::Fault;
use crate::kind::GgmlType;
use crate::metadata::Metadata;
use crate::reader::Reader;
use crate::tensor::TensorInfo;
use crate::value::{Array, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Real files nest arrays once at most; the bound keeps a hostile one off the stack's end.
const NESTING_MAX: usize = 4;
const ALIGNMENT_DEFAULT: u64 = 32;
const DIMS_MAX: u32 = 4;

/// The smallest metadata entry: an empty key, a type and one byte.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;
/// The smallest row of the tensor table: an empty name, one dimension, type and offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// Everything that stands before the tensor data.
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// Reads the header from a file of `len` bytes.
pub(crate) fn header(stream: impl Read, len: u64) -> Result<Header, Fault> {
    let mut reader = Reader::new(stream, len);
    let version = version(&mut reader)?;
    let tensor_count = reader.u64(|| "the tensor count".into())?;
    let entry_count = reader.u64(|| "the metadata count".into())?;

    let values = metadata(&mut reader, entry_count)?;
    let metadata = Metadata::new(values);
    let alignment = alignment(&metadata)?;

    let mut tensors = tensor_table(&mut reader, tensor_count, alignment)?;
    place(
        &mut tensors,
        reader.position().next_multiple_of(alignment),
        len,
    )?;
    refuse_overlap(&tensors)?;
    Ok(Header {
        version,
        metadata,
        tensors,
    })
}

fn version(reader: &mut Reader<impl Read>) -> Result<u32, Fault> {
    let found: [u8; 4] = reader.array(|| "the magic number".into())?;
    if found != *b"GGUF" {
        return Err(Fault::Magic { found });
    }
    let version = reader.u32(|| "the version".into())?;
    match version {
        2 | 3 => Ok(version),
        _ if (1..=3).contains(&version.swap_bytes()) => Err(Fault::BigEndian {
            version: version.swap_bytes(),
        }),
        found => Err(Fault::Version { found }),
    }
}

fn metadata(reader: &mut Reader<impl Read>, count: u64) -> Result<BTreeMap<String, Value>, Fault> {
    let mut values = BTreeMap::new();
    let count = reader.expect(count, ENTRY_BYTES_MIN, || {
        format!("{count} metadata entries")
    })?;
    for index in 0..count {
        let key = reader.string(|| format!("metadata key {index}"))?;
        let kind = reader.u32(|| format!("the type of key \"{key}\""))?;
        let value = value(reader, kind, &key)?;
        if values.contains_key(&key) {
            return Err(Fault::DuplicateKey { key });
        }
        values.insert(key, value);
    }
    Ok(values)
}

fn value(reader: &mut Reader<impl Read>, kind: u32, key: &str) -> Result<Value, Fault> {
    let what = || format!("key \"{key}\"");
    Ok(match kind {
        0 => Value::U8(u8::from_le_bytes(reader.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(reader.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(reader.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(reader.array(what)?)),
        4 => Value::U32(u32::from_le_bytes(reader.array(what)?)),
        5 => Value::I32(i32::from_le_bytes(reader.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(reader.array(what)?)),
        7 => Value::Bool(truth(reader, key)?),
        8 => Value::String(reader.string(what)?),
        9 => Value::Array(array(reader, key, 1)?),
        10 => Value::U64(u64::from_le_bytes(reader.array(what)?)),
        11 => Value::I64(i64::from_le_bytes(reader.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(reader.array(what)?)),
        found => {
            return Err(Fault::ValueType {
                what: what(),
                found,
            });
        }
    })
}

fn array(reader: &mut Reader<impl Read>, key: &str, depth: usize) -> Result<Array, Fault> {
    let what = || format!("the array of key \"{key}\"");
    if depth > NESTING_MAX {
        return Err(Fault::Nesting {
            what: format!("key \"{key}\""),
            max: NESTING_MAX,
        });
    }
    let kind = reader.u32(what)?;
    let count = reader.u64(what)?;
    Ok(match kind {
        0 => Array::U8(numbers(reader, count, u8::from_le_bytes, what)?),
        1 => Array::I8(numbers(reader, count, i8::from_le_bytes, what)?),
        2 => Array::U16(numbers(reader, count, u16::from_le_bytes, what)?),
        3 => Array::I16(numbers(reader, count, i16::from_le_bytes, what)?),
        4 => Array::U32(numbers(reader, count, u32::from_le_bytes, what)?),
        5 => Array::I32(numbers(reader, count, i32::from_le_bytes, what)?),
        6 => Array::F32(numbers(reader, count, f32::from_le_bytes, what)?),
        7 => {
            let count = reader.expect(count, 1, what)?;
            Array::Bool(
                (0..count)
                    .map(|_| truth(reader, key))
                    .collect::<Result<_, _>>()?,
            )
        }
        8 => {
            let count = reader.expect(count, 8, what)?;
            Array::String(
                (0..count)
                    .map(|_| reader.string(what))
                    .collect::<Result<_, _>>()?,
            )
        }
        9 => {
            let count = reader.expect(count, 12, what)?;
            let inner = (0..count).map(|_| array(reader, key, depth + 1));
            Array::Array(inner.collect::<Result<_, _>>()?)
        }
        10 => Array::U64(numbers(reader, count, u64::from_le_bytes, what)?),
        11 => Array::I64(numbers(reader, count, i64::from_le_bytes, what)?),
        12 => Array::F64(numbers(reader, count, f64::from_le_bytes, what)?),
        found => {
            return Err(Fault::ValueType {
                what: what(),
                found,
            });
        }
    })
}

/// `count` numbers of `N` bytes each.
fn numbers<T, const N: usize>(
    reader: &mut Reader<impl Read>,
    count: u64,
    from_bytes: fn([u8; N]) -> T,
    what: impl Fn() -> String,
) -> Result<Vec<T>, Fault> {
    let count = reader.expect(count, N as u64, &what)?;
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        numbers.push(from_bytes(reader.array(&what)?));
    }
    Ok(numbers)
}

fn truth(reader: &mut Reader<impl Read>, key: &str) -> Result<bool, Fault> {
    let what = || format!("key \"{key}\"");
    match reader.array(what)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [found] => Err(Fault::Bool {
            what: what(),
            found,
        }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, Fault> {
    let found = match metadata.integer::<u32>("general.alignment", "u32") {
        Ok(found) => u64::from(found),
        Err(Fault::MissingKey { .. }) => ALIGNMENT_DEFAULT,
        Err(fault) => return Err(fault),
    };
    match found.is_power_of_two() {
        true => Ok(found),
        false => Err(Fault::Alignment { found }),
    }
}

/// The rows of the tensor table, with offsets that still count from the data section's start.
fn tensor_table(
    reader: &mut Reader<impl Read>,
    count: u64,
    alignment: u64,
) -> Result<Vec<TensorInfo>, Fault> {
    let count = reader.expect(count, TENSOR_BYTES_MIN, || format!("{count} tensors"))?;
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for index in 0..count {
        let tensor = tensor(reader, index)?;
        if !tensor.offset.is_multiple_of(alignment) {
            let TensorInfo { name, offset, .. } = tensor;
            return Err(Fault::Misaligned {
                tensor: name,
                offset,
                alignment,
            });
        }
        if !names.insert(tensor.name.clone()) {
            return Err(Fault::DuplicateTensor {
                tensor: tensor.name,
            });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn tensor(reader: &mut Reader<impl Read>, index: usize) -> Result<TensorInfo, Fault> {
    let name = reader.string(|| format!("the name of tensor {index}"))?;
    let what = || format!("the table row of tensor \"{name}\"");

    let count = reader.u32(what)?;
    if !(1..=DIMS_MAX).contains(&count) {
        return Err(Fault::DimensionCount {
            tensor: name,
            found: count,
        });
    }
    let mut dims = (0..count)
        .map(|_| reader.u64(what))
        .collect::<Result<Vec<_>, _>>()?;
    dims.reverse();
    let kind = reader.u32(what)?;
    let offset = reader.u64(what)?;

    let kind = match GgmlType::from_id(kind) {
        Ok(kind) => kind,
        Err(found) => {
            let supported = GgmlType::names();
            return Err(Fault::TensorType {
                tensor: name,
                name: found,
                supported,
            });
        }
    };
    let (dims, bytes) = size(&name, dims, kind)?;
    Ok(TensorInfo {
        name,
        dims,
        kind,
        offset,
        bytes,
    })
}

/// The shape in machine words and the bytes it takes.
fn size(tensor: &str, dims: Vec<u64>, kind: GgmlType) -> Result<(Vec<usize>, usize), Fault> {
    let wrong = || Fault::Dimensions {
        tensor: tensor.to_owned(),
        dims: dims.clone(),
    };
    let shape: Vec<usize> = dims
        .iter()
        .map(|&dim| {
            usize::try_from(dim)
                .ok()
                .filter(|&dim| dim > 0)
                .ok_or_else(wrong)
        })
        .collect::<Result<_, _>>()?;
    let elements = shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .ok_or_else(wrong)?;

    let (row, block) = (shape[shape.len() - 1], kind.elements_per_block());
    if !row.is_multiple_of(block) {
        let (tensor, kind) = (tensor.to_owned(), kind.name());
        return Err(Fault::BlockSize {
            tensor,
            kind,
            row,
            block,
        });
    }
    let bytes = (elements / block)
        .checked_mul(kind.bytes_per_block())
        .ok_or_else(wrong)?;
    Ok((shape, bytes))
}

/// Turns offsets within the data section into offsets within the file of `len` bytes.
fn place(tensors: &mut [TensorInfo], data_start: u64, len: u64) -> Result<(), Fault> {
    for tensor in tensors {
        let from = data_start.saturating_add(tensor.offset);
        let (needed, present) = (tensor.bytes as u64, len.saturating_sub(from));
        if needed > present {
            return Err(Fault::TensorCut {
                tensor: tensor.name.clone(),
                from,
                needed,
                present,
            });
        }
        tensor.offset = from;
    }
    Ok(())
}

fn refuse_overlap(tensors: &[TensorInfo]) -> Result<(), Fault> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].bytes as u64 > pair[1].offset {
            let [first, second] = [pair[0], pair[1]].map(|tensor| tensor.name.clone());
            return Err(Fault::Overlap { first, second });
        }
    }
    Ok(())
}
