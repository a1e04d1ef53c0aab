//! What is timed: one layer of Llama-3.1-8B, at the sizes whose floors stand in `kernels/README.md`.

use lava_kernels::cuda::Heads;
use lava_kv::RowFormat;

use super::appending::Appending;
use super::caches::CacheSizes;
use super::decoding::Decoding;
use super::gathering::Gathering;
use super::prefill::Prefill;
use super::ranking::Ranking;
use super::scoring::Scoring;
use super::task::Task;

const LLAMA_8B: Heads = Heads {
    kv_heads: 8,
    group: 4,
    head_dim: 128,
};
const LAYERS: usize = 32;
/// W.
const WINDOW: usize = 32;
const OBSERVERS: usize = 48;
/// b.
const BUDGETS: [usize; 2] = [128, 1024];
/// B.
const BATCHES: [usize; 3] = [1, 8, 64];
/// N. The last one takes most of the time.
const LENGTHS: [usize; 3] = [8 << 10, 32 << 10, 128 << 10];

/// A task, and how it is called in tables.
pub(crate) struct Case {
    pub(crate) kernel: &'static str,
    /// N, or what caches hold.
    pub(crate) size: String,
    /// b.
    pub(crate) budget: Option<usize>,
    /// B.
    pub(crate) batch: Option<usize>,
    pub(crate) task: Task,
}

impl Case {
    /// In a sentence.
    pub(crate) fn name(&self) -> String {
        let mut name = format!("{} ({}", self.kernel, self.size);
        for (letter, number) in [("b", self.budget), ("B", self.batch)] {
            if let Some(number) = number {
                name += &format!(", {letter} = {number}");
            }
        }
        name + ")"
    }
}

/// All of them, or, to be quick, none of the greatest length.
pub(crate) fn of_llama_8b(is_quick: bool) -> Vec<Case> {
    let lengths = match is_quick {
        true => &LENGTHS[..2],
        false => &LENGTHS,
    };
    let prompts = lengths.iter().flat_map(|&tokens| prompt(tokens));
    let steps = BATCHES.iter().flat_map(|&batch| step(batch, lengths));
    prompts.chain(steps).collect()
}

fn prompt(tokens: usize) -> Vec<Case> {
    let heads = LLAMA_8B;
    let case = |kernel, budget, task| Case {
        kernel,
        size: thousands(tokens),
        budget,
        batch: None,
        task,
    };
    let scoring = Scoring {
        heads,
        tokens,
        window: WINDOW,
        observers: OBSERVERS,
    };
    let mut cases = vec![
        case(
            "prefill attention",
            None,
            Task::Prefill(Prefill { heads, tokens }),
        ),
        case("scores", None, Task::Scoring(scoring)),
    ];
    for budget in BUDGETS {
        let ranking = |kept| {
            Task::Ranking(Ranking {
                heads,
                tokens,
                window: WINDOW,
                kept,
            })
        };
        // The first layer may keep what all layers share.
        let shared = (LAYERS * (budget - WINDOW)).min(tokens - WINDOW);
        let gathering = Gathering {
            heads,
            format: RowFormat::Int4,
            tokens,
            window: WINDOW,
            budget,
        };
        cases.extend([
            case(
                "rankings, first layer",
                Some(budget),
                ranking(heads.kv_heads * shared),
            ),
            case("rankings", Some(budget), ranking(heads.kv_heads * budget)),
            case(
                "gathering in int4",
                Some(budget),
                Task::Gathering(gathering),
            ),
        ]);
    }
    cases
}

fn step(batch: usize, lengths: &[usize]) -> Vec<Case> {
    let compact = |budget| CacheSizes {
        heads: LLAMA_8B,
        format: RowFormat::Int4,
        batch,
        wide: WINDOW,
        appended: 1,
        others: budget - WINDOW,
    };
    let full = |tokens| CacheSizes {
        heads: LLAMA_8B,
        format: RowFormat::F16,
        batch,
        wide: tokens,
        appended: 1,
        others: 0,
    };
    let attention = |size, budget, sizes| Case {
        kernel: "decode attention",
        size,
        budget,
        batch: Some(batch),
        task: Task::Decoding(Decoding { sizes }),
    };
    let compact_caches =
        BUDGETS.map(|budget| attention("int4".to_owned(), Some(budget), compact(budget)));
    let full_caches = lengths.iter().map(|&tokens| {
        let size = format!("full, {}", thousands(tokens));
        attention(size, None, full(tokens))
    });
    let append = Case {
        kernel: "append",
        size: "any".to_owned(),
        budget: None,
        batch: Some(batch),
        task: Task::Appending(Appending {
            sizes: compact(BUDGETS[0]),
        }),
    };
    let attentions = compact_caches.into_iter().chain(full_caches);
    attentions.chain([append]).collect()
}

fn thousands(tokens: usize) -> String {
    format!("{}k", tokens >> 10)
}
