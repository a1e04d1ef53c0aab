//! An open GGUF file.

use crate::error::{Fault, GgufError};
use crate::metadata::Metadata;
use crate::parse::{Header, header};
use crate::tensor::TensorInfo;
use crate::value::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A GGUF file: its metadata and tensor table in memory, its tensors on disk.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    version: u32,
    metadata: Metadata,
    /// In the file's order.
    tensors: Vec<TensorInfo>,
    /// From a name to its index in `tensors`.
    index: BTreeMap<String, usize>,
}

impl Gguf {
    /// Opens a file and checks everything but the tensors' bytes.
    ///
    /// # Errors
    /// The file cannot be read, is not a GGUF file of version 2 or 3, or contradicts itself. Take
    /// another copy of it, or convert the model again.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let at = |fault| GgufError {
            path: path.to_owned(),
            fault,
        };
        let file = File::open(path).map_err(|error| at(Fault::Io(error)))?;
        let len = file.metadata().map_err(|error| at(Fault::Io(error)))?.len();
        let Header {
            version,
            metadata,
            tensors,
        } = header(BufReader::new(&file), len).map_err(at)?;

        let names = tensors.iter().map(|tensor| tensor.name.clone());
        let index = names.zip(0..).collect();
        Ok(Gguf {
            path: path.to_owned(),
            file,
            version,
            metadata,
            tensors,
            index,
        })
    }

    /// The file, as it was named to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All tensors, in the order of the file's table.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Fault::MissingTensor`]: the model has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        match self.index.get(name) {
            Some(&index) => Ok(&self.tensors[index]),
            None => Err(self.at(Fault::MissingTensor {
                tensor: name.to_owned(),
            })),
        }
    }

    /// The bytes of a tensor of this file, as they lie there. Threads may call this at once.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter since it was opened.
    pub fn read(&self, tensor: &TensorInfo) -> Result<Vec<u8>, GgufError> {
        let mut bytes = vec![0; tensor.bytes];
        match self.file.read_exact_at(&mut bytes, tensor.offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.shrunk(tensor)),
            Err(error) => Err(self.at(Fault::Io(error))),
        }
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys()
    }

    /// Whether the metadata have that key.
    pub fn contains(&self, key: &str) -> bool {
        self.metadata.get(key).is_some()
    }

    /// The value of a key, as the file types it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn shrunk(&self, tensor: &TensorInfo) -> GgufError {
        let present = match self.file.metadata() {
            Ok(metadata) => metadata.len().saturating_sub(tensor.offset),
            Err(error) => return self.at(Fault::Io(error)),
        };
        self.at(Fault::TensorCut {
            tensor: tensor.name.clone(),
            from: tensor.offset,
            needed: tensor.bytes as u64,
            present,
        })
    }

    fn at(&self, fault: Fault) -> GgufError {
        GgufError {
            path: self.path.clone(),
            fault,
        }
    }
}

/// Typed metadata. Each answers [`Fault::MissingKey`] or [`Fault::WrongType`], with the key and
/// both types; wrap a call in [`crate::optional`] where the key may be absent.
#[allow(clippy::missing_errors_doc)] // Said once, above.
impl Gguf {
    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        self.metadata.str(key).map_err(|fault| self.at(fault))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        self.metadata.bool(key).map_err(|fault| self.at(fault))
    }

    /// A number stored as f32 or f64.
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.metadata.f32(key).map_err(|fault| self.at(fault))
    }

    /// An integer of any stored width that fits; [`Fault::OutOfRange`] where it does not.
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.metadata
            .integer(key, "u32")
            .map_err(|fault| self.at(fault))
    }

    /// An integer of any stored width that fits; [`Fault::OutOfRange`] where it does not.
    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        self.metadata
            .integer(key, "u64")
            .map_err(|fault| self.at(fault))
    }

    /// An integer of any stored width that fits; [`Fault::OutOfRange`] where it does not.
    pub fn usize(&self, key: &str) -> Result<usize, GgufError> {
        self.metadata
            .integer(key, "usize")
            .map_err(|fault| self.at(fault))
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String], GgufError> {
        self.metadata.strings(key).map_err(|fault| self.at(fault))
    }

    /// An array of f32.
    pub fn f32s(&self, key: &str) -> Result<&[f32], GgufError> {
        self.metadata.f32s(key).map_err(|fault| self.at(fault))
    }

    /// An array of i32.
    pub fn i32s(&self, key: &str) -> Result<&[i32], GgufError> {
        self.metadata.i32s(key).map_err(|fault| self.at(fault))
    }

    /// An array of u32.
    pub fn u32s(&self, key: &str) -> Result<&[u32], GgufError> {
        self.metadata.u32s(key).map_err(|fault| self.at(fault))
    }
}
