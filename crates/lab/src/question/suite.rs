//! Questions made from texts and a seed, by length and depth.

use std::cell::RefCell;

use thiserror::Error;

use super::{Body, Question, Task};
use crate::tasks::{
    self, Ask, CommonWords, Cut, Filler, FrequentWords, KeyValue, Needle, Variables,
};
use crate::{BoxError, Sample};

/// Which questions to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// What to ask.
    pub tasks: Vec<Task>,
    /// Tokens of a prompt; of tasks with answers at most so many.
    pub lengths: Vec<usize>,
    /// Places of needles, 0 to 1; tasks without a place ignore them.
    pub depths: Vec<f64>,
    /// Questions of each task, length and depth; of `lm` for each text and length.
    pub samples: usize,
    /// Tokens that `lm` predicts.
    pub continuation: usize,
    /// The same seed gives the same questions.
    pub seed: u64,
}

/// A text to cut or to hide things in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// For ids.
    pub name: String,
    /// All of it.
    pub content: String,
}

/// Why a suite cannot be made.
#[derive(Debug, Error)]
pub enum SuiteError {
    /// A task needs a text and there is none.
    #[error("{task} needs a text: give one")]
    NoText {
        /// Which task.
        task: &'static str,
    },
    /// A setting is wrong, or a length too short.
    #[error(transparent)]
    Setting(#[from] tasks::Error),
    /// A text cannot be encoded.
    #[error(transparent)]
    Encode(BoxError),
}

impl Suite {
    /// All questions, task by task. `encode` gives the ids of a plain text; `overhead` is what a
    /// prompt costs beyond its text.
    ///
    /// # Errors
    /// A task has no text or a wrong setting, or `encode` failed.
    pub fn questions(
        &self,
        texts: &[Text],
        overhead: usize,
        encode: &dyn Fn(&str) -> Result<Vec<u32>, BoxError>,
    ) -> Result<Vec<Question>, SuiteError> {
        let maker = Maker {
            suite: self,
            texts,
            overhead,
            encode,
            failed: RefCell::new(None),
        };
        let mut questions = Vec::new();
        for &task in &self.tasks {
            for &length in &self.lengths {
                match task {
                    Task::Lm => questions.extend(maker.windows(length)?),
                    _ => questions.extend(maker.samples(task, length)?),
                }
            }
        }
        Ok(questions)
    }
}

struct Maker<'a> {
    suite: &'a Suite,
    texts: &'a [Text],
    overhead: usize,
    encode: &'a dyn Fn(&str) -> Result<Vec<u32>, BoxError>,
    /// The first failure of a count, which cannot return one.
    failed: RefCell<Option<BoxError>>,
}

impl Maker<'_> {
    fn windows(&self, length: usize) -> Result<Vec<Question>, SuiteError> {
        let mut questions = Vec::new();
        if self.texts.is_empty() {
            return Err(SuiteError::NoText { task: "lm" });
        }
        for text in self.texts {
            let ids = (self.encode)(&text.content).map_err(SuiteError::Encode)?;
            let cut = Cut {
                prompt_tokens: length,
                continuation_tokens: self.suite.continuation,
                windows: self.suite.samples,
                seed: self.suite.seed,
            };
            let windows = tasks::windows(&ids, cut)?;
            questions.extend(windows.into_iter().map(|window| Question {
                task: "lm".to_owned(),
                id: format!("{}-{length}-{}", text.name, window.start),
                body: Body::Text {
                    prompt: window.prompt.to_vec(),
                    continuation: window.continuation.to_vec(),
                },
            }));
        }
        Ok(questions)
    }

    fn samples(&self, task: Task, length: usize) -> Result<Vec<Question>, SuiteError> {
        let placed = matches!(task, Task::Needle | Task::Needles | Task::KeyValue);
        let depths = match placed {
            true => self.suite.depths.as_slice(),
            false => &[0.0],
        };
        let mut questions = Vec::new();
        for index in 0..self.suite.samples {
            for &depth in depths {
                let sample = self.sample(task, length, depth, index)?;
                questions.push(Question {
                    task: task.name().to_owned(),
                    id: sample.id.clone(),
                    body: Body::Sample {
                        sample: Box::new(sample),
                        chat: true,
                    },
                });
            }
        }
        Ok(questions)
    }

    fn sample(
        &self,
        task: Task,
        length: usize,
        depth: f64,
        index: usize,
    ) -> Result<Sample, SuiteError> {
        let count_tokens = |text: &str| match (self.encode)(text) {
            Ok(ids) => ids.len() + self.overhead,
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                usize::MAX
            }
        };
        let ask = Ask {
            length,
            seed: self.suite.seed,
            index,
            count_tokens: &count_tokens,
        };
        let filler = || match self.texts {
            [] => Err(SuiteError::NoText { task: task.name() }),
            texts => Ok(Filler::new(&texts[index % texts.len()].content)?),
        };
        let needles = |needles| Needle { depth, needles };
        let sample = match task {
            Task::Lm => unreachable!("lm is cut, not made"),
            Task::Needle => needles(1).sample(&filler()?, &ask),
            Task::Needles => needles(4).sample(&filler()?, &ask),
            Task::KeyValue => KeyValue { depth }.sample(&ask),
            Task::Niah(niah) => niah.sample(&filler()?, &ask),
            Task::Variables => Variables { chains: 1, hops: 4 }.sample(&filler()?, &ask),
            Task::CommonWords => CommonWords.sample(&filler()?, &ask),
            Task::FrequentWords => FrequentWords.sample(&ask),
        };
        match self.failed.take() {
            Some(error) => Err(SuiteError::Encode(error)),
            None => Ok(sample?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word is a token.
    fn encode(text: &str) -> Result<Vec<u32>, BoxError> {
        Ok((0..text.split_whitespace().count() as u32).collect())
    }

    fn suite(tasks: &[Task]) -> Suite {
        Suite {
            tasks: tasks.to_vec(),
            lengths: vec![300, 600],
            depths: vec![0.0, 0.5, 1.0],
            samples: 2,
            continuation: 8,
            seed: 1,
        }
    }

    fn texts() -> Vec<Text> {
        let text = |name: &str, word: &str| Text {
            name: name.to_owned(),
            content: format!("{word} stood there. ").repeat(900),
        };
        vec![text("a", "Nobody"), text("b", "Everybody")]
    }

    #[test]
    fn every_task_length_depth_and_text_is_asked() {
        let counts = [(Task::Lm, 8), (Task::Needle, 12), (Task::Variables, 4)];
        for (task, count) in counts {
            let found = suite(&[task]).questions(&texts(), 20, &encode).unwrap();
            assert_eq!(found.len(), count, "{task:?}");
            let ids: std::collections::BTreeSet<_> = found.iter().map(|q| &q.id).collect();
            assert_eq!(ids.len(), count, "{task:?}");
        }
    }

    #[test]
    fn every_task_makes_questions_that_fit() {
        let all = suite(&Task::all())
            .questions(&texts(), 20, &encode)
            .unwrap();
        for question in all {
            if let Body::Sample { sample, .. } = question.body {
                let tokens = encode(&sample.prompt.joined()).unwrap().len() + 20;
                assert!(tokens <= sample.length, "{}: {tokens}", sample.id);
                assert!(!sample.truth.is_empty(), "{}", sample.id);
            }
        }
    }

    #[test]
    fn a_task_without_a_text_and_a_text_that_cannot_be_encoded_are_named() {
        let none = suite(&[Task::Needle]).questions(&[], 0, &encode);
        assert_eq!(
            none.unwrap_err().to_string(),
            "needle needs a text: give one"
        );
        let broken = |_: &str| Err::<Vec<u32>, _>("broken".into());
        let failed = suite(&[Task::KeyValue]).questions(&[], 0, &broken);
        assert_eq!(failed.unwrap_err().to_string(), "broken");
    }
}
