//! A server under load.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Shown;
use super::markdown::{percent, table};
use crate::performance::figures::number;
use crate::performance::record::Record;

pub(super) fn show(record: &Record) -> Result<Shown> {
    let (mut counts, mut times) = (Vec::new(), Vec::new());
    let mut limits = None;
    for (name, run) in record.runs() {
        let summary = &run["summary"];
        counts.push(count_row(name, summary).with_context(|| name.to_owned())?);
        times.push(time_row(name, summary).with_context(|| name.to_owned())?);
        let goodput = &summary["goodput"];
        limits = Some([
            number(goodput, "first_token_ms_max")?,
            number(goodput, "per_token_ms_max")?,
        ]);
    }
    let [first_token, per_token] = limits.context("nothing was measured")?;
    let blocks = vec![
        table(
            [
                "load",
                "due",
                "answered",
                "refused",
                "failed",
                "prompt tokens/s",
                "answer tokens/s",
                "good",
                "shipped",
            ],
            &counts,
        ),
        format!(
            "Requests do not wait for each other; coordinator, prefill worker and decode worker share one process. Rates are \
             over the whole load, so they say how much was asked as much as how much was done. Good requests have their first token \
             within {first_token} ms and take at most {per_token} ms a token after it. Shipped is the share \
             that travelled of the bytes without eviction."
        ),
        table(
            [
                "load",
                "first token p50",
                "p90",
                "p99",
                "between tokens p50",
                "p90",
                "p99",
            ],
            &times,
        ),
        "Milliseconds, from sending a request, and between the tokens of all answers.".to_owned(),
    ];
    Ok(Shown {
        blocks,
        criteria: Vec::new(),
    })
}

fn count_row(name: &str, summary: &Value) -> Result<[String; 9]> {
    let count = |key| Ok::<_, anyhow::Error>(number(summary, key)?.to_string());
    let rate = |key| Ok::<_, anyhow::Error>(format!("{:.1}", number(summary, key)?));
    Ok([
        name.to_owned(),
        count("due")?,
        count("answered")?,
        count("refused")?,
        count("failed")?,
        rate("prompt_tokens_per_second")?,
        rate("output_tokens_per_second")?,
        percent(number(&summary["goodput"], "share")?),
        percent(number(summary, "shipped_bytes")? / number(summary, "full_bytes")?),
    ])
}

fn time_row(name: &str, summary: &Value) -> Result<[String; 7]> {
    let time = |of: &str, key| Ok::<_, anyhow::Error>(format!("{:.0}", number(&summary[of], key)?));
    Ok([
        name.to_owned(),
        time("first_token_ms", "p50")?,
        time("first_token_ms", "p90")?,
        time("first_token_ms", "p99")?,
        time("gap_ms", "p50")?,
        time("gap_ms", "p90")?,
        time("gap_ms", "p99")?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn a_load_has_a_row_in_both_tables() {
        let times = json!({"count": 4, "p50": 100.4, "p90": 200.0, "p99": 300.0, "max": 300.0});
        let summary = json!({"due": 4, "answered": 3, "refused": 1, "failed": 0, "first_token_ms": times, "gap_ms": times,
            "prompt_tokens_per_second": 12.34, "output_tokens_per_second": 5.0, "shipped_bytes": 3, "full_bytes": 100,
            "goodput": {"first_token_ms_max": 5000.0, "per_token_ms_max": 250.0, "share": 0.75}});
        let mut record = Record::new("a", "b", "c");
        record.push("poisson", json!({"summary": summary}));
        let shown = show(&record).unwrap();
        expect![[r#"
            | load | due | answered | refused | failed | prompt tokens/s | answer tokens/s | good | shipped |
            |---:|---:|---:|---:|---:|---:|---:|---:|---:|
            | poisson | 4 | 3 | 1 | 0 | 12.3 | 5.0 | 75.00 % | 3.00 % |"#]]
        .assert_eq(&shown.blocks[0]);
        expect![[r#"
            | load | first token p50 | p90 | p99 | between tokens p50 | p90 | p99 |
            |---:|---:|---:|---:|---:|---:|---:|
            | poisson | 100 | 200 | 300 | 100 | 200 | 300 |"#]]
        .assert_eq(&shown.blocks[2]);
        assert!(
            shown.blocks[1].contains("within 5000 ms"),
            "{}",
            shown.blocks[1]
        );
    }
}
