//! What a run came to, on the terminal and in files.

use std::path::Path;

use anyhow::{Context, Result};
use lava_lab::report;
use lava_lab::results::{Header, Record};

use super::options::Eval;

pub(super) fn write(options: &Eval, header: &Header, records: &[Record]) -> Result<()> {
    let summary = report::summarize(header, records, &options.baseline);
    print!("{}", report::plain(&summary));
    let files = [
        (&options.json, report::json(&summary)),
        (&options.markdown, report::markdown(&summary)),
        (&options.tables, report::pivots(&summary)),
        (&options.html, report::html(&title(header), &summary)),
    ];
    for (file, content) in files {
        if let Some(file) = file {
            save(file, &content)?;
        }
    }
    Ok(())
}

fn title(header: &Header) -> String {
    format!("What a budget costs {}", header.model)
}

fn save(file: &Path, content: &str) -> Result<()> {
    std::fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}
