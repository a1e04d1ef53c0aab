//! What the process says about itself.

use std::fmt;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The state of the process, to be told to gRPC and HTTP. Clones share it.
///
/// It only moves forward, starting, serving, draining, failed, and a step back does nothing: a
/// model that finishes loading during the drain does not make the process ready again, and the
/// first failure stays.
#[derive(Debug, Clone)]
pub struct Health {
    state: watch::Sender<State>,
}

/// Where a process is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not ready yet.
    Starting,
    /// Ready.
    Serving,
    /// Finishing what it has begun and taking nothing new.
    Draining,
    /// Broken; only a restart helps.
    Failed {
        /// Which part failed, without the details, which are in the log.
        reason: String,
    },
}

impl Health {
    /// A process that starts.
    #[expect(
        clippy::new_without_default,
        reason = "a state that others judge the process by is made on purpose"
    )]
    pub fn new() -> Health {
        Health {
            state: watch::Sender::new(State::Starting),
        }
    }

    /// The gRPC service (`grpc.health.v1`) that tells the state under the name `""` and under each of
    /// `services`, the `NAME`s of the process's own services. Any other name is `NOT_FOUND`.
    pub fn service(
        &self,
        services: &[&'static str],
    ) -> HealthServer<impl health_server::Health + use<>> {
        HealthServer::new(HealthService {
            state: self.state.subscribe(),
            services: services.to_vec(),
        })
    }

    /// The process has become ready.
    pub fn serving(&self) {
        self.advance(State::Serving);
    }

    /// The process takes nothing new.
    pub fn draining(&self) {
        self.advance(State::Draining);
    }

    /// The process is broken: `reason` names the part.
    pub fn failed(&self, reason: String) {
        self.advance(State::Failed { reason });
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Resolves with the reason once the process has failed.
    pub async fn failure(&self) -> String {
        let mut state = self.state.subscribe();
        let failed = state.wait_for(|state| !state.is_live()).await;
        match failed.as_deref() {
            Ok(State::Failed { reason }) => reason.clone(),
            // The sender lives in `self`.
            _ => unreachable!("the state is held and has failed"),
        }
    }

    fn advance(&self, next: State) {
        self.state.send_if_modified(|state| {
            let forward = next.rank() > state.rank();
            if forward {
                *state = next;
            }
            forward
        });
    }
}

impl State {
    /// Everything but [`State::Failed`]: a restart would not help.
    pub fn is_live(&self) -> bool {
        !matches!(self, State::Failed { .. })
    }

    /// Only [`State::Serving`].
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Serving)
    }

    fn rank(&self) -> u8 {
        match self {
            State::Starting => 0,
            State::Serving => 1,
            State::Draining => 2,
            State::Failed { .. } => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Starting => f.write_str("starting"),
            State::Serving => f.write_str("serving"),
            State::Draining => f.write_str("draining"),
            State::Failed { reason } => write!(f, "failed: {reason}"),
        }
    }
}

/// Ours and not tonic-health's: that one keeps a status per service behind an async lock, and a
/// panicking thread has to be able to report.
struct HealthService {
    state: watch::Receiver<State>,
    services: Vec<&'static str>,
}

impl HealthService {
    fn known(&self, request: &Request<HealthCheckRequest>) -> Result<(), Status> {
        let name = request.get_ref().service.as_str();
        if name.is_empty() || self.services.contains(&name) {
            return Ok(());
        }
        Err(Status::not_found("no such service"))
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.known(&request)?;
        Ok(Response::new(response(&self.state.borrow())))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.known(&request)?;
        // One in flight: a slow watcher skips states, and always gets the last one.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(report(self.state.clone(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Tells a watcher the state and its changes, until the watcher leaves or the process drains or has
/// failed: it will not be ready again, and an open stream would hold up the server's shutdown.
async fn report(
    mut state: watch::Receiver<State>,
    watcher: mpsc::Sender<Result<HealthCheckResponse, Status>>,
) {
    loop {
        let (message, last) = {
            let state = state.borrow_and_update();
            (response(&state), state.rank() >= State::Draining.rank())
        };
        if watcher.send(Ok(message)).await.is_err() || last {
            return;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = watcher.closed() => return,
        }
    }
}

fn response(state: &State) -> HealthCheckResponse {
    let status = if state.is_ready() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    fn ask(service: &str) -> HealthCheckRequest {
        HealthCheckRequest {
            service: service.to_owned(),
        }
    }

    #[test]
    fn the_state_moves_forward_only() {
        let health = Health::new();
        assert_eq!(health.state(), State::Starting);
        health.serving();
        assert_eq!(health.state(), State::Serving);
        health.draining();
        health.serving();
        assert_eq!(health.state(), State::Draining);
    }

    #[test]
    fn failed_is_sticky_and_keeps_the_first_reason() {
        let health = Health::new();
        health.failed("engine".to_owned());
        health.serving();
        health.draining();
        health.failed("listener".to_owned());
        let reason = "engine".to_owned();
        assert_eq!(health.state(), State::Failed { reason });
    }

    #[tokio::test]
    async fn grpc_checks_follow_the_state_under_every_known_name() {
        let health = Health::new();
        let server = health.service(&["lava.v1.Prefill"]);
        let mut client = HealthClient::new(server);
        let steps: [(&dyn Fn(), ServingStatus); 4] = [
            (&|| {}, ServingStatus::NotServing),
            (&|| health.serving(), ServingStatus::Serving),
            (&|| health.draining(), ServingStatus::NotServing),
            (&|| health.failed("x".to_owned()), ServingStatus::NotServing),
        ];
        for (step, expected) in steps {
            step();
            for name in ["", "lava.v1.Prefill"] {
                let answer = client.check(ask(name)).await.unwrap().into_inner();
                assert_eq!(answer.status(), expected, "{name} when {}", health.state());
            }
        }
        let refused = client.check(ask("lava.v1.Decode")).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let refused = client.watch(ask("lava.v1.Decode")).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }

    #[tokio::test]
    async fn a_grpc_watch_tells_each_change_and_ends_with_the_drain() {
        let health = Health::new();
        let server = health.service(&[]);
        let mut client = HealthClient::new(server);
        let mut watch = client.watch(ask("")).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while let Some(answer) = watch.message().await.unwrap() {
            seen.push(answer.status());
            match seen.len() {
                1 => health.serving(),
                _ => health.draining(),
            }
        }
        assert_eq!(
            seen,
            [
                ServingStatus::NotServing,
                ServingStatus::Serving,
                ServingStatus::NotServing
            ]
        );
    }

    #[tokio::test]
    async fn a_watcher_that_leaves_ends_its_task() {
        let health = Health::new();
        let server = health.service(&[]);
        let mut client = HealthClient::new(server);
        let watch = client.watch(ask("")).await.unwrap();
        let tasks = tokio::runtime::Handle::current().metrics();
        assert_eq!(tasks.num_alive_tasks(), 1);
        drop(watch);
        let ended = async {
            while tasks.num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), ended)
            .await
            .expect("the task ends");
    }
}
