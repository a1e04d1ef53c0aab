//! Weights from the safetensors files of a Hugging Face folder, one or many.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;

use crate::error::LoadError;
use crate::weights::elements;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// All weight files of a folder, mapped into memory.
pub(crate) struct Shards {
    files: Vec<(PathBuf, MmapedSafetensors)>,
    /// What a missing tensor is missing from.
    listing: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Opens `model.safetensors`, or the shards that the index lists.
    pub(crate) fn open(folder: &Path) -> Result<Self, LoadError> {
        let index = folder.join(INDEX);
        let (listing, names) = if index.exists() {
            let names = shard_names(&index)?;
            (index, names)
        } else {
            (folder.join(SINGLE), BTreeSet::from([SINGLE.to_owned()]))
        };
        let files = names
            .into_iter()
            .map(|name| {
                let path = folder.join(name);
                Ok((path.clone(), map(path)?))
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(Self { files, listing })
    }

    /// A tensor's values as f32, row-major, after its shape was checked.
    pub(crate) fn values(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, LoadError> {
        let found = self
            .files
            .iter()
            .find_map(|(path, file)| Some((path, file.get(name).ok()?)));
        let Some((path, view)) = found else {
            return Err(LoadError::MissingTensor {
                file: self.listing.clone(),
                tensor: name.into(),
            });
        };
        if view.shape() != expected {
            return Err(LoadError::Shape {
                file: path.clone(),
                tensor: name.into(),
                found: view.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        widen(&view).ok_or_else(|| LoadError::Dtype {
            file: path.clone(),
            tensor: name.into(),
            found: format!("{:?}", view.dtype()),
            expected: "F32, F16 or BF16",
        })
    }
}

fn shard_names(index: &Path) -> Result<BTreeSet<String>, LoadError> {
    let text = std::fs::read_to_string(index).map_err(|source| LoadError::Io {
        file: index.to_owned(),
        source,
    })?;
    let parsed: Index = serde_json::from_str(&text).map_err(|source| LoadError::Json {
        file: index.to_owned(),
        source,
    })?;
    Ok(parsed.weight_map.into_values().collect())
}

#[allow(unsafe_code)]
fn map(path: PathBuf) -> Result<MmapedSafetensors, LoadError> {
    // So that a missing file is told apart from a broken one.
    std::fs::metadata(&path).map_err(|source| LoadError::Io {
        file: path.clone(),
        source,
    })?;
    // SAFETY: a mapped file must not be changed while it is in use; model files are read-only by
    // convention, and every mapping is dropped when loading ends.
    unsafe { MmapedSafetensors::new(&path) }.map_err(|source| LoadError::Safetensors {
        file: path,
        source: Box::new(source),
    })
}

/// Little-endian elements as f32; `None` for a type that no supported model has.
fn widen(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Some(elements(data, f32::from_le_bytes)),
        Dtype::F16 => {
            let half: Vec<f16> = elements(data, f16::from_le_bytes);
            let mut out = vec![0.0; half.len()];
            half.convert_to_f32_slice(&mut out);
            Some(out)
        }
        Dtype::BF16 => Some(elements(data, |b| bf16::from_le_bytes(b).to_f32())),
        _ => None,
    }
}
