//! One client of the cluster: `lava generate`, which knows both coordinators, and what came of it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::guard::Guard;
use crate::process::Process;

/// Time for an answer. The longest faults last for a fifth of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// More than another answer on the same worker costs: whoever waits so much longer than usual has met a fault.
const LATE_MS: f64 = 1000.0;
/// Longest text of an error in a table.
const REASON_BYTES_MAX: usize = 300;

/// What is asked.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    /// Numbers the prompts, so that each answer is another one.
    pub(super) number: usize,
    pub(super) max_tokens: usize,
}

impl Ask {
    /// How it goes on is beyond doubt, so that rounding decides nothing where a real model goes on elsewhere.
    fn prompt(self) -> String {
        let digits: Vec<String> = (1..=9).map(|digit| digit.to_string()).collect();
        let from = self.number % 9;
        let turned = [&digits[from..], &digits[..from]].concat().join(" ");
        format!("{turned} ").repeat(5)
    }
}

/// A request under way.
pub(super) struct Client {
    process: Process,
    ask: Ask,
    began: Instant,
    json: PathBuf,
    errors: PathBuf,
}

impl Client {
    /// Asks the coordinators in this order.
    pub(super) fn start(
        lava: &Path,
        coordinators: &[SocketAddr],
        ask: Ask,
        folder: &Path,
        guard: &Guard,
    ) -> Result<Self> {
        let file = |extension| folder.join(format!("ask-{}.{extension}", ask.number));
        let (json, errors) = (file("json"), file("err"));
        let addresses: Vec<String> = coordinators.iter().map(ToString::to_string).collect();
        let mut command = Command::new(lava);
        command.args([
            "generate",
            "--json",
            "--raw",
            "--addr",
            &addresses.join(","),
        ]);
        command.arg(format!("--prompt={}", ask.prompt()));
        // Everything is kept, and nothing packed: only then an answer that goes on elsewhere has the same text.
        command.args(["--budget", "1024", "--row-format", "f16"]);
        command.args(["--max-tokens", &ask.max_tokens.to_string()]);
        guard.adopt(&mut command);
        command
            .stdout(File::create(&json)?)
            .stderr(File::create(&errors)?);
        Ok(Self {
            process: Process::start("a client", &mut command)?,
            ask,
            began: Instant::now(),
            json,
            errors,
        })
    }

    /// Waits until it has ended, or for too long.
    pub(super) fn finish(mut self) -> Result<Result<Answer, String>> {
        let status = loop {
            if let Some(status) = self.process.ended()? {
                break status;
            }
            if self.began.elapsed() > ANSWER_TIMEOUT {
                return Ok(Err(format!("no whole answer within {ANSWER_TIMEOUT:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if !status.success() {
            let words = std::fs::read_to_string(&self.errors).unwrap_or_default();
            return Ok(Err(clipped(words.trim()).to_owned()));
        }
        let text = std::fs::read_to_string(&self.json)
            .with_context(|| format!("cannot read {}", self.json.display()))?;
        let answer = serde_json::from_str(&text).ok();
        let answer = answer.and_then(|document: Value| Answer::of(&document));
        let answer = answer.with_context(|| format!("{} is no answer", self.json.display()))?;
        if answer.tokens != self.ask.max_tokens {
            return Ok(Err(format!(
                "{} tokens came, expected {}",
                answer.tokens, self.ask.max_tokens
            )));
        }
        Ok(Ok(answer))
    }
}

/// Without the middle of a character.
fn clipped(text: &str) -> &str {
    let mut end = REASON_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// An answer that is whole, and when its tokens came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tokens: usize,
    /// Times that its prompt was computed again.
    pub(super) recomputes: u64,
    /// Coordinators that were lost on the way.
    pub(super) lost: usize,
    /// From the request to the first token that a client saw, whoever sent it.
    pub(super) first_token_ms: f64,
    /// The longest time between two tokens, over the loss of a coordinator too.
    pub(super) gap_ms_max: f64,
}

impl Answer {
    /// Reads what `lava generate --json` printed.
    fn of(document: &Value) -> Option<Self> {
        let time = |token: &Value| token["ms"].as_f64();
        let times = document["tokens"].as_array()?.iter().map(time);
        let times: Vec<f64> = times.collect::<Option<_>>()?;
        let lost = document["lost"].as_array()?;
        let (mut first, mut seen) = (None, None);
        let mut gap_ms_max: f64 = 0.0;
        // Of each coordinator that was lost it is known when its last token came.
        let of_lost = lost.iter().filter(|lost| lost["tokens"] != 0);
        let of_lost = of_lost.map(|lost| lost["last_token_ms"].as_f64());
        let of_lost: Vec<f64> = of_lost.collect::<Option<_>>()?;
        for time in of_lost.into_iter().chain(times.iter().copied()) {
            if let Some(seen) = seen {
                gap_ms_max = gap_ms_max.max(time - seen);
            }
            first.get_or_insert(time);
            seen = Some(time);
        }
        Some(Self {
            text: document["text"].as_str()?.to_owned(),
            tokens: times.len(),
            recomputes: document["recomputes"].as_u64()?,
            lost: lost.len(),
            first_token_ms: first?,
            gap_ms_max,
        })
    }

    /// Whether it met a fault, of which a worker that never took it in leaves no other trace than the time it cost.
    pub(super) fn recovered(&self, usual: &Answer) -> bool {
        self.recomputes > 0 || self.lost > 0 || self.delay_ms(usual) >= LATE_MS
    }

    /// How much longer its client waited for a token than that of the same request without a fault.
    pub(super) fn delay_ms(&self, usual: &Answer) -> f64 {
        let first = self.first_token_ms - usual.first_token_ms;
        let gap = self.gap_ms_max - usual.gap_ms_max;
        first.max(gap).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(times: &[f64], lost: Value) -> Answer {
        let tokens: Vec<Value> = times.iter().map(|ms| json!({"id": 1, "ms": ms})).collect();
        let document = json!({"text": "a", "tokens": tokens, "recomputes": 0, "lost": lost});
        Answer::of(&document).unwrap()
    }

    #[test]
    fn the_time_to_recover_is_what_a_client_waits_longer_than_usual() {
        let usual = answer(&[300.0, 320.0, 340.0, 365.0], json!([]));
        assert_eq!((usual.first_token_ms, usual.gap_ms_max), (300.0, 25.0));
        assert!(!usual.recovered(&usual));
        assert_eq!(usual.delay_ms(&usual), 0.0);
        let late = answer(&[1300.0, 1320.0], json!([]));
        assert_eq!(late.delay_ms(&usual), 1000.0);
        assert!(late.recovered(&usual));
        let torn = answer(&[300.0, 320.0, 945.0, 965.0], json!([]));
        assert_eq!(torn.delay_ms(&usual), 600.0);
        assert!(!torn.recovered(&usual), "it may have waited for others");
    }

    #[test]
    fn a_lost_coordinator_costs_from_its_last_token_to_the_next_ones_first() {
        let lost = json!([
            {"addr": "a", "reason": "gone", "tokens": 5, "last_token_ms": 400.0},
            {"addr": "b", "reason": "not there", "tokens": 0, "last_token_ms": 0.0},
        ]);
        let answer = answer(&[1000.0, 1020.0], lost);
        assert_eq!((answer.lost, answer.first_token_ms), (2, 400.0));
        assert_eq!(answer.gap_ms_max, 600.0);
        assert!(answer.recovered(&answer));
    }

    #[test]
    fn prompts_differ_and_are_as_long_as_each_other() {
        let ask = |number| Ask {
            number,
            max_tokens: 1,
        };
        assert_ne!(ask(0).prompt(), ask(1).prompt());
        assert_eq!(ask(0).prompt().len(), ask(8).prompt().len());
    }
}
