//! How fast prompts are, and what memory they take.

use std::ops::ControlFlow;

use lava::Method;
use lava_engine::{EngineError, Model, PrefillBytes, PrefillRequest};
use lava_kv::RowFormat;

use super::{median, prompt};

/// Tokens of the prompts that are not counted: more than a window, so that they are scored.
const WARM_UP_TOKENS: usize = 200;

/// A prompt that is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefillCase {
    /// N.
    pub prompt_tokens: usize,
    /// Which rows are kept.
    pub method: Method,
    /// b, in entries.
    pub budget: usize,
    /// How they are stored.
    pub format: RowFormat,
}

/// The allocator of this process.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// Bytes that are allocated now.
    pub bytes: fn() -> usize,
    /// Most bytes that were allocated since `forget`.
    pub peak_bytes: fn() -> usize,
    /// Forgets the peak.
    pub forget: fn(),
}

/// What one case came to.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefillCost {
    /// Prompt tokens per second: median over the rounds.
    pub tokens_per_second: f64,
    /// Share of the time that scores, ranking, gathering and packing take: median over the rounds.
    pub scoring_share: f64,
    /// Most bytes allocated during a prefill, less those before it: weights are not in it.
    pub peak_bytes: usize,
    /// What of that has a name.
    pub parts: PrefillBytes,
    /// Most bytes of pages in use.
    pub page_bytes: usize,
}

/// Computes arbitrary prompts, `rounds` times each, in turns.
///
/// # Errors
/// A prompt does not fit the model or a budget its policy.
///
/// # Panics
/// If `rounds` is 0.
pub fn prefill(
    model: &Model,
    cases: &[PrefillCase],
    rounds: usize,
    heap: Heap,
) -> Result<Vec<PrefillCost>, EngineError> {
    let mut runs = vec![Vec::new(); cases.len()];
    // What is computed once per model is not a prompt's cost.
    for case in cases {
        let prompt_tokens = case.prompt_tokens.min(WARM_UP_TOKENS);
        let case = PrefillCase {
            prompt_tokens,
            ..case.clone()
        };
        run(model, &case, heap)?;
    }
    for _ in 0..rounds {
        for (case, runs) in cases.iter().zip(&mut runs) {
            runs.push(run(model, case, heap)?);
        }
    }
    let cost = |(case, runs): (&PrefillCase, Vec<Run>)| {
        let all = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
        let most = |of: fn(&Run) -> usize| runs.iter().map(of).max().unwrap_or(0);
        PrefillCost {
            tokens_per_second: case.prompt_tokens as f64 / all(|run| run.seconds),
            scoring_share: all(|run| run.scoring_seconds / run.seconds),
            peak_bytes: most(|run| run.peak_bytes),
            parts: PrefillBytes::of(model, case.prompt_tokens),
            page_bytes: most(|run| run.page_bytes),
        }
    };
    Ok(cases.iter().zip(runs).map(cost).collect())
}

#[derive(Clone)]
struct Run {
    seconds: f64,
    scoring_seconds: f64,
    peak_bytes: usize,
    page_bytes: usize,
}

fn run(model: &Model, case: &PrefillCase, heap: Heap) -> Result<Run, EngineError> {
    let tokens = prompt(model, case.prompt_tokens);
    let request = PrefillRequest {
        tokens: &tokens,
        method: case.method,
        budget: case.budget,
        format: case.format,
        appended_max: 1,
    };
    let page_bytes = model.config().page_bytes();
    let pool = model.pool(request.pages_max(model, page_bytes))?;
    (heap.forget)();
    let before = (heap.bytes)();
    let prefilled = model.prefill(&request, &pool, &mut |_| ControlFlow::Continue(()))?;
    let stats = prefilled.stats;
    Ok(Run {
        seconds: stats.total.as_secs_f64(),
        scoring_seconds: stats.scoring.as_secs_f64(),
        peak_bytes: (heap.peak_bytes)().saturating_sub(before),
        page_bytes: stats.pages_peak * page_bytes,
    })
}
