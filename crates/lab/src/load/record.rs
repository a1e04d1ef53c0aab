//! What became of one request.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::reader::Reader;

/// A request whose time came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Place in the plan, from 0.
    pub index: usize,
    /// When it was to start, after the start of the load.
    #[serde(rename = "planned_ms", serialize_with = "millis")]
    pub planned: Duration,
    /// How much later it started; a large number says that this side was too slow.
    #[serde(rename = "late_ms", serialize_with = "millis")]
    pub late: Duration,
    /// N.
    pub prompt_tokens: u32,
    /// Tokens of the answer that were asked for.
    pub output_tokens_asked: u32,
    /// How its client reads.
    pub reader: Reader,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// As many as are allowed were under way.
    NotSent,
    /// With its whole answer.
    Answered(Answer),
    /// The server is too busy: it said so before a first token.
    Refused(Failure),
    /// With any other status.
    Failed(Failure),
    /// The load was stopped meanwhile.
    Cancelled,
    /// The client left before the end.
    Left(Left),
}

/// A whole answer. Times count from the moment of sending.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Time to the first token.
    #[serde(rename = "first_token_ms", serialize_with = "millis")]
    pub first_token: Duration,
    /// Times between tokens, one fewer than there are tokens. Tokens of one message come together.
    #[serde(rename = "gaps_ms", serialize_with = "all_millis")]
    pub gaps: Vec<Duration>,
    /// Time to the last message.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Entries per layer and KV head that the budget came to.
    pub budget: u32,
    /// How they were stored.
    pub row_format: String,
    /// Bytes of the whole prompt's cache, as it would have been shipped without eviction.
    pub full_bytes: u64,
    /// Bytes of all frames.
    pub shipped_bytes: u64,
    /// Tokens of the prompt that the prefill worker had already.
    pub reused_tokens: u64,
    /// Times that the prompt was prefilled again after a fault.
    pub recomputes: u32,
}

/// A status instead of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Its gRPC code by name.
    pub code: String,
    /// Its text.
    pub message: String,
    /// Time from sending to the status.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// Tokens that came before it.
    pub output_tokens: u32,
}

/// The part of an answer that came before its client left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Time from sending to leaving.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// Tokens that came.
    pub output_tokens: u32,
}

impl Answer {
    /// Mean time between two tokens; None if there is only one.
    pub fn per_token(&self) -> Option<Duration> {
        let gaps = u32::try_from(self.gaps.len())
            .ok()
            .filter(|gaps| *gaps > 0)?;
        Some(self.gaps.iter().sum::<Duration>() / gaps)
    }
}

/// Milliseconds to the microsecond.
pub(super) fn in_millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(in_millis(*time))
}

fn all_millis<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(times.iter().map(|time| in_millis(*time)))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn json(outcome: Outcome) -> String {
        let record = Record {
            index: 3,
            planned: Duration::from_millis(1500),
            late: Duration::from_micros(250),
            prompt_tokens: 40,
            output_tokens_asked: 3,
            reader: Reader::Steady,
            outcome,
        };
        serde_json::to_string(&record).unwrap()
    }

    #[test]
    fn a_record_is_one_flat_object() {
        let answer = Answer {
            first_token: Duration::from_millis(20),
            gaps: vec![Duration::from_millis(5), Duration::from_millis(7)],
            took: Duration::from_millis(33),
            output_tokens: 3,
            budget: 48,
            row_format: "int4".into(),
            full_bytes: 1000,
            shipped_bytes: 100,
            reused_tokens: 0,
            recomputes: 0,
        };
        assert_eq!(answer.per_token(), Some(Duration::from_millis(6)));
        expect![[r#"{"index":3,"planned_ms":1500.0,"late_ms":0.25,"prompt_tokens":40,"output_tokens_asked":3,"reader":"steady","outcome":"answered","first_token_ms":20.0,"gaps_ms":[5.0,7.0],"took_ms":33.0,"output_tokens":3,"budget":48,"row_format":"int4","full_bytes":1000,"shipped_bytes":100,"reused_tokens":0,"recomputes":0}"#]]
            .assert_eq(&json(Outcome::Answered(answer)));
        expect![[r#"{"index":3,"planned_ms":1500.0,"late_ms":0.25,"prompt_tokens":40,"output_tokens_asked":3,"reader":"steady","outcome":"not_sent"}"#]]
            .assert_eq(&json(Outcome::NotSent));
        let left = Left {
            took: Duration::from_millis(12),
            output_tokens: 1,
        };
        expect![[r#"{"index":3,"planned_ms":1500.0,"late_ms":0.25,"prompt_tokens":40,"output_tokens_asked":3,"reader":"steady","outcome":"left","took_ms":12.0,"output_tokens":1}"#]]
            .assert_eq(&json(Outcome::Left(left)));
    }
}
