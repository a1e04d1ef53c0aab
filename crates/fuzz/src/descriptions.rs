//! What workers say of themselves, up to where a request is placed by it.
//!
//! An input is descriptions, each with its length before it; the last part is a request. One honest worker of each role
//! is there as well.

use lava_coordinator::fuzzing::Fleet;
use lava_proto::v1::{self, GenerateRequest};
use lava_proto::worker::{self, Description, Load, Role};
use prost::Message as _;
use tonic::{Code, Status};

use crate::cursor::{Cursor, write_part};
use crate::{memory, toy};

/// Longest text of a status, which travels in a header.
const STATUS_BYTES_MAX: usize = 2048;

/// Describes a fleet and places a request on it.
pub(crate) fn run(input: &[u8]) {
    let mut rest = Cursor(input);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        parts.push(rest.part());
    }
    let Some((&request, descriptions)) = parts.split_last() else {
        return;
    };
    let mut said: Vec<Description> = Vec::new();
    for description in descriptions {
        said.extend(Description::decode(*description));
    }
    let Ok(request) = GenerateRequest::decode(request) else {
        return;
    };
    for (worker_id, role) in [("honest-p", Role::Prefill), ("honest-d", Role::Decode)] {
        if said.iter().all(|one| one.worker_id != worker_id) {
            said.push(toy::description(worker_id, role));
        }
    }
    let most = memory::SLACK_BYTES + 64 * input.len();
    memory::within(most, || place(said, request));
}

fn place(said: Vec<Description>, request: GenerateRequest) {
    let (fleet, refused) = Fleet::new(said.clone());
    for why in refused {
        assert!(why.len() <= 256, "{why}");
    }
    for (id, is_ready) in fleet.workers() {
        // The last one that calls itself so.
        let said = said.iter().rfind(|one| one.worker_id == id);
        let said = said.expect("a worker that nobody described");
        assert!(!is_ready || !said.draining, "a draining worker is ready");
    }
    for (name, prefill, decode) in fleet.models() {
        assert!(prefill > 0 && decode > 0, "{name} is served by half a pair");
    }
    match fleet.place(request) {
        Ok(placed) => {
            let of = |id: &str| said.iter().rfind(|one| one.worker_id == id);
            let prefill = of(&placed.prefill).expect("a worker that was described");
            let decode = of(&placed.decode).expect("a worker that was described");
            assert_eq!(
                (prefill.role(), decode.role()),
                (Role::Prefill, Role::Decode)
            );
            let model = |one: &Description| one.model.clone().expect("it was checked");
            let (of_prefill, of_decode) = (model(prefill), model(decode));
            assert_eq!(of_prefill.fingerprint, of_decode.fingerprint);
            assert_eq!(of_prefill.wire_version, lava_kv::WIRE_VERSION);
            assert_eq!(of_decode.wire_version, lava_kv::WIRE_VERSION);
            let Load {
                pages_total,
                pages_reserved,
                slots,
                slots_max,
                ..
            } = decode.load.expect("it was checked");
            assert!(placed.pages_max <= pages_total.saturating_sub(pages_reserved));
            assert!(slots < slots_max);

            let attempt = placed.request.attempt.expect("it is always there");
            assert!(
                placed.missing_tokens <= attempt.tokens.into(),
                "more than the prompt has"
            );
            assert_eq!(attempt.fingerprint, of_decode.fingerprint);
            let positions = attempt.tokens.checked_add(attempt.max_tokens);
            let most = of_prefill.positions_max.min(of_decode.positions_max);
            assert!(positions.is_some_and(|positions| positions <= most));
            let formats = [&of_prefill.row_formats, &of_decode.row_formats];
            assert!(
                formats
                    .iter()
                    .all(|known| known.contains(&attempt.row_format))
            );
        }
        Err(status) => check_refusal(&status),
    }
}

/// The client learns what is wrong in few words, and never by a bug of ours.
pub(crate) fn check_refusal(status: &Status) {
    let (code, text) = (status.code(), status.message());
    assert!(
        text.len() <= STATUS_BYTES_MAX,
        "a status of {} bytes",
        text.len()
    );
    let is_bug = text != "only ids can be placed without a tokenizer";
    assert!(code != Code::Internal || !is_bug, "{text}");
}

/// Workers of two models, and requests for one of them.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let request = GenerateRequest {
        model: "toy".into(),
        prompt: Some(v1::Prompt {
            form: Some(v1::prompt::Form::Tokens(v1::TokenIds {
                ids: (3..60).collect(),
            })),
        }),
        max_tokens: Some(8),
        ..GenerateRequest::default()
    };
    let other = |worker_id, role| {
        let mut description = toy::description(worker_id, role);
        let model = description.model.as_mut().expect("it is there");
        model.fingerprint = vec![9; 16].into();
        model.row_formats.truncate(3);
        description
    };
    let vast = |worker_id, role| {
        let mut description = other(worker_id, role);
        let model = description.model.as_mut().expect("it is there");
        (model.layers, model.kv_heads, model.head_dim) = (u32::MAX, u32::MAX, u32::MAX);
        (model.positions_max, model.vocabulary) = (u32::MAX, u32::MAX);
        let load = description.load.as_mut().expect("it is there");
        load.page_bytes *= 1 << 19;
        description
    };
    let mut keeping = toy::description("p4", Role::Prefill);
    let ids: Vec<u8> = (3..19u32).flat_map(u32::to_le_bytes).collect();
    keeping.prefixes = Some(worker::Prefixes {
        block_tokens: 16,
        version: 2,
        added: xxhash_rust::xxh3::xxh3_64(&ids)
            .to_le_bytes()
            .to_vec()
            .into(),
        ..Default::default()
    });
    let mut full = toy::description("d2", Role::Decode);
    full.load = Some(Load {
        pages_reserved: 9_999,
        slots: 4,
        ..full.load.unwrap_or_default()
    });
    let mut draining = toy::description("p2", Role::Prefill);
    draining.draining = true;
    let fleet = |descriptions: &[Description]| {
        let mut out = Vec::new();
        for description in descriptions {
            write_part(&mut out, &description.encode_to_vec());
        }
        write_part(&mut out, &request.encode_to_vec());
        out
    };
    vec![
        ("honest", fleet(&[])),
        (
            "mixed",
            fleet(&[other("p1", Role::Prefill), other("d1", Role::Decode)]),
        ),
        ("keeping", fleet(&[keeping])),
        (
            "vast",
            fleet(&[vast("p3", Role::Prefill), vast("d3", Role::Decode)]),
        ),
        ("busy", fleet(&[full, draining])),
    ]
}
