//! Needles in a haystack.

use super::ask::{Ask, Draft, Error, count_in_range, depth_in_range, listed};
use super::filler::{Filler, insert};
use crate::{Metric, Prompt, Sample};

const TASK: &str = "needle";
const NEEDLES_MAX: usize = 16;

/// Numbers hidden in a text, all of them asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Needle {
    /// Of the first needle, 0 to 1: in front of the sentence that begins nearest before it. The
    /// others follow at equal distances towards the end.
    pub depth: f64,
    /// 1 to 16.
    pub needles: usize,
}

impl Needle {
    /// # Errors
    /// A setting out of range, or a length that the question alone exceeds.
    pub fn sample(&self, filler: &Filler, ask: &Ask<'_>) -> Result<Sample, Error> {
        let depth = depth_in_range(TASK, self.depth)?;
        count_in_range(TASK, "needles", self.needles, NEEDLES_MAX, "1 to 16")?;
        let id = format!(
            "needle-{}-{}-{:03}-{}",
            self.needles,
            ask.length,
            (depth * 100.0).round(),
            ask.index
        );
        let mut dice = ask.dice(&id, "needles");
        let mut towns = TOWNS.to_vec();
        dice.shuffle(&mut towns);
        let towns = &towns[..self.needles];
        let answers: Vec<String> = towns.iter().map(|_| dice.number()).collect();
        let start = filler.start(&mut dice);
        let needles: Vec<(f64, String)> = towns
            .iter()
            .zip(&answers)
            .enumerate()
            .map(|(i, (town, number))| {
                let place = depth + (1.0 - depth) * i as f64 / self.needles as f64;
                (place, format!("The secret number of {town} is {number}."))
            })
            .collect();
        let question = match towns {
            [town] => format!("What is the secret number of {town}? Answer with the number only."),
            _ => format!(
                "What are the secret numbers of {}? Answer with the numbers only.",
                towns.join(", ")
            ),
        };
        let lead = match towns {
            [town] => format!("The secret number of {town} is"),
            _ => "The secret numbers are".to_owned(),
        };
        let max_tokens = 32 * self.needles;
        let build = |words| Draft {
            prompt: Prompt {
                context: insert(&filler.piece(start, words), &needles),
                question: question.clone(),
                lead: lead.clone(),
            },
            answers: answers.clone(),
            truth: listed(&answers),
            depth: Some(depth),
        };
        ask.fit(
            TASK,
            id,
            Metric::AllOf,
            max_tokens,
            (0, ask.units_max()),
            build,
        )
    }
}

const TOWNS: [&str; NEEDLES_MAX] = [
    "Aarhus",
    "Bergen",
    "Coimbra",
    "Dresden",
    "Esztergom",
    "Florence",
    "Granada",
    "Haarlem",
    "Innsbruck",
    "Krakow",
    "Lausanne",
    "Matera",
    "Nantes",
    "Odessa",
    "Plovdiv",
    "Ravenna",
];
