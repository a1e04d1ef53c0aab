//! What a round asks, and what came of it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Options, ROUNDS};

/// Requests of a round whose clients pause in a long answer. It takes hundreds of tokens to fill what lies between a
/// client and its decode worker.
const PAUSING: u32 = 12;
/// They come in the beginning of a round, so that their pauses do not add to it.
const PAUSING_RATE: f64 = 0.4;

/// What requests draw from. Windows are small, so that short prompts are cut too.
const CACHES: &str = "--policy lava-peaks+window=8,lava+window=8,lava-paper+window=8,snapkv+window=8,cake+window=8,full \
    --budget 16,64,1024,75%,5MB --row-format f32,f16,bf16,int8,fp8,int4";
/// Short, for thousands of them take long.
const SHORT: &str = "--prompt-tokens 16..80 --output-tokens 2..16 --leave 0.2:700 --slow 0.1:100";
/// Some leave in the middle, some read slowly. The others stop reading for longer than it takes to fill everything on the
/// way and to lose the server's patience.
const LONG: &str = "--prompt-tokens 16..96 --output-tokens 450..500 --leave 0.2:20000 --slow 0.4:80 --stall 0.4:45000";

/// What the server says to a client that stalls for too long.
const STALLED: &str = "the client took nothing for";

/// One `lava bench serve`.
pub(super) struct Load {
    pub(super) name: &'static str,
    /// Words with blanks between them.
    pub(super) arguments: String,
}

/// The loads of round `number`.
pub(super) fn round(options: &Options, number: usize) -> [Load; 2] {
    let requests = options.requests / ROUNDS as u32;
    let seed = options.seed as usize * 100 + number;
    let load = |name, requests: u32, rate: f64, lengths| Load {
        name,
        arguments: format!("--requests {requests} --rate {rate} --seed {seed} {lengths} {CACHES}"),
    };
    [
        load("short", requests - PAUSING, options.rate, SHORT),
        load("long", PAUSING, PAUSING_RATE, LONG),
    ]
}

/// How requests ended.
#[derive(Default)]
pub(super) struct Came {
    pub(super) answered: u64,
    pub(super) left: u64,
    /// Ended by the server, because their client took nothing.
    pub(super) stalled: u64,
    pub(super) refused: u64,
    pub(super) not_sent: u64,
    /// What all others were told.
    pub(super) failures: Vec<String>,
    /// Longest time between two tokens of a client that reads what comes, milliseconds.
    pub(super) gap_ms_max: f64,
}

impl Came {
    /// Reads what `lava bench serve --json` wrote.
    pub(super) fn read(file: &Path) -> Result<Came> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let found = serde_json::from_str(&text).ok();
        let came = found.and_then(|document: Value| Came::of(&document));
        came.with_context(|| format!("{} is no record of a load", file.display()))
    }

    fn of(document: &Value) -> Option<Came> {
        let summary = &document["summary"];
        let count = |key: &str| summary[key].as_u64();
        let requests = document["requests"].as_array()?.iter();
        let failed = requests.filter(|request| request["outcome"] == "failed");
        let messages = failed.map(|request| request["message"].as_str().map(str::to_owned));
        let messages: Vec<String> = messages.collect::<Option<_>>()?;
        let (stalled, failures): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| message.contains(STALLED));
        Some(Came {
            answered: count("answered")?,
            left: count("left")?,
            stalled: stalled.len() as u64,
            refused: count("refused")?,
            not_sent: count("not_sent")?,
            failures,
            gap_ms_max: summary["gap_ms"]["max"].as_f64().unwrap_or(0.0),
        })
    }

    /// Both together.
    pub(super) fn plus(mut self, other: Came) -> Came {
        self.failures.extend(other.failures);
        Came {
            answered: self.answered + other.answered,
            left: self.left + other.left,
            stalled: self.stalled + other.stalled,
            refused: self.refused + other.refused,
            not_sent: self.not_sent + other.not_sent,
            failures: self.failures,
            gap_ms_max: self.gap_ms_max.max(other.gap_ms_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stalled_client_is_no_failure() {
        let failed = |message: &str| json!({"outcome": "failed", "message": message});
        let document = json!({
            "summary": {"answered": 5, "left": 2, "refused": 1, "not_sent": 0, "gap_ms": {"max": 12.5}},
            "requests": [
                {"outcome": "answered"},
                failed("the decode worker: the client took nothing for 3 s"),
                failed("broken"),
            ],
        });
        let came = Came::of(&document).unwrap();
        let both = came.plus(Came::default());
        assert_eq!((both.answered, both.left, both.stalled), (5, 2, 1));
        assert_eq!((both.refused, both.gap_ms_max), (1, 12.5));
        assert_eq!(both.failures, ["broken"]);
        assert!(Came::of(&json!({"requests": []})).is_none());
    }
}
