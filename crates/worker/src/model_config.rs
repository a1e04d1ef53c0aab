//! Which model a worker runs.

use lava_engine::{RowDtype, WeightFormat};
use lava_node::ConfigError;
use serde::Deserialize;

/// The section `[model]` of a worker's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A folder with safetensors, a `.gguf` file, or a name on the Hub. Must be given.
    pub path: Option<String>,
    /// Name that requests ask for; `None`: the last part of `path`, without `.gguf`.
    pub name: Option<String>,
    /// How cache rows are stored and shipped.
    pub row_dtype: RowDtypeName,
    /// How weights are held.
    pub weights: WeightsName,
}

/// Spellings of [`RowDtype`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowDtypeName {
    /// IEEE half precision.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
}

impl From<RowDtypeName> for RowDtype {
    fn from(name: RowDtypeName) -> Self {
        match name {
            RowDtypeName::F16 => Self::F16,
            RowDtypeName::Bf16 => Self::Bf16,
            RowDtypeName::F32 => Self::F32,
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
}

impl From<WeightsName> for WeightFormat {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::Stored => Self::Stored,
            WeightsName::F32 => Self::F32,
        }
    }
}

impl ModelSection {
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
}
