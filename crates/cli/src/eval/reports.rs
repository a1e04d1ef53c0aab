//! What a run came to, on the terminal and in files.

use anyhow::Result;
use lava_lab::results::{Header, Record};
use lava_lab::{Variant, report};

use super::options::Eval;
use crate::files::{self, Wanted};

/// Another run may be at work on the results. A file of results that was not there is empty afterwards, which is
/// as good.
pub(super) fn check(options: &Eval) -> Result<()> {
    files::check(&[
        Wanted {
            option: "--out",
            file: Some(&options.out),
            shared: true,
        },
        Wanted::ours("--json", options.json.as_ref()),
        Wanted::ours("--markdown", options.markdown.as_ref()),
        Wanted::ours("--html", options.html.as_ref()),
    ])
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
            files::save(file, &content)?;
        }
    }
    Ok(())
}

fn title(header: &Header) -> String {
    format!("What a budget costs {}", header.model)
}
