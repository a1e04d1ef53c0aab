//! The endpoint for scrapers and probes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::{Health, Shutdown};

/// How long connections may take to finish once shutdown is triggered. A scrape takes milliseconds;
/// a peer that has sent half a request would otherwise hold the process forever.
const GRACE: Duration = Duration::from_secs(1);

/// The section `[http]` of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen; `None` means no endpoint.
    pub listen: Option<SocketAddr>,
}

#[derive(Clone)]
struct Endpoint {
    registry: Arc<Registry>,
    health: Health,
}

/// Serves until `shutdown` is triggered:
///
/// - `/metrics`: the registry in OpenMetrics text,
/// - `/healthz`: 200 unless the process has failed,
/// - `/readyz`: 200 only while it serves.
///
/// Both probes answer with the state as text, and with 503 otherwise. To let probes see the drain,
/// pass a shutdown that is triggered when the drain is over.
///
/// # Errors
///
/// The listener's socket broke, which leaves nothing to serve.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    health: Health,
    shutdown: Shutdown,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Endpoint { registry, health });
    let stop = shutdown.clone();
    let served =
        axum::serve(listener, router).with_graceful_shutdown(async move { stop.triggered().await });
    let overdue = async {
        shutdown.triggered().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = served => result,
        () = overdue => Ok(()),
    }
}

async fn metrics(State(endpoint): State<Endpoint>) -> Response {
    let mut body = String::new();
    if text::encode(&mut body, &endpoint.registry).is_err() {
        // A metric's own encoder refused, which is a bug of its owner; the scraper counts the 500.
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

async fn healthz(State(endpoint): State<Endpoint>) -> Response {
    let state = endpoint.health.state();
    probe(state.is_live(), state.to_string())
}

async fn readyz(State(endpoint): State<Endpoint>) -> Response {
    let state = endpoint.health.state();
    probe(state.is_ready(), state.to_string())
}

fn probe(good: bool, state: String) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, state + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::Metrics;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Served {
        address: SocketAddr,
        health: Health,
        shutdown: Shutdown,
        task: JoinHandle<io::Result<()>>,
    }

    async fn start() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut metrics = Metrics::new();
        let pages: Gauge = Gauge::default();
        metrics
            .sub_registry("pool")
            .register("pages", "Pages in use", pages.clone());
        pages.set(3);
        let health = Health::new();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(serve(
            listener,
            metrics.finish(),
            health.clone(),
            shutdown.clone(),
        ));
        Served {
            address,
            health,
            shutdown,
            task,
        }
    }

    impl Served {
        /// The whole answer, headers in lower case.
        async fn get(&self, path: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut answer))
                .await
                .expect("an answer in time")
                .unwrap();
            answer
        }

        async fn check_probes(&self, healthz: u16, readyz: u16, body: &str) {
            for (path, status) in [("/healthz", healthz), ("/readyz", readyz)] {
                let answer = self.get(path).await;
                let start = format!("HTTP/1.1 {status} ");
                assert!(answer.starts_with(&start), "{path}: {answer}");
                let end = format!("\r\n\r\n{body}\n");
                assert!(answer.ends_with(&end), "{path}: {answer}");
            }
        }

        async fn stop(self) {
            self.shutdown.trigger();
            timeout(PATIENCE, self.task)
                .await
                .expect("the end in time")
                .unwrap()
                .unwrap();
        }
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let served = start().await;
        let answer = served.get("/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains(
                "\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
            ),
            "{answer}"
        );
        assert!(answer.contains("\nlava_pool_pages 3\n"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        served.stop().await;
    }

    #[tokio::test]
    async fn probes_follow_the_state() {
        let served = start().await;
        served.check_probes(200, 503, "starting").await;
        served.health.serving();
        served.check_probes(200, 200, "serving").await;
        served.health.draining();
        served.check_probes(200, 503, "draining").await;
        served.health.failed("engine panicked".to_owned());
        served
            .check_probes(503, 503, "failed: engine panicked")
            .await;
        served.stop().await;
    }

    #[tokio::test]
    async fn any_other_path_is_not_found() {
        let served = start().await;
        assert!(served.get("/").await.starts_with("HTTP/1.1 404 "));
        served.stop().await;
    }

    #[tokio::test]
    async fn half_a_request_does_not_hold_up_the_shutdown() {
        let served = start().await;
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET /metr").await.unwrap();
        served.get("/healthz").await;
        served.stop().await;
    }
}
