//! One node of etcd that goes, comes back, forgets, or is cut off.

use std::time::Duration;

use etcd_client::{CompactionOptions, DeleteOptions};
use lava_cluster::{EtcdConfig, Members};
use lava_test_support::Etcd;
use tokio::time::{Instant, timeout};

use crate::etcd::Reachable as _;
use crate::proxy::Proxy;
use crate::{Process, TTL, within};

const ALL: &str = "/lava/workers/";

#[tokio::test]
async fn members_outlive_an_etcd_that_is_killed_and_restarted() {
    let mut etcd = Etcd::start(1).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let registration = process.register("w", "h:1");
    let before = follower.until_there("w", "h:1").await;
    // The follower may hear of the record before the worker does.
    process
        .until_metric("registrations_total", |count| count >= 1)
        .await;

    etcd.kill(0);
    process
        .until_metric("connected", |connected| connected == 0)
        .await;
    let is_there = |members: &Members| members.contains_key("w");
    follower.stays(TTL, "the last members", is_there).await;

    etcd.restart(0).await;
    let after = follower.until_later("w", before).await;
    follower
        .stays(TTL * 3 / 2, "the registration", is_there)
        .await;
    assert!(follower.until_there("w", "h:1").await >= after);
    process
        .until_metric("connected", |connected| connected == 1)
        .await;
    process
        .until_metric("registrations_total", |count| count >= 2)
        .await;
    assert_eq!(process.metric("members"), 1);
    registration.withdraw().await;
    follower.until_gone("w").await;
}

#[tokio::test]
async fn workers_register_again_in_an_etcd_that_was_wiped() {
    let mut etcd = Etcd::start(1).await;
    // Revisions that the new etcd will not reach.
    let mut client = etcd.client().await;
    for _ in 0..50 {
        within("a write", client.put("/other", "x", None))
            .await
            .unwrap();
    }
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _registration = process.register("w", "h:1");
    follower.until_there("w", "h:1").await;

    etcd.kill(0);
    etcd.wipe(0);
    etcd.restart(0).await;
    let restarted = Instant::now();
    follower.until_later("w", 1).await;
    // No more than a pause, which is about as long as etcd was away.
    assert!(restarted.elapsed() < TTL * 2, "{:?}", restarted.elapsed());

    // The follower hears of what happens next, though its revision is lower than any before.
    let news = process.register("x", "h:2");
    follower.until_there("x", "h:2").await;
    news.withdraw().await;
    follower.until_gone("x").await;
}

#[tokio::test]
async fn workers_register_again_when_their_keys_were_deleted() {
    let etcd = Etcd::start(1).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _one = process.register("one", "h:1");
    let _two = process.register("two", "h:2");
    follower.until_there("one", "h:1").await;
    follower.until_there("two", "h:2").await;

    let mut client = etcd.client().await;
    let options = DeleteOptions::new().with_prefix();
    let delete = client.delete("/lava", Some(options));
    assert_eq!(within("a deletion", delete).await.unwrap().deleted(), 2);
    follower.until("nobody", Members::is_empty).await;
    follower.until_later("one", 1).await;
    follower.until_later("two", 1).await;
}

#[tokio::test]
async fn a_worker_registers_again_when_its_lease_was_lost() {
    let etcd = Etcd::start(1).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _registration = process.register("w", "h:1");
    follower.until_there("w", "h:1").await;

    let mut client = etcd.client().await;
    let leases = within("the leases", client.leases()).await.unwrap();
    let [lease] = leases.leases() else {
        panic!("there is one worker, and {leases:?}");
    };
    within("a revocation", client.lease_revoke(lease.id()))
        .await
        .unwrap();
    follower.until_gone("w").await;
    follower.until_later("w", 1).await;
}

#[tokio::test]
async fn a_worker_takes_its_record_back_when_somebody_overwrote_it() {
    let etcd = Etcd::start(1).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _registration = process.register("w", "h:1");
    follower.until_there("w", "h:1").await;

    let mut client = etcd.client().await;
    let stranger = r#"{"address":"stranger:1","incarnation":9,"new":[]}"#;
    let put = client.put(format!("{ALL}w"), stranger, None);
    within("a write", put).await.unwrap();
    assert_eq!(follower.until_there("w", "stranger:1").await, 9);
    assert!(follower.until_there("w", "h:1").await >= 2);
}

#[tokio::test]
async fn what_is_no_record_is_skipped() {
    let etcd = Etcd::start(1).await;
    let mut client = etcd.client().await;
    for (key, value) in [
        ("bad", "?"),
        ("early", r#"{"address":"h:1","incarnation":1}"#),
    ] {
        let put = client.put(format!("{ALL}{key}"), value, None);
        within("a write", put).await.unwrap();
    }
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    follower.until_there("early", "h:1").await;

    let not_utf8 = [ALL.as_bytes(), b"\xFF"].concat();
    within("a write", client.put(not_utf8, "{}", None))
        .await
        .unwrap();
    let put = client.put(
        format!("{ALL}late"),
        r#"{"address":"h:2","incarnation":1}"#,
        None,
    );
    within("a write", put).await.unwrap();
    follower.until_there("late", "h:2").await;
    assert_eq!(follower.following.members().len(), 2);
}

#[tokio::test]
async fn a_follower_that_was_cut_off_while_history_was_compacted_converges() {
    let etcd = Etcd::start(1).await;
    let proxy = Proxy::to(etcd.address(0)).await;
    let cut_off = Process::new(EtcdConfig {
        endpoints: vec![proxy.address().to_owned()],
        ..etcd.config()
    });
    let process = Process::new(etcd.config());
    let mut follower = cut_off.follow();
    let gone = process.register("gone", "h:1");
    follower.until_there("gone", "h:1").await;

    proxy.cut();
    cut_off
        .until_metric("connected", |connected| connected == 0)
        .await;
    gone.withdraw().await;
    let _come = process.register("come", "h:2");
    process.follow().until_there("come", "h:2").await;
    let mut client = etcd.client().await;
    let written = within("a write", client.put("/other", "x", None)).await;
    let revision = written.unwrap().header().unwrap().revision();
    let options = CompactionOptions::new().with_physical();
    let compact = client.compact(revision, Some(options));
    within("a compaction", compact).await.unwrap();
    let members = follower.following.members();
    assert!(members.contains_key("gone") && members.len() == 1);

    proxy.mend();
    follower.until_there("come", "h:2").await;
    follower.until_gone("gone").await;
}

#[tokio::test]
async fn a_watch_that_begins_in_compacted_history_is_begun_again() {
    let etcd = Etcd::start(1).await;
    let mut client = etcd.client().await;
    let value = |port: u16| format!(r#"{{"address":"h:{port}","incarnation":1}}"#);
    let put = client.put(format!("{ALL}listed"), value(1), None);
    within("a write", put).await.unwrap();
    let proxy = Proxy::slow(etcd.address(0), Duration::from_millis(300)).await;
    let process = Process::new(EtcdConfig {
        endpoints: vec![proxy.address().to_owned()],
        lease_ttl_ms: 180_000,
        request_timeout_ms: 5000,
        ..etcd.config()
    });
    let mut follower = process.follow();

    // Now the list has been read, and the watch is on its way.
    follower.until_there("listed", "h:1").await;
    let put = client.put(format!("{ALL}missed"), value(2), None);
    let written = within("a write", put).await.unwrap();
    let put = client.put("/other", "x", None);
    within("a write", put).await.unwrap();
    let revision = written.header().unwrap().revision() + 1;
    let compact = client.compact(revision, None);
    within("a compaction", compact).await.unwrap();

    // The next list in the same session would come in a minute, which is too late.
    follower.until_there("missed", "h:2").await;
    assert!(process.metric("failures_total") >= 1);
}

#[tokio::test]
async fn a_worker_registers_once_there_is_an_etcd() {
    let mut etcd = Etcd::stopped(1);
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _registration = process.register("w", "h:1");
    process
        .until_metric("failures_total", |failures| failures >= 4)
        .await;
    assert_eq!(process.metric("connected"), 0);
    assert!(follower.following.members().is_empty());

    etcd.restart(0).await;
    // Records count, and attempts do not.
    assert!(follower.until_there("w", "h:1").await < 4);
}

#[tokio::test]
async fn a_withdrawal_ends_in_time_without_an_etcd() {
    let mut etcd = Etcd::start(1).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let frozen = process.register("frozen", "h:1");
    let killed = process.register("killed", "h:2");
    let never = Process::new(EtcdConfig {
        endpoints: vec!["127.0.0.1:1".to_owned()],
        ..etcd.config()
    })
    .register("never", "h:3");
    follower.until_there("frozen", "h:1").await;
    follower.until_there("killed", "h:2").await;

    // The time for a request is a second.
    let bound = Duration::from_secs(2);
    within("the withdrawal of what was never there", never.withdraw()).await;
    etcd.freeze(0);
    timeout(bound, frozen.withdraw())
        .await
        .expect("an end in time");
    etcd.kill(0);
    timeout(bound, killed.withdraw())
        .await
        .expect("an end in time");

    // Nobody renews them.
    etcd.restart(0).await;
    follower.until("nobody", Members::is_empty).await;
}

#[tokio::test]
async fn two_prefixes_do_not_see_each_other() {
    let etcd = Etcd::start(1).await;
    let process = |prefix: &str| {
        Process::new(EtcdConfig {
            prefix: prefix.to_owned(),
            ..etcd.config()
        })
    };
    // One begins like the other.
    let (one, two) = (process("/lava"), process("/lava2"));
    let (mut of_one, mut of_two) = (one.follow(), two.follow());
    let _same = one.register("same", "one:1");
    let _same_too = two.register("same", "two:1");
    let _only = two.register("only", "two:2");
    of_one.until_there("same", "one:1").await;
    of_two.until_there("same", "two:1").await;
    of_two.until_there("only", "two:2").await;
    assert_eq!(of_one.following.members().len(), 1);
    assert_eq!(of_two.following.members().len(), 2);
    assert_eq!(one.metric("members"), 1);
    assert_eq!(two.metric("members"), 2);
}
