//! The loop over questions: what is answered already is left out, what is new is written at once.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::progress::{cost, remaining};
use crate::question::{Body, Question};
use crate::results::{self, Record, Results};
use crate::{BoxError, Variant};

/// A token that is made takes about as long as so many tokens that are read.
const PER_OUTPUT_TOKEN: f64 = 10.0;

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<'a> {
    /// The question that was just answered.
    pub question: &'a Question,
    /// Questions that are answered, those of earlier runs included.
    pub done: usize,
    /// All questions.
    pub total: usize,
    /// About how long the rest takes.
    pub left: Option<Duration>,
}

/// Why a run ended early. What was answered is in the file.
#[derive(Debug, Error)]
pub enum Error {
    /// A question could not be answered.
    #[error("{question} of {task}")]
    Answer {
        /// Which task.
        task: String,
        /// Which question.
        question: String,
        /// Why.
        source: BoxError,
    },
    /// An answer could not be written.
    #[error(transparent)]
    Results(#[from] results::Error),
}

/// Gives one record per variant of a question.
pub type Answer<'a> = dyn FnMut(&Question, &[Variant]) -> Result<Vec<Record>, BoxError> + 'a;

/// Asks every question that `results` does not answer yet.
///
/// # Errors
/// The first question that cannot be answered, or an answer that cannot be written, ends the run.
pub fn run(
    questions: &[Question],
    variants: &[Variant],
    results: &mut Results,
    answer: &mut Answer<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Error> {
    let open: Vec<(&Question, Vec<Variant>)> = questions
        .iter()
        .map(|question| (question, unanswered(question, variants, results)))
        .filter(|(_, variants)| !variants.is_empty())
        .collect();
    let before = questions.len() - open.len();
    let total_cost: f64 = open.iter().map(|(question, _)| cost_of(question)).sum();
    let began = Instant::now();
    let mut done_cost = 0.0;
    for (index, (question, variants)) in open.iter().enumerate() {
        let records = answer(question, variants).map_err(|source| Error::Answer {
            task: question.task.clone(),
            question: question.id.clone(),
            source,
        })?;
        for record in &records {
            results.append(record)?;
        }
        done_cost += cost_of(question);
        progress(Progress {
            question,
            done: before + index + 1,
            total: questions.len(),
            left: remaining(done_cost, total_cost, began.elapsed()),
        });
    }
    Ok(())
}

fn unanswered(question: &Question, variants: &[Variant], results: &Results) -> Vec<Variant> {
    let open = |variant: &&Variant| !results.is_done(&variant.key(&question.task, &question.id));
    variants.iter().filter(open).copied().collect()
}

fn cost_of(question: &Question) -> f64 {
    match &question.body {
        Body::Sample { sample, .. } => cost(sample.length, sample.max_tokens, PER_OUTPUT_TOKEN),
        Body::Text {
            prompt,
            continuation,
        } => cost(prompt.len(), continuation.len(), PER_OUTPUT_TOKEN),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lava::{Method, Policy};

    use lava::Budget;
    use lava_kv::RowFormat;

    use super::*;
    use crate::results::{FORMAT, Header};

    fn header() -> Header {
        Header {
            lava_eval: FORMAT,
            model: "m".to_owned(),
            model_digest: "d".to_owned(),
            commit: "c".to_owned(),
            seed: 1,
            texts: BTreeMap::new(),
            settings: BTreeMap::new(),
        }
    }

    fn questions(count: usize) -> Vec<Question> {
        let question = |index: usize| Question {
            task: "lm".to_owned(),
            id: format!("q{index}"),
            body: Body::Text {
                prompt: vec![0; 10],
                continuation: vec![0; 2],
            },
        };
        (0..count).map(question).collect()
    }

    fn variants() -> [Variant; 2] {
        let method = Method::new(Policy::SnapKv);
        let format = RowFormat::F16;
        let budget = Some(Budget::Entries(64));
        [
            Variant::full(format),
            Variant {
                method,
                format,
                budget,
            },
        ]
    }

    fn record(question: &Question, variant: &Variant) -> Record {
        let key = variant.key(&question.task, &question.id);
        Record {
            task: key.task,
            sample: key.sample,
            policy: key.policy,
            budget: key.budget,
            ..Record::default()
        }
    }

    #[test]
    fn a_run_that_was_stopped_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.jsonl");
        let mut asked = Vec::new();
        let mut failing = 3;
        for _ in 0..2 {
            let (mut results, _) = Results::open(&file, &header()).unwrap();
            let mut steps = Vec::new();
            let ended = run(
                &questions(5),
                &variants(),
                &mut results,
                &mut |question, variants| {
                    if failing == 0 {
                        failing = usize::MAX;
                        return Err("power".into());
                    }
                    failing -= 1;
                    asked.push(question.id.clone());
                    Ok(variants.iter().map(|v| record(question, v)).collect())
                },
                &mut |progress| steps.push((progress.done, progress.total)),
            );
            if failing == usize::MAX && asked.len() == 3 {
                let error = ended.unwrap_err();
                assert_eq!(error.to_string(), "q3 of lm");
                assert_eq!(steps, [(1, 5), (2, 5), (3, 5)]);
            } else {
                ended.unwrap();
                assert_eq!(steps, [(4, 5), (5, 5)]);
            }
        }
        assert_eq!(asked, ["q0", "q1", "q2", "q3", "q4"]);
        assert_eq!(results::read(&file).unwrap().records.len(), 10);
    }

    #[test]
    fn only_what_is_missing_of_a_question_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (mut results, _) = Results::open(&folder.path().join("r"), &header()).unwrap();
        let questions = questions(1);
        results
            .append(&record(&questions[0], &Variant::full(RowFormat::F16)))
            .unwrap();
        let mut answer = |question: &Question, variants: &[Variant]| {
            assert_eq!(variants.len(), 1);
            Ok(vec![record(question, &variants[0])])
        };
        run(
            &questions,
            &variants(),
            &mut results,
            &mut answer,
            &mut |_| {},
        )
        .unwrap();
    }
}
