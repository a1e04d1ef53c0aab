//! The wish to stop.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::{io, process};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit status of a process that is interrupted twice: 128 and SIGINT's 2, as shells have it.
const INTERRUPTED: i32 = 130;

/// Whether something is to stop: triggered once, seen by all clones, never taken back.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Not triggered yet.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Lets SIGTERM and SIGINT trigger this from here on. A second signal ends the process at once
    /// with status 130, without a drain.
    ///
    /// # Errors
    ///
    /// The system refuses the handlers; the process then dies of its first signal.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        let arrived = move |context: &mut Context<'_>| {
            if terminate.poll_recv(context).is_ready() || interrupt.poll_recv(context).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        };
        tokio::spawn(async move {
            obey(arrived, &shutdown).await;
            process::exit(INTERRUPTED);
        });
        Ok(())
    }

    /// Triggers; a second time does nothing.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Waits until it is triggered.
    pub async fn triggered(&self) {
        self.token.cancelled().await;
    }

    /// Whether it has been triggered.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }
}

/// Triggers at the first signal and returns at the second.
async fn obey(mut arrived: impl FnMut(&mut Context<'_>) -> Poll<()>, shutdown: &Shutdown) {
    poll_fn(&mut arrived).await;
    tracing::info!("shutting down at a signal");
    shutdown.trigger();
    poll_fn(&mut arrived).await;
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_trigger_reaches_every_clone_and_stays() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        let waiting = tokio::spawn(async move { clone.triggered().await });
        assert!(!shutdown.is_triggered());
        shutdown.trigger();
        shutdown.trigger();
        timeout(PATIENCE, waiting).await.expect("in time").unwrap();
        assert!(shutdown.is_triggered());
        shutdown.triggered().await;
    }

    #[tokio::test]
    async fn the_first_signal_triggers_and_the_second_ends() {
        let (signals, mut received) = mpsc::channel(1);
        let shutdown = Shutdown::new();
        let watched = shutdown.clone();
        let ended = tokio::spawn(async move {
            let arrived = |context: &mut Context<'_>| received.poll_recv(context).map(drop);
            obey(arrived, &watched).await;
        });
        signals.send(()).await.unwrap();
        timeout(PATIENCE, shutdown.triggered())
            .await
            .expect("in time");
        assert!(!ended.is_finished());
        signals.send(()).await.unwrap();
        timeout(PATIENCE, ended).await.expect("in time").unwrap();
    }

    #[tokio::test]
    async fn a_real_sigterm_triggers() {
        let shutdown = Shutdown::new();
        shutdown.on_signals().unwrap();
        let sent = Command::new("sh")
            .args(["-c", "kill -TERM $PPID"])
            .status()
            .unwrap();
        assert!(sent.success());
        timeout(PATIENCE, shutdown.triggered())
            .await
            .expect("in time");
    }
}
