//! Messages of the wire and the types of `crates/kv`.

use bytes::Bytes;
use lava_kv::{CacheShape, Frame, Header, Receipt, Seal, Ticket, WIRE_VERSION, WireError};
use lava_proto::worker as proto;

use crate::error::ReceiveError;
use crate::lane::LaneId;

pub(crate) fn header_to_wire(header: &Header, lane: Option<LaneId>) -> proto::Header {
    let shape = header.shape;
    proto::Header {
        wire_version: WIRE_VERSION,
        ticket: header.ticket.0.to_vec().into(),
        attempt: header.attempt,
        prompt_digest: header.prompt_digest.to_vec().into(),
        fingerprint: header.fingerprint.to_vec().into(),
        layers: shape.layers as u32,
        kv_heads: shape.kv_heads as u32,
        head_dim: shape.head_dim as u32,
        tokens: shape.tokens as u32,
        window_rows: shape.window_rows as u32,
        row_format: shape.format.name().to_owned(),
        wide_rows: shape.wide_rows as u32,
        lane: lane.map_or_else(Bytes::new, |lane| lane.to_vec().into()),
    }
}

/// The lane that a header names.
pub(crate) fn lane_from_wire(header: &proto::Header) -> Result<Option<LaneId>, ReceiveError> {
    match &header.lane[..] {
        [] => Ok(None),
        lane => Ok(Some(sixteen("lane", lane)?)),
    }
}

pub(crate) fn header_from_wire(header: &proto::Header) -> Result<Header, ReceiveError> {
    if header.wire_version != WIRE_VERSION {
        let found = header.wire_version;
        return Err(ReceiveError::Wire(WireError::Version {
            found,
            expected: WIRE_VERSION,
        }));
    }
    Ok(Header {
        ticket: Ticket(sixteen("ticket", &header.ticket)?),
        attempt: header.attempt,
        prompt_digest: sixteen("prompt_digest", &header.prompt_digest)?,
        fingerprint: sixteen("fingerprint", &header.fingerprint)?,
        shape: CacheShape {
            layers: header.layers as usize,
            kv_heads: header.kv_heads as usize,
            head_dim: header.head_dim as usize,
            tokens: header.tokens as usize,
            window_rows: header.window_rows as usize,
            wide_rows: header.wide_rows as usize,
            format: header.row_format.parse()?,
        },
    })
}

fn sixteen(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], ReceiveError> {
    bytes.try_into().map_err(|_| ReceiveError::FieldLen {
        field,
        found: bytes.len(),
        expected: 16,
    })
}

pub(crate) fn frame_to_wire(frame: Frame) -> proto::Frame {
    proto::Frame {
        sequence: frame.sequence,
        checksum: frame.checksum,
        payload: frame.payload,
        by_lane: false,
    }
}

/// A frame whose payload goes over a lane.
pub(crate) fn frame_by_lane(frame: &Frame) -> proto::Frame {
    proto::Frame {
        sequence: frame.sequence,
        checksum: frame.checksum,
        payload: Bytes::new(),
        by_lane: true,
    }
}

pub(crate) fn frame_from_wire(frame: proto::Frame) -> Frame {
    Frame {
        sequence: frame.sequence,
        checksum: frame.checksum,
        payload: frame.payload,
    }
}

pub(crate) fn seal_to_wire(seal: Seal) -> proto::Seal {
    proto::Seal {
        frames: seal.frames,
        checksum: seal.checksum,
        rows: seal.rows,
        first_token: seal.first_token,
    }
}

pub(crate) fn seal_from_wire(seal: proto::Seal) -> Seal {
    Seal {
        frames: seal.frames,
        checksum: seal.checksum,
        rows: seal.rows,
        first_token: seal.first_token,
    }
}

pub(crate) fn receipt_to_wire(receipt: Receipt) -> proto::Receipt {
    proto::Receipt {
        rows: receipt.rows,
        checksum: receipt.checksum,
    }
}

pub(crate) fn receipt_from_wire(receipt: proto::Receipt) -> Receipt {
    Receipt {
        rows: receipt.rows,
        checksum: receipt.checksum,
    }
}
