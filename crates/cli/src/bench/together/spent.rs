//! What requests cost: their own time, and the time that other answers lose by them.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// Where a prompt is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// On the decode worker's host.
    Beside,
    Apart,
}

/// One request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// Until its first token.
    pub(super) first: Duration,
    /// Until its end.
    pub(super) whole: Duration,
    /// Tokens that the other answers got meanwhile.
    pub(super) streamed: u64,
}

/// Requests of one length.
#[derive(Clone, Debug)]
pub(super) struct Row {
    prompt_tokens: u32,
    /// Other answers.
    streams: u32,
    beside: Vec<Spent>,
    apart: Vec<Spent>,
    alone: (Duration, u64),
}

/// What a request costs on average, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Cost {
    first: f64,
    whole: f64,
    /// What the other answers lose, all of them together.
    others: f64,
}

impl Cost {
    fn sum(self) -> f64 {
        self.whole + self.others
    }
}

impl Row {
    pub(super) const HEAD: &str =
        "  prompt | beside: first   whole  others     sum |  apart: first   whole  others     sum";

    pub(super) fn new(prompt_tokens: u32, streams: u32) -> Self {
        Self {
            prompt_tokens,
            streams,
            beside: Vec::new(),
            apart: Vec::new(),
            alone: (Duration::ZERO, 0),
        }
    }

    pub(super) fn add(&mut self, way: Way, spent: Spent) {
        match way {
            Way::Beside => self.beside.push(spent),
            Way::Apart => self.apart.push(spent),
        }
    }

    /// The other answers got so many tokens in a time in which nothing else was asked.
    pub(super) fn add_alone(&mut self, (time, tokens): (Duration, u64)) {
        self.alone.0 += time;
        self.alone.1 += tokens;
    }

    fn cost(&self, way: Way) -> Cost {
        let spent = match way {
            Way::Beside => &self.beside,
            Way::Apart => &self.apart,
        };
        let mean = |of: fn(&Spent) -> f64| spent.iter().map(of).sum::<f64>() / spent.len() as f64;
        let whole = mean(|spent| spent.whole.as_secs_f64());
        let streamed = mean(|spent| spent.streamed as f64);
        let rate = self.alone.1 as f64 / self.alone.0.as_secs_f64();
        // The time in which they would have got that many tokens alone is not lost.
        let lost = match rate > 0.0 {
            true => (whole - streamed / rate).max(0.0),
            false => 0.0,
        };
        Cost {
            first: mean(|spent| spent.first.as_secs_f64()),
            whole,
            others: f64::from(self.streams) * lost,
        }
    }

    fn is_best_beside(&self) -> bool {
        self.cost(Way::Beside).sum() <= self.cost(Way::Apart).sum()
    }
}

/// The longest prompt that is best computed beside, like all shorter ones; 0 if there is none. Rows are in the order of their lengths.
pub(super) fn threshold(rows: &[Row]) -> u32 {
    let beside = rows.iter().take_while(|row| row.is_best_beside());
    beside.last().map_or(0, |row| row.prompt_tokens)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}", self.prompt_tokens)?;
        for way in [Way::Beside, Way::Apart] {
            let cost = self.cost(way);
            write!(
                f,
                " |{:>14.1} {:>7.1} {:>7.1} {:>7.1}",
                1e3 * cost.first,
                1e3 * cost.whole,
                1e3 * cost.others,
                1e3 * cost.sum(),
            )?;
        }
        Ok(())
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("Row", 3)?;
        row.serialize_field("prompt_tokens", &self.prompt_tokens)?;
        row.serialize_field("beside", &self.cost(Way::Beside))?;
        row.serialize_field("apart", &self.cost(Way::Apart))?;
        row.end()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// One request each way, over ten seconds in which two other answers get a token each a millisecond alone.
    fn row(prompt_tokens: u32, beside: (u64, u64), apart: (u64, u64)) -> Row {
        let mut row = Row::new(prompt_tokens, 2);
        let spent = |(whole, streamed)| Spent {
            first: Duration::from_millis(5),
            whole: Duration::from_millis(whole),
            streamed,
        };
        row.add(Way::Beside, spent(beside));
        row.add(Way::Apart, spent(apart));
        row.add_alone((Duration::from_secs(10), 20_000));
        row
    }

    #[test]
    fn a_request_costs_its_own_time_and_what_each_other_answer_waits() {
        // Beside, both others get half of the tokens that they would have got in 40 ms; apart, all.
        let row = row(128, (40, 40), (70, 140));
        expect!["     128 |           5.0    40.0    40.0    80.0 |           5.0    70.0     0.0    70.0"]
        .assert_eq(&row.to_string());
        assert_eq!(Row::HEAD.len(), row.to_string().len());
        assert!(!row.is_best_beside());
    }

    #[test]
    fn the_threshold_is_below_the_first_length_that_is_better_apart() {
        let (beside, apart) = (row(64, (40, 80), (41, 82)), row(128, (42, 84), (41, 82)));
        let again = row(256, (40, 80), (41, 82));
        assert_eq!(threshold(&[beside.clone(), apart.clone(), again]), 64);
        assert_eq!(threshold(std::slice::from_ref(&beside)), 64);
        assert_eq!(threshold(&[apart, beside]), 0);
    }

    #[test]
    fn without_other_answers_nobody_loses_anything() {
        let mut row = Row::new(8, 0);
        row.add(
            Way::Beside,
            Spent {
                whole: Duration::from_millis(2),
                ..Spent::default()
            },
        );
        row.add(
            Way::Apart,
            Spent {
                whole: Duration::from_millis(3),
                ..Spent::default()
            },
        );
        row.add_alone((Duration::from_secs(1), 0));
        assert!(row.is_best_beside());
        assert_eq!(row.cost(Way::Apart).others, 0.0);
    }
}
