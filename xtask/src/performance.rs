//! `docs/performance.md`: speed and memory, measured anew. What each part measured is kept as JSON under the target
//! folder; the document's tables are written from all parts that are there, its prose is by hand.

mod criterion;
mod figures;
mod llama;
pub(crate) mod machine;
mod measure;
mod parts;
mod record;
mod tables;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use self::measure::Bench;
use self::parts::Part;
use self::record::Record;
use crate::{binary, document, shell};

const DOCUMENT: &str = "docs/performance.md";

#[derive(Args)]
pub(crate) struct Options {
    /// Measure this part only; may be repeated. All of them take an hour and more.
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
    /// Measure parts again that were measured at this commit, in the same way.
    #[arg(long)]
    again: bool,
    /// Threads of both engines.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Measure the release build, which is built for it. Otherwise the build of demo and tests: optimised too, but
    /// with checks of overflows and debug assertions in our own crates.
    #[arg(long)]
    release: bool,
    /// A trace of Mooncake (.jsonl), whose first requests load the server in part `serve`. Without it that part has
    /// random arrivals only.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Try everything with tiny sizes. The figures mean nothing: the tables go to target/performance/quick, not into
    /// the document, and changes need not be committed.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let commit = match options.quick {
        true => document::commit()?,
        false => document::clean_commit()?,
    };
    let mut folder = shell::target().join("performance");
    if options.quick {
        folder.push("quick");
    }
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let profile = match options.release {
        true => binary::Profile::Release,
        false => binary::Profile::Dev,
    };
    let trace = options
        .trace
        .as_ref()
        .map(std::path::absolute)
        .transpose()?;
    let bench = Bench {
        lava: binary::build_as(profile)?,
        folder,
        threads: options.threads,
        quick: options.quick,
        trace,
        machine: format!("{}, {} build", machine::describe()?, profile.name()),
        commit,
    };
    for part in Part::ALL {
        let wanted = options.parts.is_empty() || options.parts.contains(&part);
        let there = match wanted && options.again {
            true => None,
            false => bench.recorded(part)?,
        };
        let record = match there {
            Some(record) if !wanted => record,
            Some(record) if bench.is_current(part, &record) => {
                println!("{}: measured at this commit already", part.name());
                record
            }
            _ if !wanted => continue,
            _ => {
                println!("{}", part.name());
                bench.measure(part)?
            }
        };
        write(&bench, part, &record)?;
    }
    println!("records are in {}", bench.folder.display());
    Ok(())
}

/// Puts the tables of a part where they belong.
fn write(bench: &Bench, part: Part, record: &Record) -> Result<()> {
    let of_record = || {
        format!(
            "{} does not fit this command; measure it with --again",
            part.name()
        )
    };
    let section = tables::section(part, record).with_context(of_record)?;
    if !bench.quick {
        return document::fill(DOCUMENT, part.name(), &section);
    }
    let file = bench.folder.join(part.name()).with_extension("md");
    std::fs::write(&file, section).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_a_place_for_every_part() {
        let text = std::fs::read_to_string(shell::root().join(DOCUMENT)).unwrap();
        for part in Part::ALL {
            document::filled(&text, part.name(), "x").unwrap();
        }
    }
}
