//! `lava bench together`: up to which length a prompt is best computed on the decode worker's host. There it takes computing time from
//! the answers that are decoded; elsewhere its cache has to travel. Asks both ways in turns, while other answers are streamed, and
//! counts what a request costs everybody.

mod spent;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use lava_cluster::Registry;
use lava_coordinator::Config;
use lava_node::Shutdown;
use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::v1::{self, GenerateRequest};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::fleet::{connect, coordinator, until_ready};
use crate::files::{self, Wanted};
use crate::process::block_on;
use spent::{Row, Spent, Way, threshold};

/// Arguments of `lava bench together`.
#[derive(Args)]
pub(super) struct Together {
    /// host:port of the decode worker.
    #[arg(long)]
    decode: String,
    /// host:port of a prefill worker beside it, such as the other one of a `lava worker`.
    #[arg(long)]
    beside: String,
    /// host:port of a prefill worker on another host.
    #[arg(long)]
    apart: String,
    /// Lengths of prompts.
    #[arg(long, value_delimiter = ',', default_value = "32,64,128,256,512,1024", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: Vec<u32>,
    /// Tokens of their answers.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..))]
    output_tokens: u32,
    /// Requests of each length, each way.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Other answers that the decode worker streams meanwhile.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=1024))]
    streams: u16,
    /// File that gets everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Tokens of the prompts of the other answers.
const STREAM_PROMPT_TOKENS: u32 = 16;
/// Tokens of the other answers at most, whose reservations share the decode worker's memory.
const STREAM_TOKENS_MAX: u32 = 2048;
/// Time for a coordinator to see its two workers.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the other answers to begin.
const STREAMS_BEGIN: Duration = Duration::from_secs(60);
/// The shortest time that the other answers are watched alone.
const ALONE: Duration = Duration::from_millis(200);

pub(super) fn run(options: &Together) -> Result<()> {
    files::check(&[Wanted::ours("--json", options.json.as_ref())])?;
    block_on(async {
        let bench = Bench::start(options).await?;
        let mut lengths = options.prompt_tokens.clone();
        lengths.sort_unstable();
        lengths.dedup();
        let longest = lengths
            .last()
            .map_or(0, |longest| longest + options.output_tokens);
        if longest > bench.model.context_tokens {
            bail!(
                "the longest prompt and its answer have {longest} tokens, expected at most the model's context, {}",
                bench.model.context_tokens
            );
        }
        let mut streams = bench.stream().await?;
        println!(
            "{} tokens of an answer each, beside {} other answers; milliseconds",
            options.output_tokens, options.streams
        );
        println!("{}", Row::HEAD);
        let mut rows = Vec::new();
        for tokens in lengths {
            let row = bench.row(tokens).await?;
            if let Some(ended) = streams.try_join_next() {
                ended.context("a stream panicked")??;
            }
            println!("{row}");
            rows.push(row);
        }
        let threshold = threshold(&rows);
        println!("placement.together_tokens_max = {threshold}");
        if let Some(file) = &options.json {
            let document = json!({
                "model": bench.model.name,
                "output_tokens": options.output_tokens,
                "requests": options.requests,
                "streams": options.streams,
                "rows": rows,
                "together_tokens_max": threshold,
            });
            files::save(file, &serde_json::to_string_pretty(&document)?)?;
        }
        Ok(())
    })
}

/// A coordinator for each way, over the same decode worker.
struct Bench<'a> {
    options: &'a Together,
    model: v1::Model,
    beside: InferenceClient<Channel>,
    apart: InferenceClient<Channel>,
    /// Tokens of the other answers so far.
    streamed: Arc<AtomicU64>,
    stop: Shutdown,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl<'a> Bench<'a> {
    async fn start(options: &'a Together) -> Result<Self> {
        let stop = Shutdown::new();
        let (beside, model) = way(options, &options.beside, &stop).await?;
        let (apart, _) = way(options, &options.apart, &stop).await?;
        Ok(Self {
            options,
            model,
            beside,
            apart,
            streamed: Arc::default(),
            stop,
        })
    }

    fn request(&self, seed: u32, prompt_tokens: u32, max_tokens: u32) -> GenerateRequest {
        // Of no two prompts anything is kept.
        let id =
            |place| xxhash_rust::xxh3::xxh3_64_with_seed(&u32::to_le_bytes(place), seed.into());
        let vocabulary = u64::from(self.model.vocabulary);
        let ids = (0..prompt_tokens).map(|place| (id(place) % vocabulary) as u32);
        let ids = v1::TokenIds { ids: ids.collect() };
        GenerateRequest {
            model: self.model.name.clone(),
            prompt: Some(v1::Prompt {
                form: Some(v1::prompt::Form::Tokens(ids)),
            }),
            max_tokens: Some(max_tokens),
            ignore_end_of_text: true,
            ..Default::default()
        }
    }

    /// Starts the other answers; each is followed by another one. Their prompts are computed apart.
    async fn stream(&self) -> Result<JoinSet<Result<()>>> {
        let mut streams = JoinSet::new();
        let room = self
            .model
            .context_tokens
            .saturating_sub(STREAM_PROMPT_TOKENS);
        let max_tokens = room.clamp(1, STREAM_TOKENS_MAX);
        for number in 0..u32::from(self.options.streams) {
            let (mut client, streamed) = (self.apart.clone(), Arc::clone(&self.streamed));
            let request = self.request(u32::MAX - number, STREAM_PROMPT_TOKENS, max_tokens);
            streams.spawn(async move {
                loop {
                    let mut answer = client.generate(request.clone()).await?.into_inner();
                    while let Some(message) = answer.message().await? {
                        streamed.fetch_add(message.tokens.len() as u64, Ordering::Relaxed);
                    }
                }
            });
        }
        let until = Instant::now() + STREAMS_BEGIN;
        let begun = 4 * u64::from(self.options.streams);
        while self.streamed.load(Ordering::Relaxed) < begun {
            if let Some(ended) = streams.try_join_next() {
                ended.context("a stream panicked")??;
            }
            if Instant::now() > until {
                bail!("the other answers do not begin");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(streams)
    }

    /// Prompts of one length, one way and then the other, the next time in the other order. After each, the other answers
    /// alone for as long.
    async fn row(&self, prompt_tokens: u32) -> Result<Row> {
        let mut row = Row::new(prompt_tokens, self.options.streams.into());
        for round in 0..self.options.requests {
            let ways = match round % 2 {
                0 => [Way::Beside, Way::Apart],
                _ => [Way::Apart, Way::Beside],
            };
            for (order, way) in ways.into_iter().enumerate() {
                let seed = 2 * round + order as u32;
                let request = self.request(seed, prompt_tokens, self.options.output_tokens);
                let spent = self.ask(way, request).await?;
                row.add(way, spent);
                let alone = self.watch(spent.whole.max(ALONE)).await;
                row.add_alone(alone);
            }
        }
        Ok(row)
    }

    async fn ask(&self, way: Way, request: GenerateRequest) -> Result<Spent> {
        let mut client = match way {
            Way::Beside => self.beside.clone(),
            Way::Apart => self.apart.clone(),
        };
        let (began, before) = (Instant::now(), self.streamed.load(Ordering::Relaxed));
        let mut answer = client.generate(request).await?.into_inner();
        let (mut first, mut tokens) = (None, 0);
        while let Some(message) = answer.message().await? {
            first.get_or_insert_with(|| began.elapsed());
            tokens += message.tokens.len() as u32;
        }
        let whole = began.elapsed();
        if tokens != self.options.output_tokens {
            bail!(
                "{tokens} tokens came, expected {}",
                self.options.output_tokens
            );
        }
        Ok(Spent {
            first: first.unwrap_or(whole),
            whole,
            streamed: self.streamed.load(Ordering::Relaxed) - before,
        })
    }

    /// The other answers alone: how long, and their tokens.
    async fn watch(&self, time: Duration) -> (Duration, u64) {
        let (began, before) = (Instant::now(), self.streamed.load(Ordering::Relaxed));
        tokio::time::sleep(time).await;
        let tokens = self.streamed.load(Ordering::Relaxed) - before;
        (began.elapsed(), tokens)
    }
}

/// A coordinator over the decode worker and one prefill worker, and the model that they serve.
async fn way(
    options: &Together,
    prefill: &str,
    stop: &Shutdown,
) -> Result<(InferenceClient<Channel>, v1::Model)> {
    let workers = [prefill.to_owned(), options.decode.clone()];
    let registry = Registry::of_addresses(workers);
    let address = coordinator(Config::default(), registry, stop).await?;
    let model = until_ready(address, (1, 1), READY_TIMEOUT).await;
    let model = model.with_context(|| {
        let decode = &options.decode;
        format!("{prefill} and {decode} are no prefill and decode worker of one model")
    })?;
    Ok((connect(address).await?, model))
}
