//! What a process takes from outside itself: connections, random numbers, and threads that may block.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::transport::{Channel, Endpoint, Uri};
use tower_service::Service;

/// The world around a process: the system's, or, in tests, one that follows from a seed. Clones share it.
///
/// Time is not in it, since tokio's clock can be taken over as a whole. Connections that come in are not either: whoever serves them
/// is given them.
#[derive(Clone, Debug, Default)]
pub struct World(Option<Arc<Simulated>>);

/// Mistakes that a simulated world has a process make, to show that they would be found. No setting reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// What an attempt holds is not given back when it is given up half way.
    ForgottenRelease,
    /// The cache of a repeated attempt is put into the batch twice.
    DoubleCommit,
    /// A repeated attempt shows the first one's ticket.
    ReusedTicket,
    /// An answer whose last token is out is begun again when its worker breaks.
    RetryAfterLastToken,
}

struct Simulated {
    connect: Box<Connect>,
    random: AtomicU64,
    planted: Option<Planted>,
}

type Connect = dyn Fn(String) -> Connecting + Send + Sync;
type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Box<dyn Io>>>> + Send>>;

/// Both directions of a connection.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl World {
    /// A world whose connections `connect` makes, to a `host:port`, and whose random numbers follow from `seed`.
    pub fn simulated<C, F, S>(seed: u64, planted: Option<Planted>, connect: C) -> World
    where
        C: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connect = move |address| -> Connecting {
            let connecting = connect(address);
            Box::pin(async move { Ok(TokioIo::new(Box::new(connecting.await?) as Box<dyn Io>)) })
        };
        World(Some(Arc::new(Simulated {
            connect: Box::new(connect),
            random: AtomicU64::new(seed),
            planted,
        })))
    }

    /// A channel that connects when it is first used, and again when it broke.
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        match &self.0 {
            None => endpoint.connect_lazy(),
            Some(world) => endpoint.connect_with_connector_lazy(Connector(Arc::clone(world))),
        }
    }

    /// A random number.
    ///
    /// # Errors
    /// The system gives none.
    pub fn random(&self) -> io::Result<u64> {
        match &self.0 {
            None => getrandom::u64().map_err(io::Error::other),
            Some(world) => Ok(world.next_random()),
        }
    }

    /// Does work that would hold up other tasks, on a thread that may block. A simulated world does it at once: how long a thread takes
    /// follows from no seed.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime.
    pub fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self.0 {
            None => spawn_blocking(work),
            Some(_) => tokio::spawn(async move { work() }),
        }
    }

    /// Whether this mistake is to be made.
    pub fn planted(&self, mistake: Planted) -> bool {
        let simulated = self.0.as_ref();
        simulated.is_some_and(|world| world.planted == Some(mistake))
    }
}

impl Simulated {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(STEP, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated")
            .field("planted", &self.planted)
            .finish_non_exhaustive()
    }
}

/// Makes a channel's connections.
#[derive(Clone)]
struct Connector(Arc<Simulated>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let address = uri.authority().map(|authority| authority.to_string());
        (self.0.connect)(address.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn nowhere(seed: u64, planted: Option<Planted>) -> (World, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let connect = move |address| {
            seen.lock().unwrap().push(address);
            async { Err::<tokio::io::DuplexStream, _>(io::ErrorKind::ConnectionRefused.into()) }
        };
        (World::simulated(seed, planted, connect), asked)
    }

    #[tokio::test]
    async fn channels_of_a_simulated_world_connect_through_it() {
        let (world, asked) = nowhere(1, None);
        let mut channel = world.channel(&Endpoint::from_static("http://decode-1:7000"));
        let ready = std::future::poll_fn(|context| channel.poll_ready(context)).await;
        assert!(ready.is_ok(), "a lazy channel fails in its calls");
        let request = tonic::codegen::http::Request::new(tonic::body::Body::empty());
        assert!(channel.call(request).await.is_err());
        assert_eq!(asked.lock().unwrap()[0], "decode-1:7000");
    }

    #[tokio::test]
    async fn numbers_follow_from_the_seed_and_work_is_done_in_turn() {
        let three = |world: World| [(); 3].map(|()| world.random().unwrap());
        assert_eq!(three(nowhere(1, None).0), three(nowhere(1, None).0));
        assert_ne!(three(nowhere(1, None).0), three(nowhere(2, None).0));
        assert_ne!(three(World::default()), three(World::default()));
        for world in [World::default(), nowhere(1, None).0] {
            assert_eq!(world.blocking(|| 5).await.unwrap(), 5);
        }
    }

    #[test]
    fn a_mistake_is_made_where_it_was_planted_only() {
        let (world, _) = nowhere(1, Some(Planted::ReusedTicket));
        assert!(world.planted(Planted::ReusedTicket) && !world.planted(Planted::DoubleCommit));
        assert!(!nowhere(1, None).0.planted(Planted::ReusedTicket));
        assert!(!World::default().planted(Planted::ReusedTicket));
    }
}
