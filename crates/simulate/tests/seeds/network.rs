//! Connections over the simulated network, as servers and channels want them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use lava_node::{Planted, World};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// Where every host listens.
pub(crate) const PORT: u16 = 7000;

/// The connections of one process, in the order in which they were made, so that those of a killed one close in that order: the
/// runtime of a host drops what it has in another order each time. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Made>>);

#[derive(Default)]
struct Made {
    connections: Vec<Weak<Shared>>,
    /// No more are made.
    is_closed: bool,
}

type Shared = Mutex<Option<TcpStream>>;

impl Connections {
    /// The world of a process that makes its connections here.
    pub(crate) fn world(&self, seed: u64, planted: Option<Planted>) -> World {
        let connections = self.clone();
        World::simulated(seed, planted, move |address| {
            let connections = connections.clone();
            async move { Ok(connections.add(TcpStream::connect(address).await?)) }
        })
    }

    /// What connects to the host that this runs on.
    pub(crate) async fn incoming(&self) -> io::Result<Incoming> {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        Ok(Incoming {
            listener: Arc::new(listener),
            accepting: None,
            connections: self.clone(),
        })
    }

    /// Closes all of them, as the kernel does for a process that was killed.
    pub(crate) fn close(&self) {
        let mut made = lock(&self.0);
        made.is_closed = true;
        for connection in made.connections.drain(..) {
            let stream = connection.upgrade().and_then(|shared| lock(&shared).take());
            drop(stream);
        }
    }

    fn add(&self, stream: TcpStream) -> Connection {
        let mut made = lock(&self.0);
        let stream = (!made.is_closed).then_some(stream);
        let shared = Arc::new(Mutex::new(stream));
        made.connections.retain(|other| other.strong_count() > 0);
        made.connections.push(Arc::downgrade(&shared));
        Connection(shared)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Brings what connects.
pub(crate) struct Incoming {
    listener: Arc<TcpListener>,
    accepting: Option<Accepting>,
    connections: Connections,
}

type Accepting = Pin<Box<dyn Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send>>;

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let listener = Arc::clone(&self.listener);
        let accepting = self
            .accepting
            .get_or_insert_with(|| Box::pin(async move { listener.accept().await }));
        let accepted = ready!(accepting.as_mut().poll(context));
        self.accepting = None;
        let connections = self.connections.clone();
        Poll::Ready(Some(accepted.map(|(stream, _)| connections.add(stream))))
    }
}

/// One of them. It is empty once it was closed from outside.
pub(crate) struct Connection(Arc<Shared>);

impl Connection {
    fn with<T>(
        &self,
        act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *lock(&self.0) {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(context))
    }
}
