//! The coordinator as a program of its own, without the engine.

use std::path::PathBuf;

use clap::Parser;
use lava_node::{Metrics, Override, config};

/// Accepts requests to language models, places them on workers and streams the answers.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The configuration, as deploy/config/coordinator.toml explains it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key of it; may be repeated. LAVA__A__B in the environment overrides a.b too.
    #[arg(long = "set", value_name = "a.b=VALUE")]
    overrides: Vec<Override>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut overrides = Override::from_env(std::env::vars());
    overrides.extend(options.overrides);
    let config = config::load(options.config.as_deref(), &overrides)?;
    lava_coordinator::process(config, Metrics::new()).await
}
