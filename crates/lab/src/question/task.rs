//! The tasks by name.

use std::str::FromStr;

use thiserror::Error;

use crate::tasks::Niah;

/// A task that is made from texts and a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// How a text goes on.
    Lm,
    /// One needle in a text.
    Needle,
    /// Four needles in a text.
    Needles,
    /// One of many pairs.
    KeyValue,
    /// RULER's needles.
    Niah(Niah),
    /// RULER's variable tracking.
    Variables,
    /// RULER's common words.
    CommonWords,
    /// RULER's frequent words.
    FrequentWords,
}

/// The name is no task's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown task {found:?}; known are {}, ruler (those with niah, variables and words) and all",
    Task::all().map(Task::name).join(", ")
)]
pub struct UnknownTask {
    /// As it was given.
    pub found: String,
}

impl Task {
    /// Every task.
    pub fn all() -> [Task; 15] {
        let [a, b, c, d, e, f, g, h] = Niah::all().map(Task::Niah);
        use Task::{CommonWords, FrequentWords, KeyValue, Lm, Needle, Needles, Variables};
        [
            Lm,
            Needle,
            Needles,
            KeyValue,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            Variables,
            CommonWords,
            FrequentWords,
        ]
    }

    /// As in records.
    pub fn name(self) -> &'static str {
        match self {
            Task::Lm => "lm",
            Task::Needle => "needle",
            Task::Needles => "needles",
            Task::KeyValue => "kv",
            Task::Niah(niah) => niah.name,
            Task::Variables => "variables",
            Task::CommonWords => "common_words",
            Task::FrequentWords => "frequent_words",
        }
    }

    /// The tasks that a name stands for: itself, or a group.
    ///
    /// # Errors
    /// The name is unknown; the error lists the known ones.
    pub fn named(name: &str) -> Result<Vec<Task>, UnknownTask> {
        match name {
            "all" => Ok(Task::all().to_vec()),
            "ruler" => Ok(Task::all().into_iter().filter(|t| t.is_ruler()).collect()),
            name => Ok(vec![name.parse()?]),
        }
    }

    fn is_ruler(self) -> bool {
        use Task::{CommonWords, FrequentWords, Niah, Variables};
        matches!(self, Niah(_) | Variables | CommonWords | FrequentWords)
    }
}

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Task, UnknownTask> {
        let known = Task::all().into_iter().find(|task| task.name() == name);
        known.ok_or_else(|| UnknownTask {
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_groups() {
        for task in Task::all() {
            assert_eq!(Task::named(task.name()), Ok(vec![task]));
        }
        assert_eq!(Task::named("all").map(|tasks| tasks.len()), Ok(15));
        assert_eq!(Task::named("ruler").map(|tasks| tasks.len()), Ok(11));
        let message = Task::named("needel").unwrap_err().to_string();
        assert!(message.starts_with("unknown task \"needel\"; known are lm, needle,"));
    }
}
