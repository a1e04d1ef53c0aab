//! What came of a row. Plain functions over it.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::Answer;
use super::row::{Limit, Row};

/// The two limits of the time to recover.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) kill: Duration,
    pub(super) stop: Duration,
}

impl Limits {
    pub(super) fn of(self, limit: Limit) -> Duration {
        match limit {
            Limit::Kill => self.kill,
            Limit::Stop => self.stop,
        }
    }
}

/// One row that was played.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) requests: usize,
    /// Whole, with the text of the same request without a fault.
    pub(super) succeeded: usize,
    /// What the clients of all others saw.
    pub(super) failures: Vec<String>,
    /// Answers that met the fault and are whole.
    pub(super) recovered: usize,
    /// Coordinators that clients lost, and asked the other one instead.
    pub(super) asked_again: usize,
    /// The most that any client waited longer for a token than without the fault.
    pub(super) delay_ms_max: f64,
    /// What is held once everything is well again, for longer than is granted.
    pub(super) held: Vec<String>,
    /// Time until nothing was held, after the cluster was whole again.
    pub(super) freed_ms: f64,
}

impl Outcome {
    /// Of answers beside those of the same requests without a fault.
    pub(super) fn of(answers: Vec<Result<Answer, String>>, usual: &[Answer]) -> Self {
        assert_eq!(answers.len(), usual.len(), "the same requests were asked");
        let mut outcome = Self {
            requests: answers.len(),
            ..Self::default()
        };
        for (number, (answer, usual)) in answers.into_iter().zip(usual).enumerate() {
            match answer {
                Ok(answer) if answer.text == usual.text => {
                    outcome.succeeded += 1;
                    outcome.recovered += usize::from(answer.recovered(usual));
                    outcome.asked_again += answer.lost;
                    outcome.delay_ms_max = outcome.delay_ms_max.max(answer.delay_ms(usual));
                }
                Ok(answer) => {
                    let same = answer.text.chars().zip(usual.text.chars());
                    let same = same.take_while(|(a, b)| a == b).count();
                    outcome.failures.push(format!(
                        "request {number} has another text from character {same} on"
                    ));
                }
                Err(reason) => outcome.failures.push(format!("request {number}: {reason}")),
            }
        }
        outcome
    }

    /// What is wrong, in words.
    pub(super) fn wrong(&self, row: &Row, limits: Limits) -> Vec<String> {
        let mut wrong = self.failures.clone();
        let limit_ms = limits.of(row.limit).as_secs_f64() * 1e3;
        if self.delay_ms_max >= limit_ms {
            wrong.push(format!(
                "a client waited {:.0} ms longer for a token, expected less than {limit_ms:.0} ms",
                self.delay_ms_max
            ));
        }
        if !self.held.is_empty() {
            wrong.push(format!("still held: {}", self.held.join(", ")));
        }
        if row.must_hit && self.recovered == 0 && self.failures.is_empty() {
            wrong.push("no answer met the fault".to_owned());
        }
        wrong
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "requests": self.requests,
            "succeeded": self.succeeded,
            "failures": self.failures,
            "recovered": self.recovered,
            "asked_again": self.asked_again,
            "recovery_ms_max": self.delay_ms_max,
            "held": self.held,
            "freed_ms": self.freed_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::row::ROWS;

    const LIMITS: Limits = Limits {
        kill: Duration::from_secs(2),
        stop: Duration::from_secs(10),
    };

    fn answer(text: &str, recomputes: u64, gap_ms_max: f64) -> Answer {
        Answer {
            text: text.to_owned(),
            tokens: 2,
            recomputes,
            lost: 0,
            first_token_ms: 300.0,
            gap_ms_max,
        }
    }

    #[test]
    fn an_answer_with_another_text_is_a_failure() {
        let usual = [answer("one two", 0, 20.0), answer("three", 0, 20.0)];
        let answers = vec![Ok(answer("one xxx", 1, 20.0)), Err("gone".to_owned())];
        let outcome = Outcome::of(answers, &usual);
        assert_eq!(
            (outcome.requests, outcome.succeeded, outcome.recovered),
            (2, 0, 0)
        );
        assert_eq!(
            outcome.failures,
            [
                "request 0 has another text from character 4 on",
                "request 1: gone"
            ]
        );
    }

    #[test]
    fn what_is_late_held_or_missed_is_wrong() {
        let usual = [answer("a", 0, 20.0)];
        let hit = ROWS.iter().find(|row| row.name == "kill-decode-decoding");
        let (hit, idle) = (hit.unwrap(), &ROWS[0]);
        let of = |recomputes, gap| Outcome::of(vec![Ok(answer("a", recomputes, gap))], &usual);
        assert!(of(1, 1500.0).wrong(hit, LIMITS).is_empty());
        assert!(of(0, 20.0).wrong(idle, LIMITS).is_empty());
        let says = |outcome: Outcome, part: &str| {
            let wrong = outcome.wrong(hit, LIMITS);
            assert!(wrong.len() == 1 && wrong[0].contains(part), "{wrong:?}");
        };
        says(of(1, 2020.0), "2000 ms longer");
        says(of(0, 20.0), "no answer met the fault");
        let mut holds = of(1, 20.0);
        holds.held.push("decode-1: lava_decode_slots 1".to_owned());
        says(holds, "still held: decode-1");
    }
}
