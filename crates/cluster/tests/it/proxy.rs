//! A way to etcd that is long or can be cut.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Carries connections until it is cut or dropped.
pub(crate) struct Proxy {
    address: String,
    is_cut: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Proxy {
        Proxy::slow(target, Duration::ZERO).await
    }

    /// What clients say takes at least `delay` to arrive; what they hear, no time.
    pub(crate) async fn slow(target: String, delay: Duration) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (is_cut, cut) = watch::channel(false);
        let task = tokio::spawn(carry(listener, target, delay, cut));
        Proxy {
            address,
            is_cut,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Ends all connections; new ones end at once.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn carry(listener: TcpListener, target: String, delay: Duration, cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        if *cut.borrow() {
            continue;
        }
        let (target, mut cut) = (target.clone(), cut.clone());
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else {
                return;
            };
            let (mut from_client, mut to_client) = near.into_split();
            let (mut from_etcd, mut to_etcd) = far.into_split();
            tokio::select! {
                _ = copy_late(&mut from_client, &mut to_etcd, delay) => {}
                _ = copy(&mut from_etcd, &mut to_client) => {}
                _ = cut.wait_for(|cut| *cut) => {}
            }
        });
    }
}

async fn copy_late(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    delay: Duration,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        sleep(delay).await;
        to.write_all(&buffer[..length]).await?;
    }
}
