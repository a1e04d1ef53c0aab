//! Differences between recorded and measured values, and which of them are too large.

use std::fmt;

use super::file::{Eviction, Prompt, Top};
use super::replay::{Compressed, Full};

/// How far values may be from the recorded ones, which were computed in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerances {
    /// Entropies, absolute.
    entropy: f64,
    /// Budgets of layers, in entries.
    budget: u64,
    /// Share of positions that must be the same: max-pool plateaus tie, and a tie may fall elsewhere.
    positions: f64,
    /// Logits of the prefill, absolute; they are of the order of 30.
    logits: f64,
    /// Greedy ids must agree until the first choice that was closer than this.
    margin: f64,
    /// Mean KL, relative.
    kl: f64,
}

/// For f32: sums in another order, and an entropy at the last digit that moves an integer by one.
pub(crate) const SINGLE: Tolerances = Tolerances {
    entropy: 1e-5,
    budget: 1,
    positions: 0.995,
    logits: 5e-3,
    margin: 0.05,
    kl: 0.15,
};

/// For half precision: weights are exact, and what products take and rows have 11 bits. Our kernels on a CPU are within a quarter of
/// each on the first prompt at b = 128.
pub(crate) const HALF: Tolerances = Tolerances {
    entropy: 1e-3,
    budget: 4,
    positions: 0.98,
    logits: 0.05,
    margin: 0.1,
    kl: 0.2,
};

pub(crate) const HEADER: &str = "prompt  profile     b   entropy err  budget diff  \
    equal pos  logit err  first differing id (margin)  KL ours / file";

impl fmt::Display for Tolerances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entropy,
            budget,
            positions,
            logits,
            margin,
            kl,
        } = self;
        write!(
            f,
            "tolerances: entropy {entropy:.0e}, budget {budget}, positions {:.1} %, logits {logits}, greedy ids equal up to the \
             first margin under {margin}, mean KL within {:.0} %",
            100.0 * positions,
            100.0 * kl
        )
    }
}

/// What differs on one prompt and eviction.
pub(crate) struct Check {
    entropy_error: f64,
    budget_difference: u64,
    equal_positions: f64,
    logit_error: f64,
    /// Index of the first greedy id that differs, and the recorded margin of that choice.
    first_difference: Option<(usize, f64)>,
    /// Whether a choice before it was close.
    excused: bool,
    kl: (f64, f64),
    tolerances: Tolerances,
}

impl Check {
    pub(crate) fn new(
        prompt: &Prompt,
        eviction: &Eviction,
        full: &Full,
        ours: &Compressed,
        tolerances: &Tolerances,
    ) -> Self {
        let margin = |index: usize| match index {
            0 => f64::INFINITY,
            _ => eviction
                .greedy_margin
                .get(index - 1)
                .copied()
                .unwrap_or(f64::INFINITY),
        };
        let differing = (0..eviction.greedy.len())
            .find(|&i| ours.greedy.get(i) != Some(&eviction.greedy[i]))
            .map(|i| (i, margin(i)));
        let excused = differing.is_none_or(|(i, _)| (0..=i).any(|j| margin(j) < tolerances.margin));
        Self {
            entropy_error: largest(&prompt.entropy, &ours.entropy, |a, b| (a - b).abs()),
            budget_difference: largest(&eviction.layer_budgets, &ours.budgets, |a, b| {
                a.abs_diff(*b)
            }),
            equal_positions: equal_positions(&eviction.kept, &ours.kept),
            logit_error: logit_error(&prompt.prefill_top20, &full.prefill),
            first_difference: differing,
            excused,
            kl: (mean(&ours.kl_to_full), mean(&eviction.kl_to_full)),
            tolerances: *tolerances,
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.within_tolerance().iter().all(|&within| within)
    }

    /// In the order of the columns. NaN is within nothing.
    fn within_tolerance(&self) -> [bool; 6] {
        let (ours, file) = self.kl;
        let most = &self.tolerances;
        [
            self.entropy_error <= most.entropy,
            self.budget_difference <= most.budget,
            self.equal_positions >= most.positions,
            self.logit_error <= most.logits,
            self.excused,
            (ours - file).abs() <= most.kl * file,
        ]
    }

    pub(crate) fn line(&self, prompt: usize, eviction: &Eviction) -> String {
        let within = self.within_tolerance();
        let mark = |index: usize| if within[index] { " " } else { "!" };
        let difference = match self.first_difference {
            None => "none".to_owned(),
            Some((index, margin)) => format!("{index} ({margin:.3})"),
        };
        format!(
            "{prompt:>6}  {:<7} {:>5}   {:>10.1e}{} {:>11}{}  {:>8.2} %{} {:>9.1e}{}  {:>26}{}  {:.4} / {:.4}{}",
            eviction.profile,
            eviction.base_capacity,
            self.entropy_error,
            mark(0),
            self.budget_difference,
            mark(1),
            100.0 * self.equal_positions,
            mark(2),
            self.logit_error,
            mark(3),
            difference,
            mark(4),
            self.kl.0,
            self.kl.1,
            mark(5),
        )
    }
}

/// Largest distance over pairs; a length that differs is a difference without bound.
fn largest<A, T: PartialOrd + Bound>(a: &[A], b: &[A], distance: impl Fn(&A, &A) -> T) -> T {
    if a.len() != b.len() {
        return T::UNBOUNDED;
    }
    let pairs = a.iter().zip(b).map(|(a, b)| distance(a, b));
    pairs.fold(T::ZERO, |max, x| if x <= max { max } else { x })
}

trait Bound {
    const ZERO: Self;
    const UNBOUNDED: Self;
}

impl Bound for f64 {
    const ZERO: f64 = 0.0;
    const UNBOUNDED: f64 = f64::INFINITY;
}

impl Bound for u64 {
    const ZERO: u64 = 0;
    const UNBOUNDED: u64 = u64::MAX;
}

/// Share of recorded positions that we keep too.
fn equal_positions(file: &[Vec<Vec<u32>>], ours: &[Vec<Vec<u32>>]) -> f64 {
    let (mut equal, mut total) = (0, 0);
    for (layer, heads) in file.iter().enumerate() {
        for (head, positions) in heads.iter().enumerate() {
            total += positions.len();
            let kept = ours.get(layer).and_then(|heads| heads.get(head));
            let found = |position: &&u32| kept.is_some_and(|k| k.binary_search(position).is_ok());
            equal += positions.iter().filter(found).count();
        }
    }
    equal as f64 / total as f64
}

fn logit_error(file: &Top, ours: &[f32]) -> f64 {
    let pairs = file.ids.iter().zip(&file.logits);
    pairs
        .map(|(&id, logit)| {
            (ours.get(id as usize).map_or(f64::INFINITY, |&x| x as f64) - logit).abs()
        })
        .fold(0.0, |max, x| if x <= max { max } else { x })
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}
