//! Connections for caches: their own, with windows that fit frames.

use std::time::Duration;

use lava_proto::worker::cache_link_client::CacheLinkClient;
use lava_proto::worker::cache_link_server::{CacheLink, CacheLinkServer};
use tonic::transport::{Channel, Endpoint};

use crate::MESSAGE_BYTES_MAX;
use crate::error::ShipError;

/// HTTP/2 windows in bytes: a few frames in flight fill a fast link at small distances.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// One connection to a decode worker, for cache traffic only. Cloning shares it. It connects when it is
/// first used, and again when it broke.
#[derive(Clone, Debug)]
pub struct Link {
    channel: Channel,
}

impl Link {
    /// A link to `address`, `host:port`.
    ///
    /// # Errors
    /// `Address`: it is not one.
    pub fn new(address: &str, connect_timeout: Duration) -> Result<Self, ShipError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|_| ShipError::Address {
            address: address.into(),
        })?;
        let channel = endpoint
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self { channel })
    }

    pub(crate) fn client(&self) -> CacheLinkClient<Channel> {
        CacheLinkClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// The receiver's service with the limits of a link.
pub fn server<S: CacheLink>(service: S) -> CacheLinkServer<S> {
    CacheLinkServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
