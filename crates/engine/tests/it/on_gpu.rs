//! A model on a GPU says what it says on the CPU. The GPU is this machine, which watches every access to memory.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use lava::{Method, Policy};
use lava_engine::{
    Compute, EngineError, LayerDone, Model, ModelFiles, OnDevice, PrefillRequest, Prefilled,
    RaggedCache, RowFormat, RowReader, Turn, WeightFormat,
};
use lava_kv::{Header, Inbound, Outbound, RowSource, Ticket};
use lava_test_support::{Architecture, HfDtype, Order, ToyModel, WatchedGpu};

use crate::{ours, real_models, toys};

/// A model on the CPU and on a GPU.
struct Both {
    cpu: Model,
    gpu: Model,
    vocab: usize,
    device: WatchedGpu,
}

impl Both {
    fn new(toy: &ToyModel, compute: Compute, order: Order) -> Self {
        let folder = tempfile::tempdir().unwrap();
        toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
        let device = WatchedGpu::start(order);
        let on = OnDevice {
            gpu: device.gpu(),
            compute,
            // Several blocks for short prompts.
            block_tokens: 64,
            graphs: true,
        };
        let files = ModelFiles::Folder(folder.path().to_owned());
        let gpu = Model::load_on(on, &files, WeightFormat::Stored, &mut |_, _| {});
        Self {
            cpu: ours::load(folder.path(), WeightFormat::Stored),
            gpu: gpu.unwrap_or_else(|error| panic!("{error}")),
            vocab: toy.vocab,
            device,
        }
    }
}

fn toy(architecture: Architecture, head_dim: usize) -> ToyModel {
    ToyModel {
        layers: 3,
        head_dim,
        hidden: 4 * head_dim,
        ..ToyModel::new(architecture)
    }
}

fn prefill(model: &Model, request: &PrefillRequest<'_>) -> Prefilled {
    let pages = request.pages_max(model, model.config().page_bytes());
    let pool = model.pool(pages).unwrap();
    let result = model.prefill(request, &pool, &mut |_| ControlFlow::Continue(()));
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn step(model: &Model, token: u32, run: &mut Prefilled) -> Vec<f32> {
    let cache = &mut run.cache;
    let logits = model.step(&mut [Turn { token, cache }]);
    logits.unwrap_or_else(|error| panic!("{error}")).remove(0)
}

fn tolerance(compute: Compute) -> f32 {
    match compute {
        Compute::F16 => 5e-3,
        Compute::Bf16 => 4e-2,
    }
}

#[test]
fn whole_prompts_are_continued_alike() {
    for (architecture, head_dim, compute, order) in [
        (Architecture::Llama, 64, Compute::F16, Order::Forward),
        (Architecture::Qwen2, 64, Compute::Bf16, Order::Backward),
        (Architecture::Qwen3, 128, Compute::F16, Order::Mixed(3)),
    ] {
        let both = Both::new(&toy(architecture, head_dim), compute, order);
        let prompt = toys::prompt(150, both.vocab);
        let request = PrefillRequest {
            format: RowFormat::F16,
            ..ours::request(&prompt, Policy::Full, prompt.len())
        };
        let (mut here, mut there) = (prefill(&both.cpu, &request), prefill(&both.gpu, &request));
        let difference = ours::difference(&there.logits, &here.logits);
        assert!(
            difference < tolerance(compute),
            "{architecture:?}: {difference}"
        );
        for token in toys::prompt(20, both.vocab) {
            let here = step(&both.cpu, token, &mut here);
            let there = step(&both.gpu, token, &mut there);
            let difference = ours::difference(&there, &here);
            assert!(
                difference < tolerance(compute),
                "{architecture:?}: {difference}"
            );
        }
    }
}

/// What a head keeps outside the window.
fn kept(run: &Prefilled, layer: usize, head: usize) -> BTreeSet<u32> {
    let order = run.cascade.head_order(layer, head);
    order.iter().copied().collect()
}

#[test]
fn every_policy_keeps_the_rows_that_it_keeps_on_the_cpu() {
    let both = Both::new(&toy(Architecture::Llama, 64), Compute::F16, Order::Forward);
    let prompt = toys::prompt(150, both.vocab);
    for policy in [
        // Scored and ranked on the GPU.
        "lava",
        "lava+sinks=3+shoulder=50+kernel=13",
        "lava-paper+gqa=mean",
        "lava-peaks+observers=20",
        "lava+score=max-clamp+value-norm=all",
        // Scored there, ranked here.
        "lava-code",
        "lava-heads+pool=none+value-norm=off",
        // Scored here.
        "lava+score=value-output",
        "lava+pool=avg",
        "snapkv",
        "ada-pyramidkv",
        "cake",
        "h2o",
        "tova",
        // Not scored.
        "streaming-llm",
        "random",
    ] {
        let method: Method = policy
            .parse()
            .unwrap_or_else(|error| panic!("{policy}: {error}"));
        let request = PrefillRequest {
            method,
            format: RowFormat::Int8,
            ..ours::request(&prompt, Policy::Full, 48)
        };
        let (here, there) = (prefill(&both.cpu, &request), prefill(&both.gpu, &request));
        let (mut common, mut all) = (0, 0);
        for layer in 0..3 {
            let entropies = [&here, &there].map(|run| run.cascade.plan(layer).unwrap().entropy());
            let difference = (entropies[0] - entropies[1]).abs();
            assert!(difference < 2e-3, "{policy}: {entropies:?}");
            for head in 0..2 {
                let (here, there) = (kept(&here, layer, head), kept(&there, layer, head));
                common += here.intersection(&there).count();
                all += here.len().max(there.len());
            }
        }
        // Scores differ in their fourth digit, and what is at the edge of a budget with them.
        assert!(common * 100 >= all * 96, "{policy}: {common} of {all}");
    }
}

#[test]
fn a_cache_is_decoded_alike_wherever_it_came_from_and_went_to() {
    let toy = ToyModel {
        layers: 2,
        ..toy(Architecture::Qwen3, 128)
    };
    let both = Both::new(&toy, Compute::Bf16, Order::Backward);
    let prompt = toys::prompt(140, both.vocab);
    for format in &RowFormat::ALL[1..] {
        let request = PrefillRequest {
            method: "lava+sinks=2".parse().unwrap(),
            format: *format,
            ..ours::request(&prompt, Policy::Full, 44)
        };
        let models = [&both.cpu, &both.gpu];
        let (of_gpu, from_gpu) = prefill_and_ship(&both.gpu, &request, models);
        let (_, from_cpu) = prefill_and_ship(&both.cpu, &request, models);
        let places = models.into_iter().cycle();
        let mut runs: Vec<(&Model, RaggedCache)> =
            places.zip(from_gpu.into_iter().chain(from_cpu)).collect();
        runs.push((&both.gpu, of_gpu.cache));
        for token in toys::prompt(8, both.vocab) {
            let logits: Vec<Vec<f32>> = runs
                .iter_mut()
                .map(|(model, cache)| {
                    let logits = model.step(&mut [Turn { token, cache }]);
                    logits.unwrap_or_else(|error| panic!("{error}")).remove(0)
                })
                .collect();
            for (cpu, gpu) in [(0, 1), (2, 3)] {
                let difference = ours::difference(&logits[gpu], &logits[cpu]);
                assert!(difference < 4e-2, "{format}: {difference}");
            }
            assert!(
                logits[1] == logits[4],
                "{format}: a copy is decoded as the original"
            );
        }
    }
}

#[test]
fn what_is_shipped_arrives_as_it_was() {
    let both = Both::new(&toy(Architecture::Llama, 64), Compute::F16, Order::Forward);
    let prompt = toys::prompt(120, both.vocab);
    let models = [&both.cpu, &both.gpu];
    for format in [RowFormat::Int4, RowFormat::Bf16] {
        for model in models {
            let request = PrefillRequest {
                method: "lava".parse().unwrap(),
                format,
                ..ours::request(&prompt, Policy::Full, 40)
            };
            let (run, arrived) = prefill_and_ship(model, &request, models);
            for cache in &arrived {
                assert!(
                    ours::contents(cache) == ours::contents(&run.cache),
                    "{format}"
                );
            }
        }
    }
}

/// A prefill whose rows are sent as soon as they are certain, as a prefill worker sends them, and what arrives where
/// some models run.
fn prefill_and_ship(
    model: &Model,
    request: &PrefillRequest<'_>,
    to: [&Model; 2],
) -> (Prefilled, Vec<RaggedCache>) {
    let header = Header {
        ticket: Ticket([1; 16]),
        attempt: 0,
        prompt_digest: [2; 16],
        fingerprint: model.fingerprint(),
        shape: model.config().cache_shape(
            request.tokens.len(),
            &request.method,
            request.budget,
            request.format,
        ),
    };
    let pages = request.pages_max(model, model.config().page_bytes());
    let mut arrived: Vec<RaggedCache> = to
        .iter()
        .map(|model| {
            let reservation = model.pool(pages).unwrap().reserve(pages).unwrap();
            RaggedCache::new(header.shape, reservation)
        })
        .collect();
    let mut outbound = Outbound::new(header, 5_000);
    let mut inbound = Inbound::new(&header, &header, u64::MAX).unwrap();
    let pool = model.pool(pages).unwrap();
    let run = model.prefill(request, &pool, &mut |done| {
        let window = done.cascade.window_rows();
        let certain: Vec<usize> = (0..=done.layer)
            .flat_map(|layer| done.cascade.certain(layer).iter().map(|rows| window + rows))
            .collect();
        let ranges = outbound.table_rows().iter().zip(&certain);
        let ranges: Vec<_> = ranges.map(|(sent, rows)| *sent..*rows).collect();
        let reader = done
            .cache
            .reader(done.layer, ranges.into_iter().enumerate());
        let source = Source {
            done,
            reader: reader.unwrap_or_else(|error| panic!("{error}")),
        };
        for frame in outbound.ship(&certain, &source) {
            let frame = inbound.accept(&frame).unwrap();
            for cache in &mut arrived {
                cache.receive(&frame).unwrap();
            }
        }
        ControlFlow::Continue(())
    });
    let run = run.unwrap_or_else(|error| panic!("{error}"));
    for cache in &arrived {
        assert_eq!(cache.rows(), run.cache.rows());
    }
    (run, arrived)
}

struct Source<'a> {
    done: LayerDone<'a>,
    reader: RowReader<'a>,
}

impl RowSource for Source<'_> {
    fn position(&self, table: usize, row: usize) -> u32 {
        let LayerDone { cascade, cache, .. } = self.done;
        let kv_heads = cache.shape().kv_heads;
        let (layer, head) = (table / kv_heads, table % kv_heads);
        cascade.head_order(layer, head)[row - cascade.window_rows()]
    }

    fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        self.reader.copy_means(layer, out);
    }

    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        self.reader.copy_rows(table, rows, out);
    }
}

#[test]
fn a_batch_is_decoded_as_each_alone_and_everything_is_freed() {
    let toy = toy(Architecture::Qwen2, 64);
    let both = Both::new(&toy, Compute::F16, Order::Mixed(11));
    let pool = both.gpu.pool(2_000).unwrap();
    let prompts = [70, 130, 33, 90].map(|len| toys::prompt(len, both.vocab));
    let formats = [
        RowFormat::Int4,
        RowFormat::Fp8,
        RowFormat::Int4,
        RowFormat::F16,
    ];
    let start = |index: usize| {
        let request = PrefillRequest {
            method: "lava-peaks".parse().unwrap(),
            format: formats[index],
            ..ours::request(&prompts[index], Policy::Full, 52)
        };
        let run = both
            .gpu
            .prefill(&request, &pool, &mut |_| ControlFlow::Continue(()));
        run.unwrap_or_else(|error| panic!("{error}"))
    };
    // What a step leaves for the next one stays.
    step(&both.gpu, 3, &mut start(0));
    let before = both.device.live_buffers();
    let fed = toys::prompt(40, both.vocab);
    let alone: Vec<Vec<Vec<f32>>> = (0..4)
        .map(|index| {
            let mut run = start(index);
            let mark = run.cache.mark();
            // What is undone leaves nothing behind.
            step(&both.gpu, 7, &mut run);
            run.cache.rewind(&mark);
            let steps = fed.iter().map(|&token| step(&both.gpu, token, &mut run));
            steps.collect()
        })
        .collect();
    let mut runs: Vec<Prefilled> = (0..4).map(start).collect();
    // A step for which there is not memory enough has not happened.
    let mut refused = 0;
    let marks: Vec<_> = runs.iter().map(|run| run.cache.mark()).collect();
    loop {
        both.device.leave_room_for(1_000 << refused);
        let mut batch: Vec<Turn<'_>> = runs
            .iter_mut()
            .map(|run| Turn {
                token: 5,
                cache: &mut run.cache,
            })
            .collect();
        match both.gpu.step(&mut batch) {
            Err(EngineError::NoDeviceMemory { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(_) => break,
        }
    }
    assert!(refused > 3, "{refused}");
    both.device.leave_room_for(1 << 27);
    for (run, mark) in runs.iter_mut().zip(&marks) {
        run.cache.rewind(mark);
    }
    for (at, &token) in fed.iter().enumerate() {
        let mut batch: Vec<Turn<'_>> = runs
            .iter_mut()
            .map(|run| Turn {
                token,
                cache: &mut run.cache,
            })
            .collect();
        let logits = both.gpu.step(&mut batch);
        let logits = logits.unwrap_or_else(|error| panic!("{error}"));
        for (logits, alone) in logits.iter().zip(&alone) {
            assert!(logits == &alone[at], "step {at}");
        }
    }
    drop(runs);
    assert_eq!(pool.pages_reserved(), 0);
    assert_eq!(both.device.live_buffers(), before);
}

#[test]
fn what_a_gpu_cannot_do_is_refused_by_name() {
    let both = Both::new(&toy(Architecture::Llama, 64), Compute::F16, Order::Forward);
    let prompt = toys::prompt(10, both.vocab);
    let request = ours::request(&prompt, Policy::Full, 10);
    let pool = both.gpu.pool(100).unwrap();
    let refused = both
        .gpu
        .prefill(&request, &pool, &mut |_| ControlFlow::Continue(()));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "rows of f32 are for CPUs; this model runs on a GPU"
    );
    let folder = tempfile::tempdir().unwrap();
    let small = ToyModel::new(Architecture::Llama);
    small.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let on = OnDevice {
        gpu: both.device.gpu(),
        compute: Compute::Bf16,
        block_tokens: 64,
        graphs: false,
    };
    let files = ModelFiles::Folder(folder.path().to_owned());
    let refused = Model::load_on(on, &files, WeightFormat::Stored, &mut |_, _| {});
    assert_eq!(
        refused.unwrap_err().to_string(),
        "no GPU kernel is made for a model whose head dim is 16, expected 64 or 128"
    );
    assert_eq!(both.cpu.fingerprint(), both.gpu.fingerprint());
}

#[test]
fn a_real_model_says_what_it_says_on_the_cpu() {
    let path = real_models::model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let device = WatchedGpu::start(Order::Forward);
    device.leave_room_for(1 << 30);
    let on = OnDevice {
        gpu: device.gpu(),
        compute: Compute::F16,
        block_tokens: 32,
        graphs: false,
    };
    let files = ModelFiles::Gguf(path.clone());
    let gpu = Model::load_on(on, &files, WeightFormat::Stored, &mut |_, _| {});
    let gpu = gpu.unwrap_or_else(|error| panic!("{error}"));
    // Products of quantised weights round their inputs on the CPU; those of f32 do not.
    let cpu = ours::load(&path, WeightFormat::F32);
    let prompt: Vec<u32> = (0..48)
        .map(|i| (i * i * 31 + i * 17 + 3) % 49_152)
        .collect();
    let request = PrefillRequest {
        method: "lava".parse().unwrap(),
        format: RowFormat::Int8,
        appended_max: 2,
        ..ours::request(&prompt, Policy::Full, 38)
    };
    let (mut here, mut there) = (prefill(&cpu, &request), prefill(&gpu, &request));
    let difference = ours::difference(&there.logits, &here.logits);
    assert!(difference < 5e-3, "{difference}");
    let (mut common, mut all) = (0, 0);
    for table in 0..30 * 3 {
        let sets = [&here, &there].map(|run| kept(run, table / 3, table % 3));
        common += sets[0].intersection(&sets[1]).count();
        all += sets[0].len();
    }
    assert!(common * 100 >= all * 97, "{common} of {all}");
    for token in [299, 520] {
        let (here, there) = (step(&cpu, token, &mut here), step(&gpu, token, &mut there));
        let difference = ours::difference(&there, &here);
        assert!(difference < 1e-2, "{difference}");
    }
}
