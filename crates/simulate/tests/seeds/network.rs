//! Connections over the simulated network, as servers and channels want them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use lava_node::{Planted, World};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// Where every host listens.
pub(crate) const PORT: u16 = 7000;
/// Between two times that a process sends what its connections have for the network.
const SEND_EVERY: Duration = Duration::from_millis(1);
/// Bytes that one of them may have for it, before it waits.
const UNSENT_BYTES_MAX: usize = 256 << 10;

/// The connections of one process, in the order in which they were made. In that order they send, end and close: a runtime wakes
/// tasks that wait for the same event, and drops what it has, in another order each time. What one of them writes in a short time is
/// sent as one message: it may be one write or two, for the same reason. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Process>);

#[derive(Default)]
struct Process {
    made: Mutex<Made>,
    /// There is something for the network.
    written: Notify,
}

#[derive(Default)]
struct Made {
    connections: Vec<Arc<Mutex<Wire>>>,
    /// A task sends.
    is_sending: bool,
    /// No more are made.
    is_closed: bool,
}

/// A connection, between its process and the network.
#[derive(Default)]
struct Wire {
    /// None once it was closed from outside.
    stream: Option<TcpStream>,
    unsent: Vec<u8>,
    /// What the network said of the last write.
    broke: Option<io::ErrorKind>,
    /// Nothing more will be written.
    is_ended: bool,
    /// The process has dropped it.
    is_dropped: bool,
    /// Who waits for room in `unsent`.
    writer: Option<Waker>,
}

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
        let mut made = lock(&self.0.made);
        made.is_closed = true;
        for wire in made.connections.drain(..) {
            let stream = lock(&wire).stream.take();
            drop(stream);
        }
    }

    fn add(&self, stream: TcpStream) -> Connection {
        let mut made = lock(&self.0.made);
        let wire = Arc::new(Mutex::new(Wire {
            stream: (!made.is_closed).then_some(stream),
            ..Wire::default()
        }));
        made.connections.push(Arc::clone(&wire));
        if !std::mem::replace(&mut made.is_sending, true) {
            tokio::spawn(Arc::clone(&self.0).send());
        }
        Connection {
            process: Arc::clone(&self.0),
            wire,
        }
    }
}

impl Process {
    /// Sends what the connections have, for as long as its runtime is there.
    async fn send(self: Arc<Self>) {
        loop {
            self.written.notified().await;
            let mut has_more = true;
            while has_more {
                sleep(SEND_EVERY).await;
                has_more = false;
                lock(&self.made).connections.retain(|wire| {
                    let mut wire = lock(wire);
                    has_more |= !wire.send();
                    !(wire.is_dropped && wire.unsent.is_empty())
                });
            }
        }
    }
}

impl Wire {
    /// Whether nothing is left.
    fn send(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            self.unsent.clear();
            return true;
        };
        if !self.unsent.is_empty() {
            match stream.try_write(&self.unsent) {
                // It takes all of it or nothing.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => self.broke = Some(error.kind()),
            }
            self.unsent.clear();
        }
        if std::mem::take(&mut self.is_ended) {
            // It is ready at once; where the other side has gone there is nothing to end.
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        true
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

/// One of them, as its process has it.
pub(crate) struct Connection {
    process: Arc<Process>,
    wire: Arc<Mutex<Wire>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.wire).is_dropped = true;
        self.process.written.notify_one();
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
        match &mut lock(&self.wire).stream {
            Some(stream) => Pin::new(stream).poll_read(context, buffer),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = lock(&self.wire);
        if wire.stream.is_none() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if let Some(broke) = wire.broke {
            return Poll::Ready(Err(broke.into()));
        }
        if wire.unsent.len() >= UNSENT_BYTES_MAX {
            wire.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        wire.unsent.extend_from_slice(bytes);
        self.process.written.notify_one();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.wire).is_ended = true;
        self.process.written.notify_one();
        Poll::Ready(Ok(()))
    }
}
