//! `lava bench replay`: a fleet of simulated workers and several coordinators under a trace of real requests. It says how the
//! prompts spread over the prefill workers, how much of them was reused, what an ideal cache would have reused, and what became
//! of the requests of workers that were killed.

mod ideal;
mod spread;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use lava_coordinator::{Config, PolicyName};
use lava_lab::load::{
    Arrival, BLOCK_TOKENS, Fit, Load, Outcome, Percentiles, Progress, Readers, Record, Settings,
    Target, compress, read_trace,
};
use lava_simulate::Profile;
use serde_json::{Value, json};

use super::fleet::{Fleet, FleetPlan, Member};
use crate::files::{self, Wanted};
use crate::process::block_on;
use ideal::reusable_tokens;
use spread::{Spread, Watching};

/// Arguments of `lava bench replay`.
#[derive(Args)]
pub(super) struct Replay {
    /// A folder with tokenizer files or a .gguf file; no weights are read.
    #[arg(long)]
    model: PathBuf,
    /// A trace whose prompts share prefixes: a .jsonl file of Mooncake.
    #[arg(long)]
    trace: PathBuf,
    /// Divide its times by this: so many times its load.
    #[arg(long, default_value_t = 50.0)]
    speed: f64,
    /// The first requests of it, or all.
    #[arg(long)]
    requests: Option<usize>,
    #[arg(long, default_value_t = 125, value_parser = clap::value_parser!(u16).range(1..=1000))]
    prefill_workers: u16,
    #[arg(long, default_value_t = 375, value_parser = clap::value_parser!(u16).range(1..=1000))]
    decode_workers: u16,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    coordinators: u16,
    /// Rule for prefill workers: round_robin, least_loaded, power_of_two or prefix_aware.
    #[arg(long, default_value = "prefix_aware", value_parser = policy)]
    policy: PolicyName,
    /// Tokens of a second of a prefill worker.
    #[arg(long, default_value_t = 40_000.0)]
    prefill_rate: f64,
    /// Tokens of fronts of prompts that a prefill worker keeps.
    #[arg(long, default_value_t = 409_600)]
    prefix_tokens: usize,
    /// Percent of the workers of each role that are killed when half of the trace's time is over.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=90))]
    kill_percent: u16,
    /// File that gets everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// More requests under way than there can be: none is held back.
const IN_FLIGHT_MAX: usize = 8192;
const TIME_ALLOWED: Duration = Duration::from_secs(300);
/// b. Rows are noise, and caches of this budget have a few kB.
const BUDGET: u32 = 64;

pub(super) fn run(options: &Replay) -> Result<()> {
    files::check(&[Wanted::ours("--json", options.json.as_ref())])?;
    let mut plan = read_trace(&options.trace, options.requests.unwrap_or(usize::MAX))?;
    if !(options.speed.is_finite() && options.speed > 0.0) {
        bail!("--speed is {}, expected more than 0", options.speed);
    }
    compress(&mut plan, options.speed);
    block_on(async {
        let fleet = Fleet::start(options.fleet()?).await?;
        let mut target: Option<Target> = None;
        for coordinator in &fleet.coordinators {
            let other = Target::connect(&coordinator.to_string(), None, IN_FLIGHT_MAX).await?;
            target = Some(match target {
                Some(target) => target.and(other),
                None => other,
            });
        }
        let target = target.context("a fleet has a coordinator")?;
        let fit = Fit {
            scale: 1.0,
            prompt_tokens_max: None,
            output_tokens_max: None,
            context_tokens: target.context_tokens(),
        };
        fit.apply(&mut plan);
        let document = replay(options, &fleet, &target, &plan).await?;
        if let Some(file) = &options.json {
            files::save(file, &serde_json::to_string_pretty(&document)?)?;
        }
        Ok(())
    })
}

impl Replay {
    fn fleet(&self) -> Result<FleetPlan> {
        let mut profile = Profile::default();
        profile.model.text = Some(self.model.clone());
        profile.prefill.tokens_per_second = Some(self.prefill_rate);
        profile.prefill.prefix_tokens = self.prefix_tokens;
        profile.prefill.queue_max = 4096;
        profile.transfer.row_bytes_max = 16 << 10;
        // Half a second's tokens come together: hundreds of workers share this machine.
        profile.decode.step_ms = 20.0;
        profile.decode.tokens_per_message = 25;
        let mut config = Config::default();
        config.limits.flights_max = IN_FLIGHT_MAX as u32;
        config.placement.prefill = self.policy;
        Ok(FleetPlan {
            profile,
            prefill_workers: self.prefill_workers,
            decode_workers: self.decode_workers,
            coordinators: self.coordinators,
            config,
        })
    }

    /// Those that are killed, from the first on.
    fn killed<'a>(&self, members: &'a [Member]) -> &'a [Member] {
        &members[..members.len() * usize::from(self.kill_percent) / 100]
    }
}

async fn replay(
    options: &Replay,
    fleet: &Fleet,
    target: &Target,
    plan: &[Arrival],
) -> Result<Value> {
    let last = plan.last().map_or(Duration::ZERO, |arrival| arrival.at);
    println!(
        "{} requests in {:.0} s, {} prefill and {} decode workers, {} coordinators, {:?}",
        plan.len(),
        last.as_secs_f64(),
        fleet.prefill.len(),
        fleet.decode.len(),
        fleet.coordinators.len(),
        options.policy,
    );
    let load = Load {
        target,
        plan,
        settings: Settings {
            methods: Vec::new(),
            budgets: vec![lava::Budget::Entries(BUDGET)],
            formats: Vec::new(),
            readers: Readers::default(),
            in_flight_max: IN_FLIGHT_MAX,
            time_allowed: TIME_ALLOWED,
            seed: 1,
        },
    };
    let watching = Watching::begin(&fleet.prefill);
    let killing = async {
        tokio::time::sleep(last / 2).await;
        let killed = [&fleet.prefill, &fleet.decode].map(|members| options.killed(members));
        for member in killed.into_iter().flatten() {
            member.watch.vanish.cancel();
        }
        std::future::pending::<()>().await
    };
    let mut watch = |_: &Progress| ();
    let records = tokio::select! {
        records = load.run(std::future::pending(), &mut watch) => records,
        () = killing => unreachable!("it waits for ever"),
    };
    let busy = watching.end();
    let living = &fleet.prefill[options.killed(&fleet.prefill).len()..];
    let blocks = options.prefix_tokens / BLOCK_TOKENS as usize * fleet.prefill.len();
    let done = Done {
        reusable: reusable_tokens(plan, blocks),
        reusable_unlimited: reusable_tokens(plan, usize::MAX),
        spread: Spread::of(living.iter().map(Member::given_tokens)),
        busy_p99: busy.percentile(99),
        records,
    };
    done.print();
    done.check()?;
    Ok(done.json(options))
}

impl Member {
    fn given_tokens(&self) -> u64 {
        self.watch
            .given_tokens
            .load(std::sync::atomic::Ordering::Relaxed)
    }
}

struct Done {
    records: Vec<Record>,
    /// Prompt tokens that one cache of all workers' size would have reused.
    reusable: u64,
    reusable_unlimited: u64,
    /// Tokens that each prefill worker was given, those that it had already left out.
    spread: Spread,
    /// Of the moments' most loaded worker over the mean, where anything waited.
    busy_p99: f64,
}

impl Done {
    fn answers(&self) -> impl Iterator<Item = &lava_lab::load::Answer> {
        self.records
            .iter()
            .filter_map(|record| match &record.outcome {
                Outcome::Answered(answer) => Some(answer),
                _ => None,
            })
    }

    fn tokens(&self) -> u64 {
        self.records
            .iter()
            .map(|record| u64::from(record.prompt_tokens))
            .sum()
    }

    fn reused(&self) -> u64 {
        self.answers().map(|answer| answer.reused_tokens).sum()
    }

    fn of_ideal(&self) -> f64 {
        self.reused() as f64 / self.reusable.max(1) as f64
    }

    fn recomputes(&self) -> u32 {
        self.answers().map(|answer| answer.recomputes).sum()
    }

    fn first_tokens(&self) -> Option<Percentiles> {
        Percentiles::of(self.answers().map(|answer| answer.first_token))
    }

    fn late_ms(&self) -> f64 {
        let late = self.records.iter().map(|record| record.late);
        late.max().unwrap_or_default().as_secs_f64() * 1e3
    }

    fn print(&self) {
        let percent = |part: u64| 100.0 * part as f64 / self.tokens().max(1) as f64;
        println!(
            "answered {} of {}, {} recomputes; the latest started {:.0} ms after its time",
            self.answers().count(),
            self.records.len(),
            self.recomputes(),
            self.late_ms()
        );
        println!(
            "prompt tokens reused: {:.1} %; an ideal cache of this size {:.1} %, an unlimited one {:.1} %: {:.1} % of the ideal",
            percent(self.reused()),
            percent(self.reusable),
            percent(self.reusable_unlimited),
            100.0 * self.of_ideal()
        );
        println!(
            "prompt tokens given to a prefill worker: max/mean {:.3}, min/mean {:.3}; of those that wait at a moment: p99 of max/mean {:.1}",
            self.spread.max_over_mean(),
            self.spread.min_over_mean(),
            self.busy_p99
        );
        if let Some(times) = self.first_tokens() {
            println!(
                "first token: p50 {:.0} ms, p99 {:.0} ms",
                times.p50, times.p99
            );
        }
    }

    fn check(&self) -> Result<()> {
        let lost = self
            .records
            .iter()
            .filter(|record| !matches!(record.outcome, Outcome::Answered(_)));
        let lost: Vec<_> = lost.collect();
        match lost.first() {
            None => Ok(()),
            Some(first) => bail!(
                "{} of {} requests have no whole answer, the first of them: {:?}",
                lost.len(),
                self.records.len(),
                first.outcome
            ),
        }
    }

    fn json(&self, options: &Replay) -> Value {
        let times = self.first_tokens();
        json!({
            "trace": options.trace,
            "speed": options.speed,
            "policy": format!("{:?}", options.policy),
            "prefill_workers": options.prefill_workers,
            "decode_workers": options.decode_workers,
            "coordinators": options.coordinators,
            "prefill_rate": options.prefill_rate,
            "prefix_tokens": options.prefix_tokens,
            "kill_percent": options.kill_percent,
            "requests": self.records.len(),
            "answered": self.answers().count(),
            "recomputes": self.recomputes(),
            "prompt_tokens": self.tokens(),
            "reused_tokens": self.reused(),
            "reusable_tokens": self.reusable,
            "reusable_unlimited_tokens": self.reusable_unlimited,
            "reused_of_ideal": self.of_ideal(),
            "given_max_over_mean": self.spread.max_over_mean(),
            "given_min_over_mean": self.spread.min_over_mean(),
            "waiting_max_over_mean_p99": self.busy_p99,
            "first_token_p50_ms": times.as_ref().map(|times| times.p50),
            "first_token_p99_ms": times.as_ref().map(|times| times.p99),
        })
    }
}

fn policy(name: &str) -> Result<PolicyName, String> {
    serde_json::from_value(Value::String(name.to_owned())).map_err(|error| error.to_string())
}
