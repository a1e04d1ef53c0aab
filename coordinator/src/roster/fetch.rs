//! Takes a model's text files from a worker.

use std::sync::Arc;
use std::time::Duration;

use lava_node::World;
use lava_proto::MESSAGE_BYTES_MAX;
use lava_proto::worker::GetTextFilesRequest;
use lava_proto::worker::worker_client::WorkerClient;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::snapshot::TextDigest;
use crate::texts::{Text, TextsError};

/// Text files are large; they take longer than a probe.
const TEXT_FILES_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the worker at the other end of `control`, and builds what it sends.
///
/// # Errors
/// It does not send them in time, or what it sends is of no use.
pub(super) async fn fetch(
    digest: TextDigest,
    control: Channel,
    world: &World,
) -> Result<Arc<Text>, TextsError> {
    let mut client = WorkerClient::new(control).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let call = timeout(
        TEXT_FILES_TIMEOUT,
        client.get_text_files(GetTextFilesRequest {}),
    );
    let files = match call.await {
        Ok(files) => files.map_err(Box::new)?.into_inner(),
        Err(_) => return Err(TextsError::Late),
    };
    let built = world.blocking(move || Text::new(&files.content, digest).map(Arc::new));
    built.await.map_err(|_| TextsError::Panicked)?
}
