use super::*;
use crate::load::reader::Reader;
use crate::load::record::Left;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Planned at so many milliseconds, and sent a millisecond late.
fn record(planned: u64, outcome: Outcome) -> Record {
    Record {
        index: 0,
        planned: ms(planned),
        late: ms(1),
        prompt_tokens: 100,
        output_tokens_asked: 3,
        reader: Reader::Steady,
        outcome,
    }
}

/// A first token, and gaps after it.
fn answer(first: u64, gaps: &[u64]) -> Outcome {
    Outcome::Answered(Answer {
        first_token: ms(first),
        gaps: gaps.iter().map(|gap| ms(*gap)).collect(),
        took: ms(first + gaps.iter().sum::<u64>()),
        output_tokens: 1 + gaps.len() as u32,
        budget: 48,
        row_format: "int4".into(),
        full_bytes: 1000,
        shipped_bytes: 150,
        reused_tokens: 0,
        recomputes: 1,
    })
}

fn failure(code: &str, message: &str) -> Failure {
    Failure {
        code: code.into(),
        message: message.into(),
        took: ms(9),
        output_tokens: 0,
    }
}

fn records() -> Vec<Record> {
    let refused = |message| Outcome::Refused(failure("ResourceExhausted", message));
    vec![
        record(0, answer(100, &[10, 30])),
        record(500, answer(300, &[50, 50])),
        record(600, answer(200, &[])),
        record(700, refused("no pages")),
        record(800, refused("no slots")),
        record(900, Outcome::Failed(failure("Internal", "broken"))),
        record(1000, Outcome::NotSent),
        record(1890, Outcome::Failed(failure("DataLoss", "cut"))),
    ]
}

fn limits(first_token: Option<u64>, per_token: Option<u64>) -> Limits {
    Limits {
        first_token: first_token.map(ms),
        per_token: per_token.map(ms),
    }
}

#[test]
fn counts_times_and_rates_are_those_of_the_records() {
    let found = Summary::new(&records(), Limits::default());
    assert_eq!(
        [
            found.due,
            found.answered,
            found.refused,
            found.failed,
            found.not_sent,
            found.cancelled
        ],
        [8, 3, 2, 2, 1, 0]
    );
    // The last failure: 1890 + 1 + 9 ms.
    assert!((found.seconds - 1.9).abs() < 1e-9, "{}", found.seconds);
    let p50 = |of: Option<Percentiles>| of.map(|of| (of.count, of.p50, of.max));
    assert_eq!(p50(found.first_token_ms), Some((3, 200.0, 300.0)));
    assert_eq!(p50(found.gap_ms), Some((4, 30.0, 50.0)));
    assert_eq!(p50(found.per_token_ms), Some((2, 20.0, 50.0)));
    assert_eq!(p50(found.took_ms), Some((3, 200.0, 400.0)));
    assert_eq!(p50(found.late_ms), Some((7, 1.0, 1.0)));
    assert!((found.requests_per_second - 3.0 / 1.9).abs() < 1e-9);
    assert!((found.prompt_tokens_per_second - 300.0 / 1.9).abs() < 1e-9);
    assert!((found.output_tokens_per_second - 7.0 / 1.9).abs() < 1e-9);
    assert_eq!((found.output_tokens, found.short_answers), (7, 1));
    assert_eq!((found.full_bytes, found.shipped_bytes), (3000, 450));
    assert_eq!((found.recomputes, found.goodput), (3, None));
}

#[test]
fn refusals_and_failures_are_counted_by_code() {
    let found = Summary::new(&records(), Limits::default()).ended_by_status;
    let lines: Vec<_> = found
        .iter()
        .map(|one| {
            (
                one.refused,
                one.code.as_str(),
                one.count,
                one.message.as_str(),
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            (true, "ResourceExhausted", 2, "no pages"),
            (false, "DataLoss", 1, "cut"),
            (false, "Internal", 1, "broken"),
        ]
    );
}

#[track_caller]
fn check(limits: Limits, requests: usize) {
    let found = Summary::new(&records(), limits).goodput.unwrap();
    assert_eq!(found.requests, requests, "{limits:?}");
    assert!((found.share - requests as f64 / 8.0).abs() < 1e-9);
    assert!((found.requests_per_second - requests as f64 / 1.9).abs() < 1e-9);
}

#[test]
fn a_good_request_keeps_both_limits_and_everything_due_counts_in_the_share() {
    check(limits(Some(300), None), 3);
    check(limits(Some(299), None), 2);
    check(limits(None, Some(50)), 3);
    // The mean counts: a gap of 30 ms is made up for by one of 10.
    check(limits(None, Some(20)), 2);
    check(limits(Some(150), Some(20)), 1);
    check(limits(Some(150), Some(19)), 0);
}

#[test]
fn what_was_cancelled_counts_for_nobody() {
    let mut stopped = records();
    stopped.push(record(5000, Outcome::Cancelled));
    let found = Summary::new(&stopped, limits(Some(300), None));
    assert_eq!((found.due, found.cancelled), (9, 1));
    assert_eq!(found.goodput.unwrap().share, 3.0 / 8.0);
    assert!((found.seconds - 1.9).abs() < 1e-9);
}

#[test]
fn clients_that_pause_or_left_count_for_the_throughput_only() {
    let mut records = records();
    let left = Left {
        took: ms(50),
        output_tokens: 1,
    };
    records.push(record(1900, Outcome::Left(left)));
    let pause = ms(700);
    let slow = answer(100, &[700, 700]);
    records.push(Record {
        reader: Reader::Slow { pause },
        ..record(0, slow)
    });
    let found = Summary::new(&records, limits(Some(300), None));
    assert_eq!((found.due, found.answered, found.left), (10, 4, 1));
    assert_eq!(found.goodput.unwrap().share, 3.0 / 8.0);
    assert_eq!(found.gap_ms.map(|gaps| gaps.max), Some(50.0));
    assert_eq!(found.output_tokens, 10);
    assert!((found.seconds - 1.951).abs() < 1e-9, "{}", found.seconds);
}

#[test]
fn nothing_has_no_percentiles_and_no_rates() {
    let found = Summary::new(&[], limits(Some(1), Some(1)));
    assert_eq!(found.first_token_ms, None);
    assert_eq!(found.requests_per_second, 0.0);
    assert_eq!(found.goodput.unwrap().share, 0.0);
}
