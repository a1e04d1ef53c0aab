//! How fast a batch decodes over compact caches of one size.

use std::time::Instant;

use lava::Method;
use lava_engine::{EngineError, Model, PagePool, PrefillRequest, Prefilled, Turn};
use lava_kv::RowFormat;

/// Ids that are fed in turn; every vocabulary has them.
const FED: u32 = 100;

/// What is decoded.
#[derive(Clone, Debug)]
pub struct DecodeSettings {
    /// Sequences of a step.
    pub batch: usize,
    /// Which rows are kept.
    pub method: Method,
    /// b, in entries.
    pub budget: usize,
    /// N.
    pub prompt_tokens: usize,
    /// Steps of a round.
    pub steps: usize,
    /// Rounds. All formats take turns in each, so that a noisy minute hits them alike.
    pub rounds: usize,
    /// What is compared; the first is what the others are compared with.
    pub formats: Vec<RowFormat>,
}

/// What one format came to.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeRate {
    /// Which.
    pub format: RowFormat,
    /// Bytes of one sequence's cache, as prefill leaves it.
    pub cache_bytes: usize,
    /// Tokens of all sequences per second: median over the rounds.
    pub tokens_per_second: f64,
    /// Its rate over that of the first format in the same round: median over the rounds.
    pub ratio: f64,
}

/// Prefills a prompt of arbitrary ids once per format, and decodes a batch of its caches. Every step of
/// a round adds a row to each; a round begins with what prefill left.
///
/// # Errors
/// The prompt does not fit the model or the budget the policy.
///
/// # Panics
/// If a number of the settings is 0.
pub fn decode(model: &Model, settings: &DecodeSettings) -> Result<Vec<DecodeRate>, EngineError> {
    let vocabulary = model.config().vocabulary;
    let ids = (0..settings.prompt_tokens).map(|i| (i * 7919 % vocabulary) as u32);
    let tokens: Vec<u32> = ids.collect();
    let mut batches = Vec::new();
    for &format in &settings.formats {
        batches.push(prefill(model, settings, &tokens, format)?);
    }
    let mut rates = vec![Vec::new(); batches.len()];
    // One that is not counted.
    for round in 0..=settings.rounds {
        for (batch, rates) in batches.iter_mut().zip(&mut rates) {
            let rate = run(model, batch, settings.steps)?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let ratios = |of: &[f64]| {
        of.iter()
            .zip(&rates[0])
            .map(|(rate, first)| rate / first)
            .collect()
    };
    let found = settings.formats.iter().zip(&batches).zip(&rates);
    let rates = found.map(|((&format, batch), of)| DecodeRate {
        format,
        cache_bytes: batch[0].cache.stored_bytes(),
        tokens_per_second: median(of.clone()),
        ratio: median(ratios(of)),
    });
    Ok(rates.collect())
}

fn prefill(
    model: &Model,
    settings: &DecodeSettings,
    tokens: &[u32],
    format: RowFormat,
) -> Result<Vec<Prefilled>, EngineError> {
    let request = PrefillRequest {
        tokens,
        method: settings.method,
        budget: settings.budget,
        format,
        appended_max: settings.steps,
    };
    let page_bytes = model.config().page_bytes();
    let pages = settings.batch * request.pages_max(model, page_bytes);
    let pool = PagePool::new(page_bytes, pages);
    model.prefill_each(&vec![request; settings.batch], &pool)
}

/// Tokens per second of some steps, which are undone.
fn run(model: &Model, batch: &mut [Prefilled], steps: usize) -> Result<f64, EngineError> {
    let marks: Vec<_> = batch.iter().map(|one| one.cache.mark()).collect();
    let began = Instant::now();
    for step in 0..steps {
        let token = step as u32 % FED;
        let caches = batch.iter_mut().map(|one| &mut one.cache);
        let mut turns: Vec<Turn<'_>> = caches.map(|cache| Turn { token, cache }).collect();
        model.step(&mut turns)?;
    }
    let rate = (steps * batch.len()) as f64 / began.elapsed().as_secs_f64();
    for (one, mark) in batch.iter_mut().zip(&marks) {
        one.cache.rewind(mark);
    }
    Ok(rate)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
