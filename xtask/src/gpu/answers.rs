//! One prompt through three processes on the GPU, by a link; and by one process, which they have to agree with.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::bundle;
use super::part::{Logs, Outcome};
use crate::process::{Places, Process};
use crate::{binary, http};

/// For a prompt.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the prompt is asked: the first time opens the lane, if there is one, and does not wait for it.
const TIMES: usize = 4;
/// Between the first time and the others, for the lane to be opened.
const LANE_TIMEOUT: Duration = Duration::from_secs(20);

/// A bundle and the GPU that it is run on.
pub(super) struct Asking<'a> {
    pub(super) bundle: &'a Path,
    pub(super) logs: &'a Logs,
    pub(super) device: &'a str,
}

impl Asking<'_> {
    /// The answer of one process.
    pub(super) fn alone(&self) -> Result<Value> {
        let mut generate = self.generate();
        generate.args(["--device", self.device, "--compute", "f16", "--model"]);
        generate.arg(self.bundle.join(bundle::MODEL));
        self.ask("alone", &mut generate)
    }

    /// The same prompt through three processes. What `link` is asked for has to carry the caches.
    pub(super) fn by(&self, link: &str, expected: &Value) -> Result<(Outcome, Value)> {
        let lava = self.bundle.join(bundle::LAVA);
        let model = binary::model(&self.bundle.join(bundle::MODEL))?;
        let places = [Places::free()?, Places::free()?, Places::free()?];
        let worker = [
            model,
            format!("model.device={:?}", self.device),
            "model.compute=\"f16\"".to_owned(),
            format!("transfer.link={link:?}"),
        ];
        let workers = [places[0].address.to_string(), places[1].address.to_string()];
        let coordinator = [format!("workers.addresses={workers:?}")];
        let roles: [(&str, &[String]); 3] = [
            ("prefill", &worker),
            ("decode", &worker),
            ("coordinator", &coordinator),
        ];
        let mut running = Vec::new();
        for ((role, settings), places) in roles.into_iter().zip(places) {
            let mut command = binary::role(&lava, role, places, settings);
            // NCCL joins no two ranks that it finds on one GPU of one host. Under other names of the host it takes the way over
            // sockets, which is the way between hosts without InfiniBand.
            command.env("NCCL_HOSTID", format!("lava-{role}"));
            command
                .env("NCCL_SOCKET_IFNAME", "lo")
                .env("NCCL_IB_DISABLE", "1")
                .env("NCCL_MNNVL_ENABLE", "0");
            let name = format!("{link}-{role}");
            running.push(Process::start(
                &name,
                command.stderr(self.logs.stream(&name)?),
            )?);
        }
        for (process, places) in running.iter_mut().zip(places) {
            process
                .wait_until_ready(places.http, "/readyz")
                .with_context(|| format!("what it says is in {}", self.logs.folder.display()))?;
        }
        let series = |name: &str| -> Result<f64> {
            let page = http::get(places[0].http, "/metrics").context("no metrics")?;
            value(&page, name).with_context(|| format!("no {name} in the prefill worker's metrics"))
        };
        let mut answers = Vec::new();
        for time in 0..TIMES {
            let mut generate = self.generate();
            generate.args(["--addr", &places[2].address.to_string()]);
            let answer = self.ask(&format!("{link}-{time}"), &mut generate)?;
            if answer["text"] != expected["text"] {
                bail!(
                    "by {link} the answer is another one than of one process:\n{}\n{}",
                    answer["text"],
                    expected["text"]
                );
            }
            answers.push(answer);
            if time == 0 && link == "nccl" {
                let until = std::time::Instant::now() + LANE_TIMEOUT;
                while series("lava_prefill_lanes")? == 0.0 {
                    if std::time::Instant::now() > until {
                        bail!("no lane is opened; {} says why", self.logs.folder.display());
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        let by_lane = series("lava_prefill_lane_bytes_total")?;
        let fallbacks = series("lava_prefill_lane_fallbacks_total")?;
        let shipped: f64 = answers[1..]
            .iter()
            .filter_map(|a| a["shipped_bytes"].as_f64())
            .sum();
        if link == "nccl" && (by_lane < shipped || fallbacks > 0.0) {
            bail!(
                "{by_lane} of {shipped} bytes went over NCCL, and {fallbacks} transfers fell back"
            );
        }
        // The last one: everything that is made once is made.
        let last = &answers[TIMES - 1];
        let milliseconds = |name: &str| last[name].as_f64().unwrap_or(f64::NAN);
        let what = format!(
            "{} tokens, {} bytes shipped, {by_lane} of all by NCCL; receipt {:.1} ms after the last layer, first step {:.1} ms",
            last["prompt_tokens"],
            last["shipped_bytes"],
            milliseconds("receipt_ms"),
            milliseconds("first_step_ms")
        );
        let figures = json!({ "lane_bytes": by_lane, "answers": answers });
        Ok((Outcome::Passed(what), figures))
    }

    fn generate(&self) -> Command {
        let mut generate = Command::new(self.bundle.join(bundle::LAVA));
        generate.args([
            "generate",
            "--json",
            "--budget",
            "128",
            "--max-tokens",
            "64",
        ]);
        generate
            .arg("--prompt-file")
            .arg(self.bundle.join(bundle::PROMPT));
        generate
    }

    fn ask(&self, name: &str, generate: &mut Command) -> Result<Value> {
        let said = self.logs.output(name, LIMIT, generate)?;
        serde_json::from_str(&said).with_context(|| format!("{name} gave no JSON:\n{said}"))
    }
}

/// The value of a series without labels.
fn value(page: &str, name: &str) -> Option<f64> {
    let mut lines = page.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let page = "# TYPE a counter\na_b_total 3\na_total 12\nb{x=\"y\"} 1\n";
        assert_eq!(value(page, "a_total"), Some(12.0));
        assert_eq!(value(page, "a"), None);
        assert_eq!(value(page, "b"), None);
    }
}
