//! `lava eval`: what policies and budgets cost in quality, in this process or from a coordinator.

mod header;
mod options;
mod reports;
mod subject;

use std::io::IsTerminal;

use anyhow::Result;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use lava_lab::question::Reader;
use lava_lab::results::{self, Results};
use lava_lab::run::Progress;
use lava_lab::{Variant, run};

pub(crate) use options::Eval;
use subject::Subject;

pub(crate) fn run(options: &Eval) -> Result<()> {
    // What can be refused without the model is refused before it is read.
    let suite = options.suite()?;
    let variants = Variant::all(&options.policies, &options.row_formats, &options.budgets)?;
    let texts = options.read_texts()?;
    suite.check(&texts)?;
    let mut questions = options.read_data()?;
    reports::check(options)?;

    let subject = Subject::open(options)?;
    let reader = Reader {
        encode: &|text| Ok(subject.encode(text)?),
        overhead: subject.overhead()?,
        context: subject.context(),
    };
    questions.extend(suite.questions(&texts, reader)?);
    let header = header::header(options, &texts, &subject)?;
    let (mut file, earlier) = Results::open(&options.out, &header)?;
    if !earlier.is_empty() {
        let (file, count) = (options.out.display(), earlier.len());
        eprintln!("{file} has {count} answers already; only what is missing is asked");
    }
    run::run(
        &questions,
        &variants,
        &mut file,
        &mut |question, variants| Ok(subject.answer(question, variants)?),
        &mut shown(questions.len()),
    )?;
    drop(file);
    reports::write(options, &header, &results::read(&options.out)?.records)
}

/// A bar on a terminal, a line per question elsewhere.
fn shown(total: usize) -> impl FnMut(Progress<'_>) {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}")
        .expect("the template is valid");
    let bar = ProgressBar::new(total as u64)
        .with_style(style)
        .with_prefix("questions");
    let terminal = std::io::stderr().is_terminal();
    if terminal {
        bar.tick();
    }
    move |progress| {
        let left = progress.left.map_or(String::new(), |left| {
            format!("about {} left", HumanDuration(left))
        });
        let Progress {
            question,
            done,
            total,
            ..
        } = progress;
        if terminal {
            bar.set_position(done as u64);
            bar.set_message(left);
        } else {
            eprintln!("{done}/{total} {} {}: {left}", question.task, question.id);
        }
        if done == total {
            bar.finish_and_clear();
        }
    }
}
