//! What every registry does, wherever it lives.

use std::time::Duration;

use lava_cluster::Members;
use lava_test_support::Etcd;
use tokio::time::Instant;

use crate::etcd::Reachable as _;
use crate::{Process, TTL};

#[tokio::test]
async fn a_registry_in_memory_conforms() {
    check_all(&Process::in_memory(), Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_registry_in_one_node_of_etcd_conforms() {
    let etcd = Etcd::start(1).await;
    check_all(&Process::new(etcd.config()), TTL * 3 / 2).await;
}

#[tokio::test]
async fn a_registry_in_three_nodes_of_etcd_conforms() {
    let etcd = Etcd::start(3).await;
    check_all(&Process::new(etcd.config()), TTL * 3 / 2).await;
}

/// After `settled` nothing that was begun can change the members any more. Each check begins and ends
/// without members.
async fn check_all(process: &Process, settled: Duration) {
    a_registration_appears_and_is_withdrawn(process).await;
    a_dropped_registration_goes(process).await;
    workers_come_and_go_by_themselves(process).await;
    a_later_registration_of_a_worker_takes_its_record_over(process, settled).await;
    followers_that_start_early_and_late_see_the_same(process).await;
    a_slow_follower_gets_the_last_state(process).await;
    odd_ids_and_addresses_survive(process).await;
}

async fn a_registration_appears_and_is_withdrawn(process: &Process) {
    let mut follower = process.follow();
    let mut last = 0;
    for _ in 0..2 {
        let registration = process.register("appears", "10.0.0.1:7071");
        let found = follower.until_there("appears", "10.0.0.1:7071").await;
        assert!(found > last, "{found} after {last}");
        last = found;
        registration.withdraw().await;
        let withdrawn = Instant::now();
        follower.until("nobody", Members::is_empty).await;
        // It was taken out, and did not only run out.
        assert!(
            withdrawn.elapsed() < TTL * 3 / 4,
            "{:?}",
            withdrawn.elapsed()
        );
    }
}

async fn a_dropped_registration_goes(process: &Process) {
    let mut follower = process.follow();
    let registration = process.register("dropped", "h:1");
    follower.until_there("dropped", "h:1").await;
    drop(registration);
    follower.until("nobody", Members::is_empty).await;
}

async fn workers_come_and_go_by_themselves(process: &Process) {
    let mut follower = process.follow();
    let one = process.register("one", "h:1");
    let two = process.register("two", "h:2");
    follower.until_there("one", "h:1").await;
    follower.until_there("two", "h:2").await;
    one.withdraw().await;
    follower.until_gone("one").await;
    follower.until_there("two", "h:2").await;
    two.withdraw().await;
    follower.until("nobody", Members::is_empty).await;
}

async fn a_later_registration_of_a_worker_takes_its_record_over(
    process: &Process,
    settled: Duration,
) {
    let mut follower = process.follow();
    let is_at = |address: &'static str| {
        move |members: &Members| members.get("twice").is_some_and(|r| r.address == address)
    };

    let first = process.register("twice", "h:1");
    let before = follower.until_there("twice", "h:1").await;
    let second = process.register("twice", "h:2");
    assert!(follower.until_there("twice", "h:2").await > before);
    follower.stays(settled, "the second", is_at("h:2")).await;
    first.withdraw().await;
    follower
        .stays(settled / 8, "the second", is_at("h:2"))
        .await;

    // Neither waits for the other.
    let third = process.register("twice", "h:3");
    let fourth = process.register("twice", "h:4");
    follower.until_there("twice", "h:4").await;
    drop((second, third));
    follower.until("the fourth", is_at("h:4")).await;
    follower
        .stays(settled, "the fourth", |members| {
            members.get("twice").is_some_and(|r| r.address != "h:2")
        })
        .await;
    follower.until_there("twice", "h:4").await;
    fourth.withdraw().await;
    follower.until("nobody", Members::is_empty).await;
}

async fn followers_that_start_early_and_late_see_the_same(process: &Process) {
    let mut early = process.follow();
    let registration = process.register("seen", "h:1");
    early.until_there("seen", "h:1").await;
    let mut late = process.follow();
    late.until_there("seen", "h:1").await;
    registration.withdraw().await;
    early.until("nobody", Members::is_empty).await;
    late.until("nobody", Members::is_empty).await;
}

async fn a_slow_follower_gets_the_last_state(process: &Process) {
    let mut slow = process.follow();
    let mut quick = process.follow();
    for address in ["h:1", "h:2", "h:3"] {
        let registration = process.register("slow", address);
        quick.until_there("slow", address).await;
        registration.withdraw().await;
        quick.until("nobody", Members::is_empty).await;
    }
    let registration = process.register("last", "h:4");
    let members = slow.until("the last", |members| members.contains_key("last"));
    assert_eq!(members.await.len(), 1);
    registration.withdraw().await;
    slow.until("nobody", Members::is_empty).await;
}

async fn odd_ids_and_addresses_survive(process: &Process) {
    let long = "x".repeat(1000);
    let odd = [
        ("", "h:1"),
        ("/", ""),
        ("a/b", "[::1]:7071"),
        ("..", "h:1 "),
        ("é ☃ \u{10FFFF}", "bücher.example:1"),
        ("\"\\\n\0", "\"\\\n\0"),
        (&long, &long),
    ];
    let mut follower = process.follow();
    let registrations: Vec<_> = odd
        .iter()
        .map(|(worker, address)| process.register(worker, address))
        .collect();
    for (worker, address) in odd {
        follower.until_there(worker, address).await;
    }
    for registration in registrations {
        registration.withdraw().await;
    }
    follower.until("nobody", Members::is_empty).await;
}
