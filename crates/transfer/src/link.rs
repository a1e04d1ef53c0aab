//! Connections for caches: their own, with windows that fit frames.

use std::time::Duration;

use lava_node::World;
use lava_proto::worker::cache_link_client::CacheLinkClient;
use lava_proto::worker::cache_link_server::{CacheLink, CacheLinkServer};
use tonic::transport::{Channel, Endpoint};

use crate::MESSAGE_BYTES_MAX;
use crate::error::ShipError;
use crate::lane::{LaneSetup, Outgoing};

/// Time between pings on a connection that is silent, and for their answer: together the time after which a decode worker that is
/// frozen or cut off is given up. An answer waits behind what is in the sockets' buffers, so it has more time.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 windows in bytes: a few frames in flight fill a fast link at small distances.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// One connection to a decode worker, for cache traffic only, and the lane to it. Cloning shares both. It connects when it
/// is first used, and again when it broke.
#[derive(Clone, Debug)]
pub struct Link {
    channel: Channel,
    lane: Option<Outgoing>,
}

impl Link {
    /// A link to `address`, `host:port`. With `lanes` payloads go over a lane where the receiver has one too. Runs inside
    /// a runtime.
    ///
    /// # Errors
    /// `Address`: it is not one.
    pub fn new(
        address: &str,
        connect_timeout: Duration,
        lanes: Option<&LaneSetup>,
    ) -> Result<Self, ShipError> {
        Self::in_world(&World::default(), address, connect_timeout, lanes)
    }

    /// The same, over connections of `world`.
    ///
    /// # Errors
    /// `Address`: it is not one.
    pub fn in_world(
        world: &World,
        address: &str,
        connect_timeout: Duration,
        lanes: Option<&LaneSetup>,
    ) -> Result<Self, ShipError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|_| ShipError::Address {
            address: address.into(),
        })?;
        let endpoint = endpoint
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = world.channel(&endpoint);
        let lane = lanes.cloned();
        let lane = lane.map(|setup| Outgoing::new(setup, client(&channel), address.to_owned()));
        Ok(Self { channel, lane })
    }

    pub(crate) fn client(&self) -> CacheLinkClient<Channel> {
        client(&self.channel)
    }

    pub(crate) fn lane(&self) -> Option<&Outgoing> {
        self.lane.as_ref()
    }
}

fn client(channel: &Channel) -> CacheLinkClient<Channel> {
    CacheLinkClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The receiver's service with the limits of a link.
pub fn server<S: CacheLink>(service: S) -> CacheLinkServer<S> {
    CacheLinkServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
