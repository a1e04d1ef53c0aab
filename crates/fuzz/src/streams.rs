//! Messages as a peer streams them.

use bytes::{BufMut, BytesMut};
use http_body_util::Full;
use lava_proto::StrictCodec;
use lava_transfer::MESSAGE_BYTES_MAX;
use prost::Message;
use tonic::Streaming;
use tonic::codec::Codec;

/// The messages as a body of HTTP/2, one of gRPC's frames each. `R` is what the call answers with.
pub(crate) fn stream<T, R>(messages: &[T]) -> Streaming<T>
where
    T: Message + Default + Send + 'static,
    R: Message + Default + Send + 'static,
{
    let mut body = BytesMut::new();
    for message in messages {
        body.put_u8(0);
        body.put_u32(message.encoded_len() as u32);
        message.encode(&mut body).expect("the buffer grows");
    }
    let decoder = StrictCodec::<R, T>::default().decoder();
    let body = Full::new(body.freeze());
    Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX))
}
