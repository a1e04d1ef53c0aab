//! Who waits, and for how long they stand in the way of others.

use std::time::Duration;

use lava_prefill_worker::PrefillSection;
use lava_test_support::{Architecture, ToyModel};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::worker::{load_toy, request, start_with};

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_waiting_makes_room_at_once() {
    let toy = ToyModel::new(Architecture::Llama);
    let loaded = load_toy(&toy);
    let section = PrefillSection {
        queue_max: 3,
        frames_queued_max: 1,
        together_tokens_max: 0,
        ..Default::default()
    };
    let mut client = start_with(section, loaded.clone()).await;
    let silent = crate::receiver::silent().await.to_string();
    let prompt: Vec<u32> = (0..90).map(|i| i % toy.vocab as u32).collect();
    let mut asked = request(&loaded, &prompt, "lava", 48, silent);
    asked.attempt.as_mut().unwrap().deadline_ms = 20_000;
    // Its receiver holds the engine up until its deadline.
    let mut running = client.run(asked.clone()).await.unwrap().into_inner();
    let waiting = [
        client.run(asked.clone()).await.unwrap(),
        client.run(asked.clone()).await.unwrap(),
    ];
    let refused = client.run(asked.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    drop(waiting);
    let patience = Instant::now() + Duration::from_secs(10);
    while let Err(refused) = client.run(asked.clone()).await {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(Instant::now() < patience, "{refused}");
        sleep(Duration::from_millis(20)).await;
    }
    let event = timeout(Duration::ZERO, running.message()).await;
    assert!(event.is_err(), "the first one is still on the engine");
}
