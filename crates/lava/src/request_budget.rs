//! A request's budget in the unit that it was asked for in, and the entries that it comes to.

mod text;

use std::fmt;
use std::ops::RangeInclusive;

use crate::rows::rows_max;
use crate::{Error, Method, Shape};

pub use text::ParseBudgetError;

/// What a request's cache is to be cut to, as somebody asked for it. Whoever lets a request in turns it
/// into entries, once ([`Budget::entries`]); everything else speaks of entries.
///
/// It is written as entries (`128`), as a share of the prompt (`10%`, `2.5%`) or as bytes (`3MB`; the
/// units are B, kB, MB, GB, KiB, MiB and GiB). What is printed parses back: whole MiB and GiB as such,
/// other bytes in the largest decimal unit, with as many digits as they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Budget {
    /// Entries per KV head and layer on average, window included: `b`.
    Entries(u32),
    /// As many entries per KV head and layer as this share of the prompt's `N` tokens, rounded down.
    Share {
        /// In thousandths, at most 1000.
        milli: u32,
    },
    /// The most bytes of what prefill leaves: keys and values of all layers and KV heads as they are
    /// stored, without the unused ends of pages.
    Bytes(u64),
}

/// Bytes of what a cache consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryBytes {
    /// An entry that does not compete: one of the window or a sink.
    pub pinned: usize,
    /// Any other entry, at most as many.
    pub other: usize,
    /// What a KV head of a layer has besides its entries.
    pub table: usize,
}

impl EntryBytes {
    /// All entries alike.
    pub fn even(bytes: usize) -> EntryBytes {
        EntryBytes {
            pinned: bytes,
            other: bytes,
            table: 0,
        }
    }
}

/// What is kept whatever the budget, and so uses up a budget that is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlwaysKept {
    /// The window, with its positions.
    Window(usize),
    /// The sinks, with their number.
    Sinks(usize),
    /// The whole prompt of as many tokens: by policy, or because it is within the window.
    Prompt(usize),
}

impl Budget {
    /// Entries per KV head and layer, for a request of this shape whose entries have so many `bytes`.
    ///
    /// For bytes it is the largest budget that cannot need more of them, whatever the scores
    /// ([`rows_max`]), and `N` if they hold the whole prompt.
    ///
    /// # Errors
    /// The client, whose budget is too small; the error says the least that works.
    pub fn entries(self, method: &Method, shape: Shape, bytes: EntryBytes) -> Result<usize, Error> {
        match self {
            Budget::Entries(entries) => {
                let entries = entries as usize;
                match shape.keeps_everything(method, entries) {
                    true => Ok(entries),
                    false => method.check_budget(entries).map(|()| entries),
                }
            }
            Budget::Share { milli } => {
                let entries = share(shape.tokens, milli);
                let works =
                    shape.keeps_everything(method, entries) || method.check_budget(entries).is_ok();
                match works {
                    true => Ok(entries),
                    false => Err(too_small_share(milli, method, shape)),
                }
            }
            Budget::Bytes(most) => {
                let costs = Costs {
                    method,
                    shape,
                    bytes,
                };
                let found = costs.largest_within(most);
                found.ok_or_else(|| costs.too_small(most))
            }
        }
    }
}

/// `floor(tokens * milli / 1000)`.
fn share(tokens: usize, milli: u32) -> usize {
    let entries = tokens as u128 * u128::from(milli) / 1000;
    usize::try_from(entries).unwrap_or(usize::MAX)
}

fn too_small_share(milli: u32, method: &Method, shape: Shape) -> Error {
    let (least, kept) = least(method, shape);
    let least_milli = (least as u128 * 1000).div_ceil(shape.tokens.max(1) as u128);
    let least_milli = u32::try_from(least_milli).unwrap_or(u32::MAX);
    Error::BudgetTooSmall {
        asked: Budget::Share { milli },
        entries: share(shape.tokens, milli),
        kept,
        least: Budget::Share { milli: least_milli },
        least_entries: share(shape.tokens, least_milli),
    }
}

/// The least budget that does not leave out what is always kept, in entries, and what that is.
fn least(method: &Method, shape: Shape) -> (usize, AlwaysKept) {
    let (min, kept) = method.budget_min();
    match shape.keeps_everything(method, 0) || min > shape.tokens {
        true => (shape.tokens, AlwaysKept::Prompt(shape.tokens)),
        false => (min, kept),
    }
}

/// What budgets of one request cost in bytes.
struct Costs<'a> {
    method: &'a Method,
    shape: Shape,
    bytes: EntryBytes,
}

impl Costs<'_> {
    /// The most bytes that a budget of so many entries can need.
    fn bytes(&self, entries: usize) -> u128 {
        let rows = rows_max(self.method, self.shape, entries) as u128;
        let pinned = self.tables() * self.shape.pinned_rows(self.method, entries) as u128;
        let pinned = pinned.min(rows);
        pinned * self.bytes.pinned as u128
            + (rows - pinned) * self.bytes.other as u128
            + self.tables() * self.bytes.table as u128
    }

    /// `L * Hkv`.
    fn tables(&self) -> u128 {
        self.shape.layers as u128 * self.shape.kv_heads as u128
    }

    /// Entries per KV head and layer that so many bytes hold, whether or not a request could run so.
    fn held(&self, bytes: u64) -> usize {
        let of_table = u128::from(bytes) / self.tables().max(1);
        let of_table = of_table.saturating_sub(self.bytes.table as u128);
        let pinned = self.shape.pinned_rows(self.method, 0) as u128;
        let pinned_bytes = pinned * self.bytes.pinned as u128;
        let held = match of_table.checked_sub(pinned_bytes) {
            Some(rest) => pinned + rest / self.bytes.other.max(1) as u128,
            None => of_table / self.bytes.pinned.max(1) as u128,
        };
        usize::try_from(held).unwrap_or(usize::MAX)
    }

    /// The budgets from this one on that may cost no more than it. For most policies that is only this
    /// one; the pyramids round the step between their layers down, so that a larger budget can cost
    /// less, by up to `(L - 1) / 2` entries and what the Ada policies round in a head.
    fn peers(&self, entries: usize) -> RangeInclusive<usize> {
        let last = entries.saturating_add(self.shape.layers).saturating_add(2);
        entries..=last.min(self.shape.tokens)
    }

    /// The least budget that works. None is less than what is kept whole whatever the budget; under
    /// [`Policy::StreamingLlm`](crate::Policy::StreamingLlm) it costs less too, since its one entry is then of no window.
    fn first(&self) -> usize {
        match self.shape.keeps_everything(self.method, 0) {
            true => 0,
            false => least(self.method, self.shape).0,
        }
    }

    /// The largest budget that costs at most `bytes`, if one works.
    fn largest_within(&self, bytes: u64) -> Option<usize> {
        let fits = |entries: &usize| self.bytes(*entries) <= u128::from(bytes);
        let whole = self.shape.tokens;
        if fits(&whole) {
            return Some(whole);
        }
        let mut fitting = self.peers(self.first()).find(fits)?;
        let mut too_large = whole;
        while too_large - fitting > 1 {
            let middle = fitting + (too_large - fitting) / 2;
            match fits(&middle) {
                true => fitting = middle,
                false => too_large = middle,
            }
        }
        self.peers(fitting).rev().find(fits)
    }

    fn too_small(&self, bytes: u64) -> Error {
        let (least, kept) = least(self.method, self.shape);
        let peers = self.peers(self.first());
        let least_bytes = peers.map(|entries| self.bytes(entries)).min();
        let least_bytes = u64::try_from(least_bytes.unwrap_or(0)).unwrap_or(u64::MAX);
        Error::BudgetTooSmall {
            asked: Budget::Bytes(bytes),
            // Policies that exceed their budget may not fit where it would.
            entries: self.held(bytes).min(least.saturating_sub(1)),
            kept,
            least: Budget::Bytes(least_bytes),
            least_entries: self.largest_within(least_bytes).unwrap_or(least),
        }
    }
}

impl fmt::Display for AlwaysKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AlwaysKept::Window(entries) => write!(f, "the window alone has {entries}"),
            AlwaysKept::Sinks(entries) => write!(f, "the sinks alone are {entries}"),
            AlwaysKept::Prompt(tokens) => write!(f, "the prompt is kept whole and has {tokens}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// A model of 30 layers and 3 KV heads.
    fn shape(tokens: usize) -> Shape {
        Shape {
            layers: 30,
            kv_heads: 3,
            tokens,
        }
    }

    /// Two rows of 64 values of two bytes.
    const ENTRY_BYTES: EntryBytes = EntryBytes {
        pinned: 256,
        other: 256,
        table: 0,
    };

    fn entries(budget: &str, method: &str, tokens: usize) -> Result<usize, Error> {
        let budget: Budget = budget.parse().unwrap();
        budget.entries(&method.parse().unwrap(), shape(tokens), ENTRY_BYTES)
    }

    #[track_caller]
    fn check(budget: &str, method: &str, tokens: usize, expected: usize) {
        assert_eq!(
            entries(budget, method, tokens),
            Ok(expected),
            "{budget} {method}"
        );
    }

    #[track_caller]
    fn check_refused(budget: &str, method: &str, tokens: usize, expected: Expect) {
        let error = entries(budget, method, tokens).unwrap_err();
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn entries_are_entries() {
        check("128", "lava", 2016, 128);
        check("128", "lava", 100, 128);
        check("1", "lava", 32, 1);
    }

    #[test]
    fn a_share_is_rounded_down() {
        check("10%", "lava", 2016, 201);
        check("2.5%", "lava", 2016, 50);
        check("100%", "lava", 2016, 2016);
        check("10%", "lava", 32, 3);
    }

    #[test]
    fn bytes_hold_the_worst_case() {
        // 3,000,000 / (30 · 3 · 256) = 130.2
        check("3MB", "lava", 2016, 130);
        check("3MiB", "lava", 2016, 136);
        check("2.99519MB", "lava", 2016, 129);
        check("2.9952MB", "lava", 2016, 130);
        // The released code may keep one layer whole and raise the heads of the others by 0.2 · 111.
        check("3MB", "lava-code", 2016, 111);
    }

    #[test]
    fn bytes_that_hold_the_whole_prompt_keep_everything() {
        check("46.44864MB", "lava", 2016, 2016);
        check("46.44863MB", "lava", 2016, 2015);
        check("46.44864MB", "full", 2016, 2016);
        check("1GB", "lava", 20, 20);
    }

    #[test]
    fn a_lone_entry_is_kept_in_as_few_bytes_as_it_can_have() {
        let method: Method = "streaming-llm+sinks=0".parse().unwrap();
        let shape = Shape {
            layers: 1,
            kv_heads: 1,
            tokens: 1,
        };
        let bytes = EntryBytes {
            pinned: 2,
            other: 1,
            table: 0,
        };
        let entries = |most| Budget::Bytes(most).entries(&method, shape, bytes);
        assert_eq!((entries(2), entries(1)), (Ok(1), Ok(0)));
        expect!["a budget of 0B comes to 0 entries per KV head and layer, the prompt is kept whole and has 1; the least that works is 1B (0 entries)"]
            .assert_eq(&entries(0).unwrap_err().to_string());
    }

    #[test]
    fn smaller_rows_are_more_entries() {
        let entries = |entry_bytes| {
            let method = "lava".parse().unwrap();
            let bytes = EntryBytes::even(entry_bytes);
            Budget::Bytes(3_000_000).entries(&method, shape(2016), bytes)
        };
        assert_eq!((entries(512), entries(64)), (Ok(65), Ok(520)));
    }

    #[test]
    fn a_refusal_names_the_least_that_works_in_the_unit_that_was_used() {
        check_refused(
            "32",
            "lava",
            2016,
            expect![
                "the budget is 32 entries per KV head and layer, expected more than the window's 32"
            ],
        );
        check_refused(
            "500kB",
            "lava",
            2016,
            expect![
                "a budget of 500kB comes to 21 entries per KV head and layer, the window alone has 32; the least that works is 760.32kB (33 entries)"
            ],
        );
        check_refused(
            "770kB",
            "lava-code",
            2016,
            expect![
                "a budget of 770kB comes to 32 entries per KV head and layer, the window alone has 32; the least that works is 903.168kB (33 entries)"
            ],
        );
        check_refused(
            "1.6%",
            "lava",
            2016,
            expect![
                "a budget of 1.6% comes to 32 entries per KV head and layer, the window alone has 32; the least that works is 1.7% (34 entries)"
            ],
        );
        check_refused(
            "1B",
            "streaming-llm",
            2016,
            expect![
                "a budget of 1B comes to 0 entries per KV head and layer, the sinks alone are 4; the least that works is 115.2kB (5 entries)"
            ],
        );
        check_refused(
            "3MB",
            "full",
            2016,
            expect![
                "a budget of 3MB comes to 130 entries per KV head and layer, the prompt is kept whole and has 2016; the least that works is 46.44864MB (2016 entries)"
            ],
        );
        check_refused(
            "100kB",
            "lava",
            20,
            expect![
                "a budget of 100kB comes to 4 entries per KV head and layer, the prompt is kept whole and has 20; the least that works is 460.8kB (20 entries)"
            ],
        );
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let shape = Shape {
            layers: 1 << 10,
            kv_heads: 1 << 16,
            tokens: usize::MAX,
        };
        for policy in crate::Policy::NAMES {
            let method: Method = policy.parse().unwrap();
            for budget in [Budget::Share { milli: 1000 }, Budget::Bytes(u64::MAX)] {
                let _ = budget.entries(&method, shape, EntryBytes::even(usize::MAX));
                let _ = budget.entries(&method, shape, EntryBytes::even(0));
            }
        }
    }
}
