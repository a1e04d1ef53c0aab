//! The gRPC server of a worker.

use std::time::Duration;

use tonic::transport::Server;

/// Streams of one connection: coordinators share one connection for all their requests.
const STREAMS_MAX: u32 = 4096;
/// Streams that may be reset before they were accepted. A coordinator that gives up many requests at
/// once would otherwise lose the connection.
const PENDING_RESETS_MAX: usize = 4096;
/// HTTP/2 windows in bytes: a few frames of a cache.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A server that notices dead peers and stands mass cancellation.
pub fn server_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}
