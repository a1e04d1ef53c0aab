//! `lava bench coordinator`: what a coordinator costs. Workers are simulated and answer at once; they, the coordinator and its clients
//! share this machine, so figures are bounds from below.

mod ask;
mod times;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use lava_coordinator::Config;
use lava_simulate::Profile;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::fleet::{Fleet, FleetPlan};
use crate::files::{self, Wanted};
use crate::heap::HEAP;
use crate::process::block_on;
use ask::{Ask, Direct};
use times::Times;

/// Arguments of `lava bench coordinator`.
#[derive(Args)]
pub(super) struct Coordinator {
    /// A folder with tokenizer files or a .gguf file; no weights are read.
    #[arg(long)]
    model: PathBuf,
    /// Simulated workers of each role.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// Clients at once that ask one request after another.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Time of each part.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Tokens of the long prompts.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=131_000))]
    long_tokens: u32,
    /// Answers that are streamed at once, and tokens a second of each.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=4000))]
    streams: u16,
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    stream_rate: u16,
    /// Before the streams, go on with short prompts for so many seconds, and say whether memory grows.
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..))]
    soak_seconds: Option<u32>,
    /// File that gets everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Of a short request.
const SHORT: Ask = Ask {
    prompt_tokens: 16,
    max_tokens: 8,
};

pub(super) fn run(options: &Coordinator) -> Result<()> {
    files::check(&[Wanted::ours("--json", options.json.as_ref())])?;
    block_on(async {
        let mut profile = Profile::default();
        profile.model.text = Some(options.model.clone());
        profile.decode.tokens_per_message = SHORT.max_tokens as usize;
        profile.prefill.queue_max = 4096;
        let fleet = Fleet::start(options.fleet(profile.clone())).await?;
        let added = added(options, &fleet).await?;
        let seconds = options.seconds;
        let short = throughput(options, &fleet, SHORT, seconds, "short prompts").await?;
        let long = Ask {
            prompt_tokens: options.long_tokens as usize,
            ..SHORT
        };
        let long = throughput(options, &fleet, long, seconds, "long prompts, as ids").await?;
        let memory = match options.soak_seconds {
            Some(seconds) => Some(memory(options, &fleet, seconds).await?),
            None => None,
        };
        drop(fleet);
        profile.decode.tokens_per_message = 1;
        profile.decode.step_ms = 1e3 / f64::from(options.stream_rate);
        let fleet = Fleet::start(options.fleet(profile)).await?;
        let streams = streams(options, &fleet).await?;
        if let Some(file) = &options.json {
            let document = json!({
                "workers_of_each_role": options.workers,
                "added": added,
                "short": short,
                "long": long,
                "memory": memory,
                "streams": streams,
            });
            files::save(file, &serde_json::to_string_pretty(&document)?)?;
        }
        Ok(())
    })
}

impl Coordinator {
    fn fleet(&self, profile: Profile) -> FleetPlan {
        let mut config = Config::default();
        config.limits.flights_max = 4096;
        FleetPlan {
            profile,
            prefill_workers: self.workers,
            decode_workers: self.workers,
            coordinators: 1,
            config,
        }
    }
}

/// One request at a time, by the coordinator and without it, in turns.
async fn added(options: &Coordinator, fleet: &Fleet) -> Result<Value> {
    let mut direct = Direct::new(fleet, SHORT).await?;
    let mut client = fleet.client().await?;
    let request = SHORT.request(&fleet.model);
    let (mut by, mut without) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(options.seconds.into());
    while Instant::now() < until {
        let began = Instant::now();
        whole(direct.ask().await?, SHORT)?;
        without.push(began.elapsed());
        let began = Instant::now();
        whole(Ask::coordinator(&mut client, request.clone()).await?, SHORT)?;
        by.push(began.elapsed());
    }
    let (by, without) = (median(&mut by), median(&mut without));
    let added = by - without;
    println!(
        "one short prompt at a time: {by:.3} ms by the coordinator, {without:.3} ms without: {added:.3} ms added at the median"
    );
    Ok(json!({ "coordinator_ms": by, "direct_ms": without, "added_ms": added }))
}

/// Closed loops.
async fn throughput(
    options: &Coordinator,
    fleet: &Fleet,
    ask: Ask,
    seconds: u32,
    name: &str,
) -> Result<Value> {
    let request = Arc::new(ask.request(&fleet.model));
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds.into());
    let times = Arc::new(Mutex::new(Times::new()));
    let mut loops = Vec::new();
    for _ in 0..options.concurrency {
        let (mut client, request) = (fleet.client().await?, Arc::clone(&request));
        let times = Arc::clone(&times);
        loops.push(tokio::spawn(async move {
            while Instant::now() < until {
                let began = Instant::now();
                whole(
                    Ask::coordinator(&mut client, (*request).clone()).await?,
                    ask,
                )?;
                times.lock().await.add(began.elapsed());
            }
            anyhow::Ok(())
        }));
    }
    for of_loop in loops {
        of_loop.await.context("a client panicked")??;
    }
    let times = times.lock().await;
    let rate = times.count() as f64 / began.elapsed().as_secs_f64();
    let (half, p99) = (times.quantile(0.5), times.quantile(0.99));
    println!(
        "{name} of {} tokens, {} at once: {rate:.0} requests/s, median {half:.2} ms, p99 {p99:.2} ms",
        ask.prompt_tokens, options.concurrency
    );
    Ok(json!({
        "prompt_tokens": ask.prompt_tokens,
        "concurrency": options.concurrency,
        "requests_per_second": rate,
        "median_ms": half,
        "p99_ms": p99,
        "heap_bytes": (HEAP.bytes)(),
    }))
}

/// What is allocated while short prompts go on: after the first tenth of the time, and at its end, each the least of some looks,
/// which leaves out what is under way.
async fn memory(options: &Coordinator, fleet: &Fleet, seconds: u32) -> Result<Value> {
    let watching = async {
        let mut looks = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(u64::from(seconds) * 5));
        loop {
            ticks.tick().await;
            looks.push((HEAP.bytes)());
            if looks.len() == 200 {
                break;
            }
        }
        looks
    };
    let name = "short prompts, on and on";
    let (asked, looks) = tokio::join!(throughput(options, fleet, SHORT, seconds, name), watching);
    let asked = asked?;
    let least = |looks: &[usize]| looks.iter().copied().min().unwrap_or_default();
    let (early, late) = (least(&looks[10..30]), least(&looks[180..]));
    let grown = late as f64 / early.max(1) as f64 - 1.0;
    println!(
        "memory over {seconds} s: {:.1} MB allocated after a tenth of it, {:.1} MB at its end, {:+.1} %",
        early as f64 / 1e6,
        late as f64 / 1e6,
        100.0 * grown
    );
    Ok(json!({ "seconds": seconds, "early_bytes": early, "late_bytes": late, "asked": asked }))
}

/// Answers that go on as long as the part does.
async fn streams(options: &Coordinator, fleet: &Fleet) -> Result<Value> {
    let rate = u32::from(options.stream_rate);
    let ask = Ask {
        prompt_tokens: SHORT.prompt_tokens,
        max_tokens: rate * (options.seconds + 60),
    };
    let tokens = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..options.streams {
        let mut client = fleet.client().await?;
        let (request, tokens) = (ask.request(&fleet.model), Arc::clone(&tokens));
        tasks.spawn(async move {
            let mut answer = client.generate(request).await?.into_inner();
            while let Some(message) = answer.message().await? {
                tokens.fetch_add(message.tokens.len() as u64, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    // All have begun once each has more than its first token.
    let expected = u64::from(options.streams);
    let patience = Instant::now() + Duration::from_secs(50);
    while tokens.load(Ordering::Relaxed) < 3 * expected {
        if Instant::now() > patience {
            bail!("the streams do not begin");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (began, before) = (Instant::now(), tokens.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(options.seconds.into())).await;
    let (took, after) = (began.elapsed(), tokens.load(Ordering::Relaxed));
    if let Some(ended) = tasks.try_join_next() {
        ended.context("a client panicked")??;
        bail!("a stream ended early");
    }
    let found = (after - before) as f64 / took.as_secs_f64();
    let wanted = f64::from(options.streams) * f64::from(rate);
    println!(
        "{} streams of {rate} tokens/s at once: {found:.0} tokens/s of {wanted:.0}, {:.1} %",
        options.streams,
        100.0 * found / wanted
    );
    Ok(json!({
        "streams": options.streams,
        "tokens_per_second": found,
        "wanted_tokens_per_second": wanted,
        "heap_bytes": (HEAP.bytes)(),
    }))
}

fn whole(tokens: u64, ask: Ask) -> Result<()> {
    match tokens == u64::from(ask.max_tokens) {
        true => Ok(()),
        false => bail!("{tokens} tokens came, expected {}", ask.max_tokens),
    }
}

/// In milliseconds; sorts.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
