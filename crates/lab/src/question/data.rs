//! Published data sets, by the names of their files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Body, Question};
use crate::{LineError, infinitebench, longbench};

/// Why a file gives no questions.
#[derive(Debug, Error)]
pub enum DataError {
    /// The name tells no data set.
    #[error(
        "{}: the name before .jsonl is no data set that is known; LongBench: {}; InfiniteBench: {}",
        file.display(),
        longbench::DATASETS.map(|set| set.name).join(", "),
        infinitebench::TASKS.each_ref().map(|task| task.name).join(", ")
    )]
    UnknownSet {
        /// Which file.
        file: PathBuf,
    },
    /// Two samples have one id, so that nobody could tell their answers apart.
    #[error("{}: two samples have the id {id:?}", file.display())]
    SameId {
        /// Which file.
        file: PathBuf,
        /// Of both.
        id: String,
    },
    /// The file cannot be read, or a line is broken.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// At most `samples_max` questions from the beginning of a LongBench or InfiniteBench file.
///
/// # Errors
/// The name is no data set's; the file cannot be read, or a line is broken: then file and line are
/// named; two samples have one id.
pub fn read_data(file: &Path, samples_max: usize) -> Result<Vec<Question>, DataError> {
    let name = file.file_stem().and_then(|stem| stem.to_str());
    let name = name.unwrap_or_default();
    let (samples, chat) = if let Some(set) = longbench::Dataset::named(name) {
        (longbench::read(file, samples_max)?, set.chat)
    } else if let Some(task) = infinitebench::Task::named(name) {
        (infinitebench::read(task, file, samples_max)?, true)
    } else {
        let file = file.to_owned();
        return Err(DataError::UnknownSet { file });
    };
    let mut ids = BTreeSet::new();
    if let Some(twice) = samples.iter().find(|sample| !ids.insert(&sample.id)) {
        return Err(DataError::SameId {
            file: file.to_owned(),
            id: twice.id.clone(),
        });
    }
    let question = |sample: crate::Sample| Question {
        task: name.to_owned(),
        id: sample.id.clone(),
        body: Body::Sample {
            sample: Box::new(sample),
            chat,
        },
    };
    Ok(samples.into_iter().map(question).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = read_data(Path::new("x/hotpot.jsonl"), 1).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("x/hotpot.jsonl: the name"), "{message}");
        assert!(message.contains("hotpotqa, "), "{message}");
        assert!(message.contains("passkey, "), "{message}");
    }

    #[test]
    fn two_samples_with_one_id_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passkey.jsonl");
        let line = "{\"id\": 7, \"context\": \"c\", \"input\": \"i\", \"answer\": \"1\"}\n";
        std::fs::write(&file, line.repeat(2)).unwrap();
        let message = read_data(&file, 2).unwrap_err().to_string();
        assert!(
            message.ends_with("two samples have the id \"passkey-7\""),
            "{message}"
        );
        assert_eq!(read_data(&file, 1).unwrap().len(), 1);
    }
}
