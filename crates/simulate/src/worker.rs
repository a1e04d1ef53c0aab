//! One simulated worker, from its first connection to its end.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use lava_node::{Health, Shutdown, State, World};
use lava_prefix::KeptBlocks;
use lava_proto::worker as proto;
use lava_proto::worker::cache_link_server::CacheLinkServer;
use lava_proto::worker::decode_server::DecodeServer;
use lava_proto::worker::prefill_server::PrefillServer;
use lava_proto::worker::worker_server::{self, WorkerServer};
use lava_proto::worker::{
    DescribeRequest, Description, DrainRequest, DrainResponse, GetTextFilesRequest, TextFiles,
};
use lava_worker::{Drain, Kept, Membership, prefixes_to_wire, serve_incoming, server_builder};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::{Request, Response, Status};

use crate::decode::{DecodeService, Memory};
use crate::fault::Dice;
use crate::gauges::Gauges;
use crate::model::Model;
use crate::prefill::{BLOCK_TOKENS, Busy, PrefillService};
use crate::profile::Profile;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Prompts.
    Prefill,
    /// Tokens.
    Decode,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, and has drained.
    Drained,
    /// A fault of the profile took it away. Whoever runs it has to drop its runtime, so that its sockets close.
    Vanished,
}

/// A worker that is about to serve.
#[derive(Debug)]
pub struct Worker {
    /// What it does.
    pub role: Role,
    /// What it serves.
    pub model: Arc<Model>,
    /// How.
    pub profile: Profile,
    /// What its owner keeps of it.
    pub watch: Watch,
}

/// What can be seen of a worker from outside, and done to it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// When this is cancelled the worker is gone at once, as if it was killed.
    pub vanish: CancellationToken,
    /// Prompt tokens that it was given to compute.
    pub given_tokens: Arc<AtomicU64>,
    /// Those of them that wait or are being computed.
    pub queued_tokens: Arc<AtomicU64>,
    /// What it holds.
    pub gauges: Gauges,
}

/// How busy it is.
type Load = Arc<dyn Fn() -> proto::Load + Send + Sync>;

struct Describe {
    worker_id: String,
    role: Role,
    model: Arc<Model>,
    load: Load,
    kept: Option<Kept>,
    health: Health,
    shutdown: Shutdown,
}

impl Worker {
    /// Serves on a thread of its own, until it ends; if it vanishes, everything of it is gone at once, as of a process that was killed.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn(
        self,
        listener: std::net::TcpListener,
        membership: Membership,
        health: Health,
        shutdown: Shutdown,
    ) -> io::Result<JoinHandle<Result<Ended>>> {
        let name = format!("{:?}", self.role).to_lowercase();
        thread::Builder::new().name(name).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start a runtime")?;
            let serving = async {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                self.serve(listener, membership, health, shutdown).await
            };
            runtime.block_on(serving)
        })
    }

    /// Serves until `shutdown`, or until it vanishes.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn serve(
        self,
        listener: TcpListener,
        membership: Membership,
        health: Health,
        shutdown: Shutdown,
    ) -> Result<Ended> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let (world, vanish) = (World::default(), self.watch.vanish.clone());
        let serving = self.serve_in_world(world, incoming, membership, health, shutdown);
        tokio::select! {
            biased;
            () = vanish.cancelled() => Ok(Ended::Vanished),
            served = serving => served.map(|()| Ended::Drained),
        }
    }

    /// Serves until `shutdown`, with the connections of another world, both those to other workers and those that come in. When the
    /// worker is to vanish it goes on all the same: to take it away is up to whoever has its [`Watch`].
    ///
    /// # Errors
    /// What brings the connections failed.
    pub async fn serve_in_world<S>(
        self,
        world: World,
        incoming: impl Stream<Item = io::Result<S>>,
        membership: Membership,
        health: Health,
        shutdown: Shutdown,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let Self {
            role,
            model,
            profile,
            watch,
        } = self;
        let worker_id = membership.worker_id.clone();
        let vanish = watch.vanish.clone();
        let dice = Dice::new(profile.seed, role, &worker_id, &profile.faults, vanish);
        let dice = Arc::new(dice);
        let describe = |load: Load, kept: Option<Kept>| {
            let describe = Describe {
                worker_id: worker_id.clone(),
                role,
                model: Arc::clone(&model),
                load,
                kept,
                health: health.clone(),
                shutdown: shutdown.clone(),
            };
            WorkerServer::new(describe).max_encoding_message_size(lava_proto::MESSAGE_BYTES_MAX)
        };
        let names = [worker_server::SERVICE_NAME];
        let timeout = Duration::from_millis(profile.drain_timeout_ms);
        let served = match role {
            Role::Prefill => {
                let (busy, queue_max) = (Arc::new(Busy::new(watch)), profile.prefill.queue_max);
                let shown = Arc::clone(&busy);
                let kept = KeptBlocks::new(profile.prefill.prefix_tokens / BLOCK_TOKENS);
                let kept = Arc::new(std::sync::Mutex::new(kept));
                let said = Arc::clone(&kept);
                let said: Option<Kept> = Some(Arc::new(move |known| {
                    let kept = said.lock().unwrap_or_else(PoisonError::into_inner);
                    prefixes_to_wire(&kept.changes(known), BLOCK_TOKENS)
                }));
                let keeps = profile.prefill.prefix_tokens > 0;
                let load: Load = Arc::new(move || shown.load(queue_max));
                let describe = describe(load, said.filter(|_| keeps));
                let idle = Arc::clone(&busy);
                let service = PrefillService {
                    world,
                    model: Arc::clone(&model),
                    prefill: profile.prefill,
                    transfer: profile.transfer,
                    dice: Arc::clone(&dice),
                    busy,
                    turn: Arc::default(),
                    kept,
                    links: Arc::new(HashMap::new().into()),
                };
                let service = PrefillServer::new(service);
                let router = server_builder()
                    .add_service(describe)
                    .add_service(service.max_decoding_message_size(lava_proto::MESSAGE_BYTES_MAX))
                    .add_service(health.service(&names));
                let idle = move || idle.is_idle();
                let serving = serve_incoming(
                    router,
                    incoming,
                    membership,
                    health,
                    shutdown,
                    Drain { timeout, idle },
                );
                serving.await
            }
            Role::Decode => {
                let memory = Arc::new(Memory::new(&model, &profile.decode, watch.gauges));
                let shown = Arc::clone(&memory);
                let describe = describe(Arc::new(move || shown.load()), None);
                let idle = Arc::clone(&memory);
                let (batch, arrivals) = mpsc::channel(profile.decode.slots_max);
                let service = DecodeService {
                    world,
                    model: Arc::clone(&model),
                    times: profile.decode,
                    dice: Arc::clone(&dice),
                    memory,
                    tickets: Arc::default(),
                    batch,
                };
                let steps = tokio::spawn(service.clone().steps(arrivals));
                let _steps = AbortOnDropHandle::new(steps);
                let link = CacheLinkServer::new(service.clone())
                    .max_decoding_message_size(lava_transfer::MESSAGE_BYTES_MAX);
                let service = DecodeServer::new(service);
                let router = server_builder()
                    .add_service(describe)
                    .add_service(service.max_decoding_message_size(lava_proto::MESSAGE_BYTES_MAX))
                    .add_service(link)
                    .add_service(health.service(&names));
                let idle = move || idle.is_idle();
                let serving = serve_incoming(
                    router,
                    incoming,
                    membership,
                    health,
                    shutdown,
                    Drain { timeout, idle },
                );
                serving.await
            }
        };
        served.context("the simulated worker failed")
    }
}

#[tonic::async_trait]
impl worker_server::Worker for Describe {
    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<Description>, Status> {
        let role = match self.role {
            Role::Prefill => proto::Role::Prefill,
            Role::Decode => proto::Role::Decode,
        };
        Ok(Response::new(Description {
            worker_id: self.worker_id.clone(),
            role: role.into(),
            model: Some(self.model.describe()),
            load: Some((self.load)()),
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
        Ok(Response::new(TextFiles {
            content: self.model.text(),
        }))
    }

    async fn drain(
        &self,
        _request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        self.shutdown.trigger();
        let load = Some((self.load)());
        Ok(Response::new(DrainResponse { load }))
    }
}
