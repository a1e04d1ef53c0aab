//! What a policy costs while a prompt is computed: one process of the binary, prompts of several lengths, and the share
//! of their prefill that scoring and packing take.

mod cost;
mod prompt;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::cost::Cost;
use self::prompt::{LENGTHS, Length};
use crate::process::{Places, Process};
use crate::{binary, models, shell};

/// Entries per layer and KV head.
const BUDGETS: [u32; 2] = [128, 1024];
/// Requests of each length and budget, after one that is not counted.
const ROUNDS: usize = 3;
/// What the share of the longest prompts stays below, in percent.
const SHARE_MAX: f64 = 5.0;

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which rows are kept: as in `lava generate --policy`.
    #[arg(long, default_value = "lava")]
    policy: String,
}

/// Prints a table of medians, and fails if a share of the longest prompts is too large.
pub(crate) fn run(options: &Options) -> Result<()> {
    let model = binary::model(&models::smollm2()?)?;
    let lava = binary::build()?;
    let folder = shell::target().join("bench");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;

    println!("starting all roles in one process");
    let log = folder.join("serve.log");
    let in_log = || format!("the log is {}", log.display());
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let places = Places::free()?;
    let mut serve = binary::role(&lava, "serve", places, &[model]);
    let mut serve = Process::start("serve", serve.stderr(file))?;
    let ready = serve.wait_until_ready(places.http, "/readyz");
    ready.with_context(in_log)?;

    let bench = Bench {
        lava,
        address: places.address.to_string(),
        policy: options.policy.clone(),
        folder,
    };
    println!(
        "policy {}, medians of {ROUNDS} requests; the share is that of scoring and packing in prefill\n{}",
        options.policy,
        cost::HEADER
    );
    let mut longest = Vec::new();
    for length in LENGTHS {
        longest.clear();
        for budget in BUDGETS {
            let cost = bench.measure(length, budget).with_context(in_log)?;
            println!("{}", cost.row(budget));
            longest.push(cost);
        }
    }
    judge(&longest)
}

/// All prompts have the same length.
fn judge(longest: &[Cost]) -> Result<()> {
    let shares = longest.iter().map(Cost::share);
    let largest = shares.fold(0.0, f64::max);
    let tokens = longest[0].prompt_tokens;
    if largest >= SHARE_MAX {
        bail!(
            "scoring and packing take {largest:.2} % of prefill at {tokens} tokens, expected less than {SHARE_MAX} %"
        );
    }
    println!(
        "at {tokens} tokens every share is below {SHARE_MAX} %: the largest is {largest:.2} %"
    );
    Ok(())
}

/// Requests to a coordinator.
struct Bench {
    lava: PathBuf,
    address: String,
    policy: String,
    /// Where prompts are written.
    folder: PathBuf,
}

impl Bench {
    fn measure(&self, length: Length, budget: u32) -> Result<Cost> {
        let file = self.folder.join(format!("prompt-{}.txt", length.tokens));
        std::fs::write(&file, length.text()?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let warm_up = self.ask(&file, budget)?;
        let (found, expected) = (warm_up.prompt_tokens, length.tokens);
        if found != expected {
            bail!(
                "the prompt has {found} tokens, expected {expected}: the passage was changed, or the model"
            );
        }
        let costs: Result<Vec<_>> = (0..ROUNDS).map(|_| self.ask(&file, budget)).collect();
        Ok(Cost::median(&costs?))
    }

    /// The second token is there so that the cache travels.
    fn ask(&self, prompt: &Path, budget: u32) -> Result<Cost> {
        let mut generate = Command::new(&self.lava);
        generate.args(["generate", "--addr", &self.address, "--raw", "--json"]);
        generate.args(["--max-tokens", "2", "--policy", &self.policy]);
        generate.args(["--budget", &budget.to_string(), "--prompt-file"]);
        Cost::read(&shell::output(generate.arg(prompt))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_share_that_is_too_large_fails() {
        let costs = |scoring: [f64; 2]| {
            scoring.map(|scoring| Cost {
                prompt_tokens: 4096,
                prefill: 1000.0,
                scoring,
                packing: 1.0,
            })
        };
        assert!(judge(&costs([10.0, 48.9])).is_ok());
        let error = judge(&costs([49.0, 10.0])).unwrap_err().to_string();
        assert!(error.contains("take 5.00 % of prefill at 4096"), "{error}");
    }
}
