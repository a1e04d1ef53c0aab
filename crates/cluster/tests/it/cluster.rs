//! Three nodes of etcd, some of which are down or frozen.

use std::time::Duration;

use lava_cluster::Members;
use lava_test_support::Etcd;

use crate::Process;
use crate::etcd::Reachable as _;

#[tokio::test]
async fn one_of_three_nodes_may_freeze() {
    let etcd = Etcd::start(3).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _first = process.register("first", "h:1");
    follower.until_there("first", "h:1").await;

    // Whichever node a session is with, it freezes once.
    for (node, worker) in ["freeze-0", "freeze-1", "freeze-2"].into_iter().enumerate() {
        etcd.freeze(node);
        let registration = process.register(worker, "h:2");
        follower.until_there(worker, "h:2").await;
        registration.withdraw().await;
        follower.until_gone(worker).await;
        etcd.thaw(node);
        let members = follower.following.members();
        assert!(members.contains_key("first"), "node {node}");
    }
}

#[tokio::test]
async fn one_of_three_nodes_may_be_killed() {
    let mut etcd = Etcd::start(3).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _first = process.register("first", "h:1");
    follower.until_there("first", "h:1").await;

    for (node, worker) in ["kill-0", "kill-1", "kill-2"].into_iter().enumerate() {
        etcd.kill(node);
        let registration = process.register(worker, "h:2");
        follower.until_there(worker, "h:2").await;
        registration.withdraw().await;
        follower.until_gone(worker).await;
        etcd.restart(node).await;
        let members = follower.following.members();
        assert!(members.contains_key("first"), "node {node}");
    }
}

#[tokio::test]
async fn the_last_members_stay_while_there_is_no_quorum() {
    let mut etcd = Etcd::start(3).await;
    let process = Process::new(etcd.config());
    let mut follower = process.follow();
    let _first = process.register("first", "h:1");
    let before = follower.until_there("first", "h:1").await;

    etcd.kill(0);
    etcd.freeze(1);
    process
        .until_metric("connected", |connected| connected == 0)
        .await;
    let _second = process.register("second", "h:2");
    let are_the_same = |members: &Members| members.len() == 1 && members.contains_key("first");
    follower
        .stays(Duration::from_secs(3), "the last members", are_the_same)
        .await;
    assert_eq!(process.metric("connected"), 0);

    etcd.thaw(1);
    follower.until_there("second", "h:2").await;
    assert!(follower.until_later("first", before).await > before);
    assert_eq!(process.metric("members"), 2);
}
