//! What a run came to, on the terminal and in files.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lava_lab::results::{Header, Record};
use lava_lab::{Variant, report};

use super::options::Eval;

/// Every file can be written, and none is meant twice: who asks for hours wants to know now. A file of
/// results that was not there is empty afterwards, which is as good.
pub(super) fn check(options: &Eval) -> Result<()> {
    let files = [
        ("--out", Some(&options.out)),
        ("--json", options.json.as_ref()),
        ("--markdown", options.markdown.as_ref()),
        ("--html", options.html.as_ref()),
    ];
    let mut seen: Vec<(&str, PathBuf)> = Vec::new();
    for (option, file) in files {
        let Some(file) = file else { continue };
        let cannot = || format!("{option}: cannot write {}", file.display());
        let is_new = !file.try_exists().with_context(cannot)?;
        let place = open(file).with_context(cannot)?;
        // Another run may be at work on the results, but a report is ours.
        if is_new && option != "--out" {
            fs::remove_file(file).with_context(cannot)?;
        }
        if let Some((other, _)) = seen.iter().find(|(_, earlier)| *earlier == place) {
            let file = file.display();
            bail!("{other} and {option} are both {file}: give each a file of its own");
        }
        seen.push((option, place));
    }
    Ok(())
}

/// Opens a file as a writer does and changes nothing in it; where it really is.
fn open(file: &Path) -> io::Result<PathBuf> {
    OpenOptions::new().append(true).create(true).open(file)?;
    // Pipes have no such place.
    Ok(file.canonicalize().unwrap_or_else(|_| file.to_owned()))
}

pub(super) fn write(options: &Eval, header: &Header, records: &[Record]) -> Result<()> {
    let baseline = Variant {
        method: options.baseline,
        format: options.row_formats[0],
        budget: None,
    };
    let summary = report::summarize(header, records, &baseline.label());
    print!("{}", report::plain(&summary));
    let files = [
        (&options.json, report::json(&summary)),
        (&options.markdown, report::markdown(&summary)),
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
    fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}
