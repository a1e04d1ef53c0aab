//! The rules of the repository that no compiler checks.

mod edges;
mod promises;
mod text;

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{codegen, shell};

/// Prints every violation and fails if there is one.
pub(crate) fn run() -> Result<()> {
    let mut found = Vec::new();
    let metadata = metadata()?;
    let crates = edges::crates(&metadata);
    found.extend(edges::check(&crates));
    let architecture = std::fs::read_to_string(shell::root().join("ARCHITECTURE.md"))?;
    found.extend(edges::unmapped(&crates, &architecture));
    found.extend(codegen::check()?);
    found.extend(heavy_coordinator()?);
    let mut sources = Vec::new();
    for file in files()? {
        // Bytes that a fuzzer found, and no text of ours.
        if file.starts_with("crates/fuzz/corpus/") {
            continue;
        }
        let Ok(bytes) = std::fs::read(shell::root().join(&file)) else {
            continue;
        };
        found.extend(text::check(Path::new(&file), &bytes));
        if file.ends_with(".rs") {
            sources.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    let document = std::fs::read_to_string(shell::root().join(promises::FILE))?;
    found.extend(promises::check(&document, &sources));
    for line in &found {
        println!("{line}");
    }
    match found.len() {
        0 => Ok(()),
        count => bail!("{count} rules are broken"),
    }
}

/// The coordinator builds without candle, so that its image is small and its build short.
fn heavy_coordinator() -> Result<Vec<String>> {
    let arguments = [
        "tree",
        "--package",
        "lava-coordinator",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--locked",
    ];
    let tree = shell::output(shell::cargo().args(arguments))?;
    let heavy = tree.lines().filter(|line| {
        ["candle", "cudarc", "lava-engine"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    Ok(heavy
        .map(|line| format!("coordinator/Cargo.toml: uses {line}"))
        .collect())
}

fn metadata() -> Result<Value> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    Ok(serde_json::from_str(&shell::output(
        shell::cargo().args(arguments),
    )?)?)
}

/// Tracked files and those that would be.
fn files() -> Result<Vec<String>> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listing = shell::output(shell::program("git").args(arguments))?;
    Ok(listing.lines().map(str::to_owned).collect())
}
