//! The members, kept current.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, EventType, KeyValue, WatchResponse};
use lava_node::{Health, supervise};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::task::AbortOnDropHandle;

use super::dialer::Dialer;
use super::session::{Session, SessionError, WATCHING};
use super::view::{Entry, View};
use super::{Etcd, record};
use crate::Members;

pub(super) fn begin(
    etcd: Etcd,
    health: &Health,
) -> (watch::Receiver<Arc<Members>>, AbortOnDropHandle<()>) {
    let (published, members) = watch::channel(Arc::default());
    let follower = Follower {
        view: View::new(record::folder(&etcd.plan.prefix)),
        dialer: Dialer::new(etcd.clone(), "follower"),
        etcd,
        published,
    };
    let task = supervise("follower", health, follower.run());
    (members, AbortOnDropHandle::new(task))
}

/// The task's own state.
struct Follower {
    etcd: Etcd,
    dialer: Dialer,
    view: View,
    published: watch::Sender<Arc<Members>>,
}

impl Follower {
    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let Err(error) = self.follow().await;
            self.dialer.failed(&error).await;
        }
    }

    /// Lists the members and watches them until something is wrong.
    ///
    /// Every session lists, and none goes on from the revision that the last one had reached: etcd may have
    /// been wiped in between, its revisions begin again then, and a watch from a revision that is yet to
    /// come waits for it without a word.
    ///
    /// The list is also read again, about as often as workers renew their records. That is how a node is
    /// found that is frozen or cut off from the others while the connection stands, and it repairs what a
    /// watch should have told and did not.
    async fn follow(&mut self) -> Result<Infallible, SessionError> {
        let session = self.dialer.dial().await?;
        let revision = self.list(&session).await?;
        let mut watch = session.watch(self.view.folder(), revision + 1).await?;
        self.dialer.succeeded();

        let period = Duration::from_secs(self.etcd.plan.lease_ttl_s.unsigned_abs()) / 3;
        let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = watch.message() => match news {
                    Ok(Some(news)) => self.take_in(&news)?,
                    Ok(None) => return Err(SessionError::StreamEnded { doing: WATCHING }),
                    Err(cause) => return Err(SessionError::Refused { doing: WATCHING, cause }),
                },
                _ = ticks.tick() => {
                    self.list(&session).await?;
                }
            }
        }
    }

    async fn list(&mut self, session: &Session) -> Result<i64, SessionError> {
        let (keys, revision) = session.list(self.view.folder()).await?;
        self.view.listed(keys.iter().map(listed), revision);
        self.publish();
        Ok(revision)
    }

    fn take_in(&mut self, news: &WatchResponse) -> Result<(), SessionError> {
        if news.canceled() {
            return Err(SessionError::cancelled(news));
        }
        for entry in news.events().iter().filter_map(happened) {
            self.view.happened(entry);
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let members = self.view.members();
        let count = i64::try_from(members.len()).unwrap_or(i64::MAX);
        self.etcd.metrics.members.set(count);
        self.published.send_if_modified(|published| {
            let is_news = **published != *members;
            if is_news {
                *published = Arc::new(members.clone());
            }
            is_news
        });
    }
}

fn listed(key: &KeyValue) -> Entry<'_> {
    Entry {
        key: key.key(),
        value: Some(key.value()),
        revision: key.mod_revision(),
    }
}

fn happened(event: &Event) -> Option<Entry<'_>> {
    let entry = listed(event.kv()?);
    Some(match event.event_type() {
        EventType::Put => entry,
        EventType::Delete => Entry {
            value: None,
            ..entry
        },
    })
}
