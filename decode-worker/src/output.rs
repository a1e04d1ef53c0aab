//! What goes to one caller: a bounded run of events, then at most one error.

use std::pin::Pin;
use std::task::{Context, Poll};

use lava_proto::worker::DecodeEvent;
use lava_proto::worker::decode_event::Event;
use lava_worker::Refusal;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

use crate::tickets::Claim;

/// The writing end. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct Output {
    events: mpsc::Sender<DecodeEvent>,
    failed: oneshot::Sender<Status>,
}

/// The reading end, as the call returns it.
#[derive(Debug)]
pub(crate) struct OutputStream {
    events: mpsc::Receiver<DecodeEvent>,
    failed: Option<oneshot::Receiver<Status>>,
    /// A caller that leaves before the transfer gives its ticket back.
    _claim: Claim,
}

impl Output {
    /// An output of at most `events_max` waiting events, and what to hand to the caller.
    pub(crate) fn new(events_max: usize) -> (Self, Pending) {
        let (events, receiver) = mpsc::channel(events_max);
        let (failed, failure) = oneshot::channel();
        (
            Self { events, failed },
            Pending {
                events: receiver,
                failed: failure,
            },
        )
    }

    /// Whether the caller left.
    pub(crate) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Resolves when the caller left.
    pub(crate) async fn closed(&self) {
        self.events.closed().await;
    }

    /// Events that can be sent now. Only the caller of this adds any, so they can be sent later too.
    pub(crate) fn room(&self) -> usize {
        self.events.capacity()
    }

    /// Events that wait for the caller.
    pub(crate) fn waiting(&self) -> usize {
        self.events.max_capacity() - self.events.capacity()
    }

    /// Sends an event for which there is [room](Self::room), or to a caller that left.
    pub(crate) fn send(&self, event: Event) {
        let sent = self.events.try_send(DecodeEvent { event: Some(event) });
        debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))));
    }

    /// Ends the stream with an error, behind the events that wait.
    pub(crate) fn fail(self, refusal: Refusal) {
        self.fail_with(refusal.into());
    }

    /// As [`fail`](Self::fail), for an error that others hear too.
    pub(crate) fn fail_with(self, status: Status) {
        let _ = self.failed.send(status);
    }
}

/// The reading end before its ticket exists.
#[derive(Debug)]
pub(crate) struct Pending {
    events: mpsc::Receiver<DecodeEvent>,
    failed: oneshot::Receiver<Status>,
}

impl Pending {
    pub(crate) fn stream(self, claim: Claim) -> OutputStream {
        OutputStream {
            events: self.events,
            failed: Some(self.failed),
            _claim: claim,
        }
    }
}

impl Stream for OutputStream {
    type Item = Result<DecodeEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => return Poll::Ready(Some(Ok(event))),
            Poll::Ready(None) => {}
            Poll::Pending => return Poll::Pending,
        }
        let Some(failed) = &mut self.failed else {
            return Poll::Ready(None);
        };
        let status = std::task::ready!(Pin::new(failed).poll(cx)).ok();
        self.failed = None;
        Poll::Ready(status.map(Err))
    }
}
