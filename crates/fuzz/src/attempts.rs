//! Calls of `Prefill.Run` and `Decode.Run`, as a worker checks them before it sets anything aside; and what it would
//! set aside.
//!
//! An input is a byte that says which of the two it is, and then its message. The fingerprint is put right in most
//! inputs, and the prompt's digest, since both are hashes.

use std::ops::{ControlFlow, Range};

use lava_engine::RowReader;
use lava_engine::{LayerDone, PagePool, PrefillRequest as EngineRequest, RaggedCache, Sampler};
use lava_kv::{Frame, Outbound, RowSource, Seal, Ticket};
use lava_proto::v1::Sampling;
use lava_proto::worker::{self as proto, DecodeRequest, PrefillRequest};
use lava_worker::{Attempt, Refusal, prompt_ids};
use prost::Message as _;
use tonic::{Code, Status};

use crate::{memory, toy};

/// Longest text of a status, which travels in a header.
const STATUS_BYTES_MAX: usize = 2048;
/// Longest prompt that is computed: a few milliseconds.
const PREFILLED_TOKENS_MAX: usize = 64;

const PREFILL: u8 = 0;
const DECODE: u8 = 1;
/// The hashes stay as the input has them.
const AS_IT_IS: u8 = 128;

/// Checks a call as the services do.
pub(crate) fn run(input: &[u8]) {
    let Some((&kind, message)) = input.split_first() else {
        return;
    };
    // It is loaded once, whichever input comes first.
    toy::loaded();
    let most = memory::SLACK_BYTES + 128 * input.len();
    match kind & 1 {
        PREFILL => {
            let Ok(mut request) = PrefillRequest::decode(message) else {
                return;
            };
            if let Some(attempt) = request.attempt.as_mut().filter(|_| kind < AS_IT_IS) {
                attempt.fingerprint = toy::loaded().fingerprint.to_vec().into();
                attempt.prompt_digest = lava_proto::content_digest(&request.prompt).to_vec().into();
            }
            let message = request.attempt.clone().unwrap_or_default();
            if let Some(attempt) = memory::within(most, || checked(message)) {
                compute(&attempt, &request.prompt);
            }
        }
        _ => {
            let Ok(mut request) = DecodeRequest::decode(message) else {
                return;
            };
            if let Some(attempt) = request.attempt.as_mut().filter(|_| kind < AS_IT_IS) {
                attempt.fingerprint = toy::loaded().fingerprint.to_vec().into();
            }
            let message = request.attempt.clone().unwrap_or_default();
            if let Some(attempt) = memory::within(most, || checked(message)) {
                reserve(attempt, &request);
            }
        }
    }
}

/// The attempt if it makes sense.
fn checked(message: proto::Attempt) -> Option<Attempt> {
    let loaded = toy::loaded();
    let attempt = match Attempt::check(message.clone(), loaded) {
        Ok(attempt) => attempt,
        Err(refusal) => {
            check_refusal(refusal);
            return None;
        }
    };
    let config = loaded.model.config();
    let shape = attempt.shape;
    assert!(attempt.max_tokens >= 1 && shape.tokens >= 1);
    assert!(shape.tokens + attempt.max_tokens <= config.positions_max());
    assert_eq!(
        (shape.layers, shape.kv_heads, shape.head_dim),
        (config.layers, config.kv_heads, config.head_dim)
    );
    assert!(shape.window_rows <= shape.wide_rows && shape.wide_rows <= shape.tokens);
    assert!(attempt.rows_max() <= shape.tables() * shape.tokens);
    assert!(attempt.sampling.check().is_ok());
    // It says what its message says.
    assert_eq!(attempt.method.to_string().parse(), Ok(attempt.method));
    assert_eq!(
        (
            shape.tokens,
            attempt.max_tokens,
            attempt.budget,
            attempt.number
        ),
        (
            message.tokens as usize,
            message.max_tokens as usize,
            message.budget as usize,
            message.number
        )
    );
    let header = attempt.header(Ticket([0; 16]), loaded.fingerprint);
    assert_eq!(header.check(&header), Ok(()));
    Some(attempt)
}

/// What the worker is told fits a status, and no coordinator tries it elsewhere, unless it was meant for another model.
fn check_refusal(refusal: Refusal) {
    let is_elsewhere = matches!(refusal, Refusal::OtherModel { .. });
    let status = Status::from(refusal);
    let (code, text) = (status.code(), status.message());
    assert!(
        text.len() <= STATUS_BYTES_MAX,
        "a status of {} bytes",
        text.len()
    );
    let is_callers_fault = matches!(code, Code::InvalidArgument | Code::FailedPrecondition);
    assert!(is_callers_fault || is_elsewhere, "{code:?}: {text}");
}

/// As `decode_worker::service` does it, with a pool that is large enough for every attempt of the toy.
fn reserve(attempt: Attempt, request: &DecodeRequest) {
    let vocabulary = toy::loaded().model.config().vocabulary;
    let sampling = attempt.sampling.clone();
    let sampler = Sampler::with_prompt_bitmap(sampling, &request.prompt_ids, vocabulary);
    let sampler = match sampler {
        Ok(sampler) => sampler,
        Err(error) => return check_refusal(error.into()),
    };
    let _resumed = sampler.resume(&attempt.answered);
    let page_bytes = toy::PAGE_BYTES as usize;
    let pages = attempt.pages_max(page_bytes);
    let config = toy::loaded().model.config();
    // Every position in every table in single precision, and two pages of each that are not full.
    let rows = config.positions_max() * config.head_dim * 8;
    let most = attempt.shape.tables() * (rows.div_ceil(page_bytes) + 2) + 64;
    assert!(
        pages <= most,
        "{pages} pages for a prompt of at most {most}"
    );
    let pool = PagePool::new(page_bytes, most);
    let reservation = pool.reserve(pages).expect("the pool is empty");
    let cache = RaggedCache::new(attempt.shape, reservation);
    assert_eq!(cache.pages_reserved(), pages);
    drop(cache);
    assert_eq!(pool.pages_reserved(), 0);
}

/// As `prefill_worker::service` does it; then short prompts are computed, and shipped into the reservation that a decode
/// worker would have made for them.
fn compute(attempt: &Attempt, bytes: &[u8]) {
    let tokens = attempt.shape.tokens;
    let prompt = match prompt_ids(bytes, attempt.prompt_digest, tokens) {
        Ok(prompt) => prompt,
        Err(refusal) => return check_refusal(refusal),
    };
    assert_eq!(lava_proto::ids_to_bytes(&[&prompt]), bytes);
    assert_eq!(lava_proto::prompt_digest(&prompt), attempt.prompt_digest);
    if attempt.answered.len() >= tokens {
        return;
    }
    let prompt = &prompt[..];
    if let Err(error) = engine_request(attempt, prompt).check(&toy::loaded().model) {
        return check_refusal(error.into());
    }
    if prompt.len() <= PREFILLED_TOKENS_MAX {
        let Some((frames, seal)) = try_prefill(attempt, prompt) else {
            return;
        };
        let rows: u64 = seal.rows.iter().map(|&rows| u64::from(rows)).sum();
        assert!(rows <= attempt.rows_max() as u64, "{rows} rows");
        let header = attempt.header(Ticket([7; 16]), toy::loaded().fingerprint);
        let begun = lava_kv::Inbound::new(&header, &header, attempt.rows_max() as u64);
        let mut inbound = begun.expect("both ends agree");
        let pool = PagePool::new(toy::PAGE_BYTES as usize, 10_000);
        let pages = attempt.pages_max(pool.page_bytes());
        let reservation = pool.reserve(pages).expect("the pool is empty");
        let mut cache = RaggedCache::new(attempt.shape, reservation);
        for frame in &frames {
            let arrived = inbound.accept(frame).expect("a real sender's frame");
            cache.receive(&arrived).expect("it was reserved for");
        }
        let receipt = inbound.seal(&seal).expect("a real sender's seal");
        assert_eq!(receipt.rows, rows);
    }
}

fn engine_request<'a>(attempt: &Attempt, prompt: &'a [u32]) -> EngineRequest<'a> {
    EngineRequest {
        tokens: prompt,
        method: attempt.method,
        budget: attempt.budget,
        format: attempt.shape.format,
        appended_max: 0,
    }
}

/// The transfer of a prompt that counts up.
pub(crate) fn prefill(attempt: &Attempt) -> (Vec<Frame>, Seal) {
    let prompt = prompt(attempt.shape.tokens);
    try_prefill(attempt, &prompt).expect("the toy computes it")
}

/// What a prefill worker ships of a prompt; `None` if the engine refuses it.
fn try_prefill(attempt: &Attempt, prompt: &[u32]) -> Option<(Vec<Frame>, Seal)> {
    let loaded = toy::loaded();
    let header = attempt.header(Ticket([7; 16]), loaded.fingerprint);
    let mut outbound = Outbound::new(header, 1 << 10);
    let mut frames = Vec::new();
    let mut ship = |done: LayerDone<'_>| {
        let window = done.cascade.window_rows();
        let certain: Vec<usize> = (0..=done.layer)
            .flat_map(|layer| done.cascade.certain(layer).iter().map(|rows| window + rows))
            .collect();
        let ranges = outbound.table_rows().iter().zip(&certain);
        let ranges = ranges.map(|(shipped, certain)| *shipped..*certain);
        let reader = done.cache.reader(done.layer, ranges.enumerate());
        let rows = Rows {
            done,
            reader: reader.expect("it is on the CPU"),
        };
        frames.extend(outbound.ship(&certain, &rows));
        ControlFlow::Continue(())
    };
    let pool = PagePool::new(toy::PAGE_BYTES as usize, 10_000);
    let request = engine_request(attempt, prompt);
    match loaded.model.prefill(&request, &pool, &mut ship) {
        Ok(_) => Some((frames, outbound.seal(5))),
        Err(error) => {
            check_refusal(error.into());
            None
        }
    }
}

/// The rows of the finished layers, as they are kept.
struct Rows<'a> {
    done: LayerDone<'a>,
    reader: RowReader<'a>,
}

impl RowSource for Rows<'_> {
    fn position(&self, table: usize, row: usize) -> u32 {
        let kv_heads = self.done.cache.shape().kv_heads;
        let order = self
            .done
            .cascade
            .head_order(table / kv_heads, table % kv_heads);
        order[row - self.done.cascade.window_rows()]
    }

    fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        self.reader.copy_means(layer, out);
    }

    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        self.reader.copy_rows(table, rows, out);
    }
}

fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32)
        .map(|index| 3 + index * 7 % 256)
        .collect()
}

/// An attempt as coordinators make them.
pub(crate) fn attempt(tokens: usize, policy: &str, format: &str) -> proto::Attempt {
    proto::Attempt {
        request_id: "0123456789abcdef".into(),
        number: 1,
        fingerprint: toy::loaded().fingerprint.to_vec().into(),
        prompt_digest: lava_proto::prompt_digest(&prompt(tokens)).to_vec().into(),
        tokens: tokens as u32,
        policy: policy.into(),
        budget: 36,
        sampling: Some(Sampling {
            temperature: Some(0.7),
            top_k: Some(40),
            top_p: Some(0.9),
            min_p: Some(0.01),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(0.1),
            presence_penalty: Some(-0.1),
            seed: Some(11),
        }),
        logprobs: Some(2),
        end_of_text: vec![2],
        stop_token_ids: vec![40, 41],
        max_tokens: 16,
        deadline_ms: 30_000,
        answered: vec![9, 10],
        row_format: format.into(),
    }
}

/// Calls of a real coordinator.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let prefill = |tokens, policy, format| {
        let request = PrefillRequest {
            attempt: Some(attempt(tokens, policy, format)),
            prompt: lava_proto::ids_to_bytes(&[&prompt(tokens)]).into(),
            ticket: vec![7; 16].into(),
            link_address: "127.0.0.1:7071".into(),
        };
        [vec![PREFILL], request.encode_to_vec()].concat()
    };
    let decode = |tokens, policy, format| {
        let request = DecodeRequest {
            attempt: Some(attempt(tokens, policy, format)),
            rows_max: 1000,
            prompt_ids: vec![0b1010_1010; 40].into(),
        };
        [vec![DECODE], request.encode_to_vec()].concat()
    };
    vec![
        ("prefill-lava", prefill(40, "lava", "int4")),
        ("prefill-peaks", prefill(48, "lava-peaks+sinks=2", "int8")),
        ("prefill-full", prefill(9, "full", "f16")),
        ("prefill-code", prefill(60, "lava-code", "fp8")),
        ("prefill-cake", prefill(50, "cake", "bf16")),
        ("decode-lava", decode(40, "lava", "int4")),
        ("decode-ada", decode(400, "ada-snapkv", "f32")),
        ("decode-pyramid", decode(300, "pyramid", "f16")),
    ]
}
