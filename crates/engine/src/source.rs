//! Where a model comes from: a folder, a GGUF file, or a repository on the Hugging Face Hub.

use std::path::{Path, PathBuf};

use hf_hub::Repo;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};

use crate::error::LoadError;

/// The files of a model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelFiles {
    /// A folder with `config.json`, `tokenizer.json` and safetensors.
    Folder(PathBuf),
    /// One GGUF file, tokenizer included.
    Gguf(PathBuf),
}

/// Files of a repository that are taken along if it has them.
const OPTIONAL: [&str; 4] = [
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

impl ModelFiles {
    /// The folder or the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path,
        }
    }

    /// Bytes of the files that hold weights.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub fn bytes(&self) -> Result<u64, LoadError> {
        let io = |file: &Path| {
            let file = file.to_owned();
            |source| LoadError::Io { file, source }
        };
        let len = |file: &Path| Ok(std::fs::metadata(file).map_err(io(file))?.len());
        match self {
            Self::Gguf(file) => len(file),
            Self::Folder(folder) => {
                let mut bytes = 0;
                for entry in std::fs::read_dir(folder).map_err(io(folder))? {
                    let file = entry.map_err(io(folder))?.path();
                    if file.extension().is_some_and(|end| end == "safetensors") {
                        bytes += len(&file)?;
                    }
                }
                Ok(bytes)
            }
        }
    }

    /// Finds a model by path, or fetches it from the Hub: `owner/model` is a safetensors repository,
    /// `owner/model/file.gguf` one file. Fetched files stay in the Hub's own cache. `progress`
    /// shows the client's progress bars.
    ///
    /// # Errors
    /// The name means nothing, or the Hub refused or could not be reached.
    pub fn find(name: &str, progress: bool) -> Result<Self, LoadError> {
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.is_file() {
            return Ok(Self::Gguf(path.to_owned()));
        }
        match HubName::parse(name) {
            Some(hub) => hub.fetch(progress),
            None => Err(LoadError::NoSuchModel { name: name.into() }),
        }
    }
}

/// `owner/model`, with a file if one is named.
#[derive(Debug, PartialEq, Eq)]
struct HubName<'a> {
    repository: &'a str,
    gguf: Option<&'a str>,
}

impl<'a> HubName<'a> {
    /// `None` if the name looks like a path: absolute, dotted, or with another number of parts.
    fn parse(name: &'a str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        if parts
            .iter()
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return None;
        }
        match parts[..] {
            [_, model] if !model.ends_with(".gguf") => Some(Self {
                repository: name,
                gguf: None,
            }),
            [owner, model, file] if file.ends_with(".gguf") => Some(Self {
                repository: &name[..owner.len() + 1 + model.len()],
                gguf: Some(file),
            }),
            _ => None,
        }
    }

    fn fetch(&self, progress: bool) -> Result<ModelFiles, LoadError> {
        let hub = |file: &str, source| LoadError::Hub {
            repository: self.repository.into(),
            file: file.into(),
            source: Box::new(source),
        };
        let api = ApiBuilder::from_env()
            .with_progress(progress)
            .build()
            .map_err(|source| hub("its index", source))?;
        let repo = api.repo(Repo::model(self.repository.into()));
        let get = |file: &str| repo.get(file).map_err(|source| hub(file, source));
        if let Some(file) = self.gguf {
            return Ok(ModelFiles::Gguf(get(file)?));
        }
        let config = get("config.json")?;
        get("tokenizer.json")?;
        let listing = siblings(&repo).map_err(|source| hub("its index", source))?;
        for file in &listing {
            if file.ends_with(".safetensors")
                || file == "model.safetensors.index.json"
                || OPTIONAL.contains(&file.as_str())
            {
                get(file)?;
            }
        }
        let folder = config.parent().expect("a fetched file lies in a folder");
        Ok(ModelFiles::Folder(folder.to_owned()))
    }
}

fn siblings(repo: &ApiRepo) -> Result<Vec<String>, hf_hub::api::sync::ApiError> {
    let info = repo.info()?;
    Ok(info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::HubName;

    #[test]
    fn hub_names_are_told_from_paths() {
        let repository = |name| HubName::parse(name).map(|hub| (hub.repository, hub.gguf));
        assert_eq!(repository("owner/model"), Some(("owner/model", None)));
        assert_eq!(
            repository("owner/model/x.gguf"),
            Some(("owner/model", Some("x.gguf")))
        );
        for path in [
            "/abs/model",
            "./a/b",
            "model",
            "a/b/c/d.gguf",
            "dir/x.gguf",
            "a//b",
        ] {
            assert_eq!(repository(path), None, "{path}");
        }
    }
}
