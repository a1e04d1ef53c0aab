//! What a run cost and kept: as a table for people, as JSON for programs.

use std::time::Duration;

use anyhow::Result;
use lava::Budget;
use lava_engine::RowFormat;
use serde_json::json;

use crate::generate::Answer;

/// Width of the longest bar of the chart.
const BAR_WIDTH: usize = 40;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    EndOfText,
    StopString,
    MaxTokens,
    Context,
}

impl FinishReason {
    fn name(self) -> &'static str {
        match self {
            Self::EndOfText => "end of text",
            Self::StopString => "stop string",
            Self::MaxTokens => "max tokens",
            Self::Context => "context full",
        }
    }
}

pub(crate) struct Report {
    pub(crate) model: String,
    pub(crate) policy: String,
    pub(crate) row_format: RowFormat,
    pub(crate) budget_asked: Budget,
    /// Entries per layer and KV head that it came to.
    pub(crate) budget: usize,
    pub(crate) window: usize,
    pub(crate) prompt_tokens: usize,
    pub(crate) answer: Answer,
    pub(crate) finish: FinishReason,
    /// Of the weight matrices as they are held.
    pub(crate) weight_bytes: usize,
    /// Of the uncompressed cache of the prompt, in the same row dtype.
    pub(crate) full_bytes: usize,
    /// Of the kept rows after prefill.
    pub(crate) kept_bytes: usize,
    pub(crate) rows_kept: usize,
    /// Per layer, over all KV heads, window included.
    pub(crate) layer_rows: Vec<usize>,
    pub(crate) prefill: Duration,
    pub(crate) scoring: Duration,
    pub(crate) decode: Duration,
}

impl Report {
    pub(crate) fn print_table(&self) -> Result<()> {
        let steps = self.answer.tokens.len().saturating_sub(1);
        println!("\n");
        println!(
            "policy          {}, rows in {}, budget {} (window {})",
            self.policy,
            self.row_format,
            budget(self.budget_asked, self.budget),
            self.window
        );
        println!("prompt          {} tokens", self.prompt_tokens);
        println!(
            "answer          {} tokens ({})",
            self.answer.tokens.len(),
            self.finish.name()
        );
        println!("weights         {}", bytes(self.weight_bytes));
        println!("full cache      {}", bytes(self.full_bytes));
        println!(
            "kept            {} in {} rows: {:.1} % of the full cache",
            bytes(self.kept_bytes),
            self.rows_kept,
            100.0 * self.kept_bytes as f64 / self.full_bytes as f64
        );
        println!(
            "prefill         {:.0} ms ({:.0} tokens/s)",
            millis(self.prefill),
            per_second(self.prompt_tokens, self.prefill)
        );
        println!(
            "scoring         {:.0} ms ({:.1} % of prefill)",
            millis(self.scoring),
            100.0 * self.scoring.as_secs_f64() / self.prefill.as_secs_f64()
        );
        println!(
            "decode          {:.0} ms ({:.1} tokens/s)",
            millis(self.decode),
            per_second(steps, self.decode)
        );
        println!("rows kept by layer:");
        for line in chart(&self.layer_rows) {
            println!("{line}");
        }
        Ok(())
    }

    pub(crate) fn print_json(&self) -> Result<()> {
        let tokens: Vec<_> = self
            .answer
            .tokens
            .iter()
            .map(|token| json!({"id": token.token, "logprob": token.logprob, "top": token.top}))
            .collect();
        let document = json!({
            "model": self.model,
            "policy": self.policy,
            "row_format": self.row_format.name(),
            "budget": self.budget,
            "budget_asked": self.budget_asked.to_string(),
            "window": self.window,
            "prompt_tokens": self.prompt_tokens,
            "text": self.answer.text,
            "tokens": tokens,
            "finish_reason": self.finish.name(),
            "weight_bytes": self.weight_bytes,
            "full_cache_bytes": self.full_bytes,
            "kept_bytes": self.kept_bytes,
            "rows_kept": self.rows_kept,
            "layer_rows": self.layer_rows,
            "prefill_ms": millis(self.prefill),
            "scoring_ms": millis(self.scoring),
            "decode_ms": millis(self.decode),
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
        Ok(())
    }
}

/// One bar per layer, scaled to the largest.
fn chart(rows: &[usize]) -> Vec<String> {
    let most = rows.iter().copied().max().unwrap_or(0).max(1);
    let bar = |rows: usize| "█".repeat((rows * BAR_WIDTH).div_ceil(most));
    rows.iter()
        .enumerate()
        .map(|(layer, &rows)| format!("  {layer:>3} {rows:>6} {}", bar(rows)))
        .collect()
}

/// A budget as it was asked for, and the entries that it came to.
pub(crate) fn budget(asked: Budget, entries: usize) -> String {
    match asked {
        Budget::Entries(_) => asked.to_string(),
        Budget::Share { .. } | Budget::Bytes(_) => format!("{asked} = {entries} entries"),
    }
}

pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.2} MB", count as f64 / 1e6),
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    match time.as_secs_f64() {
        0.0 => 0.0,
        seconds => count as f64 / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width_and_no_bar_of_a_row_is_empty() {
        let lines = chart(&[400, 1, 0]);
        assert_eq!(lines[0].matches('█').count(), BAR_WIDTH);
        assert_eq!(lines[1].matches('█').count(), 1);
        assert_eq!(lines[2].matches('█').count(), 0);
    }
}
