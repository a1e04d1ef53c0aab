//! What prefill keeps: the right rows, no more than was reserved, one full layer at a time.

use std::ops::ControlFlow;

use lava::{Method, Policy, Profile};
use lava_engine::{
    EngineError, Model, PagePool, PrefillRequest, Prefilled, RaggedCache, RowFormat, WeightFormat,
};
use lava_test_support::{Architecture, HfDtype, ToyModel};

use crate::{ours, toys};

const LAVA: [Policy; 3] = [
    Policy::Lava(Profile::Exact),
    Policy::Lava(Profile::Paper),
    Policy::Lava(Profile::Code),
];

fn toy() -> (ToyModel, Model) {
    let toy = ToyModel {
        layers: 5,
        context: 2048,
        ..ToyModel::new(Architecture::Llama)
    };
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let model = ours::load(folder.path(), WeightFormat::Stored);
    (toy, model)
}

/// Key rows of one head of a cache in single precision, in the cache's order.
fn keys(cache: &RaggedCache, layer: usize, head: usize) -> Vec<Vec<f32>> {
    let head_dim = cache.shape().head_dim;
    let mut rows = Vec::new();
    for run in cache.table(layer, head).runs() {
        assert_eq!(run.format, RowFormat::F32);
        let bytes = run.keys.codes.chunks_exact(4);
        let numbers: Vec<f32> = bytes
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        rows.extend(numbers.chunks_exact(head_dim).map(<[f32]>::to_vec));
    }
    rows
}

#[test]
fn the_compact_cache_holds_the_full_caches_rows_at_the_kept_positions() {
    let (toy, model) = toy();
    let prompt = toys::prompt(700, toy.vocab);
    let full = ours::prefill(&model, &ours::request(&prompt, Policy::Full, 700)).unwrap();
    for policy in LAVA {
        let run = ours::prefill(&model, &ours::request(&prompt, policy, 64)).unwrap();
        assert_eq!(
            run.logits, full.logits,
            "eviction never touches the prefill's output"
        );
        for layer in 0..toy.layers {
            for head in 0..toy.kv_heads {
                // The full cache lies in the order window, then position.
                let all = keys(&full.cache, layer, head);
                let row = |position: usize| &all[(position + 32) % 700];
                let window = 668..700;
                let kept = run
                    .cascade
                    .head_order(layer, head)
                    .iter()
                    .map(|&i| i as usize);
                let expected: Vec<_> = window.chain(kept).map(|i| row(i).clone()).collect();
                assert_eq!(
                    keys(&run.cache, layer, head),
                    expected,
                    "{policy} {layer} {head}"
                );
            }
        }
    }
}

#[test]
fn at_most_one_layer_has_its_full_keys_and_values() {
    let (toy, model) = toy();
    let prompt = toys::prompt(1200, toy.vocab);
    for policy in [Policy::Full, LAVA[0], LAVA[1], LAVA[2]] {
        let run = ours::prefill(&model, &ours::request(&prompt, policy, 100)).unwrap();
        assert_eq!(run.stats.full_kv_layers_peak, 1);
    }
}

#[test]
fn pages_never_exceed_the_reservation_and_all_come_back() {
    let (toy, model) = toy();
    for (tokens, budget) in [
        (1, 40),
        (31, 40),
        (33, 40),
        (300, 33),
        (1100, 200),
        (90, 2000),
    ] {
        let prompt = toys::prompt(tokens, toy.vocab);
        for (policy, format) in [Policy::Full, LAVA[0], LAVA[1], LAVA[2]]
            .into_iter()
            .flat_map(|policy| RowFormat::ALL.map(|format| (policy, format)))
        {
            let request = PrefillRequest {
                format,
                ..ours::request(&prompt, policy, budget)
            };
            let pool = ours::pool(&model, &request);
            let run = model.prefill(&request, &pool, &mut |_| ControlFlow::Continue(()));
            let run = run.unwrap();
            let reserved = request.pages_max(&model, pool.page_bytes());
            assert!(run.stats.pages_peak <= reserved);
            assert_eq!(pool.pages_reserved(), reserved);
            drop(run);
            assert_eq!(pool.pages_reserved(), 0);
        }
    }
}

#[test]
fn a_budget_of_the_whole_prompt_changes_nothing() {
    let (toy, model) = toy();
    let prompt = toys::prompt(120, toy.vocab);
    let full = ours::request(&prompt, Policy::Full, 120);
    let lava = ours::request(&prompt, LAVA[0], 120);
    assert_eq!(
        ours::logits(&model, &full, &[3, 4, 5]),
        ours::logits(&model, &lava, &[3, 4, 5])
    );
}

#[test]
fn a_cancelled_prefill_stops_at_the_layer_and_frees_its_pages() {
    let (toy, model) = toy();
    let prompt = toys::prompt(200, toy.vocab);
    let request = ours::request(&prompt, LAVA[0], 64);
    let pool = ours::pool(&model, &request);
    let mut seen = Vec::new();
    let result = model.prefill(&request, &pool, &mut |done| {
        seen.push(done.layer);
        match done.layer {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(result, Err(EngineError::Cancelled { layer: 2 })));
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!(pool.pages_reserved(), 0);
}

#[test]
fn one_pass_serves_every_method_as_a_pass_of_its_own_does() {
    let (toy, model) = toy();
    let prompt = toys::prompt(300, toy.vocab);
    let settings = [
        "lava+score=max-clamp+sinks=4",
        "lava+score=value-output+floor=100",
        "lava+score=max-clamp-value-output+weight=uniform",
        "lava+score=rms-value-output+value-norm=all",
        "snapkv+window=8+kernel=3",
    ];
    let policies = Policy::ALL.map(Method::new).into_iter();
    let settings = settings.iter().map(|text| text.parse().unwrap());
    let methods: Vec<Method> = policies.chain(settings).collect();
    let requests: Vec<_> = methods
        .iter()
        .map(|&method| PrefillRequest {
            method,
            ..ours::request(&prompt, Policy::Full, 48)
        })
        .collect();
    let page_bytes = model.config().page_bytes();
    let pages = requests
        .iter()
        .map(|request| request.pages_max(&model, page_bytes));
    let pool = PagePool::new(page_bytes, pages.sum());
    let together = model.prefill_each(&requests, &pool).unwrap();
    for (request, one) in requests.iter().zip(&together) {
        let alone = ours::prefill(&model, request).unwrap();
        assert_eq!(one.logits, alone.logits);
        assert_eq!(one.stats.full_kv_layers_peak, 1);
        for layer in 0..5 {
            for head in 0..2 {
                let name = format!("{} layer {layer} head {head}", request.method);
                let order = |run: &Prefilled| run.cascade.head_order(layer, head).to_vec();
                assert_eq!(order(one), order(&alone), "{name}");
                let keys = |run: &Prefilled| keys(&run.cache, layer, head);
                assert_eq!(keys(one), keys(&alone), "{name}");
            }
        }
    }
    drop(together);
    assert_eq!(pool.pages_reserved(), 0);
}

#[test]
fn packed_keys_are_relative_to_the_mean_of_all_keys_and_pinned_rows_are_not_packed() {
    let (toy, model) = toy();
    let prompt = toys::prompt(300, toy.vocab);
    let full = ours::prefill(&model, &ours::request(&prompt, Policy::Full, 300)).unwrap();
    for format in [RowFormat::Int8, RowFormat::Fp8, RowFormat::Int4] {
        let request = PrefillRequest {
            format,
            method: "lava+sinks=3".parse().unwrap(),
            ..ours::request(&prompt, Policy::Full, 64)
        };
        let run = ours::prefill(&model, &request).unwrap();
        for layer in 0..toy.layers {
            for head in 0..toy.kv_heads {
                let all = keys(&full.cache, layer, head);
                let table = run.cache.table(layer, head);
                for (channel, mean) in table.mean_key().iter().enumerate() {
                    let sum: f32 = all.iter().map(|key| key[channel]).sum();
                    assert!((sum / 300.0 - mean).abs() < 1e-3 + mean.abs() * 1e-3);
                }
                let rows = |of: RowFormat| {
                    let runs = table.runs().filter(|run| run.format == of);
                    runs.map(|run| run.rows).sum::<usize>()
                };
                let kept = run.cascade.kept(layer)[head];
                assert!(kept > 3);
                assert_eq!((rows(RowFormat::F16), rows(format)), (32 + 3, kept - 3));
            }
        }
    }
}

#[test]
fn packed_rows_say_nearly_what_rows_in_single_precision_say() {
    let (toy, model) = toy();
    let prompt = toys::prompt(200, toy.vocab);
    let plain = ours::logits(&model, &ours::request(&prompt, Policy::Full, 200), &[3, 4]);
    for (format, most) in [
        (RowFormat::F16, 1e-3),
        (RowFormat::Int8, 1e-2),
        (RowFormat::Fp8, 3e-2),
        (RowFormat::Int4, 0.2),
    ] {
        let request = PrefillRequest {
            format,
            ..ours::request(&prompt, Policy::Full, 200)
        };
        let found = ours::logits(&model, &request, &[3, 4]);
        assert_eq!(found[0], plain[0], "prefill reads no packed row");
        let difference = ours::difference(&found[2], &plain[2]);
        assert!(
            difference < most && difference > most / 1e4,
            "{format}: {difference}"
        );
    }
}
