//! The same model in PyTorch, where that is installed: what others reach on this card.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::bundle;
use super::part::{Logs, Outcome};

const ASK: Duration = Duration::from_secs(20);
const MEASURE: Duration = Duration::from_secs(75);

/// What has to be there besides Python.
const PACKAGES: [&str; 3] = ["torch", "transformers", "gguf"];

pub(super) fn measure(
    bundle: &Path,
    logs: &Logs,
    device: &str,
) -> Result<(Outcome, Option<Value>)> {
    let imports = PACKAGES
        .map(|package| format!("import {package}"))
        .join("; ");
    let mut ask = Command::new("python3");
    if logs
        .output("pytorch-there", ASK, ask.args(["-c", &imports]))
        .is_err()
    {
        let why = format!("python3 has not all of {}", PACKAGES.join(", "));
        return Ok((Outcome::Absent(why), None));
    }
    let mut measure = Command::new("python3");
    measure.arg(bundle.join(bundle::BASELINE));
    measure.arg("--model").arg(bundle.join(bundle::MODEL));
    measure.args(["--device", device]);
    let said = logs.output("pytorch", MEASURE, &mut measure)?;
    println!("{}", said.trim_end());
    let last = said.lines().last().context("it says nothing")?;
    let figures = serde_json::from_str(last).context("its last line is not JSON")?;
    Ok((
        Outcome::Passed("see its lines above".to_owned()),
        Some(figures),
    ))
}
