//! What a request gets does not depend on who else is served: not its tokens, and not a bit of their logprobs.

use std::path::Path;

use lava::Policy;
use lava_engine::RowFormat;
use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::v1::{GenerateRequest, Token};
use lava_test_support::{Architecture, GgufKind, HfDtype, ToyModel};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::asking::{Answer, ask, tokens};
use crate::cluster::Cluster;
use crate::{SMOLLM2, model};

const NAME: &str = "model.name=\"model\"";
const REQUESTS: usize = 64;
/// Answers that go on all the while, so that every step has a crowd: prompts come one by one, and short answers would
/// be over before there are many.
const COMPANY: usize = 14;

/// What requests are made of.
struct Mix {
    /// N of requests in turn.
    prompt_tokens: &'static [usize],
    /// Ids are below this.
    vocabulary: usize,
    /// Most tokens of an answer.
    answer_tokens_max: usize,
    /// Tokens of an answer that outlasts all others.
    company_tokens: u32,
}

/// Entries per layer and KV head: below and above the prompt's length, and one more than most windows.
const BUDGETS: [u32; 7] = [33, 1024, 48, 40, 128, 64, 100];

impl Mix {
    /// The lists have lengths without a common divisor, or are walked at another pace, so that each of their
    /// entries meets many of the others.
    fn request(&self, index: usize) -> GenerateRequest {
        let len = self.prompt_tokens[index % self.prompt_tokens.len()];
        let id = |place: usize| (100 + (place * 31 + index * 977) % (self.vocabulary - 200)) as u32;
        let answer_tokens = 8 + index * 5 % (self.answer_tokens_max - 7);
        let budget = BUDGETS[index % BUDGETS.len()];
        let ids = (0..len).map(id).collect();
        let mut request = tokens("model", ids, answer_tokens as u32, budget);
        request.policy = Policy::ALL[index % Policy::ALL.len()].to_string();
        let format = index / 2 % RowFormat::ALL.len();
        request.row_format = RowFormat::ALL[format].to_string();
        request.ignore_end_of_text = true;
        request.logprobs = Some(3);
        request
    }
}

/// Starts the company, and gives it once each of it is in the batch.
async fn company(client: &InferenceClient<Channel>, mix: &Mix) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for index in 0..COMPANY {
        let mut request = mix.request(REQUESTS + index);
        request.max_tokens = Some(mix.company_tokens);
        let mut stream = client.clone().generate(request).await.unwrap().into_inner();
        let mut answer = Answer::default();
        answer.read(&mut stream, 2).await.unwrap();
        running.spawn(async move { answer.read(&mut stream, usize::MAX).await.unwrap() });
    }
    running
}

/// What has to be the same.
#[derive(Debug, PartialEq)]
struct Outcome {
    text: String,
    /// Id and logprob of each token, then those of the likeliest ones. Floats as their bits.
    tokens: Vec<Vec<(u32, u32)>>,
    rows_kept: u64,
    stored_bytes: u64,
}

async fn outcome(mut client: InferenceClient<Channel>, request: GenerateRequest) -> Outcome {
    let answer_tokens = request.max_tokens.unwrap() as usize;
    let answer = ask(&mut client, request).await.unwrap();
    assert_eq!(answer.tokens.len(), answer_tokens);
    let transfer = answer.transfer();
    assert_eq!(transfer.recomputes, 0);
    Outcome {
        rows_kept: transfer.rows_kept,
        stored_bytes: transfer.stored_bytes,
        tokens: answer.tokens.iter().map(bits).collect(),
        text: answer.text,
    }
}

fn bits(token: &Token) -> Vec<(u32, u32)> {
    let chosen = token.logprob.expect("logprobs were asked for");
    let top = token.top.iter().map(|top| (top.id, top.logprob.to_bits()));
    std::iter::once((token.id, chosen.to_bits()))
        .chain(top)
        .collect()
}

/// Tokens and steps of the decode worker so far.
fn work(cluster: &Cluster) -> [f64; 2] {
    ["tokens", "steps"].map(|what| cluster.metric(&format!("lava_decode_{what}_total")))
}

/// Asks everything alone and then together, in company.
async fn check(path: &Path, mix: Mix) {
    // A coordinator counts a request twice between its arrival at the worker and the news of it.
    let settings = [NAME, "prefill.queue_max=128"];
    let cluster = Cluster::one_process(path, &settings);
    let client = cluster.client().await;
    let mut alone = Vec::new();
    for index in 0..REQUESTS {
        alone.push(outcome(client.clone(), mix.request(index)).await);
    }
    let [made, steps] = work(&cluster);
    assert_eq!(made, steps, "each step made one token");

    let mut company = company(&client, &mix).await;
    let before = work(&cluster);
    let mut together = JoinSet::new();
    for index in 0..REQUESTS {
        let asking = outcome(client.clone(), mix.request(index));
        together.spawn(async move { (index, asking.await) });
    }
    let mut together = together.join_all().await;
    together.sort_unstable_by_key(|(index, _)| *index);
    let after = work(&cluster);
    let batch = (after[0] - before[0]) / (after[1] - before[1]);
    println!("{}: {batch:.1} sequences in a step", path.display());
    assert!(company.try_join_next().is_none(), "the company left early");
    assert!(batch > COMPANY as f64, "{batch} sequences in a step");
    company.shutdown().await;
    for ((index, together), alone) in together.into_iter().zip(alone) {
        let request = mix.request(index);
        let (policy, format) = (&request.policy, &request.row_format);
        assert_eq!(together, alone, "request {index}: {policy}, {format}");
    }
    cluster.idle();
}

/// Prompts are longer than a block of prefill, and at its edges.
const OF_TOYS: Mix = Mix {
    prompt_tokens: &[20, 33, 64, 150, 257, 600, 17, 300, 511, 90, 512, 40, 513],
    vocabulary: 320,
    answer_tokens_max: 24,
    company_tokens: 15_000,
};

fn toy(architecture: Architecture) -> ToyModel {
    ToyModel {
        layers: 3,
        heads: 6,
        kv_heads: 2,
        head_dim: 32,
        hidden: 128,
        intermediate: 224,
        context: 16_384,
        ..ToyModel::new(architecture)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_requests_at_once_each_gets_what_it_gets_alone_from_f32_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy");
    toy(Architecture::Qwen2)
        .write_hf(&path, HfDtype::F32, 1)
        .unwrap();
    check(&path, OF_TOYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_requests_at_once_each_gets_what_it_gets_alone_from_8_bit_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy.gguf");
    toy(Architecture::Llama)
        .write_gguf(&path, GgufKind::Q8_0)
        .unwrap();
    check(&path, OF_TOYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_requests_at_once_each_gets_what_it_gets_alone_from_a_real_model() {
    let mix = Mix {
        prompt_tokens: &[24, 96, 40, 60, 35, 150, 18, 50, 70],
        vocabulary: 20_000,
        answer_tokens_max: 16,
        company_tokens: 800,
    };
    check(&model(SMOLLM2), mix).await;
}
