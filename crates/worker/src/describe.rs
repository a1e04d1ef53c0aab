//! The service that coordinators ask who a worker is, and that operators end it by.

use std::sync::Arc;

use lava_node::{Health, Shutdown, State};
use lava_proto::worker::worker_server::{Worker, WorkerServer};
use lava_proto::worker::{
    DescribeRequest, Description, DrainRequest, DrainResponse, GetTextFilesRequest, Load, Prefixes,
    Role, TextFiles,
};
use tonic::{Request, Response, Status};

use crate::loaded::Loaded;

/// How busy a worker is now.
pub type Busy = Arc<dyn Fn() -> Load + Send + Sync>;

/// What changed of the fronts of prompts that a worker keeps, since the version that the caller knows.
pub type Kept = Arc<dyn Fn(u64) -> Prefixes + Send + Sync>;

/// Answers `Worker`.
pub struct Describe {
    worker_id: String,
    role: Role,
    loaded: Arc<Loaded>,
    busy: Busy,
    kept: Option<Kept>,
    health: Health,
    shutdown: Shutdown,
}

impl Describe {
    /// The service for a worker with this id.
    pub fn service(
        worker_id: String,
        role: Role,
        loaded: Arc<Loaded>,
        busy: Busy,
        kept: Option<Kept>,
        health: Health,
        shutdown: Shutdown,
    ) -> WorkerServer<Self> {
        WorkerServer::new(Self {
            worker_id,
            role,
            loaded,
            busy,
            kept,
            health,
            shutdown,
        })
        .max_encoding_message_size(lava_proto::MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Worker for Describe {
    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<Description>, Status> {
        Ok(Response::new(Description {
            worker_id: self.worker_id.clone(),
            role: self.role.into(),
            model: Some(self.loaded.describe()),
            load: Some((self.busy)()),
            draining: self.health.state() != State::Serving,
            prefixes: self
                .kept
                .as_ref()
                .map(|kept| kept(request.get_ref().prefixes_known)),
        }))
    }

    async fn get_text_files(
        &self,
        _request: Request<GetTextFilesRequest>,
    ) -> Result<Response<TextFiles>, Status> {
        let content = self.loaded.text();
        Ok(Response::new(TextFiles { content }))
    }

    async fn drain(
        &self,
        _request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        tracing::info!("shutting down at a call");
        self.shutdown.trigger();
        let load = Some((self.busy)());
        Ok(Response::new(DrainResponse { load }))
    }
}
