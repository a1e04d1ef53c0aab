//! RULER's variable tracking.

use super::RULER_MAX_TOKENS;
use super::ask::{Ask, Draft, Error, count_in_range, listed};
use super::filler::{Filler, insert};
use crate::{Metric, Prompt, Sample};

const TASK: &str = "variables";

/// Chains of assignments in a text. The first variable of each gets a number, each next one the
/// variable before it, in the order of the text; all variables of one chain are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variables {
    /// 1 to 8; RULER: 1.
    pub chains: usize,
    /// Assignments after the first in each chain, 1 to 16; RULER: 4.
    pub hops: usize,
}

impl Variables {
    /// # Errors
    /// A setting out of range, or a length that the assignments and the question exceed.
    pub fn sample(&self, filler: &Filler, ask: &Ask<'_>) -> Result<Sample, Error> {
        count_in_range(TASK, "chains", self.chains, 8, "1 to 8")?;
        count_in_range(TASK, "hops", self.hops, 16, "1 to 16")?;
        let id = format!(
            "variables-{}x{}-{}-{}",
            self.chains, self.hops, ask.length, ask.index
        );
        let mut dice = ask.dice(&id, "chains");
        let start = filler.start(&mut dice);

        let per_chain = self.hops + 1;
        let mut names: Vec<String> = Vec::new();
        while names.len() < self.chains * per_chain {
            let name = dice.letters(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 5);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        // Different in the first digit, so that no chain's number can be taken for another's.
        let mut digits = *b"12345678";
        dice.shuffle(&mut digits);
        let numbers: Vec<String> = digits[..self.chains]
            .iter()
            .map(|&digit| format!("{}{}", char::from(digit), dice.letters(b"0123456789", 4)))
            .collect();

        let mut assignments: Vec<(f64, String)> = Vec::new();
        for (chain, number) in names.chunks(per_chain).zip(&numbers) {
            let mut places: Vec<f64> = chain
                .iter()
                .map(|_| dice.below(1001) as f64 / 1000.0)
                .collect();
            places.sort_by(f64::total_cmp);
            let values = std::iter::once(number).chain(chain);
            for ((name, value), place) in chain.iter().zip(values).zip(places) {
                assignments.push((place, format!("VAR {name} = {value}.")));
            }
        }
        let question = format!(
            "Which variables have the value {}, directly or through others? Name all {per_chain}.",
            numbers[0]
        );
        let answers = names[..per_chain].to_vec();
        let build = |words: usize| Draft {
            prompt: Prompt {
                context: insert(&filler.piece(start, words), &assignments),
                question: question.clone(),
                lead: "The variables are".to_owned(),
            },
            answers: answers.clone(),
            truth: listed(&answers),
            depth: None,
        };
        ask.fit(
            TASK,
            id,
            Metric::AllOf,
            RULER_MAX_TOKENS,
            (0, ask.units_max()),
            build,
        )
    }
}
