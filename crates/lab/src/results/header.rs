//! What a run was: the first line of its file.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of the file's format.
pub const FORMAT: u32 = 2;

/// Everything that changes results. A resumed run must have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub lava_eval: u32,
    /// Name of the model.
    pub model: String,
    /// Fingerprint of the model's weights and tokenizer.
    pub model_digest: String,
    /// Commit of the program.
    pub commit: String,
    /// Of tasks and intervals.
    pub seed: u64,
    /// Digest of each text and data file by its name.
    pub texts: BTreeMap<String, String>,
    /// Everything else that a run was told: tasks, lengths, policies, budgets.
    pub settings: BTreeMap<String, String>,
}

/// A setting that differs between a file and a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which setting, as in the header's line.
    pub field: String,
    /// In the file; None if it has no such entry.
    pub found: Option<String>,
    /// Of this run; None if it has no such entry.
    pub expected: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| match value {
            Some(value) => format!("{value:?}"),
            None => "nothing".to_owned(),
        };
        write!(
            f,
            "{} is {}, expected {}",
            self.field,
            value(&self.found),
            value(&self.expected)
        )
    }
}

impl Header {
    /// What differs in a file with this header from what a run expects.
    pub fn differences(&self, expected: &Header) -> Vec<Difference> {
        let (ours, theirs) = (self.entries(), expected.entries());
        let fields: std::collections::BTreeSet<&String> =
            ours.keys().chain(theirs.keys()).collect();
        let difference = |field: &String| Difference {
            field: field.clone(),
            found: ours.get(field).cloned(),
            expected: theirs.get(field).cloned(),
        };
        fields
            .into_iter()
            .map(difference)
            .filter(|difference| difference.found != difference.expected)
            .collect()
    }

    /// Every setting by its path.
    pub(crate) fn entries(&self) -> BTreeMap<String, String> {
        let Header {
            lava_eval,
            model,
            model_digest,
            commit,
            seed,
            texts,
            settings,
        } = self;
        let mut entries = BTreeMap::from([
            ("lava_eval".to_owned(), lava_eval.to_string()),
            ("model".to_owned(), model.clone()),
            ("model_digest".to_owned(), model_digest.clone()),
            ("commit".to_owned(), commit.clone()),
            ("seed".to_owned(), seed.to_string()),
        ]);
        for (group, map) in [("texts", texts), ("settings", settings)] {
            entries.extend(
                map.iter()
                    .map(|(name, value)| (format!("{group}.{name}"), value.clone())),
            );
        }
        entries
    }
}
