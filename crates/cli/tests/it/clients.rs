//! Clients that share no code with us: grpcurl, which knows only what reflection tells it, and the Python package.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SMOLLM2, model, text};

/// The name of the served model is the file's stem.
const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1";
const QUESTION: &str = "What is the capital of France?";

/// Calls of each kind. Before the last two lines it waits, so that what an abandoned call holds can be looked at
/// while the connection is open.
const SCRIPT: &str = r#"
import json, sys
from dataclasses import astuple
from lava_client import Client, LavaError

address, name, question = sys.argv[1:]
messages = [{"role": "user", "content": question}]
say = lambda value: print(json.dumps(value), flush=True)
with Client(address) as client:
    say([[model.name, model.chat] for model in client.models()])
    say(client.tokenize(model=name, prompt=question))
    ids = client.tokenize(model=name, messages=messages)
    pieces = list(client.generate(
        model=name, messages=messages, max_tokens=8, priority="high", tenant="team-a", timeout=300))
    of_ids = client.complete(model=name, tokens=ids, max_tokens=8, n=2, logprobs=1, budget_bytes=10**9)
    say([token.id for piece in pieces for token in piece.tokens])
    say([[token.id for token in answer.tokens] for answer in of_ids.answers])
    say([[token.top[0].id for token in answer.tokens] for answer in of_ids.answers])
    say(["".join(piece.text for piece in pieces), of_ids.answers[0].text, of_ids.answers[1].text])
    say([[finish.reason, finish.usage.prompt_tokens, finish.usage.answer_tokens, finish.transfer.shipped_bytes]
         for finish in (pieces[-1].finish, of_ids.answers[0].finish)])
    say([pieces[-1].finish.budget, of_ids.answers[0].finish.budget])
    for piece in client.generate(model=name, messages=messages, max_tokens=8000, ignore_end_of_text=True):
        say("abandoned")
        break
    sys.stdin.readline()
    try:
        client.complete(model="nothing", prompt=question)
    except LavaError as error:
        say([error.code.name, error.message])
    try:
        client.complete(model=name, prompt=question, n=2, tenant="small")
    except LavaError as error:
        say([error.code.name, error.retry_after])
    try:
        client.generate(model=name, prompt=question, tokens=ids)
    except TypeError as error:
        say(str(error))
    try:
        client.generate(model=name, prompt=question, budget=128, budget_share_milli=100)
    except TypeError as error:
        say(str(error))
"#;

fn tool(name: &str) -> Command {
    let folder = std::env::var_os("LAVA_TOOLS")
        .expect("LAVA_TOOLS is not set: run `cargo xtask test`, which makes the tools");
    let path = PathBuf::from(folder).join("bin").join(name);
    assert!(
        path.exists(),
        "{} is not there: run `cargo xtask test`",
        path.display()
    );
    let mut command = Command::new(path);
    // The clients would ask a proxy of the environment for this machine.
    command
        .env("no_grpc_proxy", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    command
}

/// `arguments` come before the address, `method` after it.
fn grpcurl(cluster: &Cluster, arguments: &[&str], method: &[&str]) -> Output {
    let mut command = tool("grpcurl");
    command
        .arg("-plaintext")
        .args(arguments)
        .arg(cluster.address.to_string());
    command.args(method).output().expect("grpcurl starts")
}

/// What it printed.
#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The messages of a call.
#[track_caller]
fn call(cluster: &Cluster, method: &str, request: &Value) -> Vec<Value> {
    let output = grpcurl(cluster, &["-d", &request.to_string()], &[method]);
    let printed = printed(&output);
    let stream = serde_json::Deserializer::from_str(&printed).into_iter();
    stream.collect::<Result<_, _>>().unwrap()
}

fn question() -> Value {
    json!({
        "model": MODEL,
        "prompt": {"chat": {"messages": [{"role": "user", "content": QUESTION}]}},
        "maxTokens": 8,
    })
}

/// An answer of grpcurl: ids and text of all messages, and the last message's end.
fn answer(messages: &[Value]) -> (Value, String, Value) {
    let tokens = messages
        .iter()
        .filter_map(|message| message["tokens"].as_array())
        .flatten();
    let ids = tokens.map(|token| token["id"].clone()).collect();
    let text = messages
        .iter()
        .filter_map(|message| message["text"].as_str())
        .collect();
    (ids, text, messages[messages.len() - 1]["finish"].clone())
}

/// 64-bit numbers are strings in the JSON of protobuf.
fn number(value: &Value) -> u64 {
    value.as_str().expect("a string of digits").parse().unwrap()
}

#[test]
fn grpcurl_finds_its_way_by_reflection() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &[]);
    let services = printed(&grpcurl(&cluster, &[], &["list"]));
    for service in ["lava.v1.Inference", "grpc.health.v1.Health"] {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let method = printed(&grpcurl(
        &cluster,
        &[],
        &["describe", "lava.v1.Inference.Generate"],
    ));
    let signature =
        "rpc Generate ( .lava.v1.GenerateRequest ) returns ( stream .lava.v1.GenerateResponse );";
    assert!(method.contains(signature), "{method}");
    for service in ["", "lava.v1.Inference"] {
        let health = call(
            &cluster,
            "grpc.health.v1.Health/Check",
            &json!({"service": service}),
        );
        assert_eq!(health, [json!({"status": "SERVING"})]);
    }
}

#[test]
fn grpcurl_gets_an_answer_and_what_it_cost() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &[]);
    let messages = call(&cluster, "lava.v1.Inference/Generate", &question());
    let (ids, text, finish) = answer(&messages);
    let alone = crate::json(&["--prompt", QUESTION, "--max-tokens", "8"]);
    let alone_ids = alone["tokens"].as_array().unwrap().iter();
    let alone_ids: Value = alone_ids.map(|token| token["id"].clone()).collect();
    assert_eq!(
        (ids, text),
        (alone_ids, alone["text"].as_str().unwrap().to_owned())
    );
    assert_eq!(finish["reason"], "FINISH_REASON_MAX_TOKENS");
    assert_eq!(finish["usage"]["answerTokens"], 8);
    assert!(finish["usage"]["promptTokens"].as_u64().unwrap() > 8);
    let transfer = &finish["transfer"];
    let (shipped, rows) = (
        number(&transfer["shippedBytes"]),
        number(&transfer["rowBytes"]),
    );
    assert!(shipped > rows && rows > 0, "{transfer}");
    // The prompt is shorter than any budget, but what of it is not in the window is packed.
    assert!(rows < number(&transfer["fullBytes"]), "{transfer}");
    assert!(number(&transfer["storedBytes"]) > rows, "{transfer}");
    assert!(
        messages[..messages.len() - 1]
            .iter()
            .all(|message| message["finish"].is_null())
    );
    cluster.idle();
}

#[test]
fn grpcurl_is_told_which_models_there_are() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &[]);
    let request = json!({"model": "nothing", "prompt": {"text": "x"}}).to_string();
    let output = grpcurl(&cluster, &["-d", &request], &["lava.v1.Inference/Generate"]);
    crate::refused(&output, &["NotFound", "nothing", MODEL]);
}

#[test]
fn the_python_client_gets_what_grpcurl_gets() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &["admission.tenants.small.flights_max=1"]);
    let messages = call(&cluster, "lava.v1.Inference/Generate", &question());
    let (ids, text, finish) = answer(&messages);
    let request = json!({"model": MODEL, "prompt": {"text": QUESTION}});
    let tokenized = call(&cluster, "lava.v1.Inference/Tokenize", &request);

    let mut python = tool("python");
    python.args(["-c", SCRIPT, &cluster.address.to_string(), MODEL, QUESTION]);
    let mut python = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
    let mut said = || -> Value {
        let line = lines.next().expect("the script has more to say").unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(said(), json!([[MODEL, true]]));
    assert_eq!(said(), tokenized[0]["ids"]);
    assert_eq!(said(), ids);
    // Greedy answers are the same, and made of the likeliest tokens.
    assert_eq!(said(), json!([ids, ids]));
    assert_eq!(said(), json!([ids, ids]));
    assert_eq!(said(), json!([text, text, text]));
    let prompt_tokens = &finish["usage"]["promptTokens"];
    let end = json!([
        "max_tokens",
        prompt_tokens,
        8,
        number(&finish["transfer"]["shippedBytes"])
    ]);
    assert_eq!(said(), json!([end, end]));
    // The server's default, and all of the prompt.
    assert_eq!(said(), json!([1024, prompt_tokens]));

    assert_eq!(said(), "abandoned");
    cluster.idle();
    assert_eq!(
        cluster.metric("lava_coordinator_requests_total{outcome=\"client_gone\"}"),
        1.0
    );
    python.stdin.take().unwrap().write_all(b"go on\n").unwrap();

    let error = said();
    assert_eq!(error[0], "NOT_FOUND");
    assert!(error[1].as_str().unwrap().contains(MODEL), "{error}");
    assert_eq!(said(), json!(["RESOURCE_EXHAUSTED", 1.0]));
    assert_eq!(
        said(),
        "expected exactly one of prompt, messages and tokens"
    );
    assert_eq!(
        said(),
        "expected at most one of budget, budget_share_milli and budget_bytes"
    );
    assert!(python.wait().unwrap().success());
}

#[test]
fn the_python_example_prints_an_answer_and_its_bytes() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &[]);
    let messages = call(&cluster, "lava.v1.Inference/Generate", &question());
    let (_, text, finish) = answer(&messages);
    let transfer = &finish["transfer"];
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python/examples/chat.py");
    let run = |more: &[&str]| {
        let mut python = tool("python");
        python
            .arg(&example)
            .args([&cluster.address.to_string(), QUESTION])
            .args(more);
        python.output().unwrap()
    };
    let shown = printed(&run(&["--max-tokens", "8"]));
    let (shipped, full) = (
        number(&transfer["shippedBytes"]),
        number(&transfer["fullBytes"]),
    );
    assert_eq!(
        shown,
        format!("{text}\n\nshipped {shipped} bytes; the full cache has {full}\n")
    );
    crate::refused(&run(&["--model", "nothing"]), &["NOT_FOUND", MODEL]);
}
