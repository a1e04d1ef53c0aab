//! Published data sets, by the names of their files.

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
    /// The file cannot be read, or a line is broken.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// At most `samples_max` questions from the beginning of a LongBench or InfiniteBench file.
///
/// # Errors
/// The name is no data set's; the file cannot be read, or a line is broken: then file and line are
/// named.
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
}
