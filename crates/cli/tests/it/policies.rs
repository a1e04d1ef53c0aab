//! Every policy through the whole path: the rows that arrive and the tokens that follow are the engine's own.

use lava::{Certainty, Method, Policy};
use lava_engine::{ModelFiles, PagePool, PrefillRequest, RowFormat, Turn, WeightFormat};

use crate::asking::{ask, tokens};
use crate::cluster::Cluster;
use crate::{SMOLLM2, model};

const BUDGET: usize = 48;
/// L * Hkv, and D.
const LISTS: usize = 30 * 3;
const HEAD_DIM: usize = 64;
const TOKENS: u32 = 4;

/// Logits that are closer than this may swap by rounding: the two sides batch differently.
const MARGIN: f32 = 0.05;

/// What one pass of the engine in this process keeps, and the tokens that follow.
struct Expected {
    method: Method,
    rows: usize,
    ids: Vec<u32>,
    /// The first of the ids whose runner-up was as good.
    close_call: usize,
}

fn likeliest(logits: &[f32]) -> (u32, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    (order[0] as u32, logits[order[0]] - logits[order[1]])
}

fn expected(methods: &[Method], prompt: &[u32]) -> Vec<Expected> {
    let files = ModelFiles::find(model(SMOLLM2).to_str().unwrap(), false).unwrap();
    let model = lava_engine::Model::load(&files, WeightFormat::Stored, &mut |_, _| {}).unwrap();
    let requests: Vec<_> = methods
        .iter()
        .map(|&method| PrefillRequest {
            tokens: prompt,
            method,
            budget: BUDGET,
            format: RowFormat::Int4,
            appended_max: TOKENS as usize,
        })
        .collect();
    let page_bytes = model.config().page_bytes();
    let pages = requests
        .iter()
        .map(|r| r.pages_max(&model, page_bytes))
        .sum();
    let all = model
        .prefill_each(&requests, &PagePool::new(page_bytes, pages))
        .unwrap();
    let follow = |(mut run, &method): (lava_engine::Prefilled, &Method)| {
        let rows = run.cache.rows();
        let (mut token, mut margin) = likeliest(&run.logits);
        let (mut ids, mut close_call) = (vec![token], TOKENS as usize);
        while ids.len() < TOKENS as usize {
            if margin < MARGIN {
                close_call = close_call.min(ids.len() - 1);
            }
            let turn = Turn {
                token,
                cache: &mut run.cache,
            };
            let logits = model.step(&mut [turn]).unwrap().remove(0);
            (token, margin) = likeliest(&logits);
            ids.push(token);
        }
        if margin < MARGIN {
            close_call = close_call.min(ids.len() - 1);
        }
        Expected {
            method,
            rows,
            ids,
            close_call,
        }
    };
    all.into_iter().zip(methods).map(follow).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_works_through_the_whole_path() {
    let prompt: Vec<u32> = (0..160).map(|i| 500 + (i * 31) % 20_000).collect();
    let settings = ["lava+score=rms-value-output+sinks=4+floor=200+window=16"];
    let settings = settings.map(|text| text.parse().unwrap());
    let methods: Vec<Method> = Policy::ALL
        .map(Method::new)
        .into_iter()
        .chain(settings)
        .collect();
    let cluster = Cluster::one_process(&model(SMOLLM2), &["model.name=\"model\""]);
    let mut client = cluster.client().await;
    for expected in expected(&methods, &prompt) {
        let name = expected.method.to_string();
        let mut request = tokens("model", prompt.clone(), TOKENS, BUDGET as u32);
        request.policy.clone_from(&name);
        request.row_format = RowFormat::Int4.to_string();
        request.ignore_end_of_text = true;
        let answer = ask(&mut client, request).await.unwrap();
        let transfer = answer.transfer();
        assert_eq!(transfer.rows_kept, expected.rows as u64, "{name}");
        assert_eq!(transfer.recomputes, 0, "{name}");
        let same = ..expected.close_call;
        assert_eq!(answer.ids()[same], expected.ids[same], "{name}");
        // The window is certain under every policy.
        let window = LISTS * expected.method.window(BUDGET) * RowFormat::F16.entry_bytes(HEAD_DIM);
        let window = window as f64 / transfer.row_bytes as f64;
        let is_early = transfer.early_share_bound > window + 1e-9;
        let is_exact = expected.method.policy.certainty() == Certainty::Exact;
        assert_eq!(is_early, is_exact, "{name}: {transfer:?}");
    }
    cluster.idle();
}
