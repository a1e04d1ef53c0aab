//! What one prompt cost, as a client is told.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) prompt_tokens: u64,
    /// The two others are parts of it.
    pub(crate) prefill: f64,
    pub(crate) scoring: f64,
    pub(crate) packing: f64,
}

/// Above the rows of a table, see [`Cost::row`].
pub(crate) const HEADER: &str =
    "tokens  budget  prefill ms  tokens/s  scoring ms  packing ms   share";

impl Cost {
    /// Out of the document of `lava generate --json`.
    pub(crate) fn read(json: &str) -> Result<Self> {
        let document: Value = serde_json::from_str(json).context("the answer is not JSON")?;
        let number = |key: &str| {
            let number = document[key].as_f64();
            number.with_context(|| format!("the answer has no number {key:?}"))
        };
        let prefill = number("prefill_ms")?;
        // An answer whose first token ends it comes without costs.
        ensure!(prefill > 0.0, "the answer was over at its first token");
        Ok(Self {
            prompt_tokens: number("prompt_tokens")? as u64,
            prefill,
            scoring: number("scoring_ms")?,
            packing: number("packing_ms")?,
        })
    }

    /// The median of each number.
    ///
    /// # Panics
    ///
    /// If there are no costs.
    pub(crate) fn median(costs: &[Self]) -> Self {
        let of = |number: fn(&Self) -> f64| median(costs.iter().map(number).collect());
        Self {
            prompt_tokens: costs[0].prompt_tokens,
            prefill: of(|cost| cost.prefill),
            scoring: of(|cost| cost.scoring),
            packing: of(|cost| cost.packing),
        }
    }

    /// Percent of the prefill that its two parts take.
    pub(crate) fn share(&self) -> f64 {
        100.0 * (self.scoring + self.packing) / self.prefill
    }

    /// A line of the table.
    pub(crate) fn row(&self, budget: u32) -> String {
        format!(
            "{:>6}  {budget:>6}  {:>10.1}  {:>8.1}  {:>10.2}  {:>10.2}  {:>4.2} %",
            self.prompt_tokens,
            self.prefill,
            1e3 * self.prompt_tokens as f64 / self.prefill,
            self.scoring,
            self.packing,
            self.share()
        )
    }
}

/// The middle one, or the greater of the two in the middle.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        prompt_tokens: 4096,
        prefill: 16000.0,
        scoring: 240.0,
        packing: 16.0,
    };

    #[test]
    fn a_median_is_the_middle_of_each_number() {
        let cost = |prefill, scoring, packing| Cost {
            prefill,
            scoring,
            packing,
            ..COST
        };
        let costs = [
            cost(9.0, 1.0, 0.5),
            cost(7.0, 3.0, 0.1),
            cost(8.0, 2.0, 0.3),
        ];
        assert_eq!(Cost::median(&costs), cost(8.0, 2.0, 0.3));
    }

    #[test]
    fn a_share_counts_both_parts() {
        assert_eq!(COST.share(), 1.6);
    }

    #[test]
    fn a_row_stands_under_its_header() {
        let row = COST.row(128);
        assert_eq!(
            row,
            "  4096     128     16000.0     256.0      240.00       16.00  1.60 %"
        );
        assert_eq!(row.len(), HEADER.len());
    }

    #[test]
    fn a_cost_is_read_out_of_an_answer_that_has_all_of_it() {
        let json = r#"{"text": "", "prompt_tokens": 4096, "prefill_ms": 16000.0, "scoring_ms": 240, "packing_ms": 16.0}"#;
        assert_eq!(Cost::read(json).unwrap(), COST);
        let check = |from, to, expected| {
            let error = Cost::read(&json.replace(from, to)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(
            "packing_ms",
            "other",
            "the answer has no number \"packing_ms\"",
        );
        check("16000.0", "0.0", "the answer was over at its first token");
    }
}
