//! What a load came to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::percentiles::Percentiles;
use super::record::{Answer, Failure, Outcome, Record, in_millis};

/// What a request has to keep to count as good; None: anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most time to the first token.
    pub first_token: Option<Duration>,
    /// Most time per token after the first, as a request's mean.
    pub per_token: Option<Duration>,
}

/// The numbers of a load. Rates are over `seconds`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Requests whose time came: the sum of the six below.
    pub due: usize,
    /// Ended with a whole answer.
    pub answered: usize,
    /// The server was too busy.
    pub refused: usize,
    /// Ended with another status.
    pub failed: usize,
    /// Not sent, because as many as are allowed were under way.
    pub not_sent: usize,
    /// Under way when the load was stopped.
    pub cancelled: usize,
    /// Ended by their clients.
    pub left: usize,
    /// Refusals and failures by code.
    pub ended_by_status: Vec<Ended>,
    /// From the start of the load to the last end of a request.
    pub seconds: f64,
    /// How late requests were sent, milliseconds.
    pub late_ms: Option<Percentiles>,
    /// Time from sending to the first token, milliseconds. This and the times below are of clients that read what
    /// comes: the others' say more of themselves.
    pub first_token_ms: Option<Percentiles>,
    /// Times between tokens, those of all requests together, milliseconds.
    pub gap_ms: Option<Percentiles>,
    /// Mean times between tokens, one per request of two tokens and more, milliseconds.
    pub per_token_ms: Option<Percentiles>,
    /// Time from sending to the last message, milliseconds.
    pub took_ms: Option<Percentiles>,
    /// Answered requests per second.
    pub requests_per_second: f64,
    /// Prompt tokens of answered requests per second.
    pub prompt_tokens_per_second: f64,
    /// Answer tokens of answered requests per second.
    pub output_tokens_per_second: f64,
    /// None if there are no limits.
    pub goodput: Option<Goodput>,
    /// Tokens of answered requests.
    pub output_tokens: u64,
    /// Answers with fewer tokens than were asked for.
    pub short_answers: usize,
    /// Bytes of the whole prompts' caches, as they would have been shipped without eviction.
    pub full_bytes: u64,
    /// Bytes that were shipped.
    pub shipped_bytes: u64,
    /// Prompts that were prefilled again after a fault.
    pub recomputes: u64,
}

/// Requests that ended with the same status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Whether they were refused; failed otherwise.
    pub refused: bool,
    /// The gRPC code.
    pub code: String,
    /// How many.
    pub count: usize,
    /// What the first of them was told.
    pub message: String,
}

/// Requests that kept the limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goodput {
    /// Most time to the first token, milliseconds.
    pub first_token_ms_max: Option<f64>,
    /// Most time per token, milliseconds.
    pub per_token_ms_max: Option<f64>,
    /// How many kept them.
    pub requests: usize,
    /// Per second.
    pub requests_per_second: f64,
    /// Of all requests that were due, without those that were cancelled or left, or whose clients pause.
    pub share: f64,
}

impl Limits {
    /// Whether an answer keeps them. One of a single token has no time per token to keep.
    fn hold(&self, answer: &Answer) -> bool {
        let keeps = |time: Duration, limit: Option<Duration>| limit.is_none_or(|most| time <= most);
        keeps(answer.first_token, self.first_token)
            && answer
                .per_token()
                .is_none_or(|time| keeps(time, self.per_token))
    }
}

impl Summary {
    /// Adds records up.
    pub fn new(records: &[Record], limits: Limits) -> Summary {
        let of = |wanted: fn(&Outcome) -> bool| {
            let found = records.iter().filter(|record| wanted(&record.outcome));
            found.count()
        };
        let answers: Vec<(&Record, &Answer)> = records.iter().filter_map(answered).collect();
        let read_at_once = answers.iter().filter(|(record, _)| !record.reader.waits());
        let read_at_once: Vec<&Answer> = read_at_once.map(|(_, answer)| *answer).collect();
        let times = |of: fn(&Answer) -> Duration| {
            Percentiles::of(read_at_once.iter().map(|answer| of(answer)))
        };
        let sum =
            |of: fn(&Answer) -> u64| -> u64 { answers.iter().map(|(_, answer)| of(answer)).sum() };
        let gaps = read_at_once.iter().flat_map(|answer| &answer.gaps);
        let per_token = read_at_once.iter().filter_map(|answer| answer.per_token());
        let sent = records
            .iter()
            .filter(|record| record.outcome != Outcome::NotSent);
        let prompt_tokens: u64 = answers
            .iter()
            .map(|(record, _)| u64::from(record.prompt_tokens))
            .sum();
        let short = answers
            .iter()
            .filter(|(record, answer)| answer.output_tokens < record.output_tokens_asked);
        let output_tokens = sum(|answer| u64::from(answer.output_tokens));
        let took = records
            .iter()
            .filter_map(ended_at)
            .max()
            .unwrap_or_default();
        let per_second = |count: f64| match took.as_secs_f64() {
            0.0 => 0.0,
            seconds => count / seconds,
        };
        let good = || {
            let requests = read_at_once.iter().filter(|answer| limits.hold(answer));
            let requests = requests.count();
            let judged = records.iter().filter(|record| is_judged(record)).count();
            Goodput {
                first_token_ms_max: limits.first_token.map(in_millis),
                per_token_ms_max: limits.per_token.map(in_millis),
                requests,
                requests_per_second: per_second(requests as f64),
                share: requests as f64 / judged.max(1) as f64,
            }
        };
        Summary {
            due: records.len(),
            answered: answers.len(),
            refused: of(|outcome| matches!(outcome, Outcome::Refused(_))),
            failed: of(|outcome| matches!(outcome, Outcome::Failed(_))),
            not_sent: of(|outcome| matches!(outcome, Outcome::NotSent)),
            cancelled: of(|outcome| matches!(outcome, Outcome::Cancelled)),
            left: of(|outcome| matches!(outcome, Outcome::Left(_))),
            ended_by_status: ended_by_status(records),
            seconds: took.as_secs_f64(),
            late_ms: Percentiles::of(sent.map(|record| record.late)),
            first_token_ms: times(|answer| answer.first_token),
            gap_ms: Percentiles::of(gaps.copied()),
            per_token_ms: Percentiles::of(per_token),
            took_ms: times(|answer| answer.took),
            requests_per_second: per_second(answers.len() as f64),
            prompt_tokens_per_second: per_second(prompt_tokens as f64),
            output_tokens_per_second: per_second(output_tokens as f64),
            goodput: (limits != Limits::default()).then(good),
            output_tokens,
            short_answers: short.count(),
            full_bytes: sum(|answer| answer.full_bytes),
            shipped_bytes: sum(|answer| answer.shipped_bytes),
            recomputes: sum(|answer| u64::from(answer.recomputes)),
        }
    }
}

fn answered(record: &Record) -> Option<(&Record, &Answer)> {
    match &record.outcome {
        Outcome::Answered(answer) => Some((record, answer)),
        _ => None,
    }
}

/// Whether its times are the server's.
fn is_judged(record: &Record) -> bool {
    let is_cut = matches!(record.outcome, Outcome::Cancelled | Outcome::Left(_));
    !is_cut && !record.reader.waits()
}

/// When the request ended, after the start of the load.
fn ended_at(record: &Record) -> Option<Duration> {
    let took = match &record.outcome {
        Outcome::Answered(answer) => answer.took,
        Outcome::Refused(failure) | Outcome::Failed(failure) => failure.took,
        Outcome::Left(left) => left.took,
        Outcome::NotSent | Outcome::Cancelled => return None,
    };
    Some(record.planned + record.late + took)
}

/// Refusals first, then by code.
fn ended_by_status(records: &[Record]) -> Vec<Ended> {
    let mut found: BTreeMap<(bool, &str), Ended> = BTreeMap::new();
    for record in records {
        let (refused, failure): (bool, &Failure) = match &record.outcome {
            Outcome::Refused(failure) => (true, failure),
            Outcome::Failed(failure) => (false, failure),
            _ => continue,
        };
        let one = found.entry((!refused, &failure.code));
        let ended = one.or_insert_with(|| Ended {
            refused,
            code: failure.code.clone(),
            count: 0,
            message: failure.message.clone(),
        });
        ended.count += 1;
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests;
