//! Every generated task: the same by seed, within its length, answerable from its text.

use lava_lab::Sample;
use lava_lab::tasks::{
    Ask, CommonWords, Error, Filler, FrequentWords, KeyValue, Needle, Niah, Variables,
};

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Like a tokenizer: a token per four bytes.
fn quarters(text: &str) -> usize {
    text.len().div_ceil(4)
}

fn filler() -> Filler {
    Filler::new(include_str!("../data/excerpt.txt")).unwrap()
}

type Make = Box<dyn Fn(&Filler, &Ask<'_>) -> Result<Sample, Error>>;

fn makers() -> Vec<Make> {
    let mut all: Vec<Make> = vec![
        Box::new(|filler, ask| {
            Needle {
                depth: 0.5,
                needles: 1,
            }
            .sample(filler, ask)
        }),
        Box::new(|filler, ask| {
            Needle {
                depth: 0.25,
                needles: 4,
            }
            .sample(filler, ask)
        }),
        Box::new(|_, ask| KeyValue { depth: 0.3 }.sample(ask)),
        Box::new(|filler, ask| Variables { chains: 2, hops: 4 }.sample(filler, ask)),
        Box::new(|filler, ask| CommonWords.sample(filler, ask)),
        Box::new(|_, ask| FrequentWords.sample(ask)),
    ];
    for niah in Niah::all() {
        all.push(Box::new(move |filler, ask| niah.sample(filler, ask)));
    }
    all
}

fn ask(length: usize, seed: u64, index: usize, count: &dyn Fn(&str) -> usize) -> Ask<'_> {
    Ask {
        length,
        seed,
        index,
        count_tokens: count,
    }
}

#[test]
fn nobody_else_has_the_key_that_is_asked_for() {
    let needles = Niah::all()
        .into_iter()
        .find(|niah| niah.name == "niah_multikey_2");
    // There are 1600 keys, and about as many sentences: one in two texts would have it twice.
    for index in 0..8 {
        let sample = needles
            .unwrap()
            .sample(&filler(), &ask(14_000, 1, index, &quarters));
        let prompt = sample.unwrap().prompt;
        let rest = prompt
            .question
            .strip_prefix("Which values does the text give for ");
        let (key, _) = rest.unwrap().split_once('?').unwrap();
        let beginning = format!("One value of {key} is ");
        assert_eq!(prompt.context.matches(&beginning).count(), 1, "{key}");
    }
}

#[test]
fn a_seed_gives_the_same_samples_and_another_one_others() {
    let filler = filler();
    for make in makers() {
        let sample = |seed, index| make(&filler, &ask(1500, seed, index, &quarters)).unwrap();
        assert_eq!(sample(1, 0), sample(1, 0));
        assert_ne!(sample(1, 0).prompt, sample(2, 0).prompt);
        assert_ne!(sample(1, 0).prompt, sample(1, 1).prompt);
        assert_ne!(sample(1, 0).id, sample(1, 1).id);
    }
}

#[test]
fn samples_fill_their_length_and_do_not_exceed_it() {
    let filler = filler();
    for make in makers() {
        for (length, count) in [
            (600, &words as &dyn Fn(&str) -> usize),
            (1500, &quarters),
            (9000, &quarters),
        ] {
            let sample = make(&filler, &ask(length, 3, 0, count)).unwrap();
            let tokens = count(&sample.prompt.joined());
            assert!(tokens <= length, "{}: {tokens}", sample.id);
            // The largest unit, a pair of UUIDs, has 21 of these tokens; frequent words come in
            // steps of several words.
            assert!(tokens + 60 > length, "{}: {tokens}", sample.id);
            assert_eq!(sample.length, length);
        }
    }
}

#[test]
fn the_text_has_every_answer_and_full_marks_for_it() {
    let filler = filler();
    for make in makers() {
        let sample = make(&filler, &ask(2000, 5, 0, &quarters)).unwrap();
        for answer in &sample.answers {
            assert!(
                sample.prompt.context.contains(answer.as_str()),
                "{}",
                sample.id
            );
            assert!(
                !sample.prompt.question.contains(answer.as_str()),
                "{}",
                sample.id
            );
        }
        assert_eq!(
            sample.score(&sample.answers.join(", ")),
            1.0,
            "{}",
            sample.id
        );
        assert_eq!(sample.score("I do not know."), 0.0, "{}", sample.id);
    }
}

#[test]
fn a_length_that_the_question_exceeds_is_refused() {
    let filler = filler();
    for make in makers() {
        let refusal = make(&filler, &ask(5, 5, 0, &quarters)).unwrap_err();
        assert!(
            matches!(refusal, Error::TooShort { asked: 5, .. }),
            "{refusal}"
        );
    }
}

#[test]
fn a_needle_lies_at_its_depth() {
    let filler = filler();
    for percent in [0, 10, 35, 50, 80, 100] {
        let depth = f64::from(percent) / 100.0;
        let needle = Needle { depth, needles: 1 };
        let sample = needle.sample(&filler, &ask(4000, 9, 0, &words)).unwrap();
        let context = &sample.prompt.context;
        let at = context.find("The secret number").unwrap() as f64 / context.len() as f64;
        // The sentence before may be long.
        assert!((at - depth).abs() < 0.03, "{percent} %: {at}");
        assert_eq!(sample.depth, Some(depth));
    }
}

#[test]
fn a_pair_lies_at_its_depth() {
    for percent in [0, 50, 100] {
        let depth = f64::from(percent) / 100.0;
        let sample = KeyValue { depth }
            .sample(&ask(4000, 9, 0, &quarters))
            .unwrap();
        let context = &sample.prompt.context;
        let at = context.find(&sample.answers[0]).unwrap() as f64 / context.len() as f64;
        assert!((at - depth).abs() < 0.03, "{percent} %: {at}");
    }
}

#[test]
fn the_words_asked_for_are_the_most_frequent() {
    let filler = filler();
    for length in [700, 1500, 9000] {
        let ask = ask(length, 11, 0, &quarters);
        for sample in [
            CommonWords.sample(&filler, &ask).unwrap(),
            FrequentWords.sample(&ask).unwrap(),
        ] {
            let mut counts = std::collections::BTreeMap::<&str, usize>::new();
            let list = sample.prompt.context.split_whitespace();
            for word in list.filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())) {
                *counts.entry(word).or_default() += 1;
            }
            let rarest = sample
                .answers
                .iter()
                .map(|answer| counts[answer.as_str()])
                .min();
            let others = counts
                .iter()
                .filter(|(word, _)| !sample.answers.iter().any(|a| a == *word));
            let most = others.map(|(_, count)| *count).max();
            assert!(rarest > most, "{}: {rarest:?}, {most:?}", sample.id);
        }
    }
}

#[test]
fn chains_can_be_followed() {
    let filler = filler();
    let sample = Variables { chains: 3, hops: 4 }
        .sample(&filler, &ask(900, 13, 0, &words))
        .unwrap();
    let context = &sample.prompt.context;
    let mut assignments = Vec::new();
    for part in context.split("VAR ").skip(1) {
        let mut words = part.split_whitespace();
        let name = words.next().unwrap();
        assert_eq!(words.next(), Some("="));
        assignments.push((name, words.next().unwrap().trim_end_matches('.')));
    }
    assert_eq!(assignments.len(), 15);
    let asked = sample.prompt.question.split_whitespace();
    let number = asked
        .map(|word| word.trim_end_matches(','))
        .find(|word| word.parse::<u32>().is_ok());
    let mut values: Vec<&str> = number.into_iter().collect();
    let mut found = Vec::new();
    for (name, value) in assignments {
        if values.contains(&value) {
            values.push(name);
            found.push(name.to_owned());
        }
    }
    assert_eq!(found, sample.answers);
}

#[test]
fn settings_out_of_range_are_refused() {
    let filler = filler();
    let ask = ask(1000, 1, 0, &words);
    let refusals = [
        Needle {
            depth: 1.5,
            needles: 1,
        }
        .sample(&filler, &ask),
        Needle {
            depth: f64::NAN,
            needles: 1,
        }
        .sample(&filler, &ask),
        Needle {
            depth: 0.5,
            needles: 17,
        }
        .sample(&filler, &ask),
        KeyValue { depth: -0.1 }.sample(&ask),
        Variables { chains: 0, hops: 4 }.sample(&filler, &ask),
        Niah {
            keys: 41,
            ..Niah::all()[0]
        }
        .sample(&filler, &ask),
        Niah {
            keys: 8,
            values_per_key: 6,
            ..Niah::all()[0]
        }
        .sample(&filler, &ask),
        Niah {
            queries: 2,
            ..Niah::all()[0]
        }
        .sample(&filler, &ask),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(Error::Setting { .. })), "{refusal:?}");
    }
}
