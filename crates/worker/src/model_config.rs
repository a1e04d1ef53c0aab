//! Which model a worker runs.

use std::str::FromStr;

use lava_engine::{Compute, LoadError, Model, ModelFiles, OnDevice, RowFormat, WeightFormat};
use lava_node::ConfigError;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// The section `[model]` of a worker's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A folder with safetensors, a `.gguf` file, or a name on the Hub. Must be given.
    pub path: Option<String>,
    /// Name that requests ask for; `None`: the last part of `path`, without `.gguf`.
    pub name: Option<String>,
    /// Row formats that requests may ask for.
    #[serde(deserialize_with = "row_formats")]
    pub row_formats: Vec<RowFormat>,
    /// How weights are held.
    pub weights: WeightsName,
    /// Where it runs.
    #[serde(deserialize_with = "device")]
    pub device: DeviceName,
    /// What it computes in on a GPU, where weights are held so too.
    pub compute: ComputeName,
    /// Tokens of a prompt that pass a layer together on a GPU.
    pub block_tokens: usize,
    /// Whether a GPU's steps are recorded as CUDA graphs.
    pub graphs: bool,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            path: None,
            name: None,
            row_formats: RowFormat::ALL.to_vec(),
            weights: WeightsName::default(),
            device: DeviceName::Cpu,
            compute: ComputeName::default(),
            block_tokens: 4096,
            graphs: false,
        }
    }
}

fn row_formats<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<RowFormat>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    if names.is_empty() {
        return Err(D::Error::custom(
            "row_formats is empty, expected at least one",
        ));
    }
    let formats = names
        .iter()
        .map(|name| name.parse().map_err(D::Error::custom));
    formats.collect()
}

/// Where a model runs: `cpu`, or `cuda:0` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// On the CPU.
    Cpu,
    /// On a GPU of NVIDIA's, by its number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = name.strip_prefix("cuda:").map(str::parse);
        match (name, number) {
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err(format!(
                "unknown device {name:?}, expected cpu, or cuda:0 and so on"
            )),
        }
    }
}

fn device<'de, D: Deserializer<'de>>(from: D) -> Result<DeviceName, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

/// Spellings of [`Compute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeName {
    /// bfloat16: the range of f32.
    #[default]
    Bf16,
    /// Half precision: finer, but large activations overflow.
    F16,
}

impl FromStr for ComputeName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(format!("unknown type {name:?}, expected bf16 or f16")),
        }
    }
}

impl From<ComputeName> for Compute {
    fn from(name: ComputeName) -> Self {
        match name {
            ComputeName::Bf16 => Self::Bf16,
            ComputeName::F16 => Self::F16,
        }
    }
}

/// Spellings of [`WeightFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsName {
    /// As the files have them.
    #[default]
    Stored,
    /// Widened at load.
    F32,
    /// Rounded to 8 bits at load.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl From<WeightsName> for WeightFormat {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::Stored => Self::Stored,
            WeightsName::F32 => Self::F32,
            WeightsName::Q8_0 => Self::Q8_0,
        }
    }
}

impl ModelSection {
    /// Loads the model where it shall run. `progress(done, total)` is called after each layer.
    ///
    /// # Errors
    /// A file is missing, broken, or of a kind that is not supported; or there is no such GPU.
    pub fn load(
        &self,
        files: &ModelFiles,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Model, LoadError> {
        let weights = self.weights.into();
        match self.on_device()? {
            None => Model::load(files, weights, progress),
            Some(on) => Model::load_on(on, files, weights, progress),
        }
    }

    /// The GPU that it shall run on, if it is one.
    ///
    /// # Errors
    /// There is no such GPU.
    pub fn on_device(&self) -> Result<Option<OnDevice>, LoadError> {
        match self.device {
            DeviceName::Cpu => Ok(None),
            DeviceName::Cuda(number) => {
                let block_tokens = self.block_tokens.max(1);
                OnDevice::cuda(number, self.compute.into(), block_tokens, self.graphs).map(Some)
            }
        }
    }

    /// The row formats that the model's place can hold.
    pub(crate) fn held_formats(&self) -> Vec<RowFormat> {
        let formats = self.row_formats.iter().copied();
        let held = |format: &RowFormat| self.device == DeviceName::Cpu || *format != RowFormat::F32;
        formats.filter(held).collect()
    }

    /// Path and name.
    ///
    /// # Errors
    /// There is no path, or the name is empty.
    pub fn path_and_name(&self) -> Result<(&str, String), ConfigError> {
        let missing = |key: &str, found: &str, expected: &str| ConfigError::Contradiction {
            key: key.into(),
            found: found.into(),
            expected: expected.into(),
        };
        let path = self.path.as_deref().ok_or_else(|| {
            missing(
                "model.path",
                "not given",
                "a folder, a .gguf file or a Hub name",
            )
        })?;
        let last = path
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(path);
        let stem = last.strip_suffix(".gguf").unwrap_or(last);
        let name = self.name.clone().unwrap_or_else(|| stem.to_owned());
        if name.is_empty() {
            return Err(missing(
                "model.name",
                "empty",
                "a name that requests ask for",
            ));
        }
        Ok((path, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_the_last_part_of_its_path_unless_it_has_a_name() {
        let name = |path: &str, name: Option<&str>| {
            let section = ModelSection {
                path: Some(path.into()),
                name: name.map(Into::into),
                ..Default::default()
            };
            section.path_and_name().map(|(_, name)| name)
        };
        assert_eq!(name("a/b/Tiny.Q4.gguf", None).unwrap(), "Tiny.Q4");
        assert_eq!(name("owner/model/", None).unwrap(), "model");
        assert_eq!(name("x.gguf", Some("mine")).unwrap(), "mine");
        assert!(name("x.gguf", Some("")).is_err());
        let error = ModelSection::default().path_and_name().unwrap_err();
        expect_test::expect![
            "`model.path` is not given, expected a folder, a .gguf file or a Hub name"
        ]
        .assert_eq(&error.to_string());
    }

    #[test]
    fn devices_are_the_cpu_or_a_gpu_with_a_number() {
        let section = |text: &str| toml::from_str::<ModelSection>(text);
        assert_eq!(section("").unwrap().device, DeviceName::Cpu);
        let gpu = section("device = \"cuda:3\"\ncompute = \"f16\"").unwrap();
        assert_eq!(
            (gpu.device, gpu.compute),
            (DeviceName::Cuda(3), ComputeName::F16)
        );
        assert!(!gpu.held_formats().contains(&RowFormat::F32));
        for unknown in ["cuda", "cuda:", "cuda:-1", "gpu"] {
            let error = section(&format!("device = {unknown:?}")).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("expected cpu, or cuda:0 and so on")
            );
        }
    }

    #[test]
    fn row_formats_are_known_and_not_none() {
        let section = |text: &str| toml::from_str::<ModelSection>(text);
        let found = section(r#"row_formats = ["int4", "f16"]"#)
            .unwrap()
            .row_formats;
        assert_eq!(found, [RowFormat::Int4, RowFormat::F16]);
        let error = section(r#"row_formats = ["int5"]"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("known are f32, f16, bf16, int8, fp8, int4"),
            "{error}"
        );
        assert!(section("row_formats = []").is_err());
    }
}
