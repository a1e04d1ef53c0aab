//! RULER's needles: several keys, values and queries.

use super::RULER_MAX_TOKENS;
use super::ask::{Ask, Draft, Error, count_in_range, listed};
use super::filler::{Filler, insert};
use crate::dice::Dice;
use crate::{Metric, Prompt, Sample};

const TASK: &str = "niah";
/// Places that needles may take, equally spaced from the beginning to the end.
const PLACES: usize = 40;

/// What surrounds the needles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haystack {
    /// The filler text.
    Text,
    /// The first sentences of the filler text, over and over.
    Repeat,
    /// Needles that nobody asks for.
    Needles,
}

/// What a key or a value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// An adjective and a noun.
    Words,
    /// Seven digits.
    Number,
    /// A UUID.
    Uuid,
}

/// One of RULER's needle tasks. The associated functions are its eight settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Niah {
    /// For ids and reports.
    pub name: &'static str,
    /// What surrounds the needles.
    pub haystack: Haystack,
    /// What keys are made of.
    pub key: Token,
    /// What values are made of.
    pub value: Token,
    /// Keys in the text, 1 to 40; those that are not asked for distract.
    pub keys: usize,
    /// Values of each key; keys times values are at most 40.
    pub values_per_key: usize,
    /// Keys that are asked for, at most `keys`.
    pub queries: usize,
}

impl Niah {
    const fn plain(name: &'static str, haystack: Haystack) -> Niah {
        Niah {
            name,
            haystack,
            key: Token::Words,
            value: Token::Number,
            keys: 1,
            values_per_key: 1,
            queries: 1,
        }
    }

    /// `niah_single_1` to `niah_single_3`, `niah_multikey_1` to `niah_multikey_3`,
    /// `niah_multivalue`, `niah_multiquery`.
    pub const fn all() -> [Niah; 8] {
        use Haystack::{Needles, Repeat, Text};
        let single_3 = Niah {
            value: Token::Uuid,
            ..Niah::plain("niah_single_3", Text)
        };
        let multikey_1 = Niah {
            keys: 4,
            ..Niah::plain("niah_multikey_1", Text)
        };
        let multikey_3 = Niah {
            key: Token::Uuid,
            value: Token::Uuid,
            ..Niah::plain("niah_multikey_3", Needles)
        };
        let multivalue = Niah {
            values_per_key: 4,
            ..Niah::plain("niah_multivalue", Text)
        };
        let multiquery = Niah {
            keys: 4,
            queries: 4,
            ..Niah::plain("niah_multiquery", Text)
        };
        [
            Niah::plain("niah_single_1", Repeat),
            Niah::plain("niah_single_2", Text),
            single_3,
            multikey_1,
            Niah::plain("niah_multikey_2", Needles),
            multikey_3,
            multivalue,
            multiquery,
        ]
    }

    /// # Errors
    /// A setting out of range, or a length that the needles and the question exceed.
    pub fn sample(&self, filler: &Filler, ask: &Ask<'_>) -> Result<Sample, Error> {
        count_in_range(TASK, "keys", self.keys, PLACES, "1 to 40")?;
        let values_most = PLACES / self.keys;
        count_in_range(
            TASK,
            "values_per_key",
            self.values_per_key,
            values_most,
            "keys times values at most 40",
        )?;
        count_in_range(
            TASK,
            "queries",
            self.queries,
            self.keys,
            "1 to the number of keys",
        )?;
        let id = format!("{}-{}-{}", self.name, ask.length, ask.index);
        let mut dice = ask.dice(&id, "needles");
        let start = filler.start(&mut dice);

        let mut keys: Vec<String> = Vec::new();
        while keys.len() < self.keys {
            let key = self.key.draw(&mut dice);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut needles = Vec::new();
        let mut answers = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            for _ in 0..self.values_per_key {
                let value = self.value.draw(&mut dice);
                needles.push(sentence(key, &value));
                // Keys were drawn at random, so the first ones are as good as any.
                if index < self.queries {
                    answers.push(value);
                }
            }
        }
        dice.shuffle(&mut needles);
        let places = dice.distinct(PLACES, needles.len());
        let places = places.iter().map(|&p| p as f64 / (PLACES - 1) as f64);
        let needles: Vec<(f64, String)> = places.zip(needles).collect();
        let depth = match needles.as_slice() {
            [(place, _)] => Some(*place),
            _ => None,
        };
        let asked = &keys[..self.queries];
        let question = format!(
            "Which values does the text give for {}? Name every one of them.",
            asked.join(", ")
        );

        let build = |units: usize| Draft {
            prompt: Prompt {
                context: match self.haystack {
                    Haystack::Text => insert(&filler.piece(start, units), &needles),
                    Haystack::Repeat => insert(&repeated(filler, start, units), &needles),
                    Haystack::Needles => {
                        let others = self.distractors(&keys, units, ask.dice(&id, "distractors"));
                        let others: Vec<&str> = others.iter().map(String::as_str).collect();
                        insert(&others, &needles)
                    }
                },
                question: question.clone(),
                lead: "The values are".to_owned(),
            },
            answers: answers.clone(),
            truth: listed(&answers),
            depth,
        };
        ask.fit(
            TASK,
            id.clone(),
            Metric::AllOf,
            RULER_MAX_TOKENS,
            (0, ask.units_max()),
            build,
        )
    }

    /// Needles that nobody asks for.
    fn distractors(&self, asked: &[String], count: usize, mut dice: Dice) -> Vec<String> {
        let mut other = || {
            // Another value of a key that is asked for would be a right answer too.
            let mut key = self.key.draw(&mut dice);
            while asked.contains(&key) {
                key = self.key.draw(&mut dice);
            }
            sentence(&key, &self.value.draw(&mut dice))
        };
        (0..count).map(|_| other()).collect()
    }
}

fn repeated(filler: &Filler, start: usize, count: usize) -> Vec<&str> {
    let period = filler.piece(start, REPEATED_WORDS.min(count));
    period.iter().copied().cycle().take(count).collect()
}

const REPEATED_WORDS: usize = 30;

fn sentence(key: &str, value: &str) -> String {
    format!("One value of {key} is {value}.")
}

impl Token {
    fn draw(self, dice: &mut Dice) -> String {
        match self {
            Token::Words => format!("{}-{}", dice.pick(&ADJECTIVES), dice.pick(&NOUNS)),
            Token::Number => dice.number(),
            Token::Uuid => dice.uuid(),
        }
    }
}

const ADJECTIVES: [&str; 40] = [
    "amber", "brave", "brief", "calm", "clever", "cold", "coral", "crisp", "damp", "deep", "dusty",
    "early", "fair", "fond", "gentle", "golden", "grand", "green", "hollow", "humble", "ivory",
    "keen", "late", "light", "lively", "mild", "narrow", "noble", "pale", "plain", "quick",
    "quiet", "rough", "silent", "silver", "steep", "sturdy", "tidy", "violet", "warm",
];

const NOUNS: [&str; 40] = [
    "anchor", "apron", "barrel", "basket", "bell", "bridge", "candle", "canoe", "chapel", "chest",
    "clock", "comet", "compass", "cradle", "drum", "engine", "falcon", "ferry", "fiddle", "garden",
    "hammer", "harbor", "kettle", "ladder", "lantern", "ledger", "meadow", "mirror", "needle",
    "orchard", "paddle", "pillow", "quarry", "ribbon", "saddle", "shovel", "tunnel", "valley",
    "wagon", "window",
];
