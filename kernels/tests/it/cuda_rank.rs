//! Rankings.

use std::sync::OnceLock;

use bytemuck::cast_slice;
use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{CountHeads, Rank, RankScratch};
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch, read};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("rank.cu"))
}

#[derive(Clone, Debug)]
struct Case {
    heads: usize,
    positions: usize,
    sinks: usize,
    /// Whether heads are ranked by themselves.
    apart: bool,
    /// Wanted of each segment, at most.
    wanted: usize,
    /// Different scores.
    levels: usize,
    seed: u64,
}

/// The indices of each segment.
type Ranked = Vec<Vec<u32>>;

/// From the kernels, and from a sort.
fn rank(case: &Case, runner: &Runner, order: Order) -> Result<(Ranked, Ranked), Fault> {
    let mut random = Random(case.seed);
    // A pool gives many equal scores.
    let level = |random: &mut Random| {
        random.below(case.levels) as f32 / 7.0 * if random.below(9) == 0 { -0.0 } else { 1.0 }
    };
    let scores: Vec<f32> = (0..case.heads * case.positions)
        .map(|_| level(&mut random))
        .collect();
    let segments = if case.apart { case.heads } else { 1 };
    let entries = scores.len() / segments;
    let counts: Vec<u32> = (0..segments)
        .map(|_| random.below(case.wanted + 1) as u32)
        .collect();
    let mut expected = Vec::new();
    for (scores, &count) in scores.chunks(entries).zip(&counts) {
        let mut indices: Vec<u32> = (0..entries as u32).collect();
        let key = |&index: &u32| {
            let is_other = index as usize % case.positions >= case.sinks;
            (is_other, !(scores[index as usize] + 0.0).to_bits(), index)
        };
        indices.sort_by_key(key);
        indices.truncate(count as usize);
        expected.push(indices);
    }
    let mut gpu = runner.gpu(order);
    let mut rank = Rank {
        segments,
        entries,
        positions: case.positions,
        sinks: case.sinks,
        wanted_max: case.wanted,
        scores: gpu.filled("scores", cast_slice(&scores)),
        counts: gpu.filled("counts", cast_slice(&counts)),
        scratch: RankScratch::default(),
        best: 0,
    };
    let bytes = rank.scratch_bytes();
    rank.scratch = RankScratch {
        selections: gpu.undefined("selections", bytes.selections),
        histograms: gpu.filled("histograms", &vec![0; bytes.histograms]),
        numbers: gpu.filled("numbers", &vec![255; bytes.numbers]),
    };
    rank.best = gpu.undefined("best", 4 * segments * rank.capacity());
    for one in rank.launches() {
        launch(&mut gpu, &one);
    }
    let memory = runner.run(gpu)?;
    let histograms = memory.bytes(rank.scratch.histograms);
    if histograms.iter().any(|byte| *byte != 0) {
        return Err(Fault("histograms are not zero afterwards".to_owned()));
    }
    let best: Vec<u32> = read(memory.bytes(rank.best));
    let found = best.chunks(rank.capacity()).zip(&expected);
    let found = found
        .map(|(best, expected)| best[..expected.len()].to_vec())
        .collect();
    Ok((found, expected))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn the_best_come_first_and_ties_by_index(
        heads in 1usize..5, positions in 1usize..1500, sinks in 0usize..5, apart in any::<bool>(),
        wanted in 0usize..3000, levels in prop::sample::select(vec![1usize, 5, 300, 100_000]),
        seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let case = Case { heads, positions, sinks, apart, wanted, levels, seed };
        let (found, expected) = rank(&case, kernels(), order).map_err(|fault| TestCaseError::fail(fault.0))?;
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_mixed_order_takes_more_of_a_head_than_is_counted(
        heads in 1usize..6, positions in 1usize..40, cut in 0usize..80, alpha_milli in 0u32..1001, seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let scores: Vec<f32> = (0..heads * positions).map(|_| random.below(9) as f32).collect();
        let mut best: Vec<u32> = (0..scores.len() as u32).collect();
        best.sort_by_key(|&index| (!scores[index as usize].to_bits(), index));
        best.truncate(cut + heads);
        let taken = mixed(&best, heads, positions, alpha_milli, cut);
        let mut gpu = kernels().gpu(Order::Backward);
        let count = CountHeads {
            kv_heads: heads, positions, alpha_milli,
            best: gpu.filled("best", cast_slice(&best)),
            counts: gpu.filled("count", cast_slice(&[best.len() as u32])),
            of_heads: gpu.undefined("of heads", 4 * heads),
        };
        launch(&mut gpu, &count.launch());
        let memory = kernels().run(gpu).map_err(|fault| TestCaseError::fail(fault.0))?;
        let counted: Vec<u32> = read(memory.bytes(count.of_heads));
        for (counted, taken) in counted.iter().zip(taken) {
            // Exactly, but for what a truncation to the cut leaves out.
            prop_assert!(*counted as usize >= taken, "{counted} {taken}");
            prop_assert!(*counted as usize <= taken + heads + 1, "{counted} {taken}");
        }
    }
}

/// How many of each head the first `cut` of the mixed order are (`mixed_order` of the method's reference).
fn mixed(best: &[u32], heads: usize, positions: usize, alpha_milli: u32, cut: usize) -> Vec<usize> {
    let (mut earned, mut taken, mut all) = (vec![0u64; heads], vec![0; heads], 0);
    for index in best {
        earned[*index as usize / positions] += u64::from(1000 - alpha_milli) * heads as u64;
        for head in 0..heads {
            earned[head] += u64::from(alpha_milli);
            while earned[head] >= 1000 * heads as u64 {
                earned[head] -= 1000 * heads as u64;
                if all < cut {
                    taken[head] += 1;
                    all += 1;
                }
            }
        }
    }
    taken
}

#[track_caller]
fn check_bug(from: &str, to: &str) {
    check_bug_among(40, from, to);
}

/// Among so many different scores.
#[track_caller]
fn check_bug_among(levels: usize, from: &str, to: &str) {
    let case = Case {
        heads: 3,
        positions: 1100,
        sinks: 2,
        apart: false,
        wanted: 2600,
        levels,
        seed: 6,
    };
    is_found("rank.cu", &[], Edit { from, to }, |runner, order| {
        let (found, expected) = rank(&case, runner, order)?;
        Ok(found == expected)
    });
}

#[test]
fn ties_that_are_not_sorted_are_found() {
    let sound = "static_cast<uint64_t>(upper) << 32 | index;";
    check_bug(
        sound,
        "static_cast<uint64_t>(upper) << 32 | (p.entries - 1 - index);",
    );
}

#[test]
fn a_step_of_the_sort_that_is_left_out_is_found() {
    check_bug(
        "distance > 0; distance /= 2) {",
        "distance > 1; distance /= 2) {",
    );
}

#[test]
fn a_missing_barrier_is_found() {
    let tile = "s.numbers[i] = numbers[i];\n";
    check_bug(&format!("{tile}    __syncthreads();\n"), tile);
    let zeros = "s.counts[digit] = 0;\n";
    check_bug(&format!("{zeros}    __syncthreads();\n"), zeros);
    let step = "== 0);\n            }\n            __syncthreads();\n";
    check_bug(step, "== 0);\n            }\n");
}

#[test]
fn a_last_number_that_lacks_its_lower_bits_is_found() {
    check_bug_among(100_000, "(static_cast<uint64_t>(1) << p.shift) - 1;", "0;");
}

#[test]
fn sinks_of_the_first_head_only_are_found() {
    check_bug("if (index % p.positions < p.sinks)", "if (index < p.sinks)");
}

#[test]
fn counts_that_are_left_over_are_found() {
    check_bug("        counts[i] = 0;\n", "");
}
