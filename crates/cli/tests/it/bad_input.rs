//! Each bad input has its own status and text, and leaves nothing behind.

use std::path::{Path, PathBuf};

use lava_proto::v1;
use lava_test_support::{Architecture, HfDtype, ToyModel};
use tonic::Code;
use tonic::transport::Channel;

use crate::asking::{ask, text, tokens};
use crate::cluster::Cluster;
use crate::{SMOLLM2, lava, model, refused};

type Client = v1::inference_client::InferenceClient<Channel>;

#[track_caller]
fn check(found: Result<crate::asking::Answer, tonic::Status>, code: Code, parts: &[&str]) {
    let status = found.expect_err("the request is refused");
    assert_eq!(status.code(), code, "{status}");
    for part in parts {
        assert!(
            status.message().contains(part),
            "{:?} does not say {part:?}",
            status.message()
        );
    }
}

async fn sampled(
    client: &mut Client,
    sampling: v1::Sampling,
) -> Result<crate::asking::Answer, tonic::Status> {
    let request = v1::GenerateRequest {
        sampling: Some(sampling),
        ..text("model", "Hi", 4, 128)
    };
    ask(client, request).await
}

#[tokio::test]
async fn requests_are_refused_by_field_value_and_expectation() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &["model.name=\"model\""]);
    let mut client = cluster.client().await;
    let ok = || text("model", "Hi", 4, 128);

    let unknown = ask(&mut client, text("gpt", "Hi", 4, 128)).await;
    check(unknown, Code::NotFound, &["gpt", "model"]);
    let policy = v1::GenerateRequest {
        policy: "magic".into(),
        ..ok()
    };
    check(
        ask(&mut client, policy).await,
        Code::InvalidArgument,
        &["magic", "lava-exact"],
    );
    let rows = v1::GenerateRequest {
        row_format: "int5".into(),
        ..ok()
    };
    check(
        ask(&mut client, rows).await,
        Code::InvalidArgument,
        &["int5", "known are f32, f16, bf16, int8, fp8, int4"],
    );
    let long = tokens("model", vec![7; 9000], 4, 128);
    check(
        ask(&mut client, long).await,
        Code::InvalidArgument,
        &["9000", "8192"],
    );
    let budget = tokens("model", vec![7; 100], 4, 32);
    check(
        ask(&mut client, budget).await,
        Code::InvalidArgument,
        &["32", "window"],
    );
    let zero = v1::GenerateRequest {
        max_tokens: Some(0),
        ..ok()
    };
    check(
        ask(&mut client, zero).await,
        Code::InvalidArgument,
        &["max_tokens", "0"],
    );
    let outside = tokens("model", vec![1, 60_000], 4, 128);
    check(
        ask(&mut client, outside).await,
        Code::InvalidArgument,
        &["ids[1]", "49152"],
    );
    let empty = v1::GenerateRequest {
        prompt: None,
        ..ok()
    };
    check(
        ask(&mut client, empty).await,
        Code::InvalidArgument,
        &["prompt"],
    );
    let stop = v1::GenerateRequest {
        stop: vec![String::new()],
        ..ok()
    };
    check(
        ask(&mut client, stop).await,
        Code::InvalidArgument,
        &["stop"],
    );
    let n = v1::GenerateRequest {
        n: Some(99),
        ..ok()
    };
    check(
        ask(&mut client, n).await,
        Code::InvalidArgument,
        &["n", "99"],
    );
    let logprobs = v1::GenerateRequest {
        logprobs: Some(21),
        ..ok()
    };
    check(
        ask(&mut client, logprobs).await,
        Code::InvalidArgument,
        &["logprobs", "21"],
    );
    let hot = v1::Sampling {
        temperature: Some(f32::NAN),
        ..Default::default()
    };
    check(
        sampled(&mut client, hot).await,
        Code::InvalidArgument,
        &["temperature", "NaN"],
    );
    let top_p = v1::Sampling {
        top_p: Some(1.5),
        ..Default::default()
    };
    check(
        sampled(&mut client, top_p).await,
        Code::InvalidArgument,
        &["top_p", "1.5"],
    );
    let role = v1::GenerateRequest {
        prompt: Some(v1::Prompt {
            form: Some(v1::prompt::Form::Chat(v1::Chat {
                messages: vec![v1::ChatMessage {
                    role: "god".into(),
                    content: "Hi".into(),
                }],
            })),
        }),
        ..ok()
    };
    check(
        ask(&mut client, role).await,
        Code::InvalidArgument,
        &["role"],
    );

    cluster.idle();
}

fn toy(folder: &Path, seed: u64) -> PathBuf {
    let toy = ToyModel {
        seed,
        ..ToyModel::new(Architecture::Llama)
    };
    let path = folder.join(format!("toy-{seed}"));
    std::fs::create_dir(&path).unwrap();
    toy.write_hf(&path, HfDtype::F32, 1).unwrap();
    path
}

#[tokio::test]
async fn more_tokens_than_the_context_holds_are_as_many_as_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let model = toy(folder.path(), 1);
    let cluster = Cluster::one_process(&model, &["model.name=\"model\""]);
    let mut client = cluster.client().await;
    let listed = client.get_model(v1::GetModelRequest {
        model: "model".into(),
    });
    let context = listed.await.unwrap().into_inner().context_tokens;
    let request = v1::GenerateRequest {
        max_tokens: Some(u32::MAX),
        ignore_end_of_text: true,
        ..tokens("model", vec![7; context as usize - 5], 1, 64)
    };
    let answer = ask(&mut client, request).await.unwrap();
    let finish = answer.finish.as_ref().unwrap();
    assert_eq!(
        (finish.reason(), answer.tokens.len()),
        (v1::FinishReason::Context, 5)
    );
    let full = ask(
        &mut client,
        tokens("model", vec![7; context as usize], 1, 64),
    )
    .await;
    check(
        full,
        Code::InvalidArgument,
        &["prompt", &context.to_string()],
    );
    cluster.idle();
}

#[tokio::test]
async fn a_row_format_that_no_worker_has_is_refused_with_those_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "model.name=\"model\"",
        "model.row_formats=[\"f16\", \"int8\"]",
    ];
    let cluster = Cluster::one_process(&toy(folder.path(), 1), &settings);
    let mut client = cluster.client().await;
    let request = |format: &str| v1::GenerateRequest {
        row_format: format.into(),
        ..tokens("model", vec![7; 50], 4, 40)
    };
    check(
        ask(&mut client, request("")).await,
        Code::FailedPrecondition,
        &["row format int4", "known are f16, int8"],
    );
    let packed = ask(&mut client, request("int8")).await.unwrap();
    assert!(packed.transfer().row_bytes < packed.transfer().full_bytes);
    ask(&mut client, request("f16")).await.unwrap();
    cluster.idle();
}

#[tokio::test]
async fn workers_of_different_models_are_never_paired() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (toy(folder.path(), 1), toy(folder.path(), 2));
    let cluster = Cluster::of_models(&a, &b);
    let mut client = loop {
        // The coordinator is never ready, but it answers.
        match v1::inference_client::InferenceClient::connect(format!("http://{}", cluster.address))
            .await
        {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    };
    // Until both workers were described it knows no such model.
    let ready = |role| {
        let series = format!("lava_coordinator_workers_ready{{role=\"{role}\"}}");
        cluster.metric(&series) == 1.0
    };
    while !(ready("prefill") && ready("decode")) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let status = ask(&mut client, tokens("model", vec![5, 6], 4, 128)).await;
    check(status, Code::Unavailable, &["fingerprint"]);
}

#[test]
fn configurations_are_refused_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    let run = |role: &str, content: &str| {
        std::fs::write(&file, content).unwrap();
        lava(&[role, "--config", file.to_str().unwrap()])
    };
    refused(
        &run("prefill", "[prefill]\nqueue_maximum = 3\n"),
        &["bad.toml", "queue_maximum", "queue_max"],
    );
    refused(
        &run("prefill", "[prefill]\nqueue_max = \"many\"\n"),
        &["bad.toml", "queue_max", "many"],
    );
    refused(
        &run("prefill", "[prefill]\nqueue_max = 0\n"),
        &["prefill.queue_max", "0", "at least 1"],
    );
    refused(&run("decode", ""), &["model.path", "not given"]);
    refused(&run("coordinator", ""), &["workers.addresses", "empty"]);
    refused(
        &run(
            "coordinator",
            "[workers]\naddresses = [\"a:1\"]\n[limits]\ndeadline_default_ms = 20\ndeadline_max_ms = 10\n",
        ),
        &["limits.deadline_default_ms", "20", "10"],
    );
    refused(
        &run(
            "serve",
            "[workers]\naddresses = [\"a:1\"]\n[model]\npath = \"x\"\n",
        ),
        &["workers.addresses"],
    );
    refused(
        &lava(&[
            "serve",
            "--model",
            "nothing",
            "--set",
            "telemetry.level=loud",
        ]),
        &["telemetry.level", "loud"],
    );
    refused(
        &lava(&["serve", "--model", "nothing"]),
        &["no model at \"nothing\""],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setting = format!("listen.address=\"{address}\"");
    let arguments = [
        "coordinator",
        "--set",
        "workers.addresses=[\"a:1\"]",
        "--set",
        &setting,
    ];
    refused(&lava(&arguments), &["cannot listen on", &address]);
}
