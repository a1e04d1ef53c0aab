//! Sections of the document: records as tables, with what is compared and what is asked beside them. Nothing here
//! claims what figures might contradict: they are set against their limits, and misses are marked.

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
        let row = |prompt_tokens: u32, rate: f64| {
            json!({"prompt_tokens": prompt_tokens, "batch": 8, "budget": 1024, "tokens_per_second": rate,
                "cache_bytes": 5_000_000, "full_bytes": prompt_tokens * 28_672})
        };
        record.push(
            "main",
            json!({"decode": [row(2000, 10.0), row(30_000, 9.4)]}),
        );
        expect![[r#"
            Commit abc1234, 2026-01-02, on Some CPU, 2 cores, 24.0 GiB of memory, dev build; just before, others used 0 % of it:

            ```
            lava bench engine ...
            ```

            | batch | prompt tokens | tokens/s | of the shorter's | cache | full cache |
            |---:|---:|---:|---:|---:|---:|
            | 8 | 2000 | 10.0 | 1.000 | 5.00 MB | 57.34 MB |
            | 8 | 30000 | 9.4 | 0.940 | 5.00 MB | 860.16 MB |

            Decode over compact caches of a short and of a long prompt at the same budget. The cache is one sequence's; the full cache is what its prompt would take in half precision.

            | what | asked | found | met |
            |---|---|---|---|
            | batch 8, 30000 tokens over 2000 | at least 0.950 | 0.940 | **missed** |"#]]
        .assert_eq(&section(Part::Long, &record).unwrap());
        let error = section(Part::Decode, &Record::new("a", "b", "c")).unwrap_err();
        assert!(error.to_string().contains("no run \"main\""), "{error}");
    }
}
