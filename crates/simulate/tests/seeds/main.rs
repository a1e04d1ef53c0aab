//! The coordinator's own code, among simulated workers, on a simulated network with simulated clocks, over thousands of seeds. What is
//! simulated and what must hold is in docs/seeds.md.

#![allow(
    clippy::print_stdout,
    reason = "a run says how many seeds it tried, and where a planted mistake was found"
)]

// In reading order.
mod numbers;

mod plan;

mod story;

mod network;

mod view;

mod fleet;

mod ask;

mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use std::{env, thread};

use lava_node::Planted;
use lava_simulate::{Model, Profile};
use lava_test_support::{Architecture, HfDtype, ToyModel};

use run::{Setting, run};
use story::{Counts, Story};

/// Seeds of the suite, unless `LAVA_SEEDS` says another number.
const SEEDS: u64 = 2000;
/// Within so many seeds a planted mistake is found.
const PLANTED_SEEDS: u64 = 500;
/// Each runs one seed at a time.
const THREADS: usize = 2;

fn setting() -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Llama);
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let mut profile = Profile::default();
    profile.model.text = Some(folder.path().to_owned());
    profile.model.vocabulary = toy.vocab as u32;
    // Small caches: their bytes are carried one by one.
    profile.model.layers = 2;
    profile.model.kv_heads = 1;
    profile.model.head_dim = 16;
    profile.transfer.row_bytes_max = 4 << 10;
    let model = Arc::new(Model::load(&profile.model).unwrap());
    // It has been read, and its name is another one in each run.
    profile.model.text = None;
    Setting { profile, model }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")),
    )
}

/// What is wrong in a run, and how to see it again.
fn report(seed: u64, story: &Story) -> String {
    format!(
        "seed {seed}:\n  {}\nagain, with all that happened: LAVA_SEED={seed} cargo test -p lava-simulate --test seeds -- the_seeds --nocapture",
        story.violations.join("\n  ")
    )
}

/// Runs seeds in order on all threads, until one has a violation or all have run.
fn first_violation(
    setting: &Setting,
    seeds: u64,
    planted: Option<Planted>,
) -> (Option<(u64, Story)>, Counts) {
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut sum = Counts::default();
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let story = run(setting, seed, planted, false);
            sum = sum + story.counts;
            if !story.violations.is_empty() {
                is_over.store(true, Ordering::Relaxed);
                return (Some((seed, story)), sum);
            }
        }
        (None, sum)
    };
    let ended = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect::<Vec<_>>()
    });
    let sum = ended
        .iter()
        .fold(Counts::default(), |sum, (_, counts)| sum + *counts);
    let found = ended.into_iter().filter_map(|(found, _)| found);
    (found.min_by_key(|(seed, _)| *seed), sum)
}

#[test]
fn the_seeds_lose_no_request_and_no_token_and_give_everything_back() {
    let setting = setting();
    if let Some(seed) = number("LAVA_SEED") {
        let story = run(&setting, seed, None, true);
        let lines = story.lines().join("\n");
        assert!(
            story.violations.is_empty(),
            "{lines}\n{}",
            report(seed, &story)
        );
        return println!("{lines}");
    }
    let (seeds, began) = (number("LAVA_SEEDS").unwrap_or(SEEDS), Instant::now());
    let (found, counts) = first_violation(&setting, seeds, None);
    if let Some((seed, story)) = found {
        panic!("{}", report(seed, &story));
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{seeds} seeds in {seconds:.1} s: {counts:?}");
    // A run in which nothing happens proves nothing.
    assert!(
        counts.answered > 4 * seeds && counts.recomputed > seeds / 4,
        "{counts:?}"
    );
    assert!(
        counts.cancelled > seeds / 4 && counts.failed > seeds / 4,
        "{counts:?}"
    );
    assert!(counts.drained > seeds / 8, "{counts:?}");
}

#[test]
fn a_seed_runs_the_same_way_again() {
    let setting = setting();
    for seed in 0..40 {
        let (first, second) = (
            run(&setting, seed, None, true),
            run(&setting, seed, None, true),
        );
        if first.digest != second.digest {
            let same = first.lines().iter().zip(second.lines());
            let same = same.take_while(|(first, second)| first == second).count();
            let around = |story: &Story| {
                let lines = story.lines().iter().skip(same.saturating_sub(6));
                lines.take(12).cloned().collect::<Vec<_>>().join("\n")
            };
            panic!(
                "seed {seed} once:\n{}\nand again:\n{}",
                around(&first),
                around(&second)
            );
        }
    }
}

#[track_caller]
fn is_found(planted: Planted) {
    let (found, _) = first_violation(&setting(), PLANTED_SEEDS, Some(planted));
    let (seed, story) = found.unwrap_or_else(|| panic!("not within {PLANTED_SEEDS} seeds"));
    println!(
        "{planted:?} is found by seed {seed}: {}",
        story.violations[0]
    );
    // It is the mistake that is found.
    let without = run(&setting(), seed, None, false);
    assert!(without.violations.is_empty(), "{}", report(seed, &without));
}

#[test]
fn a_forgotten_release_is_found() {
    is_found(Planted::ForgottenRelease);
}

#[test]
fn a_double_commit_is_found() {
    is_found(Planted::DoubleCommit);
}

#[test]
fn a_reused_ticket_is_found() {
    is_found(Planted::ReusedTicket);
}

#[test]
fn a_retry_after_the_last_token_is_found() {
    is_found(Planted::RetryAfterLastToken);
}
