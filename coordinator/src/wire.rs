//! Messages of `lava.worker.v1` to and from what the rest of the crate works with. A worker that sends
//! what no worker of this release sends is at fault.

use std::sync::Arc;
use std::time::Duration;

use lava_kv::{RowFormat, WIRE_VERSION};
use lava_prefix::{BlockName, Changes};
use lava_proto::v1::FinishReason;
use lava_proto::{ids_to_bytes, prompt_digest_of, worker};

use crate::convert::Order;
use crate::flight::{DecodeEvent, PrefillEvent, Ticket};
use crate::placement::Needs;
use crate::request_id::RequestId;
use crate::snapshot::{Fingerprint, Load, Model, Role, TextDigest, Worker, WorkerId};
use crate::status::WorkerFailure;

/// Blocks of prompts that one worker may name: 128 million tokens in blocks of 512.
const PREFIX_NAMES_MAX: usize = 1 << 18;

/// Why a worker's description cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDescription {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} is {found}, expected {expected}")]
    Value {
        field: &'static str,
        found: u64,
        expected: &'static str,
    },
}

/// A worker, as it says itself. It is ready as far as it can say: it drains not and speaks our wire
/// version.
///
/// # Errors
/// It said something that it cannot be.
pub(crate) fn worker(
    description: worker::Description,
    address: &str,
) -> Result<Worker, BadDescription> {
    use BadDescription::{Missing, Value};
    let model = description.model.ok_or(Missing("model"))?;
    let said = description.load.ok_or(Missing("load"))?;
    let said_prefixes = description.prefixes.map(|prefixes| prefixes.block_tokens);
    let role = worker::Role::try_from(description.role).unwrap_or_default();
    if description.worker_id.is_empty() {
        return Err(Missing("worker_id"));
    }
    let load = match role {
        worker::Role::Prefill => Load::Prefill {
            queue: said.queue,
            queue_max: said.queue_max,
            queue_tokens: said.queue_tokens,
            recent_tokens: said.recent_tokens,
            block_tokens: said_prefixes.filter(|&tokens| tokens > 0),
        },
        worker::Role::Decode => Load::Decode {
            pages_reserved: said.pages_reserved,
            pages_total: said.pages_total,
            page_bytes: said.page_bytes,
            slots: said.slots,
            slots_max: said.slots_max,
        },
        worker::Role::Unspecified => return Err(Missing("role")),
    };
    for (field, value) in [
        ("model.positions_max", model.positions_max),
        ("model.layers", model.layers),
        ("model.kv_heads", model.kv_heads),
        ("model.head_dim", model.head_dim),
        ("model.vocabulary", model.vocabulary),
    ] {
        at_least_one(field, value)?;
    }
    // Formats of a later release are not asked for.
    let names = model.row_formats.iter();
    let row_formats: Vec<RowFormat> = names.filter_map(|name| name.parse().ok()).collect();
    if row_formats.is_empty() {
        return Err(Missing("model.row_formats"));
    }
    let sixteen = |field, bytes: &[u8]| {
        <[u8; 16]>::try_from(bytes).map_err(|_| Value {
            field,
            found: bytes.len() as u64,
            expected: "16 bytes",
        })
    };
    Ok(Worker {
        id: WorkerId(description.worker_id.into()),
        address: address.to_owned(),
        load,
        ready: !description.draining && model.wire_version == WIRE_VERSION,
        model: Arc::new(Model {
            fingerprint: Fingerprint(sixteen("model.fingerprint", &model.fingerprint)?),
            text_digest: TextDigest(sixteen("model.text_digest", &model.text_digest)?),
            name: model.name,
            positions_max: model.positions_max,
            layers: model.layers,
            kv_heads: model.kv_heads,
            vocabulary: model.vocabulary,
            head_dim: model.head_dim,
            row_formats,
            end_of_text: model.end_of_text,
        }),
    })
}

/// What changed of the fronts of prompts that a worker keeps.
///
/// # Errors
/// It named more than a coordinator remembers of one worker, or names that are cut.
pub(crate) fn prefix_changes(prefixes: &worker::Prefixes) -> Result<Changes, BadDescription> {
    let names = |field, bytes: &[u8]| {
        let (names, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || names.len() > PREFIX_NAMES_MAX {
            return Err(BadDescription::Value {
                field,
                found: bytes.len() as u64,
                expected: "8 bytes for each name, 262,144 names at most",
            });
        }
        let names = names.iter().map(|name| u64::from_le_bytes(*name));
        Ok(names.map(BlockName).collect())
    };
    Ok(Changes {
        since: prefixes.since,
        version: prefixes.version,
        added: names("prefixes.added", &prefixes.added)?,
        removed: names("prefixes.removed", &prefixes.removed)?,
    })
}

fn at_least_one(field: &'static str, value: u32) -> Result<(), BadDescription> {
    match value {
        0 => Err(BadDescription::Value {
            field,
            found: 0,
            expected: "at least 1",
        }),
        _ => Ok(()),
    }
}

/// One attempt of one choice, for both workers.
#[derive(Debug)]
pub(crate) struct AttemptParts<'a> {
    pub(crate) order: &'a Order,
    pub(crate) request_id: &'a RequestId,
    pub(crate) choice: u32,
    pub(crate) number: u32,
    /// Tokens that earlier attempts made.
    pub(crate) emitted: &'a [u32],
    pub(crate) time_left: Duration,
}

impl AttemptParts<'_> {
    /// The call to the decode worker.
    pub(crate) fn decode_request(&self) -> worker::DecodeRequest {
        let size = self.order.size_after(self.emitted.len());
        let penalised = self.order.sampling.repetition_penalty != Some(1.0);
        let prompt_ids = match penalised {
            true => bitmap(&self.order.prompt, self.order.model.vocabulary),
            false => Vec::new(),
        };
        worker::DecodeRequest {
            attempt: Some(self.attempt()),
            rows_max: Needs::new(&self.order.model, size).rows_max(),
            prompt_ids: prompt_ids.into(),
        }
    }

    /// The call to the prefill worker.
    pub(crate) fn prefill_request(
        &self,
        ticket: Ticket,
        link_address: String,
    ) -> worker::PrefillRequest {
        worker::PrefillRequest {
            attempt: Some(self.attempt()),
            // What the model reads in this attempt.
            prompt: ids_to_bytes(&[&self.order.prompt, self.emitted]).into(),
            ticket: ticket.0.to_vec().into(),
            link_address,
        }
    }

    fn attempt(&self) -> worker::Attempt {
        let order = self.order;
        let size = order.size_after(self.emitted.len());
        let millis = u64::try_from(self.time_left.as_millis()).unwrap_or(u64::MAX);
        worker::Attempt {
            request_id: self.request_id.as_str().to_owned(),
            number: self.number,
            fingerprint: order.model.fingerprint.0.to_vec().into(),
            prompt_digest: prompt_digest_of(&[&self.order.prompt, self.emitted])
                .to_vec()
                .into(),
            tokens: size.tokens,
            policy: size.method.to_string(),
            budget: size.budget,
            row_format: size.format.to_string(),
            sampling: Some(order.sampling(self.choice)),
            logprobs: order.logprobs,
            end_of_text: order.end_of_text.to_vec(),
            stop_token_ids: order.stop_token_ids.to_vec(),
            max_tokens: size.max_tokens,
            // What is left of a millisecond is not nothing.
            deadline_ms: millis.max(1),
            answered: self.emitted.to_vec(),
        }
    }
}

/// Bit i of byte i / 8 says that id i is among `ids`.
fn bitmap(ids: &[u32], vocabulary: u32) -> Vec<u8> {
    let mut bits = vec![0; vocabulary.div_ceil(8) as usize];
    for id in ids {
        bits[(id / 8) as usize] |= 1 << (id % 8);
    }
    bits
}

/// What a decode worker reports; `address` is that of its control port.
///
/// # Errors
/// The worker sent what no worker of this release sends.
pub(crate) fn decode_event(
    event: worker::DecodeEvent,
    address: &str,
) -> Result<DecodeEvent, WorkerFailure> {
    use worker::decode_event::Event;
    let protocol = |what| WorkerFailure::protocol(Role::Decode, what);
    match event.event {
        None => Err(protocol("it sent an empty event")),
        Some(Event::Reserved(reserved)) => {
            let ticket = <[u8; 16]>::try_from(&*reserved.ticket);
            let ticket = ticket.map_err(|_| protocol("its ticket has not 16 bytes"))?;
            let link_address = match reserved.link_address.is_empty() {
                true => address.to_owned(),
                false => reserved.link_address,
            };
            Ok(DecodeEvent::Reserved {
                ticket: Ticket(ticket),
                link_address,
            })
        }
        Some(Event::FirstStep(step)) => Ok(DecodeEvent::FirstStep(step.stats.unwrap_or_default())),
        Some(Event::Tokens(tokens)) => Ok(DecodeEvent::Tokens(tokens.tokens)),
        Some(Event::Done(done)) => {
            let reason = finish_reason(done.reason);
            let reason = reason.ok_or_else(|| protocol("it ended without a reason of its own"))?;
            Ok(DecodeEvent::Done(reason))
        }
    }
}

/// Pages that a reservation set aside, if that is what the event is.
pub(crate) fn pages_reserved(event: &worker::DecodeEvent) -> Option<u64> {
    match &event.event {
        Some(worker::decode_event::Event::Reserved(reserved)) => Some(reserved.pages),
        _ => None,
    }
}

/// What a prefill worker reports.
///
/// # Errors
/// The worker sent what no worker of this release sends.
pub(crate) fn prefill_event(event: worker::PrefillEvent) -> Result<PrefillEvent, WorkerFailure> {
    use worker::prefill_event::Event;
    let protocol = |what| WorkerFailure::protocol(Role::Prefill, what);
    match event.event {
        None => Err(protocol("it sent an empty event")),
        Some(Event::FirstToken(first)) => {
            let finish = match first.finish() {
                FinishReason::Unspecified if first.finish == 0 => None,
                _ => {
                    let reason = finish_reason(first.finish);
                    Some(
                        reason
                            .ok_or_else(|| protocol("it ended for a reason that is not its own"))?,
                    )
                }
            };
            let token = first
                .token
                .ok_or_else(|| protocol("its first token is empty"))?;
            Ok(PrefillEvent::FirstToken { token, finish })
        }
        Some(Event::Done(done)) => Ok(PrefillEvent::Done(done.stats.unwrap_or_default())),
    }
}

/// A reason for which workers end answers. Stop strings and the end of the context are the coordinator's own.
fn finish_reason(reason: i32) -> Option<FinishReason> {
    use FinishReason::{EndOfText, MaxTokens, StopToken};
    let known = FinishReason::try_from(reason).ok();
    known.filter(|reason| matches!(reason, EndOfText | StopToken | MaxTokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> worker::Description {
        worker::Description {
            worker_id: "d1".to_owned(),
            role: worker::Role::Decode.into(),
            model: Some(worker::Model {
                name: "toy".to_owned(),
                fingerprint: vec![1; 16].into(),
                positions_max: 1000,
                layers: 2,
                kv_heads: 2,
                head_dim: 16,
                vocabulary: 259,
                row_formats: vec!["int5".into(), "int4".into()],
                end_of_text: vec![2],
                text_digest: vec![7; 16].into(),
                wire_version: WIRE_VERSION,
            }),
            load: Some(worker::Load {
                page_bytes: 1024,
                ..worker::Load::default()
            }),
            draining: false,
            prefixes: None,
        }
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut worker::Description), expected: &str) {
        let mut description = description();
        change(&mut description);
        let refused = worker(description, "a:1").unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn a_description_becomes_a_worker() {
        let found = worker(description(), "a:1").unwrap();
        assert_eq!(found.model.row_formats, [RowFormat::Int4]);
        assert!(found.ready);
        assert_eq!(found.load.role(), Role::Decode);
    }

    #[test]
    fn a_draining_worker_and_one_of_another_wire_version_are_not_ready() {
        let mut draining = description();
        draining.draining = true;
        assert!(!worker(draining, "a:1").unwrap().ready);
        let mut newer = description();
        newer.model.as_mut().unwrap().wire_version = WIRE_VERSION + 1;
        assert!(!worker(newer, "a:1").unwrap().ready);
    }

    #[test]
    fn descriptions_of_what_cannot_be_are_refused() {
        check_refused(|d| d.model = None, "model is missing");
        check_refused(|d| d.role = 0, "role is missing");
        check_refused(|d| d.worker_id.clear(), "worker_id is missing");
        check_refused(
            |d| d.model.as_mut().unwrap().fingerprint = vec![1; 15].into(),
            "model.fingerprint is 15, expected 16 bytes",
        );
        check_refused(
            |d| d.model.as_mut().unwrap().row_formats = vec!["int5".into()],
            "model.row_formats is missing",
        );
    }

    #[test]
    fn names_of_blocks_are_whole_or_refused() {
        let prefixes = |added: &'static [u8]| worker::Prefixes {
            added: added.into(),
            ..Default::default()
        };
        let changes = prefix_changes(&prefixes(&[1, 0, 0, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(changes.added, [BlockName((1 << 56) + 1)]);
        let refused = prefix_changes(&prefixes(&[1; 9])).unwrap_err().to_string();
        assert!(
            refused.starts_with("prefixes.added is 9, expected 8 bytes"),
            "{refused}"
        );
        let many = worker::Prefixes {
            removed: vec![0; 8 * (PREFIX_NAMES_MAX + 1)].into(),
            ..Default::default()
        };
        assert!(prefix_changes(&many).is_err());
    }

    #[test]
    fn the_bitmap_has_a_bit_for_every_id() {
        assert_eq!(bitmap(&[0, 9, 17], 18), [0b1, 0b10, 0b10]);
        assert_eq!(bitmap(&[], 16), [0, 0]);
    }

    #[test]
    fn an_empty_link_address_is_the_workers_own() {
        let reserved = |address: &str, ticket: usize| {
            let reserved = worker::Reserved {
                ticket: vec![9; ticket].into(),
                link_address: address.to_owned(),
                pages: 3,
            };
            let event = Some(worker::decode_event::Event::Reserved(reserved));
            decode_event(worker::DecodeEvent { event }, "own:1")
        };
        let link = |address| match reserved(address, 16).unwrap() {
            DecodeEvent::Reserved { link_address, .. } => link_address,
            other => panic!("{other:?}"),
        };
        assert_eq!(link(""), "own:1");
        assert_eq!(link("nccl:2"), "nccl:2");
        assert!(reserved("", 15).is_err());
    }

    #[test]
    fn an_end_without_a_reason_that_workers_have_is_refused() {
        // Found by the fuzz target `events`: a client was told of a stop string that it had not asked for.
        let strange = [
            FinishReason::StopString as i32,
            FinishReason::Context as i32,
            99,
        ];
        for reason in strange.into_iter().chain([0]) {
            let done = worker::DecodeDone { reason };
            let event = Some(worker::decode_event::Event::Done(done));
            assert!(decode_event(worker::DecodeEvent { event }, "a:1").is_err());
        }
        for finish in strange {
            let first = worker::FirstToken {
                token: Some(lava_proto::v1::Token::default()),
                finish,
            };
            let event = Some(worker::prefill_event::Event::FirstToken(first));
            assert!(prefill_event(worker::PrefillEvent { event }).is_err());
        }
        assert!(decode_event(worker::DecodeEvent { event: None }, "a:1").is_err());
        assert!(prefill_event(worker::PrefillEvent { event: None }).is_err());
    }
}
