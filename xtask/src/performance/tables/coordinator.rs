//! What a coordinator costs, and how it places a trace on a fleet.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Shown;
use super::markdown::{percent, table};
use crate::performance::criterion::Limit::{AtLeast, AtMost};
use crate::performance::criterion::{Criterion, Limit, Unit};
use crate::performance::figures::{bytes, number, text};
use crate::performance::record::Record;

pub(super) fn show(record: &Record) -> Result<Shown> {
    let mut shown = Shown::default();
    let mut replays = Vec::new();
    for (name, run) in record.runs() {
        match name {
            "cost" => cost(run, &mut shown).with_context(|| name.to_owned())?,
            _ => {
                replays
                    .push(replay(name, run, &mut shown.criteria).with_context(|| name.to_owned())?);
            }
        }
    }
    if !replays.is_empty() {
        shown.blocks.push(table(
            [
                "replay",
                "rule",
                "answered",
                "recomputes",
                "reused",
                "ideal",
                "of the ideal",
                "given: max/mean",
                "waiting: p99 of max/mean",
                "first token p50",
                "p99",
            ],
            &replays,
        ));
        shown.blocks.push(
            "A trace of conversations at fifty times its speed on 125 prefill and 375 decode workers that are simulated, by three coordinators that share \
             nothing; all of them on this machine. Reused is the share of prompt tokens that the chosen worker had already; the ideal is one cache of the size of all \
             workers' caches together, which every prompt goes through in the trace's order. Given are the prompt tokens that a prefill worker had to compute over \
             the whole run; waiting, those at a moment, looked at ten times a second. Milliseconds to the first token are mostly the modelled time of prompts \
             (40,000 tokens/s). In `killed` a tenth of the workers of each role is killed half way; the spread is over those that live."
                .to_owned(),
        );
    }
    Ok(shown)
}

fn cost(run: &Value, shown: &mut Shown) -> Result<()> {
    let (added, short, long, streams) =
        (&run["added"], &run["short"], &run["long"], &run["streams"]);
    let of = |part: &Value, key: &str| number(part, key);
    let added_ms = of(added, "added_ms")?;
    let per_second = "requests_per_second";
    let share = of(streams, "tokens_per_second")? / of(streams, "wanted_tokens_per_second")?;
    let rows = [short, long].map(|part| -> Result<[String; 5]> {
        Ok([
            of(part, "prompt_tokens")?.to_string(),
            of(part, "concurrency")?.to_string(),
            format!("{:.0}", of(part, per_second)?),
            format!("{:.2} ms", of(part, "median_ms")?),
            format!("{:.2} ms", of(part, "p99_ms")?),
        ])
    });
    let rows: Result<Vec<[String; 5]>> = rows.into_iter().collect();
    shown.blocks.push(table(
        ["prompt tokens", "at once", "requests/s", "median", "p99"],
        &rows?,
    ));
    shown.blocks.push(format!(
        "A short prompt alone takes {:.2} ms by the coordinator and {:.2} ms without it. {} streams get {:.0} tokens/s together. Workers are simulated and answer at once; \
         they, the coordinator and its clients share one process.",
        of(added, "coordinator_ms")?,
        of(added, "direct_ms")?,
        of(streams, "streams")?,
        of(streams, "tokens_per_second")?,
    ));
    shown.criteria.extend([
        criterion(
            AtMost,
            "milliseconds added to a short prompt, median",
            1.0,
            added_ms,
        ),
        criterion(
            AtLeast,
            "short requests/s, 16 at once",
            2000.0,
            of(short, per_second)?,
        ),
        criterion(
            AtLeast,
            "requests/s with long prompts as ids",
            1000.0,
            of(long, per_second)?,
        ),
        criterion(
            AtLeast,
            "share of the tokens/s that the streams ask for",
            0.99,
            share,
        ),
    ]);
    if let memory @ Value::Object(_) = &run["memory"] {
        let (early, late) = (of(memory, "early_bytes")?, of(memory, "late_bytes")?);
        shown.blocks.push(format!(
            "Allocated in that process while short prompts went on for {} s: {} after a tenth of it, {} at its end.",
            of(memory, "seconds")?,
            bytes(early),
            bytes(late)
        ));
        shown.criteria.push(criterion(
            AtMost,
            "memory at the end over early",
            1.05,
            late / early,
        ));
    }
    Ok(())
}

fn replay(name: &str, run: &Value, criteria: &mut Vec<Criterion>) -> Result<[String; 11]> {
    let rule = text(run, "policy")?;
    let of = |key| number(run, key);
    let share =
        |key| Ok::<_, anyhow::Error>(percent(number(run, key)? / number(run, "prompt_tokens")?));
    let (answered, requests) = (of("answered")?, of("requests")?);
    let (reused_of_ideal, spread) = (of("reused_of_ideal")?, of("given_max_over_mean")?);
    let what = |what: &str| format!("{name}: {what}");
    criteria.push(criterion(
        AtLeast,
        what("answered of all"),
        1.0,
        answered / requests,
    ));
    if name == "aware" {
        criteria.push(criterion(
            AtLeast,
            what("reuse over the ideal's"),
            0.9,
            reused_of_ideal,
        ));
        criteria.push(criterion(AtMost, what("given, max over mean"), 1.2, spread));
    }
    Ok([
        name.to_owned(),
        rule.to_owned(),
        format!("{answered} of {requests}"),
        of("recomputes")?.to_string(),
        share("reused_tokens")?,
        share("reusable_tokens")?,
        percent(reused_of_ideal),
        format!("{spread:.3}"),
        format!("{:.1}", of("waiting_max_over_mean_p99")?),
        format!("{:.0}", of("first_token_p50_ms")?),
        format!("{:.0}", of("first_token_p99_ms")?),
    ])
}

fn criterion(
    limit: fn(f64) -> Limit,
    what: impl Into<String>,
    bound: f64,
    found: f64,
) -> Criterion {
    Criterion {
        what: what.into(),
        found,
        limit: limit(bound),
        unit: Unit::Times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn costs_and_replays_have_tables_and_what_is_missed_is_marked() {
        let part = |tokens, rate| json!({"prompt_tokens": tokens, "concurrency": 16, "requests_per_second": rate, "median_ms": 5.0, "p99_ms": 9.0});
        let mut record = Record::new("a", "b", "c");
        record.push(
            "cost",
            json!({"added": {"added_ms": 0.4, "coordinator_ms": 1.8, "direct_ms": 1.4}, "short": part(16, 3000.0),
                "long": part(50_000, 700.0), "memory": null,
                "streams": {"streams": 1000, "tokens_per_second": 20_000.0, "wanted_tokens_per_second": 20_000.0}}),
        );
        record.push(
            "aware",
            json!({"policy": "PrefixAware", "answered": 10, "requests": 10, "recomputes": 0, "prompt_tokens": 1000,
                "reused_tokens": 350, "reusable_tokens": 370, "reused_of_ideal": 0.946, "given_max_over_mean": 1.1,
                "waiting_max_over_mean_p99": 20.0, "first_token_p50_ms": 180.0, "first_token_p99_ms": 2600.0}),
        );
        let shown = show(&record).unwrap();
        expect![[r#"
            | replay | rule | answered | recomputes | reused | ideal | of the ideal | given: max/mean | waiting: p99 of max/mean | first token p50 | p99 |
            |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
            | aware | PrefixAware | 10 of 10 | 0 | 35.00 % | 37.00 % | 94.60 % | 1.100 | 20.0 | 180 | 2600 |"#]]
        .assert_eq(&shown.blocks[2]);
        let missed = shown
            .criteria
            .iter()
            .filter(|criterion| !criterion.is_met());
        let missed: Vec<&str> = missed.map(|criterion| criterion.what.as_str()).collect();
        assert_eq!(missed, ["requests/s with long prompts as ids"]);
        assert_eq!(shown.criteria.len(), 7);
    }
}
