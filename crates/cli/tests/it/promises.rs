//! What docs/promises.md says of faults, with real processes and a real etcd. Each test is named after its row.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lava_proto::v1;
use lava_proto::v1::generate_request::BudgetForm;
use lava_proto::v1::inference_client::InferenceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::asking::{self, Answer, ask, tokens};
use crate::fleet::Fleet;
use crate::{lava, text};

/// A token that is less likelier than this than the next one, in nats, may be another one where the same
/// is computed in another order.
const MARGIN_MIN: f32 = 0.05;

/// A greedy request that runs to its last token.
pub(crate) fn request(prompt_tokens: u32, max_tokens: u32, budget: u32) -> v1::GenerateRequest {
    let ids = (0..prompt_tokens)
        .map(|i| 500 + (i * 31) % 20_000)
        .collect();
    v1::GenerateRequest {
        ignore_end_of_text: true,
        logprobs: Some(2),
        ..tokens("model", ids, max_tokens, budget)
    }
}

/// The answers have the same tokens up to the first one that was nearly another one. Returns how many.
#[track_caller]
fn check_same(undisturbed: &Answer, answer: &Answer) -> usize {
    assert_eq!(undisturbed.tokens.len(), answer.tokens.len());
    let is_clear = |token: &v1::Token| token.top[0].logprob - token.top[1].logprob >= MARGIN_MIN;
    let same = undisturbed
        .tokens
        .iter()
        .take_while(|token| is_clear(token))
        .count();
    assert_eq!(undisturbed.ids()[..same], answer.ids()[..same]);
    same
}

/// Freezes the decode worker under an answer, which goes on elsewhere to its end. How long it stood still.
async fn freeze_decoding(fleet: &Fleet, client: &mut InferenceClient<Channel>) -> Duration {
    let answering = client.generate(request(60, 300, 128)).await;
    let mut stream = answering.unwrap().into_inner();
    let mut answer = Answer::default();
    answer.read(&mut stream, 4).await.unwrap();
    let frozen = fleet.busy("decode", "lava_decode_slots");
    let frozen = fleet.process(&frozen.expect("it decodes"));
    frozen.signal("STOP");
    let began = Instant::now();
    let more = answer.tokens.len() + 8;
    answer.read(&mut stream, more).await.unwrap();
    let took = began.elapsed();
    answer.read(&mut stream, usize::MAX).await.unwrap();
    assert_eq!(answer.tokens.len(), 300);
    assert_eq!(answer.transfer().recomputes, 1);
    frozen.signal("CONT");
    fleet.idle();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_killed_decode_worker_leaves_no_gap_no_repeat_and_nothing_held() {
    // Enough of them are left when the worker is killed.
    const TOKENS: u32 = 160;
    let mut fleet = Fleet::start().await;
    let mut client = fleet.client().await;
    // How it goes on is beyond doubt, so that rounding decides nothing.
    let counting = "1 2 3 4 5 6 7 8 9 ".repeat(5);
    let kept_whole = v1::GenerateRequest {
        row_format: "f16".into(),
        ignore_end_of_text: true,
        logprobs: Some(2),
        ..asking::text("model", &counting, TOKENS, 1024)
    };
    let undisturbed = ask(&mut client, kept_whole.clone()).await.unwrap();
    assert_eq!(undisturbed.transfer().recomputes, 0);
    // With fewer rows than tokens, or packed ones, the text after the fault may be another one, and as long.
    let compressed = request(200, TOKENS, 64);
    for request in [kept_whole, compressed] {
        let mut answer = Answer::default();
        let mut stream = client.generate(request.clone()).await.unwrap().into_inner();
        answer.read(&mut stream, 8).await.unwrap();
        let victim = fleet.busy("decode", "lava_decode_slots");
        let victim = victim.expect("a decode worker is in the middle of the answer");
        fleet.kill(&victim);
        answer.read(&mut stream, usize::MAX).await.unwrap();

        assert_eq!(answer.tokens.len(), TOKENS as usize);
        assert_eq!(answer.transfer().recomputes, 1);
        if request.budget_form == Some(BudgetForm::Budget(1024)) {
            let same = check_same(&undisturbed, &answer);
            println!("the same up to token {same} of {TOKENS}");
            assert!(
                same >= 16,
                "{same} tokens say little about the ones after the kill"
            );
        }
        fleet.idle();
        fleet.workers_ready("decode", 1);
        fleet.restart(&victim);
        fleet.workers_ready("decode", 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_killed_prefill_worker_costs_a_recompute_and_no_request() {
    let mut fleet = Fleet::start().await;
    let mut client = fleet.client().await;
    let request = request(1200, 8, 128);
    let undisturbed = ask(&mut client, request.clone()).await.unwrap();
    let mut stream = client.generate(request).await.unwrap().into_inner();
    // Its first rows are on their way, so it is in the middle of its layers.
    fleet.until_busy("decode", "lava_decode_transfers").await;
    let victim = fleet.busy("prefill", "lava_prefill_queue");
    let victim = victim.expect("a prefill worker has the prompt");
    fleet.kill(&victim);
    let mut answer = Answer::default();
    answer.read(&mut stream, usize::MAX).await.unwrap();
    assert_eq!(answer.ids(), undisturbed.ids());
    assert_eq!(answer.transfer().recomputes, 1);
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_a_reservation_is_kept_while_its_prompt_waits_its_turn() {
    let mut fleet = Fleet::start().await;
    assert_eq!(fleet.terminate("prefill-1"), Some(0));
    fleet.workers_ready("prefill", 1);
    let mut client = fleet.client().await;
    let mut first = client
        .generate(request(3600, 2, 128))
        .await
        .unwrap()
        .into_inner();
    fleet.until_busy("prefill", "lava_prefill_queue").await;
    // Leases in etcd last 2 s, and the prompt waits for longer than that.
    let began = Instant::now();
    let waiting = ask(&mut client, request(30, 4, 128)).await.unwrap();
    assert_eq!(waiting.transfer().recomputes, 0);
    assert!(
        waiting.transfer().queue_ms > 3000.0,
        "{:?}",
        waiting.transfer()
    );
    assert!(began.elapsed() > Duration::from_secs(3));
    let mut answer = Answer::default();
    answer.read(&mut first, usize::MAX).await.unwrap();
    assert_eq!(fleet.metric("lava_decode_refused_total"), 0.0);
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_a_frozen_worker_is_an_error_and_not_a_hang() {
    let fleet = Fleet::with(&[("coordinator", "workers.keep_alive_ms=1000")]).await;
    let mut client = fleet.client().await;
    let took = freeze_decoding(&fleet, &mut client).await;
    println!("a frozen decode worker was noticed after {took:?}");

    let mut stream = client
        .generate(request(1200, 4, 128))
        .await
        .unwrap()
        .into_inner();
    fleet.until_busy("decode", "lava_decode_transfers").await;
    let frozen = fleet
        .busy("prefill", "lava_prefill_queue")
        .expect("it prefills");
    fleet.process(&frozen).signal("STOP");
    let mut answer = Answer::default();
    answer.read(&mut stream, usize::MAX).await.unwrap();
    assert_eq!(answer.transfer().recomputes, 1);
    fleet.process(&frozen).signal("CONT");
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_with_no_worker_left_requests_are_unavailable_within_their_deadline() {
    const DEADLINE: Duration = Duration::from_secs(20);
    let mut fleet = Fleet::start().await;
    let mut client = fleet.client().await;
    let mut long = tonic::Request::new(request(40, 2000, 1024));
    long.set_timeout(DEADLINE);
    let began = Instant::now();
    let mut stream = client.generate(long).await.unwrap().into_inner();
    let mut answer = Answer::default();
    answer.read(&mut stream, 4).await.unwrap();
    fleet.kill("decode-0");
    fleet.kill("decode-1");
    let ended = answer.read(&mut stream, usize::MAX).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    fleet.idle();
    fleet.workers_ready("decode", 0);
    let began = Instant::now();
    let refused = ask(&mut client, request(40, 4, 128)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    fleet.restart("decode-0");
    fleet.workers_ready("decode", 1);
    ask(&mut client, request(40, 4, 128)).await.unwrap();
}

/// Requests one after another, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<usize>,
}

impl Load {
    /// `streams` at a time. A request that is refused at the door goes to the next coordinator; one that was
    /// let in must come to its end.
    fn start(fleet: &Fleet, streams: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for stream in 0..streams {
            let (clients, stop) = (fleet.clients(), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut answered = 0;
                while !stop.load(Ordering::Relaxed) {
                    let shape = (stream + answered) % 4;
                    let request = request([24, 60, 150, 90][shape], 6 + shape as u32, 64);
                    ask_any(clients.clone(), stream + answered, request).await;
                    answered += 1;
                }
                answered
            });
        }
        Load { stop, tasks }
    }

    /// How many requests were answered, all of them whole.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().sum()
    }
}

async fn ask_any(
    mut clients: Vec<InferenceClient<Channel>>,
    first: usize,
    request: v1::GenerateRequest,
) {
    let began = Instant::now();
    for turn in first.. {
        let at = turn % clients.len();
        match clients[at].generate(request.clone()).await {
            Ok(response) => {
                let mut answer = Answer::default();
                let whole = answer.read(&mut response.into_inner(), usize::MAX).await;
                whole.expect("an answer that has begun comes to its end");
                assert_eq!(answer.tokens.len() as u32, request.max_tokens.unwrap());
                assert_eq!(answer.transfer().recomputes, 0);
                return;
            }
            Err(refused) => check_refusal(&refused, began),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn check_refusal(refused: &Status, began: Instant) {
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "nobody takes requests: {refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_8_sixty_seconds_without_etcd_and_a_wiped_one_cost_no_request() {
    let mut fleet = Fleet::start().await;
    let load = Load::start(&fleet, 2);
    fleet.etcd.kill(0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let connected = |fleet: &Fleet| fleet.metric("lava_registry_connected");
    assert_eq!(connected(&fleet), 0.0);
    fleet.etcd.restart(0).await;
    fleet.until("all five processes are connected again", || {
        connected(&fleet) == 5.0
    });

    let registrations = fleet.metric("lava_registry_registrations_total");
    fleet.etcd.kill(0);
    fleet.etcd.wipe(0);
    fleet.etcd.restart(0).await;
    fleet.until("all four workers are registered again", || {
        fleet.metric("lava_registry_registrations_total") >= registrations + 4.0
    });
    let answered = load.stop().await;
    println!("{answered} requests were answered meanwhile");
    assert!(
        answered >= 30,
        "{answered} requests in more than 60 s are no load"
    );
    // Who has never seen them before finds them all.
    fleet.restart("coordinator-1");
    fleet.workers_ready("prefill", 2);
    fleet.workers_ready("decode", 2);
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_8_dead_workers_are_not_listed() {
    let mut fleet = Fleet::start().await;
    fleet.kill("decode-1");
    fleet.workers_ready("decode", 1);
    let is_known = |fleet: &Fleet| fleet.metric("lava_registry_members");
    // The coordinator's view of the registry follows once the lease has run out.
    fleet.until("its record is gone", || is_known(&fleet) == 3.0);
    let mut client = fleet.client().await;
    let models = client.list_models(v1::ListModelsRequest {}).await.unwrap();
    let model = &models.into_inner().models[0];
    assert_eq!((model.prefill_workers, model.decode_workers), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_9_room_is_granted_before_prefill_and_refused_early_with_a_time_to_come_back() {
    // 18 MB: room for one of these requests in each decode worker. They last while others are refused.
    const TOKENS: u32 = 500;
    let fleet = Fleet::with(&[
        ("decode", "decode.cache_bytes=18000000"),
        ("coordinator", "admission.waiting_max=1"),
        ("coordinator", "admission.wait_max_ms=120000"),
    ])
    .await;
    let mut client = fleet.client().await;
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut stream = client
            .generate(request(300, TOKENS, 256))
            .await
            .unwrap()
            .into_inner();
        let mut answer = Answer::default();
        answer.read(&mut stream, 1).await.unwrap();
        running.push((stream, answer));
    }
    let prefilled = fleet.metric("lava_prefill_prompt_tokens_total");
    // One may wait for its turn; whoever comes then is refused.
    let waiting = client.generate(request(300, TOKENS, 256)).await.unwrap();
    let is_waiting = || fleet.metric("lava_coordinator_waiting{priority=\"normal\"}") == 1.0;
    fleet.until("one waits", is_waiting);
    for _ in 0..8 {
        let began = Instant::now();
        let refused = ask(&mut client, request(300, TOKENS, 256))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert_eq!(refused.metadata().get("retry-after-ms").unwrap(), "1000");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    assert_eq!(fleet.metric("lava_prefill_prompt_tokens_total"), prefilled);
    let never = ask(&mut client, request(700, 3 * TOKENS, 1024))
        .await
        .unwrap_err();
    assert_eq!(never.code(), Code::FailedPrecondition, "{never}");
    for (mut stream, mut answer) in running {
        answer.read(&mut stream, usize::MAX).await.unwrap();
        assert_eq!(answer.tokens.len(), TOKENS as usize);
    }
    let mut answer = Answer::default();
    let mut waiting = waiting.into_inner();
    answer.read(&mut waiting, usize::MAX).await.unwrap();
    assert_eq!(answer.tokens.len(), TOKENS as usize);
    fleet.idle();
    ask(&mut client, request(30, 24, 256)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_10_a_prompt_costs_the_link_and_the_decode_worker_its_budget_and_not_its_length() {
    let fleet = Fleet::start().await;
    let mut client = fleet.client().await;
    let ask_for = |tokens, budget| request(tokens, 4, budget);
    let short = ask(&mut client, ask_for(600, 256)).await.unwrap();
    let long = ask(&mut client, ask_for(3600, 256)).await.unwrap();
    let (short, long) = (short.transfer(), long.transfer());
    assert!(long.full_bytes == 6 * short.full_bytes && long.stored_bytes > 0);
    for (what, of_long, of_short) in [
        ("shipped", long.shipped_bytes, short.shipped_bytes),
        ("stored", long.stored_bytes, short.stored_bytes),
    ] {
        let ratio = of_long as f64 / of_short as f64;
        assert!(
            (0.98..1.02).contains(&ratio),
            "{what}: {of_short} and {of_long} bytes"
        );
    }
    // Without a budget it is the prompt's length that travels.
    let whole = ask(&mut client, ask_for(3600, 4096)).await.unwrap();
    let whole = whole.transfer().shipped_bytes;
    assert!(
        whole > 10 * long.shipped_bytes,
        "{whole} and {} bytes",
        long.shipped_bytes
    );
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_14_a_rolling_restart_of_all_processes_under_load_loses_no_request() {
    let mut fleet = Fleet::start().await;
    fleet.restart("coordinator-1");
    fleet.workers_ready("decode", 2);
    let load = Load::start(&fleet, 3);
    for name in [
        "decode-0",
        "prefill-0",
        "coordinator-0",
        "decode-1",
        "prefill-1",
        "coordinator-1",
    ] {
        let began = Instant::now();
        assert_eq!(fleet.terminate(name), Some(0), "{name} ends well");
        let drained = began.elapsed();
        fleet.restart(name);
        fleet.workers_ready("prefill", 2);
        fleet.workers_ready("decode", 2);
        println!(
            "{name} was drained in {drained:?} and back after {:?}",
            began.elapsed()
        );
        if name == "coordinator-0" {
            fleet.etcd.kill(0);
            fleet.etcd.restart(0).await;
        }
    }
    let answered = load.stop().await;
    println!("{answered} requests were answered meanwhile");
    assert!(answered >= 10, "{answered} requests are no load");
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_14_a_drained_worker_serves_what_it_has_within_its_limit_and_then_ends() {
    let mut fleet = Fleet::with(&[("decode", "decode.drain_timeout_ms=3000")]).await;
    let mut client = fleet.client().await;
    // The first answer ends within the limit; the second one would take minutes, and goes on elsewhere.
    for (max_tokens, recomputes) in [(80, 0), (6000, 1)] {
        let long = request(40, max_tokens, 1024);
        let mut stream = client.generate(long).await.unwrap().into_inner();
        let mut answer = Answer::default();
        answer.read(&mut stream, 2).await.unwrap();
        let name = fleet
            .busy("decode", "lava_decode_slots")
            .expect("it decodes");
        let drained = lava(&["drain", "--addr", &fleet.process(&name).address()]);
        assert!(drained.status.success(), "{}", text(&drained.stderr));
        assert_eq!(text(&drained.stdout), "draining; 1 requests are left\n");
        fleet.workers_ready("decode", 1);
        // It takes nothing new meanwhile.
        let other = ask(&mut client, request(30, 2, 64)).await.unwrap();
        assert_eq!(other.transfer().recomputes, 0);
        assert_eq!(fleet.take(&name).exit_code(), Some(0));
        let came = answer.tokens.len();
        let enough = (came + 80).min(max_tokens as usize);
        answer.read(&mut stream, enough).await.unwrap();
        let recomputed = fleet.metric("lava_coordinator_recomputes_total");
        assert_eq!(recomputed, f64::from(recomputes));
        drop(stream);
        fleet.restart(&name);
        fleet.workers_ready("decode", 2);
    }
    fleet.idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_15_ports_are_found_by_registration_and_idle_connections_live() {
    // Every worker of a fleet listens on port 0 and is found by its record alone.
    let fleet = Fleet::with(&[("coordinator", "workers.keep_alive_ms=200")]).await;
    let ports: BTreeSet<String> = ["prefill-0", "prefill-1", "decode-0", "decode-1"]
        .iter()
        .map(|name| fleet.process(name).address())
        .collect();
    assert_eq!(ports.len(), 4, "{ports:?}");
    assert!(
        ports.iter().all(|address| !address.ends_with(":0")),
        "{ports:?}"
    );
    let mut client = fleet.client().await;
    ask(&mut client, request(40, 4, 64)).await.unwrap();
    // Ten times as long as a connection may be silent.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = ask(&mut client, request(40, 4, 64)).await.unwrap();
    assert_eq!(answer.transfer().recomputes, 0);
    assert_eq!(fleet.metric("lava_coordinator_recomputes_total"), 0.0);
    fleet.workers_ready("prefill", 2);
    fleet.workers_ready("decode", 2);

    // A link that dies in silence is noticed: its worker is frozen, and still holds the connection.
    let took = freeze_decoding(&fleet, &mut client).await;
    println!("a dead connection was noticed after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_16_a_recompute_is_counted_and_shown_and_there_is_none_without_a_fault() {
    let mut fleet = Fleet::start().await;
    let mut client = fleet.client().await;
    let recomputes = |fleet: &Fleet| fleet.metric("lava_coordinator_recomputes_total");
    let received = |fleet: &Fleet| fleet.metric("lava_decode_received_bytes_total");
    let mut shipped = 0;
    for index in 0..3 {
        let answer = ask(&mut client, request(100 + 50 * index, 6, 64))
            .await
            .unwrap();
        let t = answer.transfer();
        assert_eq!(t.recomputes, 0);
        assert!(t.shipped_bytes > 0 && t.rows_kept > 0, "{t:?}");
        shipped += t.shipped_bytes;
        // The answer's cache came over the link; nobody computed it on the decode side.
        assert_eq!(received(&fleet), shipped as f64);
    }
    assert_eq!(recomputes(&fleet), 0.0);
    assert_eq!(fleet.metric("lava_prefill_completed_total"), 3.0);

    let mut stream = client
        .generate(request(100, 200, 64))
        .await
        .unwrap()
        .into_inner();
    let mut answer = Answer::default();
    answer.read(&mut stream, 8).await.unwrap();
    let victim = fleet
        .busy("decode", "lava_decode_slots")
        .expect("it decodes");
    fleet.kill(&victim);
    answer.read(&mut stream, usize::MAX).await.unwrap();
    assert_eq!(answer.tokens.len(), 200);
    assert_eq!(answer.transfer().recomputes, 1);
    assert_eq!(recomputes(&fleet), 1.0);
    fleet.idle();
}
