//! What clients see besides answers: models, tokens, refusals, health, reflection.

use std::time::Duration;

use lava_cluster::Registry;
use lava_node::Health;
use lava_proto::v1::{
    Chat, ChatMessage, GenerateResponse, GetModelRequest, ListModelsRequest, Prompt,
    TokenizeRequest, prompt,
};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_prost::ProstCodec;

use crate::scripted::{Scripted, byte_id};
use crate::{Coordinator, text, within};

#[tokio::test]
async fn models_are_listed_once_a_pair_of_workers_serves_them() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let registry = Registry::memory();
    let coordinator = Coordinator::with(registry.clone(), |_| {}).await;
    let status = coordinator.refused(text("hello")).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "no worker has described itself yet");
    let register = |id: &str, worker: &Scripted| {
        registry.register(id.to_owned(), worker.address.clone(), &Health::new())
    };
    let _p = register("p", &p);
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 1")
        .await;
    let mut client = coordinator.client();
    let listed = client.list_models(ListModelsRequest {}).await.unwrap();
    assert!(listed.into_inner().models.is_empty());
    let _d = register("d", &d);
    coordinator.serving().await;
    let listed = client.list_models(ListModelsRequest {}).await.unwrap();
    let models = listed.into_inner().models;
    let request = GetModelRequest {
        model: "toy".to_owned(),
    };
    let model = client.get_model(request).await.unwrap().into_inner();
    assert_eq!(models, std::slice::from_ref(&model));
    assert_eq!((model.context_tokens, model.vocabulary), (100_000, 259));
    assert_eq!((model.layers, model.kv_heads, model.head_dim), (2, 2, 16));
    assert_eq!(model.row_formats, ["f16", "int4"]);
    assert_eq!((model.prefill_workers, model.decode_workers), (1, 1));
    assert!(model.chat);
}

#[tokio::test]
async fn a_worker_that_the_registry_lost_is_used_while_it_answers() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let registry = Registry::memory();
    let register = |id: &str, worker: &Scripted| {
        registry.register(id.to_owned(), worker.address.clone(), &Health::new())
    };
    let records = [register("p", &p), register("d", &d)];
    let coordinator = Coordinator::with(registry.clone(), |_| {}).await;
    coordinator.serving().await;
    drop(records);
    assert!(registry.follow(&Health::new()).members().is_empty());
    // Many probes later both are still ready.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut client = coordinator.client();
    let listed = client.list_models(ListModelsRequest {}).await.unwrap();
    assert_eq!(listed.into_inner().models[0].decode_workers, 1);
    drop(d);
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 0")
        .await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 1")
        .await;
}

#[tokio::test]
async fn an_address_that_another_worker_has_taken_over_is_not_the_registered_worker() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let registry = Registry::memory();
    let register = |id: &str, worker: &Scripted| {
        registry.register(id.to_owned(), worker.address.clone(), &Health::new())
    };
    // The record of a worker that died, whose port the new decode worker got.
    let _records = [register("p", &p), register("dead", &d)];
    let coordinator = Coordinator::with(registry.clone(), |_| {}).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"prefill\"} 1")
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    coordinator
        .metric("lava_coordinator_workers_ready{role=\"decode\"} 0")
        .await;
    let _d = register("d", &d);
    coordinator.serving().await;
}

#[tokio::test]
async fn an_unknown_model_is_refused_with_the_known_ones() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut request = text("hello");
    request.model = "gpt".to_owned();
    let status = coordinator.refused(request).await;
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), r#"unknown model "gpt"; known are toy"#);
    let request = GetModelRequest {
        model: "x".repeat(100_000),
    };
    let status = coordinator.client().get_model(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    coordinator
        .metric("lava_coordinator_refusals_total{reason=\"unknown_model\"} 1")
        .await;
}

#[tokio::test]
async fn workers_of_different_fingerprints_are_never_paired() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let mut other = d.description.lock().unwrap().clone();
    other.model.as_mut().unwrap().fingerprint = vec![2; 16].into();
    *d.description.lock().unwrap() = other;
    let addresses = [p.address.clone(), d.address.clone()];
    let coordinator = Coordinator::with(Registry::of_addresses(addresses), |_| {}).await;
    for role in ["prefill", "decode"] {
        let line = format!("lava_coordinator_workers_ready{{role=\"{role}\"}} 1");
        coordinator.metric(&line).await;
    }
    let status = coordinator.refused(text("hello")).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        r#"no ready prefill worker of model "toy" has the fingerprint of a ready decode worker"#
    );
}

#[tokio::test]
async fn prompts_are_tokenized_as_generate_would() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let tokenize = async |form| {
        let prompt = Some(Prompt { form: Some(form) });
        let model = "toy".to_owned();
        let request = TokenizeRequest { model, prompt };
        let answer = within(coordinator.client().tokenize(request)).await;
        answer.map(|answer| answer.into_inner().ids)
    };
    let ids = tokenize(prompt::Form::Text("hi".to_owned())).await.unwrap();
    assert!(ids.ends_with(&b"hi".map(byte_id)));
    let chat = |role: &str| {
        let message = ChatMessage {
            role: role.to_owned(),
            content: "<|im_end|>".to_owned(),
        };
        let messages = vec![message];
        prompt::Form::Chat(Chat { messages })
    };
    let ids = tokenize(chat("user")).await.unwrap();
    // One end of a turn: the template's own, not the message's.
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1);
    let status = tokenize(chat("robot")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "prompt: the role of message 0 is not one of system, user, assistant, tool"
    );
}

/// `GenerateRequest` as far as this test needs it, with bytes for strings.
#[derive(Clone, PartialEq, prost::Message)]
struct RawRequest {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(bytes = "vec", repeated, tag = "5")]
    stop: Vec<Vec<u8>>,
}

#[tokio::test]
async fn a_stop_string_that_is_not_utf_8_is_the_clients_fault() {
    let p = Scripted::prefill("p").await;
    let d = Scripted::decode("d").await;
    let coordinator = Coordinator::start(&[&p, &d]).await;
    let mut grpc = tonic::client::Grpc::new(coordinator.channel.clone());
    grpc.ready().await.unwrap();
    let request = RawRequest {
        model: "toy".to_owned(),
        stop: vec![vec![0xFF, 0xFE]],
    };
    let path = PathAndQuery::from_static("/lava.v1.Inference/Generate");
    let codec = ProstCodec::<RawRequest, GenerateResponse>::default();
    let call = grpc.server_streaming(tonic::Request::new(request), path, codec);
    let status = within(call).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn health_is_told_by_name() {
    let p = Scripted::prefill("p").await;
    let registry = Registry::of_addresses([p.address.clone()]);
    let coordinator = Coordinator::with(registry, |_| {}).await;
    coordinator.health(ServingStatus::NotServing).await;
    let mut health =
        tonic_health::pb::health_client::HealthClient::new(coordinator.channel.clone());
    let request = tonic_health::pb::HealthCheckRequest {
        service: "lava.v1.Inference".to_owned(),
    };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let coordinator = Coordinator::with(Registry::memory(), |_| {}).await;
    let expected = ["grpc.health.v1.Health", "lava.v1.Inference"];
    macro_rules! check {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let mut client = ServerReflectionClient::new(coordinator.channel.clone());
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let answers = client.server_reflection_info(tokio_stream::iter([request]));
            let mut answers = within(answers).await.unwrap().into_inner();
            let answer = within(answers.next()).await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("no list of services");
            };
            let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
            for name in expected {
                assert!(names.contains(&name), "{name} is not among {names:?}");
            }
        }};
    }
    check!(v1);
    check!(v1alpha);
}
