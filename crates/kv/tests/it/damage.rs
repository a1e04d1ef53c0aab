//! Every way to damage a transfer is refused by name. Damage that leaves a transfer as it was does not
//! exist: each byte matters.

use bytes::Bytes;
use lava_kv::{Frame, WireError};
use proptest::prelude::*;

use crate::plain::transfers;

proptest! {
    #[test]
    fn a_flipped_bit_anywhere_is_refused(transfer in transfers(), which in any::<prop::sample::Index>(),
                                         byte in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (mut frames, seal) = transfer.send();
        let frame = which.get(&frames).sequence as usize;
        let mut payload = frames[frame].payload.to_vec();
        let at = byte.index(payload.len());
        payload[at] ^= 1 << bit;
        frames[frame].payload = Bytes::from(payload);
        let error = transfer.receive(&transfer.header, &frames, &seal).unwrap_err();
        let corrupt = matches!(error, WireError::Corrupt { sequence, .. } if sequence as usize == frame);
        prop_assert!(corrupt);
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_refused(transfer in transfers(), which in any::<prop::sample::Index>(),
                                          byte in any::<prop::sample::Index>()) {
        let (mut frames, seal) = transfer.send();
        let frame = which.index(frames.len());
        let len = byte.index(frames[frame].payload.len());
        frames[frame].payload.truncate(len);
        let error = transfer.receive(&transfer.header, &frames, &seal).unwrap_err();
        prop_assert!(matches!(error, WireError::Corrupt { .. }), "{error}");
    }

    #[test]
    fn a_stream_cut_after_any_frame_is_refused(transfer in transfers(), which in any::<prop::sample::Index>()) {
        let (frames, seal) = transfer.send();
        let kept = which.index(frames.len());
        let error = transfer.receive(&transfer.header, &frames[..kept], &seal).unwrap_err();
        prop_assert!(matches!(error, WireError::Unsealed { what: "number of frames", .. }), "{error}");
    }

    #[test]
    fn a_dropped_repeated_or_moved_frame_is_refused(transfer in transfers(), which in any::<prop::sample::Index>(),
                                                    other in any::<prop::sample::Index>()) {
        let (frames, seal) = transfer.send();
        let (i, j) = (which.index(frames.len()), other.index(frames.len()));
        let mut dropped = frames.clone();
        dropped.remove(i);
        let mut repeated = frames.clone();
        repeated.insert(j, frames[i].clone());
        let mut swapped = frames.clone();
        swapped.swap(i, j);
        for (damaged, harmless) in [(dropped, false), (repeated, false), (swapped, i == j)] {
            if !harmless {
                let error = transfer.receive(&transfer.header, &damaged, &seal).unwrap_err();
                let named = matches!(error, WireError::OutOfOrder { .. } | WireError::Unsealed { .. });
                prop_assert!(named, "{error}");
            }
        }
    }

    #[test]
    fn renumbered_frames_are_caught_by_the_chain(transfer in transfers()) {
        let (mut frames, seal) = transfer.send();
        prop_assume!(frames.len() > 1 && frames[0].payload != frames[1].payload);
        frames.swap(0, 1);
        (frames[0].sequence, frames[1].sequence) = (0, 1);
        let error = transfer.receive(&transfer.header, &frames, &seal).unwrap_err();
        prop_assert!(matches!(error, WireError::Corrupt { sequence: 0, .. }), "{error}");
    }

    #[test]
    fn every_field_of_frame_and_seal_is_guarded(transfer in transfers(), which in any::<prop::sample::Index>(),
                                                table in any::<prop::sample::Index>(), bit in 0u32..32) {
        let (frames, seal) = transfer.send();
        let i = which.index(frames.len());
        let damaged_frame = |damage: &dyn Fn(&mut Frame)| {
            let mut frames = frames.clone();
            damage(&mut frames[i]);
            transfer.receive(&transfer.header, &frames, &seal).unwrap_err()
        };
        let error = damaged_frame(&|frame| frame.sequence ^= 1 << bit);
        prop_assert!(matches!(error, WireError::OutOfOrder { .. }), "{error}");
        let error = damaged_frame(&|frame| frame.checksum ^= 1 << bit);
        prop_assert!(matches!(error, WireError::Corrupt { .. }), "{error}");

        let damaged_seal = |damage: &dyn Fn(&mut lava_kv::Seal)| {
            let mut seal = seal.clone();
            damage(&mut seal);
            transfer.receive(&transfer.header, &frames, &seal).unwrap_err()
        };
        let error = damaged_seal(&|seal| seal.frames ^= 1 << bit);
        prop_assert!(matches!(error, WireError::Unsealed { .. }), "{error}");
        for error in [
            damaged_seal(&|seal| seal.checksum ^= 1 << bit),
            damaged_seal(&|seal| seal.first_token ^= 1 << bit),
            damaged_seal(&|seal| {
                let at = table.index(seal.rows.len());
                seal.rows[at] ^= 1 << bit;
            }),
            damaged_seal(&|seal| seal.rows.push(0)),
        ] {
            prop_assert!(matches!(error, WireError::CorruptSeal { .. }), "{error}");
        }
    }

    #[test]
    fn every_field_of_a_foreign_or_stale_header_is_named(transfer in transfers()) {
        let (frames, seal) = transfer.send();
        let refused = |change: &dyn Fn(&mut lava_kv::Header)| {
            let mut expected = transfer.header;
            change(&mut expected);
            transfer.receive(&expected, &frames, &seal).unwrap_err()
        };
        let error = refused(&|header| header.ticket.0[3] ^= 1);
        prop_assert!(matches!(error, WireError::ForeignTicket { .. }), "{error}");
        let error = refused(&|header| header.attempt += 1);
        prop_assert!(matches!(error, WireError::StaleAttempt { .. }), "{error}");
        let error = refused(&|header| header.fingerprint[9] ^= 1);
        prop_assert!(matches!(error, WireError::ForeignModel), "{error}");
        let error = refused(&|header| header.prompt_digest[9] ^= 1);
        prop_assert!(matches!(error, WireError::ForeignPrompt), "{error}");
        let error = refused(&|header| header.shape.tokens += 1);
        prop_assert!(matches!(error, WireError::Shape { .. }), "{error}");
    }

    #[test]
    fn frames_of_another_transfer_are_refused(transfer in transfers()) {
        let (frames, _) = transfer.send();
        let mut other = transfer.clone();
        other.header.ticket.0[0] ^= 1;
        let (foreign, seal) = other.send();
        prop_assert_eq!(frames.len(), foreign.len());
        let error = transfer.receive(&transfer.header, &foreign, &seal).unwrap_err();
        prop_assert!(matches!(error, WireError::Corrupt { sequence: 0, .. }), "{error}");
        let error = transfer.receive(&transfer.header, &frames, &seal).unwrap_err();
        prop_assert!(matches!(error, WireError::CorruptSeal { .. }), "{error}");
    }

    #[test]
    fn arbitrary_payloads_with_right_checksums_never_panic(transfer in transfers(), payload in any::<Vec<u8>>()) {
        // The chain is private, so the right checksum is read off the refusal of a wrong one.
        let frame = |checksum| Frame { sequence: 0, checksum, payload: Bytes::from(payload.clone()) };
        let inbound = || lava_kv::Inbound::new(&transfer.header, &transfer.header, 1 << 40).unwrap();
        let Err(WireError::Corrupt { expected, .. }) = inbound().accept(&frame(0)) else {
            return Ok(());
        };
        if let Err(error) = inbound().accept(&frame(expected)) {
            prop_assert!(matches!(error, WireError::Malformed { .. }), "{error}");
        }
    }
}
