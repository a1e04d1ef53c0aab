//! Arguments of `lava bench serve`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use lava::{Budget, Method};
use lava_engine::RowFormat;
use lava_lab::load::{
    Arrival, Fit, Fitted, Lengths, Limits, Poisson, Readers, Settings, Share, Target, compress,
    read_trace,
};
use serde_json::{Value, json};

use crate::files::Wanted;
use crate::process::ConfigArgs;

/// Requests of a Poisson process if nothing is said.
const REQUESTS: u32 = 100;

/// Most requests of a load.
const REQUESTS_MAX: u32 = 1_000_000;

/// Bounds on rates and factors: a year between requests, a million in a second.
const FACTOR_MIN: f64 = 1e-7;
const FACTOR_MAX: f64 = 1e6;

/// Arguments of `lava bench serve`.
#[derive(Args)]
#[command(group(ArgGroup::new("load").required(true).args(["rate", "trace"])))]
pub(crate) struct Serve {
    /// Load the coordinator at host:port instead of a server in this process.
    #[arg(long, conflicts_with_all = ["config", "overrides"])]
    pub(super) addr: Option<String>,
    /// Folder with config.json and safetensors, a .gguf file, or a Hub name (owner/model), which is served in this
    /// process as `lava serve` does; with --addr the name that the coordinator lists, which may be left out if there is
    /// only one.
    #[arg(long, required_unless_present = "addr")]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,

    /// Requests per second, at random times (a Poisson process).
    #[arg(long, value_parser = factor)]
    rate: Option<f64>,
    /// Tokens of prompts: 512, 100..4000 (all alike), or lognormal:MEDIAN,P99.
    #[arg(long, default_value = "512", conflicts_with = "trace")]
    prompt_tokens: Lengths,
    /// Tokens of answers, in the same forms.
    #[arg(long, default_value = "64", conflicts_with = "trace")]
    output_tokens: Lengths,
    /// Requests at the times and with the lengths of a trace: a .jsonl file of Mooncake, whose prompts share prefixes,
    /// or a .csv file of Azure.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Divide the trace's times by this.
    #[arg(long, default_value_t = 1.0, value_parser = factor, conflicts_with = "rate")]
    speed: f64,
    /// Multiply the trace's lengths by this.
    #[arg(long, default_value_t = 1.0, value_parser = factor, conflicts_with = "rate")]
    length_scale: f64,
    /// Cut longer prompts to so many tokens. What the model's context has no room for is cut anyway; the number of cuts
    /// is reported.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens_max: Option<u32>,
    /// Ask for at most so many tokens.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    output_tokens_max: Option<u32>,
    /// How many requests: with --rate 100 if not given; of a trace the first ones, or all.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=REQUESTS_MAX as i64))]
    requests: Option<u32>,
    /// The same seed gives the same times, lengths and prompts.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Which rows are kept: a policy, with settings behind it if wanted; the server's default if not given. Of several,
    /// here and in the next two, each request draws one.
    #[arg(long, value_delimiter = ',')]
    policy: Vec<Method>,
    /// What caches are cut to: entries, a share of the prompt (10%) or bytes (3MB); the server's default if not given.
    #[arg(long, value_delimiter = ',')]
    budget: Vec<Budget>,
    /// How rows that compete for the budget are stored; the server's default if not given.
    #[arg(long, value_delimiter = ',')]
    row_format: Vec<RowFormat>,

    /// Let a share of the clients leave, each at a random moment within so many milliseconds of sending: 0.2:500.
    #[arg(long, value_name = "SHARE:MS")]
    leave: Option<Share>,
    /// Let a share of the clients read slowly, with so many milliseconds after each message. These and the next ones ask
    /// for 20 logprobs and take a kilobyte at once, so that the server has to wait for them.
    #[arg(long, value_name = "SHARE:MS")]
    slow: Option<Share>,
    /// Let a share of the clients read nothing for so many milliseconds after their first message.
    #[arg(long, value_name = "SHARE:MS")]
    stall: Option<Share>,

    /// Most requests under way. What is due beyond is not sent, and counted.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) in_flight_max: u16,
    /// Seconds that a request may take.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout_s: u32,
    /// A good request has its first token within so many milliseconds.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    ttft_ms: Option<u32>,
    /// A good request takes at most so many milliseconds per token after the first, on average.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    token_ms: Option<u32>,

    /// Write settings, summary and a record of every request as JSON.
    #[arg(long)]
    pub(super) json: Option<PathBuf>,
    /// Write a picture (SVG): time to first token over the time of the load, distributions of it and of the time
    /// between tokens.
    #[arg(long)]
    pub(super) plot: Option<PathBuf>,
}

impl Serve {
    /// The requests, before they are cut to what the model takes.
    pub(super) fn plan(&self) -> Result<Vec<Arrival>> {
        if !self.readers().fit() {
            bail!("--leave, --slow and --stall are shares of the same clients, together at most 1");
        }
        let Some(trace) = &self.trace else {
            let poisson = Poisson {
                rate: self.rate.unwrap_or(1.0),
                requests: self.requests.unwrap_or(REQUESTS) as usize,
                prompt_tokens: self.prompt_tokens,
                output_tokens: self.output_tokens,
                seed: self.seed,
            };
            return Ok(poisson.plan());
        };
        let requests_max = self.requests.unwrap_or(REQUESTS_MAX);
        let mut plan = read_trace(trace, requests_max as usize)?;
        compress(&mut plan, self.speed);
        Ok(plan)
    }

    pub(super) fn fit(&self, context_tokens: u32) -> Fit {
        Fit {
            scale: self.length_scale,
            prompt_tokens_max: self.prompt_tokens_max,
            output_tokens_max: self.output_tokens_max,
            context_tokens,
        }
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            methods: self.policy.clone(),
            budgets: self.budget.clone(),
            formats: self.row_format.clone(),
            readers: self.readers(),
            in_flight_max: self.in_flight_max.into(),
            time_allowed: Duration::from_secs(self.timeout_s.into()),
            seed: self.seed,
        }
    }

    fn readers(&self) -> Readers {
        Readers {
            leave: self.leave,
            slow: self.slow,
            stall: self.stall,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let millis = |ms: u32| Duration::from_millis(ms.into());
        Limits {
            first_token: self.ttft_ms.map(millis),
            per_token: self.token_ms.map(millis),
        }
    }

    pub(super) fn files(&self) -> [Wanted<'_>; 2] {
        [
            Wanted::ours("--json", self.json.as_ref()),
            Wanted::ours("--plot", self.plot.as_ref()),
        ]
    }

    /// Where the requests come from, in words.
    pub(super) fn source(&self) -> String {
        match &self.trace {
            Some(trace) => format!(
                "{}, times divided by {}, lengths times {}",
                trace.display(),
                self.speed,
                self.length_scale
            ),
            None => format!(
                "Poisson, {}/s, prompts of {} tokens, answers of {}, seed {}",
                self.rate.unwrap_or(1.0),
                self.prompt_tokens,
                self.output_tokens,
                self.seed
            ),
        }
    }

    /// Policy, row format and budget, in words.
    pub(super) fn cache(&self) -> String {
        let or = |setting: Option<String>| setting.unwrap_or_else(|| "the server's".to_owned());
        format!(
            "{} policy, {} rows, {} budget",
            or(joined(&self.policy)),
            or(joined(&self.row_format)),
            or(joined(&self.budget)),
        )
    }

    /// Clients that do not just read, in words.
    pub(super) fn clients(&self) -> Option<String> {
        let all = [
            (self.leave, "leave"),
            (self.slow, "slow"),
            (self.stall, "stall"),
        ];
        let named = |(share, name): (Option<Share>, &str)| Some(format!("{name} {}", share?));
        let named: Vec<String> = all.into_iter().filter_map(named).collect();
        (!named.is_empty()).then(|| named.join(", "))
    }

    /// Everything that the numbers depend on; what is null is as the server is configured, or does not apply.
    pub(super) fn described(&self, target: &Target, fitted: &Fitted, planned: usize) -> Value {
        let poisson = self.trace.is_none();
        json!({
            "address": self.addr,
            "model": target.model(),
            "context_tokens": target.context_tokens(),
            "rate": self.rate,
            "prompt_tokens": poisson.then(|| self.prompt_tokens.to_string()),
            "output_tokens": poisson.then(|| self.output_tokens.to_string()),
            "trace": self.trace,
            "speed": (!poisson).then_some(self.speed),
            "length_scale": (!poisson).then_some(self.length_scale),
            "prompt_tokens_max": self.prompt_tokens_max,
            "output_tokens_max": self.output_tokens_max,
            "cut": fitted,
            "planned": planned,
            "seed": self.seed,
            "policy": joined(&self.policy),
            "budget": joined(&self.budget),
            "row_format": joined(&self.row_format),
            "leave": self.leave.map(|share| share.to_string()),
            "slow": self.slow.map(|share| share.to_string()),
            "stall": self.stall.map(|share| share.to_string()),
            "in_flight_max": self.in_flight_max,
            "timeout_s": self.timeout_s,
            "ttft_ms": self.ttft_ms,
            "token_ms": self.token_ms,
        })
    }
}

/// As it is written on the command line; None if nothing is.
fn joined<T: ToString>(list: &[T]) -> Option<String> {
    let words: Vec<String> = list.iter().map(T::to_string).collect();
    (!words.is_empty()).then(|| words.join(","))
}

/// A rate or a factor.
fn factor(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|number| (FACTOR_MIN..=FACTOR_MAX).contains(number))
        .ok_or_else(|| format!("expected a number from {FACTOR_MIN} to {FACTOR_MAX}"))
}
