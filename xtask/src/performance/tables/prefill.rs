//! Prompts: speed and memory.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Shown;
use super::markdown::{percent, table};
use crate::performance::criterion::{Criterion, Limit, Unit};
use crate::performance::figures::{bytes, list, number};
use crate::performance::record::Record;

const SCORING_SHARE_BELOW: f64 = 0.05;
const PEAK_BELOW: f64 = 1.2;
/// What a prefill's memory is made of, with the names in the document.
const PARTS: [(&str, &str); 4] = [
    ("hidden_bytes", "hidden states"),
    ("full_kv_bytes", "one layer's full K, V"),
    ("block_bytes", "one block"),
    ("page_bytes", "pages"),
];

pub(super) fn show(record: &Record) -> Result<Shown> {
    let speed = list(record.run("speed")?, "prefill")?;
    let memory = list(record.run("memory")?, "prefill")?;
    let rows: Result<Vec<_>> = speed.iter().map(speed_row).collect();
    let mut blocks = vec![
        table(["prompt tokens", "b", "tokens/s", "scoring"], &rows?),
        "Scoring is the share of prefill that scores, ranking, gathering and packing take."
            .to_owned(),
    ];
    let mut criteria = Vec::new();
    let mut longest = 0.0;
    for row in speed {
        longest = number(row, "prompt_tokens")?.max(longest);
    }
    for row in speed {
        if number(row, "prompt_tokens")? == longest {
            criteria.push(Criterion {
                what: format!(
                    "scoring at {longest} tokens, b = {}",
                    number(row, "budget")?
                ),
                found: number(row, "scoring_share")?,
                limit: Limit::Below(SCORING_SHARE_BELOW),
                unit: Unit::Percent,
            });
        }
    }
    let rows: Result<Vec<_>> = memory.iter().map(memory_row).collect();
    let [hidden, full_kv, block, pages] = PARTS.map(|(_, name)| name);
    let header = [
        "prompt tokens",
        "b",
        "peak",
        hidden,
        full_kv,
        block,
        pages,
        "peak over the sum",
    ];
    blocks.push(table(header, &rows?));
    blocks.push(
        "The peak is the allocator's high-water mark during a prefill, less what was allocated before it: weights are \
         not in it. The four columns behind it are what the prefill has to hold at once: hidden states of all tokens, keys \
         and values of all tokens in one layer, activations of one block of tokens, and the pages of rows that are kept."
            .to_owned(),
    );
    let row = memory.first().context("memory was not measured")?;
    criteria.push(Criterion {
        what: format!(
            "peak at {} tokens over the sum of its parts",
            number(row, "prompt_tokens")?
        ),
        found: number(row, "peak_bytes")? / sum(row)?,
        limit: Limit::Below(PEAK_BELOW),
        unit: Unit::Times,
    });
    Ok(Shown { blocks, criteria })
}

fn speed_row(row: &Value) -> Result<[String; 4]> {
    Ok([
        number(row, "prompt_tokens")?.to_string(),
        number(row, "budget")?.to_string(),
        format!("{:.1}", number(row, "tokens_per_second")?),
        percent(number(row, "scoring_share")?),
    ])
}

fn memory_row(row: &Value) -> Result<[String; 8]> {
    let part = |index: usize| Ok::<_, anyhow::Error>(bytes(number(row, PARTS[index].0)?));
    let peak = number(row, "peak_bytes")?;
    Ok([
        number(row, "prompt_tokens")?.to_string(),
        number(row, "budget")?.to_string(),
        bytes(peak),
        part(0)?,
        part(1)?,
        part(2)?,
        part(3)?,
        format!("{:.3}", peak / sum(row)?),
    ])
}

fn sum(row: &Value) -> Result<f64> {
    PARTS.iter().map(|(key, _)| number(row, key)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::performance::criterion;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn the_longest_prompts_and_the_peak_are_judged() {
        let row = |prompt_tokens: u32, budget: u32, share: f64| {
            json!({"prompt_tokens": prompt_tokens, "budget": budget, "tokens_per_second": 321.04, "scoring_share": share,
                "peak_bytes": 110e6, "hidden_bytes": 20e6, "full_kv_bytes": 20e6, "block_bytes": 40e6, "page_bytes": 20e6})
        };
        let mut record = Record::new("a", "b", "c");
        record.push(
            "speed",
            json!({"prefill": [row(512, 128, 0.2), row(4096, 128, 0.03), row(4096, 1024, 0.06)]}),
        );
        record.push("memory", json!({"prefill": [row(8000, 128, 0.2)]}));
        let shown = show(&record).unwrap();
        expect![[r#"
            | prompt tokens | b | tokens/s | scoring |
            |---:|---:|---:|---:|
            | 512 | 128 | 321.0 | 20.00 % |
            | 4096 | 128 | 321.0 | 3.00 % |
            | 4096 | 1024 | 321.0 | 6.00 % |"#]]
        .assert_eq(&shown.blocks[0]);
        expect![[r#"
            | prompt tokens | b | peak | hidden states | one layer's full K, V | one block | pages | peak over the sum |
            |---:|---:|---:|---:|---:|---:|---:|---:|
            | 8000 | 128 | 110.00 MB | 20.00 MB | 20.00 MB | 40.00 MB | 20.00 MB | 1.100 |"#]]
        .assert_eq(&shown.blocks[2]);
        expect![[r#"
            | what | asked | found | met |
            |---|---|---|---|
            | scoring at 4096 tokens, b = 128 | below 5.00 % | 3.00 % | yes |
            | scoring at 4096 tokens, b = 1024 | below 5.00 % | 6.00 % | **missed** |
            | peak at 8000 tokens over the sum of its parts | below 1.200 | 1.100 | yes |"#]]
        .assert_eq(&criterion::table(&shown.criteria));
    }
}
