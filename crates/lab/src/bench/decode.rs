//! How fast batches decode over compact caches.

use std::time::Instant;

use lava::Method;
use lava_engine::{EngineError, Model, PrefillRequest, Prefilled, Turn};
use lava_kv::RowFormat;

use super::{median, prompt};

/// Ids that are fed in turn; every vocabulary has them.
const FED: u32 = 100;

/// A batch that is decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeCase {
    /// N.
    pub prompt_tokens: usize,
    /// Which rows are kept.
    pub method: Method,
    /// b, in entries.
    pub budget: usize,
    /// How they are stored.
    pub format: RowFormat,
    /// Sequences of a step.
    pub batch: usize,
    /// Entries that a page holds in half precision; the model's own size if not given.
    pub page_rows: Option<usize>,
}

impl DecodeCase {
    fn page_bytes(&self, model: &Model) -> usize {
        let config = model.config();
        let rows = |rows| rows * RowFormat::F16.entry_bytes(config.head_dim);
        self.page_rows.map_or(config.page_bytes(), rows)
    }

    /// Cases with the same have their prompt and their pages in common.
    fn pass(&self) -> (usize, Option<usize>) {
        (self.prompt_tokens, self.page_rows)
    }
}

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Rounds. All cases take turns in each, so that a noisy minute hits them alike.
    pub rounds: usize,
    /// Steps of a round.
    pub steps: usize,
}

/// What one case came to.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeRate {
    /// Bytes of one sequence's cache, as prefill leaves it.
    pub cache_bytes: usize,
    /// Bytes of the pages that it lies in, their unused ends included.
    pub page_bytes: usize,
    /// Bytes that the whole prompt's keys and values take in half precision.
    pub full_bytes: usize,
    /// Tokens of all sequences per second: median over the rounds.
    pub tokens_per_second: f64,
    /// Its rate over that of the first case in the same round: median over the rounds.
    pub ratio: f64,
}

/// Prefills arbitrary prompts, each length once for all its cases, and decodes batches of their caches. Every
/// step of a round adds a row to each; a round begins with what prefill left.
///
/// # Errors
/// A prompt does not fit the model or a budget its policy.
///
/// # Panics
/// If there are no cases, a number of theirs or of `rounds` is 0, or a page holds no row of a format.
pub fn decode(
    model: &Model,
    cases: &[DecodeCase],
    rounds: Rounds,
) -> Result<Vec<DecodeRate>, EngineError> {
    let mut groups = groups(cases);
    let alike = |a: &Group, b: &Group| a.case.pass() == b.case.pass();
    groups.sort_by_key(|group| group.case.pass());
    for groups in groups.chunk_by_mut(alike) {
        prefill(model, groups, rounds.steps)?;
    }
    let mut rates = vec![Vec::new(); cases.len()];
    // One that is not counted.
    for round in 0..=rounds.rounds {
        for (case, rates) in cases.iter().zip(&mut rates) {
            let group = groups.iter_mut().find(|group| group.holds(case));
            let batch = &mut group.expect("every case has its group").caches[..case.batch];
            let rate = run(model, batch, rounds.steps)?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let config = model.config();
    let entries = config.layers * config.kv_heads;
    let entry_bytes = RowFormat::F16.entry_bytes(config.head_dim);
    let ratios = |of: &[f64]| {
        of.iter()
            .zip(&rates[0])
            .map(|(rate, first)| rate / first)
            .collect()
    };
    let found = cases.iter().zip(&rates).map(|(case, of)| {
        let group = groups.iter().find(|group| group.holds(case));
        let cache = &group.expect("every case has its group").caches[0].cache;
        DecodeRate {
            cache_bytes: cache.stored_bytes(),
            page_bytes: cache.pages() * case.page_bytes(model),
            full_bytes: case.prompt_tokens * entries * entry_bytes,
            tokens_per_second: median(of.clone()),
            ratio: median(ratios(of)),
        }
    });
    Ok(found.collect())
}

/// Caches that differ in nothing: cases use as many of them as they have sequences.
struct Group {
    case: DecodeCase,
    caches: Vec<Prefilled>,
}

fn groups(cases: &[DecodeCase]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for case in cases {
        match groups.iter_mut().find(|group| group.holds(case)) {
            Some(group) => group.case.batch = group.case.batch.max(case.batch),
            None => groups.push(Group {
                case: case.clone(),
                caches: Vec::new(),
            }),
        }
    }
    groups
}

impl Group {
    fn holds(&self, case: &DecodeCase) -> bool {
        let batch = self.case.batch;
        let case = DecodeCase {
            batch,
            ..case.clone()
        };
        case == self.case
    }
}

/// Runs the prompt of some groups, which they share, for all their caches at once.
fn prefill(model: &Model, groups: &mut [Group], steps: usize) -> Result<(), EngineError> {
    let first = &groups[0].case;
    let tokens = prompt(model, first.prompt_tokens);
    let page_bytes = first.page_bytes(model);
    let mut requests = Vec::new();
    for Group { case, .. } in &*groups {
        let request = PrefillRequest {
            tokens: &tokens,
            method: case.method,
            budget: case.budget,
            format: case.format,
            appended_max: steps,
        };
        requests.extend(vec![request; case.batch]);
    }
    let pages = requests.iter().map(|one| one.pages_max(model, page_bytes));
    let pool = model.pool_of(page_bytes, pages.sum())?;
    let mut caches = model.prefill_each(&requests, &pool)?.into_iter();
    for group in groups {
        group.caches = caches.by_ref().take(group.case.batch).collect();
    }
    Ok(())
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
