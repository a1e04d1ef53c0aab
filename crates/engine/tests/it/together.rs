//! Prompts that run together, and prompts that begin like earlier ones, give what each gives alone: to the bit.

use std::ops::ControlFlow;

use lava::{Method, Policy, Profile};
use lava_engine::{
    EngineError, Model, PagePool, PrefillJob, PrefillRequest, Prefilled, PrefixCache, RowFormat,
    WeightFormat,
};
use lava_test_support::{Architecture, HfDtype, ToyModel};

use crate::{ours, toys};

/// Tokens of a block.
const BLOCK: usize = 512;

fn toy(architecture: Architecture) -> (ToyModel, Model) {
    let toy = ToyModel {
        layers: 3,
        context: 4096,
        ..ToyModel::new(architecture)
    };
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    // Quantised, so that inputs are rounded as they are with most models.
    let model = ours::load(folder.path(), WeightFormat::Q8_0);
    (toy, model)
}

fn request(tokens: &[u32], budget: usize, policy: Policy, format: RowFormat) -> PrefillRequest<'_> {
    PrefillRequest {
        format,
        ..ours::request(tokens, policy, budget)
    }
}

/// Everything of a prefill that a caller can see.
fn content(run: &Prefilled) -> (Vec<f32>, usize, Vec<u8>) {
    let mut bytes = ours::contents(&run.cache);
    let shape = run.cache.shape();
    for layer in 0..shape.layers {
        for head in 0..shape.kv_heads {
            let order = run.cascade.head_order(layer, head);
            bytes.extend(order.iter().flat_map(|i| i.to_le_bytes()));
        }
    }
    (run.logits.clone(), run.cache.next_position(), bytes)
}

fn pool(model: &Model, requests: &[PrefillRequest<'_>]) -> PagePool {
    let page_bytes = model.config().page_bytes();
    let pages = requests
        .iter()
        .map(|request| request.pages_max(model, page_bytes));
    PagePool::new(page_bytes, pages.sum())
}

fn together(
    model: &Model,
    requests: &[PrefillRequest<'_>],
    prefixes: Option<&PrefixCache>,
) -> Vec<Result<Prefilled, EngineError>> {
    let mut go_on: Vec<_> = requests
        .iter()
        .map(|_| |_: lava_engine::LayerDone<'_>| ControlFlow::Continue(()))
        .collect();
    let jobs = requests.iter().zip(&mut go_on);
    let mut jobs: Vec<_> = jobs
        .map(|(request, after_layer)| PrefillJob {
            request: request.clone(),
            after_layer,
        })
        .collect();
    model.prefill_together(&mut jobs, &pool(model, requests), prefixes)
}

#[test]
fn prompts_that_run_together_are_computed_as_alone() {
    for architecture in [Architecture::Llama, Architecture::Qwen3] {
        let (toy, model) = toy(architecture);
        let all = toys::prompt(4000, toy.vocab);
        let exact = Policy::Lava(Profile::Exact);
        // Blocks that are shared, full, and cut; a prompt of one token; all rows observed; nothing evicted.
        let requests = [
            request(&all[..40], 36, exact, RowFormat::Int4),
            request(&all[7..8], 64, exact, RowFormat::F16),
            request(&all[100..1300], 100, exact, RowFormat::Int4),
            request(&all[50..410], 64, Policy::H2o, RowFormat::F32),
            request(&all[..120], 500, Policy::Full, RowFormat::Int8),
            request(&all[1000..1000 + BLOCK], 40, Policy::SnapKv, RowFormat::F16),
            request(&all[3..36], 40, exact, RowFormat::F16),
        ];
        let runs = together(&model, &requests, None);
        assert_eq!(runs.len(), requests.len());
        for (request, run) in requests.iter().zip(runs) {
            let alone = ours::prefill(&model, request).unwrap();
            let run = run.unwrap();
            assert!(content(&run) == content(&alone), "{request:?}");
            assert_eq!(run.stats.full_kv_layers_peak, 1);
        }
    }
}

#[test]
fn one_that_is_refused_or_given_up_does_not_touch_the_others() {
    let (toy, model) = toy(Architecture::Llama);
    let all = toys::prompt(400, toy.vocab);
    let plain = |tokens| request(tokens, 40, Policy::SnapKv, RowFormat::F16);
    let requests = [
        plain(&all[..100]),
        plain(&[]),
        plain(&all[100..200]),
        plain(&all[200..400]),
    ];
    let pool = pool(
        &model,
        &[
            requests[0].clone(),
            requests[2].clone(),
            requests[3].clone(),
        ],
    );
    let mut seen = 0;
    let (mut first, mut second) = (
        |_: lava_engine::LayerDone<'_>| ControlFlow::Continue(()),
        |_: lava_engine::LayerDone<'_>| ControlFlow::Continue(()),
    );
    let mut given_up = |done: lava_engine::LayerDone<'_>| {
        seen += 1;
        match done.layer {
            1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let mut last = |_: lava_engine::LayerDone<'_>| ControlFlow::Continue(());
    let mut jobs = [
        PrefillJob {
            request: requests[0].clone(),
            after_layer: &mut first,
        },
        PrefillJob {
            request: requests[1].clone(),
            after_layer: &mut second,
        },
        PrefillJob {
            request: requests[2].clone(),
            after_layer: &mut given_up,
        },
        PrefillJob {
            request: requests[3].clone(),
            after_layer: &mut last,
        },
    ];
    let runs = model.prefill_together(&mut jobs, &pool, None);
    assert_eq!(seen, 2, "it is not called again");
    assert!(matches!(runs[1], Err(EngineError::EmptyPrompt)));
    assert!(matches!(runs[2], Err(EngineError::Cancelled { layer: 1 })));
    for index in [0, 3] {
        let alone = ours::prefill(&model, &requests[index]).unwrap();
        assert!(content(runs[index].as_ref().unwrap()) == content(&alone));
    }
    drop(runs);
    assert_eq!(pool.pages_reserved(), 0);
}

/// A block's bytes in a model.
fn block_bytes(model: &Model) -> usize {
    let config = model.config();
    config.layers * 2 * BLOCK * config.kv_heads * config.head_dim * 4
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_is_the_same_to_the_bit() {
    let (toy, model) = toy(Architecture::Qwen2);
    let all = toys::prompt(3000, toy.vocab);
    let prefixes = PrefixCache::new(&model, 20 * block_bytes(&model));
    let exact = Policy::Lava(Profile::Exact);
    let turn = [&all[..1100], &all[2000..2300]].concat();
    let other = [&all[1..1100], &all[2000..2300]].concat();
    let exactly_blocks = all[..2 * BLOCK].to_vec();
    // (prompt, policy, tokens that are there already)
    for (tokens, policy, reused) in [
        (&all[..1400], exact, 0),
        (&all[..1400], exact, 2 * BLOCK),
        (&turn[..], exact, 2 * BLOCK),
        (&turn[..], Policy::SnapKv, 2 * BLOCK),
        // It looks at the queries of all tokens.
        (&turn[..], Policy::H2o, 0),
        (&other[..], exact, 0),
        // The window's queries and the last token are computed.
        (&exactly_blocks[..], exact, BLOCK),
        (&exactly_blocks[..], Policy::Full, BLOCK),
        (&all[..BLOCK + 10], exact, 0),
        (&all[..BLOCK + 40], exact, BLOCK),
        (&all[..2900], Policy::Full, 2 * BLOCK),
        (&all[..2900], exact, 5 * BLOCK),
    ] {
        let request = request(tokens, 64, policy, RowFormat::Int4);
        let run = together(&model, std::slice::from_ref(&request), Some(&prefixes));
        let run = run.into_iter().next().unwrap().unwrap();
        assert_eq!(
            run.stats.reused_tokens,
            reused,
            "{} of {policy}",
            tokens.len()
        );
        let alone = ours::prefill(&model, &request).unwrap();
        assert!(
            content(&run) == content(&alone),
            "{} of {policy}",
            tokens.len()
        );
    }
    // Those of the long text, and those of the text that differs in its first token.
    assert!(prefixes.bytes() <= prefixes.bytes_max());
    assert_eq!(prefixes.bytes() / block_bytes(&model), 5 + 2);
}

#[test]
fn the_least_recently_used_blocks_go_first_and_the_limit_holds() {
    let (toy, model) = toy(Architecture::Llama);
    let texts: Vec<Vec<u32>> = (0..5u32)
        .map(|i| {
            let ids = toys::prompt(2 * BLOCK + 100, toy.vocab);
            ids.iter().map(|id| (id + i) % toy.vocab as u32).collect()
        })
        .collect();
    let prefixes = PrefixCache::new(&model, 5 * block_bytes(&model) - 1);
    assert_eq!(prefixes.bytes_max(), 4 * block_bytes(&model));
    let run = |text: &[u32], cancelled: bool| {
        let request = request(text, 64, Policy::SnapKv, RowFormat::F16);
        let mut after_layer = |_: lava_engine::LayerDone<'_>| match cancelled {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let mut jobs = [PrefillJob {
            request: request.clone(),
            after_layer: &mut after_layer,
        }];
        let pool = ours::pool(&model, &request);
        let runs = model.prefill_together(&mut jobs, &pool, Some(&prefixes));
        assert!(prefixes.bytes() <= prefixes.bytes_max());
        runs.into_iter()
            .next()
            .unwrap()
            .map(|run| run.stats.reused_tokens)
    };
    assert_eq!(run(&texts[0], false).unwrap(), 0);
    assert_eq!(run(&texts[1], false).unwrap(), 0);
    assert_eq!(run(&texts[0], false).unwrap(), 2 * BLOCK);
    // The second text's blocks make room for the third's.
    assert_eq!(run(&texts[2], false).unwrap(), 0);
    assert_eq!(run(&texts[0], false).unwrap(), 2 * BLOCK);
    assert_eq!(run(&texts[1], false).unwrap(), 0);
    // What was added behind a front goes before the front.
    let longer = [&texts[0][..2 * BLOCK], &texts[4][..BLOCK + 100]].concat();
    assert_eq!(run(&texts[0], false).unwrap(), 2 * BLOCK);
    assert_eq!(run(&longer, false).unwrap(), 2 * BLOCK);
    assert_eq!(run(&texts[2], false).unwrap(), 0);
    assert_eq!(run(&longer, false).unwrap(), 2 * BLOCK);
    // One that is given up leaves nothing, and its room is there again.
    assert!(run(&texts[3], true).is_err());
    assert_eq!(run(&texts[3], false).unwrap(), 0);
    assert_eq!(run(&texts[3], false).unwrap(), 2 * BLOCK);
    // One with more blocks than there is room for keeps its first ones.
    let long: Vec<u32> = texts[4]
        .iter()
        .chain(&texts[1])
        .chain(&texts[2])
        .copied()
        .collect();
    assert_eq!(run(&long, false).unwrap(), 0);
    assert_eq!(run(&long, false).unwrap(), 4 * BLOCK);

    let nothing = PrefixCache::new(&model, block_bytes(&model) - 1);
    let request = request(&texts[0], 64, Policy::SnapKv, RowFormat::F16);
    for _ in 0..2 {
        let runs = together(&model, std::slice::from_ref(&request), Some(&nothing));
        assert_eq!(runs[0].as_ref().unwrap().stats.reused_tokens, 0);
        assert_eq!(nothing.bytes(), 0);
    }
}

#[test]
fn a_method_asks_for_the_queries_that_it_looks_at() {
    // What the tests above rely on.
    use lava::ObservedRows;
    let rows = |policy| Method::new(policy).observes().rows;
    assert_eq!(rows(Policy::H2o), ObservedRows::All);
    assert_eq!(rows(Policy::Lava(Profile::Exact)), ObservedRows::Last(32));
}

#[test]
fn what_is_said_of_kept_fronts_has_those_of_prompts_that_wait() {
    let (toy, model) = toy(Architecture::Llama);
    let all = toys::prompt(2 * BLOCK + 40, toy.vocab);
    let prefixes = PrefixCache::new(&model, 8 * block_bytes(&model));
    let waits = prefixes.expect(&all);
    assert_eq!(prefixes.expected_tokens(&all), 2 * BLOCK);
    let known = prefixes.changes(0);
    assert_eq!((known.added.len(), prefixes.bytes()), (2, 0));
    // Given up: they are gone, and whoever followed is told.
    drop(waits);
    assert_eq!(prefixes.expected_tokens(&all), 0);
    assert_eq!(prefixes.changes(known.version).removed, known.added);
    // Computed: they stay.
    let waits = prefixes.expect(&all);
    let exact = Policy::Lava(Profile::Exact);
    let request = request(&all, 64, exact, RowFormat::Int4);
    let run = together(&model, std::slice::from_ref(&request), Some(&prefixes));
    assert!(run.into_iter().all(|run| run.is_ok()));
    drop(waits);
    assert_eq!(prefixes.expected_tokens(&all), 2 * BLOCK);
    assert_eq!(prefixes.changes(0).added, known.added);
}
