//! Many requests at once, some given up at every stage, and clients that read slowly.

use std::time::{Duration, Instant};

use lava_proto::v1;
use lava_proto::v1::inference_client::InferenceClient;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::asking::{ask, next, tokens};
use crate::cluster::Cluster;
use crate::{SMOLLM2, model};

const NAME: &str = "model.name=\"model\"";

/// What a client does with its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Reads,
    /// Leaves while others are computed.
    LeavesQueued,
    /// Leaves after this many messages; the first one comes before the cache is sealed.
    LeavesAfter(usize),
}

fn ids(len: u32, salt: u32) -> Vec<u32> {
    (0..len)
        .map(|i| 500 + (i * 31 + salt * 977) % 20_000)
        .collect()
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < Duration::from_secs(60), "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run(
    mut client: InferenceClient<Channel>,
    kind: Client,
    request: v1::GenerateRequest,
    leave: tokio::sync::watch::Receiver<bool>,
) -> bool {
    let most = request.max_tokens.unwrap() as usize;
    match kind {
        Client::Reads => {
            let answer = ask(&mut client, request).await.unwrap();
            assert_eq!(answer.tokens.len(), most);
            assert_eq!(answer.transfer().recomputes, 0);
            true
        }
        Client::LeavesQueued => {
            let stream = client.generate(request).await.unwrap();
            let mut leave = leave;
            leave.wait_for(|leave| *leave).await.unwrap();
            drop(stream);
            false
        }
        Client::LeavesAfter(messages) => {
            let mut stream = client.generate(request).await.unwrap().into_inner();
            for _ in 0..messages {
                next(&mut stream)
                    .await
                    .unwrap()
                    .expect("the answer is longer");
            }
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_7_clients_that_leave_at_any_stage_leave_nothing_behind() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &[NAME]);
    let client = cluster.client().await;
    let (leave, leaving) = tokio::sync::watch::channel(false);

    // The first one keeps the engine busy, and is given up in the middle of its prefill.
    let mut long = client.clone();
    let long = long
        .generate(tokens("model", ids(1500, 99), 8, 128))
        .await
        .unwrap();
    until("in prefill", || {
        cluster.metric("lava_decode_transfers") == 1.0
    })
    .await;

    let mut tasks = JoinSet::new();
    for index in 0..31 {
        let kind = match index % 8 {
            1 => Client::LeavesQueued,
            3 => Client::LeavesAfter(1),
            5 => Client::LeavesAfter(4),
            _ => Client::Reads,
        };
        let (len, budget) = (
            [24, 60, 150, 300][index % 4],
            [64, 128, 256, 1024][index / 4 % 4],
        );
        let mut request = tokens(
            "model",
            ids(len, index as u32),
            8 + index as u32 % 5,
            budget,
        );
        request.ignore_end_of_text = true;
        request.policy = ["lava", "full", "lava-paper", "lava-code"][index / 2 % 4].into();
        tasks.spawn(run(client.clone(), kind, request, leaving.clone()));
    }
    until("all queued", || {
        cluster.metric("lava_prefill_queue") == 32.0
    })
    .await;
    leave.send_replace(true);
    until("some given up", || {
        cluster.metric("lava_decode_cancelled_total{stage=\"reserved\"}") >= 4.0
    })
    .await;
    drop(long);

    let ends: Vec<bool> = tasks.join_all().await;
    let completed = ends.iter().filter(|completed| **completed).count();
    assert_eq!(completed, 31 - 12);
    cluster.idle();
    let left = |role: &str, stage: &str| {
        cluster.metric(&format!("lava_{role}_cancelled_total{{stage=\"{stage}\"}}"))
    };
    assert!(left("prefill", "queue") >= 4.0);
    assert_eq!(left("prefill", "prefill"), 1.0);
    assert!(left("decode", "transfer") >= 1.0);
    assert!(left("decode", "decode") >= 4.0);
    assert!(cluster.metric("lava_prefill_completed_total") >= completed as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_pauses_alone_and_is_ended_by_name() {
    let settings = [
        NAME,
        "decode.output_max=3",
        "decode.stall_timeout_ms=1500",
        "limits.answer_messages_max=1",
    ];
    let cluster = Cluster::one_process(&model(SMOLLM2), &settings);
    // A small window, so that little is on its way to a client that does not read.
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address)).unwrap();
    let channel = endpoint
        .initial_stream_window_size(1024)
        .connect()
        .await
        .unwrap();
    let mut request = tokens("model", ids(40, 1), 4000, 128);
    request.ignore_end_of_text = true;
    request.logprobs = Some(20);
    let slow = InferenceClient::new(channel)
        .generate(request)
        .await
        .unwrap();
    let mut slow = slow.into_inner();
    next(&mut slow).await.unwrap().expect("a first message");

    // Others go on meanwhile.
    let mut client = cluster.client().await;
    while cluster.metric("lava_decode_slow_clients_total") == 0.0 {
        ask(&mut client, tokens("model", ids(30, 2), 4, 128))
            .await
            .unwrap();
    }
    let status = loop {
        match next(&mut slow).await {
            Ok(Some(message)) => assert!(message.finish.is_none()),
            Ok(None) => panic!("the answer ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(
        status.message().contains("the client took nothing for"),
        "{status}"
    );
    cluster.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_refused_at_once_and_a_deadline_ends_what_waits() {
    let cluster = Cluster::one_process(
        &model(SMOLLM2),
        &[
            NAME,
            "prefill.queue_max=2",
            "retry.attempts_max=1",
            "admission.waiting_max=0",
        ],
    );
    let mut client = cluster.client().await;
    let long = client
        .generate(tokens("model", ids(1500, 1), 2, 128))
        .await
        .unwrap();
    until("in prefill", || cluster.metric("lava_prefill_queue") == 1.0).await;
    let mut waiting = tonic::Request::new(tokens("model", ids(30, 2), 2, 128));
    waiting.set_timeout(Duration::from_millis(800));
    let mut waiting = client.generate(waiting).await.unwrap().into_inner();
    until("queued", || cluster.metric("lava_prefill_queue") == 2.0).await;
    let full = ask(&mut client, tokens("model", ids(30, 3), 2, 128))
        .await
        .unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    let late = next(&mut waiting).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    drop(long);
    cluster.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_serves_what_was_let_in_and_refuses_what_is_new() {
    let mut cluster = Cluster::one_process(&model(SMOLLM2), &[NAME]);
    let mut client = cluster.client().await;
    let mut request = tokens("model", ids(300, 1), 24, 128);
    request.ignore_end_of_text = true;
    let mut running = client.generate(request).await.unwrap().into_inner();
    next(&mut running).await.unwrap().expect("a first message");
    let ended = std::thread::scope(|scope| {
        let process = &mut cluster.processes[0];
        let ending = scope.spawn(move || process.terminate());
        let runtime = tokio::runtime::Handle::current();
        let serving = async {
            let mut tokens = 1;
            while let Some(message) = next(&mut running).await.unwrap() {
                tokens += message.tokens.len();
            }
            tokens
        };
        let tokens = tokio::task::block_in_place(|| runtime.block_on(serving));
        assert!(tokens >= 24, "{tokens}");
        ending.join().unwrap()
    });
    assert_eq!(ended, Some(0));
}
