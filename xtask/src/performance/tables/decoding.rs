//! Batches: over compact and full caches, of one and of many sequences, after short and long prompts, in pages of
//! several sizes.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Shown;
use super::markdown::table;
use crate::performance::criterion::{Criterion, Limit, Unit};
use crate::performance::figures::{bytes, different, list, number, with};
use crate::performance::record::Record;

/// Of batch 1's tokens per second, for each way to hold weights.
const BATCH_AT_LEAST: [(&str, f64); 3] = [("stored", 2.0), ("f32", 3.0), ("q8-0", 3.0)];
/// Of the short prompt's tokens per second.
const LONG_AT_LEAST: f64 = 0.95;

pub(super) fn show_decode(record: &Record) -> Result<Shown> {
    let [compact, full] = compact_and_full(list(record.run("main")?, "decode")?);
    let mut rows = Vec::new();
    for row in &compact {
        let (prompt, batch) = (number(row, "prompt_tokens")?, number(row, "batch")?);
        let other = with(&full, &[("prompt_tokens", prompt), ("batch", batch)])?;
        let (rate, full_rate) = (rate(row)?, rate(other)?);
        rows.push([
            prompt.to_string(),
            batch.to_string(),
            format!("{rate:.1}"),
            bytes(number(row, "cache_bytes")?),
            format!("{full_rate:.1}"),
            bytes(number(other, "cache_bytes")?),
            format!("{:.2}", rate / full_rate),
        ]);
    }
    let budget = number(compact.first().context("nothing was measured")?, "budget")?;
    let compact = format!("tokens/s, b = {budget}");
    let header = [
        "prompt tokens",
        "batch",
        &compact,
        "cache",
        "tokens/s, full",
        "cache, full",
        "b over full",
    ];
    let words = format!(
        "Tokens of all sequences per second, over compact caches (packed rows) and over full ones in half precision; the \
         bytes are one sequence's. Prompts of at most {budget} tokens are kept whole, so there the row format is all that \
         differs."
    );
    Ok(Shown {
        blocks: vec![table(header, &rows), words],
        criteria: Vec::new(),
    })
}

pub(super) fn show_batch(record: &Record) -> Result<Shown> {
    let mut shown = Shown::default();
    let mut rows = Vec::new();
    for (weights, at_least) in BATCH_AT_LEAST {
        let run = record.run(weights)?;
        let decode = list(run, "decode")?;
        let [one, many] = two(decode, "batch")?;
        let rates = [
            rate(with(decode, &[("batch", one)])?)?,
            rate(with(decode, &[("batch", many)])?)?,
        ];
        let times = rates[1] / rates[0];
        rows.push([
            weights.to_owned(),
            bytes(number(run, "weight_bytes")?),
            format!("{:.1}", rates[0]),
            format!("{:.1}", rates[1]),
            format!("{times:.2}"),
        ]);
        shown.criteria.push(Criterion {
            what: format!("`--weights {weights}`, batch {many} over {one}"),
            found: times,
            limit: Limit::AtLeast(at_least),
            unit: Unit::Times,
        });
    }
    let header = [
        "weights",
        "bytes",
        "tokens/s, batch 1",
        "tokens/s, batch 8",
        "times",
    ];
    shown.blocks = vec![
        table(header, &rows),
        "Tokens of all sequences per second after a short prompt. `stored` is Q4_1 as in the file; the others are made \
         of it at load. A batch reads each weight once for all its sequences."
            .to_owned(),
    ];
    Ok(shown)
}

pub(super) fn show_long(record: &Record) -> Result<Shown> {
    let [compact, full] = compact_and_full(list(record.run("main")?, "decode")?);
    let [short, long] = two(&compact, "prompt_tokens")?;
    let mut shown = Shown::default();
    let mut rows = Vec::new();
    for batch in different(&compact, "batch")? {
        let at = |tokens| [("batch", batch), ("prompt_tokens", tokens)];
        let base = |caches| rate(with(caches, &at(short))?);
        for tokens in [short, long] {
            let cells = |caches| -> Result<[String; 3]> {
                let found = with(caches, &at(tokens))?;
                Ok([
                    format!("{:.1}", rate(found)?),
                    format!("{:.3}", rate(found)? / base(caches)?),
                    bytes(number(found, "cache_bytes")?),
                ])
            };
            let [speed, share, cache] = cells(&compact)?;
            let [full_speed, full_share, full_cache] = cells(&full)?;
            let (batch, tokens) = (batch.to_string(), tokens.to_string());
            rows.push([
                batch, tokens, speed, share, cache, full_speed, full_share, full_cache,
            ]);
        }
        shown.criteria.push(Criterion {
            what: format!("batch {batch}, {long} tokens over {short}"),
            found: rate(with(&compact, &at(long))?)? / base(&compact)?,
            limit: Limit::AtLeast(LONG_AT_LEAST),
            unit: Unit::Times,
        });
    }
    let header = [
        "batch",
        "prompt tokens",
        "tokens/s",
        "of the shorter's",
        "cache",
        "tokens/s, full",
        "of the shorter's",
        "cache, full",
    ];
    shown.blocks = vec![
        table(header, &rows),
        "Decode over compact caches of a short and of a long prompt at the same budget, and over full ones in half \
         precision. The bytes are one sequence's."
            .to_owned(),
    ];
    Ok(shown)
}

pub(super) fn show_pages(record: &Record) -> Result<Shown> {
    let decode = list(record.run("main")?, "decode")?;
    let mut rows = Vec::new();
    for row in decode {
        let (cache, pages) = (number(row, "cache_bytes")?, number(row, "page_bytes")?);
        rows.push([
            number(row, "budget")?.to_string(),
            number(row, "page_rows")?.to_string(),
            format!("{:.1}", rate(row)?),
            bytes(cache),
            bytes(pages),
            format!("{:.3}", pages / cache),
        ]);
    }
    let first = decode.first().context("nothing was measured")?;
    let words = format!(
        "Decode of {} sequences after {} tokens. A page has the bytes of so many rows in half precision and holds more \
         packed ones. Bytes are one sequence's: of its rows, and of the pages that they lie in.",
        number(first, "batch")?,
        number(first, "prompt_tokens")?
    );
    let header = [
        "b",
        "rows of a page",
        "tokens/s",
        "rows",
        "pages",
        "pages over rows",
    ];
    Ok(Shown {
        blocks: vec![table(header, &rows), words],
        criteria: Vec::new(),
    })
}

/// Rows of compact caches, and of full ones.
fn compact_and_full(rows: &[Value]) -> [Vec<Value>; 2] {
    let (full, compact) = rows
        .iter()
        .cloned()
        .partition(|row| row["policy"] == "full");
    [compact, full]
}

fn rate(row: &Value) -> Result<f64> {
    number(row, "tokens_per_second")
}

/// The smallest and the largest number under a key.
fn two(rows: &[Value], key: &str) -> Result<[f64; 2]> {
    let mut numbers = different(rows, key)?;
    numbers.sort_by(f64::total_cmp);
    let found = numbers.first().copied().zip(numbers.last().copied());
    let (first, last) = found.with_context(|| format!("there is no {key:?}"))?;
    Ok([first, last])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::performance::criterion;
    use expect_test::expect;
    use serde_json::json;

    fn record(name: &str, figures: Value) -> Record {
        let mut record = Record::new("a", "b", "c");
        record.push(name, figures);
        record
    }

    #[test]
    fn compact_caches_stand_beside_full_ones_of_the_same_prompt_and_batch() {
        let row = |policy: &str, batch: u32, rate: f64| {
            json!({"prompt_tokens": 512, "policy": policy, "batch": batch, "budget": 1024, "tokens_per_second": rate,
                "cache_bytes": 5e6})
        };
        let rows = [
            row("lava-peaks", 1, 60.0),
            row("full", 1, 50.0),
            row("lava-peaks", 8, 90.0),
            row("full", 8, 100.0),
        ];
        let shown = show_decode(&record("main", json!({"decode": rows}))).unwrap();
        expect![[r#"
            | prompt tokens | batch | tokens/s, b = 1024 | cache | tokens/s, full | cache, full | b over full |
            |---:|---:|---:|---:|---:|---:|---:|
            | 512 | 1 | 60.0 | 5.00 MB | 50.0 | 5.00 MB | 1.20 |
            | 512 | 8 | 90.0 | 5.00 MB | 100.0 | 5.00 MB | 0.90 |"#]]
        .assert_eq(&shown.blocks[0]);
    }

    #[test]
    fn each_way_to_hold_weights_has_its_own_limit() {
        let run = |rate: f64| {
            let row = |batch: u32, rate: f64| json!({"batch": batch, "tokens_per_second": rate});
            json!({"weight_bytes": 96e6, "decode": [row(1, 10.0), row(8, rate)]})
        };
        let mut record = record("stored", run(25.0));
        record.push("f32", run(25.0));
        record.push("q8-0", run(31.0));
        let shown = show_batch(&record).unwrap();
        expect![[r#"
            | what | asked | found | met |
            |---|---|---|---|
            | `--weights stored`, batch 8 over 1 | at least 2.000 | 2.500 | yes |
            | `--weights f32`, batch 8 over 1 | at least 3.000 | 2.500 | **missed** |
            | `--weights q8-0`, batch 8 over 1 | at least 3.000 | 3.100 | yes |"#]]
        .assert_eq(&criterion::table(&shown.criteria));
    }

    #[test]
    fn pages_show_what_their_ends_waste() {
        let row = json!({"prompt_tokens": 2048, "batch": 8, "budget": 1024, "page_rows": 16, "tokens_per_second": 100.0,
            "cache_bytes": 4e6, "page_bytes": 5e6});
        let shown = show_pages(&record("main", json!({"decode": [row]}))).unwrap();
        expect![[r#"
            | b | rows of a page | tokens/s | rows | pages | pages over rows |
            |---:|---:|---:|---:|---:|---:|
            | 1024 | 16 | 100.0 | 4.00 MB | 5.00 MB | 1.250 |"#]]
        .assert_eq(&shown.blocks[0]);
        assert!(shown.blocks[1].starts_with("Decode of 8 sequences after 2048 tokens."));
    }
}
