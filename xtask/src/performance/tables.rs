//! Sections of the document: records as tables, with what is compared and what is asked beside them. Nothing here
//! claims what figures might contradict: they are set against their limits, and misses are marked.

mod coordinator;
mod decoding;
mod markdown;
mod prefill;
mod serve;
mod versus;

use anyhow::Result;

use super::criterion::{self, Criterion};
use super::parts::Part;
use super::record::Record;

/// What a part has to show.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shown {
    /// Tables and sentences in Markdown, with empty lines between.
    blocks: Vec<String>,
    criteria: Vec<Criterion>,
}

/// All that stands between the markers of a part.
///
/// # Errors
/// The record was made by another release of this command.
pub(super) fn section(part: Part, record: &Record) -> Result<String> {
    let Shown {
        mut blocks,
        criteria,
    } = match part {
        Part::Prefill => prefill::show(record),
        Part::Decode => decoding::show_decode(record),
        Part::Batch => decoding::show_batch(record),
        Part::Long => decoding::show_long(record),
        Part::Llama => versus::show(record),
        Part::Pages => decoding::show_pages(record),
        Part::Serve => serve::show(record),
        Part::Coordinator => coordinator::show(record),
    }?;
    let Record {
        commit,
        date,
        machine,
        commands,
        ..
    } = record;
    let head = [
        format!(
            "Commit {commit}, {date}, on {machine}; just before, others used {:.0} % of it:",
            100.0 * record.busy
        ),
        format!("```\n{}\n```", commands.join("\n")),
    ];
    blocks.splice(0..0, head);
    if !criteria.is_empty() {
        blocks.push(criterion::table(&criteria));
    }
    Ok(blocks.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn a_section_says_where_its_figures_are_from() {
        let mut record = Record::new(
            "abc1234",
            "2026-01-02",
            "Some CPU, 2 cores, 24.0 GiB of memory, dev build",
        );
        record.commands.push("lava bench engine ...".to_owned());
        let row = |policy: &str, prompt_tokens: u32, rate: f64, bytes: u32| {
            json!({"policy": policy, "prompt_tokens": prompt_tokens, "batch": 8, "tokens_per_second": rate,
                "cache_bytes": bytes})
        };
        let rows = [
            row("lava-peaks", 2000, 10.0, 5_000_000),
            row("full", 2000, 8.0, 57_344_000),
            row("lava-peaks", 30_000, 9.4, 5_000_000),
            row("full", 30_000, 2.0, 860_160_000),
        ];
        record.push("main", json!({"decode": rows}));
        expect![[r#"
            Commit abc1234, 2026-01-02, on Some CPU, 2 cores, 24.0 GiB of memory, dev build; just before, others used 0 % of it:

            ```
            lava bench engine ...
            ```

            | batch | prompt tokens | tokens/s | of the shorter's | cache | tokens/s, full | of the shorter's | cache, full |
            |---:|---:|---:|---:|---:|---:|---:|---:|
            | 8 | 2000 | 10.0 | 1.000 | 5.00 MB | 8.0 | 1.000 | 57.34 MB |
            | 8 | 30000 | 9.4 | 0.940 | 5.00 MB | 2.0 | 0.250 | 860.16 MB |

            Decode over compact caches of a short and of a long prompt at the same budget, and over full ones in half precision. The bytes are one sequence's.

            | what | asked | found | met |
            |---|---|---|---|
            | batch 8, 30000 tokens over 2000 | at least 0.950 | 0.940 | **missed** |"#]]
        .assert_eq(&section(Part::Long, &record).unwrap());
        let error = section(Part::Decode, &Record::new("a", "b", "c")).unwrap_err();
        assert!(error.to_string().contains("no run \"main\""), "{error}");
    }
}
