//! Questions made from texts and a seed, by length and depth.

use std::cell::RefCell;
use std::collections::BTreeSet;

use thiserror::Error;

use super::{Body, Question, TRUTH_TOKENS_MAX, Task};
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

/// What the model that is asked makes of texts.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// Ids of a plain text.
    pub encode: &'a dyn Fn(&str) -> Result<Vec<u32>, BoxError>,
    /// Tokens that a prompt costs beyond its text.
    pub overhead: usize,
    /// Most tokens of a prompt and its answer together.
    pub context: usize,
}

/// Why a suite cannot be made.
#[derive(Debug, Error)]
pub enum SuiteError {
    /// A task needs a text and there is none.
    #[error("{task} needs a text: give one with --texts")]
    NoText {
        /// Which task.
        task: &'static str,
    },
    /// Ids could not tell two texts apart.
    #[error("two texts are called {name:?}, and ids are made of names: rename one")]
    SameName {
        /// Of both.
        name: String,
    },
    /// A text has not one window of a prompt and its continuation.
    #[error(
        "the text {text:?} has {found} tokens, expected {expected} at least ({length} and {continuation} to predict): leave it out, or ask for shorter --lengths"
    )]
    ShortText {
        /// Its name.
        text: String,
        /// Its tokens.
        found: usize,
        /// Tokens of a window.
        expected: usize,
        /// Of the window's prompt.
        length: usize,
        /// Of what follows.
        continuation: usize,
    },
    /// The model cannot read so much; a prompt that is cut may lose what is asked for.
    #[error(
        "{task} of length {length} takes {found} tokens with its answer, and the model's context is {context}: ask for at most {}",
        context.saturating_sub(found - length)
    )]
    Context {
        /// Which task.
        task: &'static str,
        /// The length that was asked for.
        length: usize,
        /// With the answer.
        found: usize,
        /// What the model has.
        context: usize,
    },
    /// A setting is wrong, or a length too short.
    #[error("{task} of length {length}")]
    Setting {
        /// Which task.
        task: &'static str,
        /// The length that was asked for.
        length: usize,
        /// What is wrong.
        source: tasks::Error,
    },
    /// A text cannot be encoded.
    #[error(transparent)]
    Encode(BoxError),
}

impl Suite {
    /// Checks what can be checked before there is a model.
    ///
    /// # Errors
    /// A task has no text, or two texts have one name.
    pub fn check(&self, texts: &[Text]) -> Result<(), SuiteError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = texts.iter().find(|text| !names.insert(&text.name)) {
            let name = twice.name.clone();
            return Err(SuiteError::SameName { name });
        }
        match self.tasks.iter().find(|task| task.needs_text()) {
            Some(task) if texts.is_empty() => Err(SuiteError::NoText { task: task.name() }),
            _ => Ok(()),
        }
    }

    /// All questions, task by task.
    ///
    /// # Errors
    /// As [`check`](Self::check); a length that a task, a text or the model has no room for, another wrong
    /// setting, or a text that cannot be encoded.
    pub fn questions(
        &self,
        texts: &[Text],
        reader: Reader<'_>,
    ) -> Result<Vec<Question>, SuiteError> {
        self.check(texts)?;
        let maker = Maker {
            suite: self,
            texts,
            reader,
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
    /// Not empty where a task needs one.
    texts: &'a [Text],
    reader: Reader<'a>,
    /// The first failure of a count, which cannot return one.
    failed: RefCell<Option<BoxError>>,
}

impl Maker<'_> {
    fn windows(&self, length: usize) -> Result<Vec<Question>, SuiteError> {
        let mut questions = Vec::new();
        let continuation = self.suite.continuation;
        self.check_context(Task::Lm, length, continuation)?;
        for text in self.texts {
            let ids = (self.reader.encode)(&text.content).map_err(SuiteError::Encode)?;
            let cut = Cut {
                prompt_tokens: length,
                continuation_tokens: continuation,
                windows: self.suite.samples,
                seed: self.suite.seed,
            };
            let windows = tasks::windows(&ids, cut).map_err(|source| match source {
                tasks::Error::TooShort { asked, needed, .. } => SuiteError::ShortText {
                    text: text.name.clone(),
                    found: asked,
                    expected: needed,
                    length,
                    continuation,
                },
                source => setting(Task::Lm, length)(source),
            })?;
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
        let count_tokens = |text: &str| match (self.reader.encode)(text) {
            Ok(ids) => ids.len() + self.reader.overhead,
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
        let filler = || Filler::new(&self.texts[index % self.texts.len()].content);
        let needles = |needles| Needle { depth, needles };
        let make = || match task {
            Task::Lm => unreachable!("lm is cut, not made"),
            Task::Needle => needles(1).sample(&filler()?, &ask),
            Task::Needles => needles(4).sample(&filler()?, &ask),
            Task::KeyValue => KeyValue { depth }.sample(&ask),
            Task::Niah(niah) => niah.sample(&filler()?, &ask),
            Task::Variables => Variables { chains: 1, hops: 4 }.sample(&filler()?, &ask),
            Task::CommonWords => CommonWords.sample(&filler()?, &ask),
            Task::FrequentWords => FrequentWords.sample(&ask),
        };
        let sample = make();
        if let Some(error) = self.failed.take() {
            return Err(SuiteError::Encode(error));
        }
        let sample = sample.map_err(setting(task, length))?;
        // One token is left, whatever the answer.
        let answer = sample.max_tokens.max(TRUTH_TOKENS_MAX) + 1;
        self.check_context(task, length, answer)?;
        Ok(sample)
    }

    fn check_context(&self, task: Task, length: usize, answer: usize) -> Result<(), SuiteError> {
        let (found, context) = (length.saturating_add(answer), self.reader.context);
        match found > context {
            true => Err(SuiteError::Context {
                task: task.name(),
                length,
                found,
                context,
            }),
            false => Ok(()),
        }
    }
}

fn setting(task: Task, length: usize) -> impl Fn(tasks::Error) -> SuiteError {
    move |source| SuiteError::Setting {
        task: task.name(),
        length,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word is a token.
    fn encode(text: &str) -> Result<Vec<u32>, BoxError> {
        Ok((0..text.split_whitespace().count() as u32).collect())
    }

    const READER: Reader<'_> = Reader {
        encode: &encode,
        overhead: 20,
        context: 700,
    };

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
            let found = suite(&[task]).questions(&texts(), READER).unwrap();
            assert_eq!(found.len(), count, "{task:?}");
            let ids: std::collections::BTreeSet<_> = found.iter().map(|q| &q.id).collect();
            assert_eq!(ids.len(), count, "{task:?}");
        }
    }

    #[test]
    fn every_task_makes_questions_that_fit() {
        let reader = Reader {
            context: 900,
            ..READER
        };
        let all = suite(&Task::all()).questions(&texts(), reader).unwrap();
        for question in all {
            if let Body::Sample { sample, .. } = question.body {
                let tokens = encode(&sample.prompt.joined()).unwrap().len() + 20;
                assert!(tokens <= sample.length, "{}: {tokens}", sample.id);
                assert!(!sample.truth.is_empty(), "{}", sample.id);
            }
        }
    }

    #[track_caller]
    fn refused(suite: &Suite, texts: &[Text], reader: Reader<'_>, expected: &str) {
        let error = suite.questions(texts, reader).unwrap_err();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        assert_eq!(error.to_string() + &cause.unwrap_or_default(), expected);
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        let all = texts();
        refused(
            &suite(&[Task::KeyValue, Task::Needle]),
            &[],
            READER,
            "needle needs a text: give one with --texts",
        );
        refused(
            &suite(&[Task::Lm]),
            &[all[0].clone(), all[0].clone()],
            READER,
            "two texts are called \"a\", and ids are made of names: rename one",
        );
        let short = Text {
            name: "short".to_owned(),
            content: "One two.".to_owned(),
        };
        refused(
            &suite(&[Task::Lm]),
            &[short],
            READER,
            "the text \"short\" has 2 tokens, expected 308 at least (300 and 8 to predict): leave it out, or ask for shorter --lengths",
        );
        let broken = |_: &str| Err::<Vec<u32>, _>("broken".into());
        let reader = Reader {
            encode: &broken,
            ..READER
        };
        refused(&suite(&[Task::KeyValue]), &[], reader, "broken");
    }

    #[test]
    fn a_length_that_a_task_or_the_model_has_no_room_for_is_named() {
        let of = |task: Task, length: usize| Suite {
            lengths: vec![length],
            ..suite(&[task])
        };
        refused(
            &of(Task::Needles, 30),
            &texts(),
            READER,
            "needles of length 30: needle needs 63 tokens at least, and 30 were asked for",
        );
        // The last length that fits, and the first that does not.
        for (task, last) in [(Task::Lm, 692), (Task::Needle, 635), (Task::Needles, 571)] {
            of(task, last).questions(&texts(), READER).unwrap();
            let error = of(task, last + 1).questions(&texts(), READER).unwrap_err();
            let message = error.to_string();
            let advice = format!(
                "takes 701 tokens with its answer, and the model's context is 700: ask for at most {last}"
            );
            assert!(message.ends_with(&advice), "{message}");
        }
    }
}
