//! What the benchmark is told.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const USAGE: &str = "card [--device NUMBER] [--json FILE] [--quick]";

#[derive(Default)]
pub(crate) struct Arguments {
    /// Which device, counted from 0.
    pub(crate) device: usize,
    /// Where to write all figures.
    pub(crate) json: Option<PathBuf>,
    /// Whether to leave out the longest prompts and caches.
    pub(crate) is_quick: bool,
}

impl Arguments {
    /// From those of the program, without its name.
    ///
    /// # Errors
    /// Whoever called it: an argument is unknown, or lacks its value.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--device" => {
                    let number = words.next().context("--device needs a number")?;
                    let number = number.parse();
                    arguments.device = number.context("--device needs a number")?;
                }
                "--json" => {
                    let file = words.next().context("--json needs a file")?;
                    arguments.json = Some(file.into());
                }
                "--quick" => arguments.is_quick = true,
                // Cargo passes it to all benchmarks.
                "--bench" => {}
                _ => bail!("{word} is unknown: {USAGE}"),
            }
        }
        Ok(arguments)
    }
}
