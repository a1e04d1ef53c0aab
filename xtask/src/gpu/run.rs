//! What is run on a GPU host, in order: what is there, what must be right, and then how fast it is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::answers::Asking;
use super::baseline;
use super::bundle;
use super::part::{Done, Logs, Outcome, part};
use super::report::Report;

/// Of the host.
#[derive(clap::Args)]
pub(crate) struct Host {
    /// Number of the GPU.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Only what needs no GPU, on the CPU: the answers, to see that a bundle works.
    #[arg(long)]
    rehearse: bool,
    /// Where report and logs go; the folder `report` of the bundle if not given.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// For everything. What is over by then is killed, and what has not begun is not begun.
const ALL: Duration = Duration::from_secs(9 * 60 - 15);
/// Limits of parts.
const FIND: Duration = Duration::from_secs(30);
const TWINS: Duration = Duration::from_secs(90);
const GOLDEN: Duration = Duration::from_secs(90);
const KERNELS: Duration = Duration::from_secs(75);
const ENGINE: Duration = Duration::from_secs(60);

/// Runs everything. A part that fails does not keep others from being run, but for the first.
pub(super) fn all(bundle: &Path, host: &Host) -> Result<()> {
    let bundle = std::path::absolute(bundle)?;
    let out = host.out.clone().unwrap_or_else(|| bundle.join("report"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let here = Here {
        logs: Logs {
            folder: out.clone(),
            until: Instant::now() + ALL,
        },
        number: host.device.to_string(),
        device: match host.rehearse {
            true => "cpu".to_owned(),
            false => format!("cuda:{}", host.device),
        },
        bundle,
    };
    let mut report = Report::default();
    let commit = std::fs::read_to_string(here.bundle.join(bundle::COMMIT))
        .with_context(|| format!("{} is no bundle", here.bundle.display()))?;
    report.facts.insert("commit".into(), commit.trim().into());
    if host.rehearse {
        here.answers(&mut report, &[("answer by gRPC", "grpc")]);
        return report.close(&out.join("report.json"));
    }
    let found = here.find()?;
    report.facts.insert("machine".into(), found.into());
    report.facts.insert("driver".into(), driver().into());
    report.parts.push(part("twin tests", || here.twins()));
    report.parts.push(part("golden", || here.golden()));
    let links = [("answer by gRPC", "grpc"), ("answer by NCCL", "nccl")];
    here.answers(&mut report, &links);
    here.measure(&mut report);
    report.close(&out.join("report.json"))
}

struct Here {
    bundle: PathBuf,
    logs: Logs,
    number: String,
    device: String,
}

impl Here {
    fn program(&self, name: &str) -> Command {
        Command::new(self.bundle.join(name))
    }

    /// What the machine has.
    ///
    /// # Errors
    /// Not enough; it says what is missing.
    fn find(&self) -> Result<String> {
        println!("== what is here");
        let found = self
            .logs
            .output("gpus", FIND, self.program(bundle::LAVA).arg("gpus"));
        let found = found.context("this machine cannot run any of it")?;
        println!("{}", found.trim_end());
        if !found
            .lines()
            .any(|line| line.starts_with(&format!("{} ", self.device)))
        {
            bail!("there is no {} here", self.device);
        }
        Ok(found)
    }

    /// All tests of kernels against their references, but for those that plant bugs in their source.
    fn twins(&self) -> Result<Outcome> {
        let mut tests = self.program(bundle::TWINS);
        tests.args(["cuda_", "--skip", "found", "--test-threads", "1"]);
        let said = self
            .logs
            .output("twins", TWINS, tests.env("LAVA_CARD", &self.number))?;
        let counted = said
            .lines()
            .find(|line| line.starts_with("test result: ok."));
        let counted = counted.context("the tests do not say how many there were")?;
        if counted.contains(" 0 passed") {
            bail!("no test was run: {counted}");
        }
        Ok(Outcome::Passed(
            counted.trim_start_matches("test result: ok. ").to_owned(),
        ))
    }

    /// Recorded values of another implementation.
    fn golden(&self) -> Result<Outcome> {
        let mut golden = self.program(bundle::LAVA);
        golden.arg("golden").arg(self.bundle.join(bundle::GOLDEN));
        golden.arg("--model").arg(self.bundle.join(bundle::MODEL));
        golden.args(["--device", &self.device, "--compute", "f16"]);
        let said = self.logs.output("golden", GOLDEN, &mut golden)?;
        println!("{}", said.trim_end());
        Ok(Outcome::Passed(
            "within the tolerances of half precision".to_owned(),
        ))
    }

    fn answers(&self, report: &mut Report, links: &[(&'static str, &str)]) {
        let asking = Asking {
            bundle: &self.bundle,
            logs: &self.logs,
            device: &self.device,
        };
        let mut alone = None;
        report.parts.push(part("answer, alone", || {
            let answer = asking.alone()?;
            let text: String = answer["text"]
                .as_str()
                .unwrap_or_default()
                .chars()
                .take(40)
                .collect();
            let what = format!("{} tokens of a prompt: {text}...", answer["prompt_tokens"]);
            alone = Some(answer);
            Ok(Outcome::Passed(what))
        }));
        for &(name, link) in links {
            let figures = &mut report.figures;
            report.parts.push(part(name, || {
                let expected = alone.as_ref().context("there is nothing to compare with")?;
                let (outcome, found) = asking.by(link, expected)?;
                figures.insert(link.to_owned(), found);
                Ok(outcome)
            }));
        }
    }

    fn measure(&self, report: &mut Report) {
        let mut kernels = self.program(bundle::KERNELS);
        kernels.args(["--device", &self.number]);
        self.bench(report, "kernels", KERNELS, &mut kernels);
        for (name, graphs) in [("engine", false), ("engine, graphs", true)] {
            let mut engine = self.program(bundle::LAVA);
            engine.args(["bench", "engine", "--full", "--device", &self.device]);
            engine.args([
                "--prefill-tokens",
                "512,2048,7000",
                "--decode-tokens",
                "512,7000",
            ]);
            engine.args([
                "--batches",
                "1,8,32",
                "--budgets",
                "128,1024",
                "--steps",
                "32",
            ]);
            engine.arg("--model").arg(self.bundle.join(bundle::MODEL));
            if graphs {
                engine.args(["--graphs", "--rounds", "2"]);
            }
            self.bench(report, name, ENGINE, &mut engine);
        }
        let figures = &mut report.figures;
        report.parts.push(part("PyTorch", || {
            let (outcome, found) = baseline::measure(&self.bundle, &self.logs, &self.number)?;
            figures.extend(found.map(|found| ("pytorch".to_owned(), found)));
            Ok(outcome)
        }));
    }

    /// A program that prints a table and writes JSON.
    fn bench(
        &self,
        report: &mut Report,
        name: &'static str,
        limit: Duration,
        command: &mut Command,
    ) {
        let file = self.logs.file(name, "json");
        let done: Done = part(name, || {
            let said = self
                .logs
                .output(name, limit, command.arg("--json").arg(&file))?;
            println!("{}", said.trim_end());
            let written = std::fs::read_to_string(&file).context("it wrote no JSON")?;
            let figures: Value = serde_json::from_str(&written)?;
            report.figures.insert(name.to_owned(), figures);
            Ok(Outcome::Passed("see its table above".to_owned()))
        });
        report.parts.push(done);
    }
}

/// Its version, where the driver's own program is there to ask.
fn driver() -> String {
    let mut ask = Command::new("nvidia-smi");
    ask.args([
        "--query-gpu=name,driver_version,clocks.max.sm",
        "--format=csv,noheader",
    ]);
    match ask.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown: there is no nvidia-smi".to_owned(),
    }
}
