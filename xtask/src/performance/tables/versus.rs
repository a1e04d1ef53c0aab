//! Against llama.cpp.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Shown;
use super::markdown::table;
use crate::performance::criterion::{Criterion, Limit, Unit};
use crate::performance::figures::{bytes, list, median, number, text};
use crate::performance::record::Record;

const WEIGHTS_AT_MOST: f64 = 1.5;
const DECODE_AT_LEAST: f64 = 0.9;

/// Of llama.cpp's tokens per second, by the name of the run.
fn prefill_at_least(name: &str) -> f64 {
    match name {
        "qwen2" => 0.8,
        _ => 1.0,
    }
}

pub(super) fn show(record: &Record) -> Result<Shown> {
    let mut shown = Shown::default();
    let mut version = None;
    for (name, run) in record.runs() {
        let both = Both::of(run).with_context(|| name.to_owned())?;
        version = Some(text(&both.theirs[0], "version")?);
        let mut rows = Vec::new();
        let mut worst = [f64::INFINITY; 2];
        for (index, what) in ["prefill", "decode"].into_iter().enumerate() {
            for one in list(&both.theirs[0], what)? {
                let tokens = number(one, "prompt_tokens")?;
                let theirs = both.rate(both.theirs, what, tokens, None)?;
                // There is one prefill of each length. Decode is compared over full caches, which both have.
                let like = (what == "decode").then_some("full");
                let ours = both.rate(both.ours, what, tokens, like)?;
                worst[index] = worst[index].min(ours / theirs);
                let compact = match what {
                    "decode" => {
                        let rate = both.rate(both.ours, what, tokens, Some("compact"))?;
                        format!("{rate:.1} ({:.2})", rate / theirs)
                    }
                    _ => String::new(),
                };
                rows.push([
                    what.to_owned(),
                    tokens.to_string(),
                    format!("{theirs:.1}"),
                    format!("{ours:.1}"),
                    format!("{:.2}", ours / theirs),
                    compact,
                ]);
            }
        }
        let budget = format!("ours, b = {} (ratio)", number(run, "budget")?);
        let header = ["what", "tokens", "llama.cpp", "ours", "ratio", &budget];
        let first = &both.ours[0];
        let (held, file) = (number(first, "weight_bytes")?, number(first, "file_bytes")?);
        shown.blocks.push(format!(
            "{name}: the file has {}, its weights are held in {}.",
            bytes(file),
            bytes(held)
        ));
        shown.blocks.push(table(header, &rows));
        let criterion = |what: &str, found, limit| Criterion {
            what: format!("{name}: {what}"),
            found,
            limit,
            unit: Unit::Times,
        };
        let [prefill, decode] = worst;
        shown.criteria.extend([
            criterion(
                "lowest ratio of prefill",
                prefill,
                Limit::AtLeast(prefill_at_least(name)),
            ),
            criterion(
                "lowest ratio of decode, full caches",
                decode,
                Limit::AtLeast(DECODE_AT_LEAST),
            ),
            criterion(
                "weights over the file",
                held / file,
                Limit::AtMost(WEIGHTS_AT_MOST),
            ),
        ]);
    }
    let version = version.context("nothing was measured")?;
    shown.blocks.push(format!(
        "Tokens per second, medians of rounds in which the engines take turns, and ours over llama.cpp's \
         (llama-cpp-python {version}, built for this machine, with its defaults: half-precision keys and values, no flash \
         attention). Prefill is that of whole prompts, ours with scoring and eviction. Decode is one sequence's: `ours` \
         over full caches in half precision, as llama.cpp's; the last column over compact ones with packed rows."
    ));
    Ok(shown)
}

/// Rounds of both engines.
struct Both<'a> {
    ours: &'a [Value],
    theirs: &'a [Value],
}

impl<'a> Both<'a> {
    fn of(run: &'a Value) -> Result<Self> {
        let (ours, theirs) = (list(run, "ours")?, list(run, "theirs")?);
        anyhow::ensure!(
            !ours.is_empty() && !theirs.is_empty(),
            "there are no rounds"
        );
        Ok(Self { ours, theirs })
    }

    /// Median over rounds of the tokens per second after so many tokens; over full or compact caches, or whichever
    /// there are.
    fn rate(&self, rounds: &[Value], what: &str, tokens: f64, cache: Option<&str>) -> Result<f64> {
        let of_round = |round: &Value| {
            let fits = |row: &&Value| {
                let is_full = row["policy"] == "full";
                row["prompt_tokens"].as_f64() == Some(tokens)
                    && cache.is_none_or(|cache| (cache == "full") == is_full)
            };
            let found = list(round, what)?.iter().find(fits);
            let found =
                found.with_context(|| format!("a round has no {what} of {tokens} tokens"))?;
            number(found, "tokens_per_second")
        };
        median(rounds.iter().map(of_round).collect::<Result<_>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::performance::criterion;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn the_lowest_ratio_is_judged() {
        let ours = |rate: f64| {
            json!({"weight_bytes": 120e6, "file_bytes": 100e6,
                "prefill": [{"prompt_tokens": 512, "tokens_per_second": rate},
                    {"prompt_tokens": 2048, "tokens_per_second": rate / 2.0}],
                "decode": [{"prompt_tokens": 8, "policy": "lava-peaks", "tokens_per_second": 70.0},
                    {"prompt_tokens": 8, "policy": "full", "tokens_per_second": 60.0}]})
        };
        let theirs = json!({"version": "0.3.36",
            "prefill": [{"prompt_tokens": 512, "tokens_per_second": 400.0},
                {"prompt_tokens": 2048, "tokens_per_second": 250.0}],
            "decode": [{"prompt_tokens": 8, "tokens_per_second": 64.0}]});
        let mut record = Record::new("a", "b", "c");
        let rounds = json!([theirs, theirs, theirs]);
        record.push(
            "smollm2",
            json!({"budget": 1024, "ours": [ours(300.0), ours(420.0), ours(440.0)], "theirs": rounds}),
        );
        let shown = show(&record).unwrap();
        expect![[r#"
            | what | tokens | llama.cpp | ours | ratio | ours, b = 1024 (ratio) |
            |---:|---:|---:|---:|---:|---:|
            | prefill | 512 | 400.0 | 420.0 | 1.05 |  |
            | prefill | 2048 | 250.0 | 210.0 | 0.84 |  |
            | decode | 8 | 64.0 | 60.0 | 0.94 | 70.0 (1.09) |"#]]
        .assert_eq(&shown.blocks[1]);
        expect![[r#"
            | what | asked | found | met |
            |---|---|---|---|
            | smollm2: lowest ratio of prefill | at least 1.000 | 0.840 | **missed** |
            | smollm2: lowest ratio of decode, full caches | at least 0.900 | 0.938 | yes |
            | smollm2: weights over the file | at most 1.500 | 1.200 | yes |"#]]
        .assert_eq(&criterion::table(&shown.criteria));
    }
}
