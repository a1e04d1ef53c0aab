//! Our engine, driven the way tests need it.

use std::ops::ControlFlow;
use std::path::Path;

use lava::{Method, Policy};
use lava_engine::{
    EngineError, Model, ModelFiles, PagePool, PrefillRequest, Prefilled, RaggedCache, RowFormat,
    Sampler, SamplingParams, Turn, WeightFormat,
};

pub(crate) fn load(path: &Path, format: WeightFormat) -> Model {
    let files = ModelFiles::find(path.to_str().unwrap(), false).unwrap();
    Model::load(&files, format, &mut |_, _| {}).unwrap()
}

pub(crate) fn request(tokens: &[u32], policy: Policy, budget: usize) -> PrefillRequest<'_> {
    PrefillRequest {
        tokens,
        method: Method::new(policy),
        budget,
        format: RowFormat::F32,
        appended_max: 64,
    }
}

pub(crate) fn pool(model: &Model, request: &PrefillRequest<'_>) -> PagePool {
    let page_bytes = model.config().page_bytes();
    PagePool::new(page_bytes, request.pages_max(model, page_bytes))
}

pub(crate) fn prefill(
    model: &Model,
    request: &PrefillRequest<'_>,
) -> Result<Prefilled, EngineError> {
    let pool = pool(model, request);
    model.prefill(request, &pool, &mut |_| ControlFlow::Continue(()))
}

/// Logits of each step: the prefill's, then those after each of `fed`.
pub(crate) fn logits(model: &Model, request: &PrefillRequest<'_>, fed: &[u32]) -> Vec<Vec<f32>> {
    let mut run = prefill(model, request).unwrap();
    let mut all = vec![run.logits];
    for &token in fed {
        let cache = &mut run.cache;
        all.push(model.step(&mut [Turn { token, cache }]).unwrap().remove(0));
    }
    all
}

pub(crate) fn greedy(model: &Model, request: &PrefillRequest<'_>, count: usize) -> Vec<u32> {
    let mut run = prefill(model, request).unwrap();
    let params = SamplingParams::default();
    let mut sampler = Sampler::new(params, &[], model.config().vocabulary).unwrap();
    let mut ids = vec![sampler.sample(&run.logits).unwrap().token];
    while ids.len() < count {
        let (token, cache) = (ids[ids.len() - 1], &mut run.cache);
        let logits = model.step(&mut [Turn { token, cache }]).unwrap();
        ids.push(sampler.sample(&logits[0]).unwrap().token);
    }
    ids
}

/// Largest difference of two vectors, over the largest value of the second.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let most = a.iter().zip(b).map(|(x, y)| (x - y).abs());
    most.fold(0.0, |max, x| if x <= max { max } else { x }) / scale
}

/// All rows, and mean keys where there are some.
pub(crate) fn contents(cache: &RaggedCache) -> Vec<u8> {
    let shape = cache.shape();
    let mut out = Vec::new();
    for layer in 0..shape.layers {
        let tables = cache.layer(layer).iter().enumerate();
        let ranges: Vec<_> = tables
            .map(|(head, table)| (layer * shape.kv_heads + head, 0..table.rows()))
            .collect();
        let reader = cache.reader(layer, ranges.iter().cloned());
        let reader = reader.unwrap_or_else(|error| panic!("{error}"));
        if shape.format.is_packed() {
            reader.copy_means(layer, &mut out);
        }
        for (table, rows) in ranges {
            reader.copy_rows(table, rows, &mut out);
        }
    }
    out
}
