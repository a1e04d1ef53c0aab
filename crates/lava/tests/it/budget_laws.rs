//! The laws of budgets that are asked for as a share or in bytes, against a search that tries every budget.

use lava::{Budget, EntryBytes, Error, Method, Shape, rows_max};
use proptest::prelude::*;

use crate::oracles::method_strategy;

/// What a budget is resolved for.
#[derive(Debug, Clone)]
struct Request {
    method: Method,
    shape: Shape,
    bytes: EntryBytes,
}

impl Request {
    fn entries(&self, budget: Budget) -> Result<usize, Error> {
        budget.entries(&self.method, self.shape, self.bytes)
    }

    /// Bytes that a budget of so many entries may need.
    fn cost(&self, entries: usize) -> u64 {
        let rows = rows_max(&self.method, self.shape, entries);
        let tables = self.shape.layers * self.shape.kv_heads;
        let pinned = rows.min(tables * self.shape.pinned_rows(&self.method, entries));
        let EntryBytes {
            pinned: of_pinned,
            other,
            table,
        } = self.bytes;
        (pinned * of_pinned + (rows - pinned) * other + tables * table) as u64
    }

    fn whole_bytes(&self) -> u64 {
        self.cost(self.shape.tokens)
    }

    /// Whether a request with this budget in entries can run.
    fn runs(&self, entries: usize) -> bool {
        self.shape.keeps_everything(&self.method, entries)
            || self.method.check_budget(entries).is_ok()
    }
}

/// Layers up to 40: the pyramids' steps leave more room for rounding in deep models.
fn request_strategy() -> impl Strategy<Value = Request> {
    let tokens = prop_oneof![1usize..40, 1usize..300];
    let bytes = (1usize..9, 0usize..9, 0usize..20).prop_map(|(other, more, table)| EntryBytes {
        pinned: other + more,
        other,
        table,
    });
    (method_strategy(), 1usize..40, 1usize..4, tokens, bytes).prop_map(
        |(method, layers, kv_heads, tokens, bytes)| Request {
            method,
            shape: Shape {
                layers,
                kv_heads,
                tokens,
            },
            bytes,
        },
    )
}

/// A budget that was refused, and the least that works.
fn least(error: Error) -> (Budget, usize) {
    match error {
        Error::BudgetTooSmall {
            least,
            least_entries,
            ..
        } => (least, least_entries),
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn bytes_are_the_largest_budget_that_never_needs_more_of_them(
        request in request_strategy(),
        part in 0.0f64..1.1,
    ) {
        let bytes = (request.whole_bytes() as f64 * part) as u64;
        let fits = |&entries: &usize| request.runs(entries) && request.cost(entries) <= bytes;
        let expected = (0..=request.shape.tokens).rev().find(fits);
        match request.entries(Budget::Bytes(bytes)) {
            Ok(entries) => prop_assert_eq!(Some(entries), expected),
            Err(error) => {
                prop_assert_eq!(None, expected);
                let (least, entries) = least(error);
                prop_assert_eq!(request.entries(least), Ok(entries));
            }
        }
    }

    #[test]
    fn the_least_bytes_work_and_one_less_does_not(request in request_strategy()) {
        let (least, entries) = least(request.entries(Budget::Bytes(0)).unwrap_err());
        let Budget::Bytes(bytes) = least else {
            panic!("{least} for bytes");
        };
        prop_assert_eq!(request.entries(least), Ok(entries));
        prop_assert!(request.cost(entries) <= bytes);
        let error = request.entries(Budget::Bytes(bytes - 1)).unwrap_err();
        prop_assert_eq!(self::least(error), (least, entries));
    }

    #[test]
    fn bytes_of_the_whole_prompt_keep_everything(request in request_strategy()) {
        let entries = request.entries(Budget::Bytes(request.whole_bytes()));
        prop_assert_eq!(entries, Ok(request.shape.tokens));
    }

    #[test]
    fn the_least_share_works_and_a_thousandth_less_does_not(
        request in request_strategy(),
        milli in 0u32..=1000,
    ) {
        let tokens = request.shape.tokens;
        let expected = tokens * milli as usize / 1000;
        match request.entries(Budget::Share { milli }) {
            Ok(entries) => {
                prop_assert_eq!(entries, expected);
                prop_assert!(request.runs(entries));
            }
            Err(error) => {
                prop_assert!(!request.runs(expected));
                let (least, entries) = least(error);
                let Budget::Share { milli: least_milli } = least else {
                    panic!("{least} for a share");
                };
                prop_assert!(milli < least_milli && least_milli <= 1000);
                prop_assert_eq!(request.entries(least), Ok(entries));
                let less = Budget::Share { milli: least_milli - 1 };
                prop_assert!(request.entries(less).is_err());
            }
        }
    }

    #[test]
    fn what_is_printed_parses_back(
        count in any::<u64>(),
        shift in 0u32..64,
        zeros in 0u32..20,
    ) {
        let bytes = (count >> shift).wrapping_mul(10u64.pow(zeros));
        for budget in [
            Budget::Entries(bytes as u32),
            Budget::Share { milli: (bytes % 1001) as u32 },
            Budget::Bytes(bytes),
            Budget::Bytes(bytes << 20),
        ] {
            prop_assert_eq!(budget.to_string().parse(), Ok(budget));
        }
    }

    #[test]
    fn no_text_panics(
        text in any::<String>(),
        nearly in "[0-9.]{0,45}(B|kB|MB|GB|KiB|MiB|GiB|%|k|)",
    ) {
        for text in [text, nearly] {
            if let Ok(budget) = text.parse::<Budget>() {
                prop_assert_eq!(budget.to_string().parse(), Ok(budget));
            }
        }
    }
}
