//! What CI runs, stage by stage, each with a budget.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::{fuzz, shell, tidy};

struct Stage {
    name: &'static str,
    budget_minutes: u64,
    run: fn() -> Result<()>,
}

/// Budgets are for a machine with two cores and nothing built. The stage `cuda` builds what all others use, too; where
/// that is there it takes two minutes.
const STAGES: [Stage; 7] = [
    Stage {
        name: "needs",
        budget_minutes: 1,
        run: needs,
    },
    Stage {
        name: "format",
        budget_minutes: 1,
        run: format,
    },
    Stage {
        name: "lints",
        budget_minutes: 6,
        run: lints,
    },
    Stage {
        name: "tidy",
        budget_minutes: 1,
        run: tidy::run,
    },
    Stage {
        name: "cuda",
        budget_minutes: 15,
        run: cuda,
    },
    Stage {
        name: "test",
        budget_minutes: 24,
        run: test,
    },
    Stage {
        name: "fuzz",
        budget_minutes: 3,
        run: fuzz::ci,
    },
];

pub(crate) fn run() -> Result<()> {
    let mut lines = Vec::new();
    for stage in &STAGES {
        println!("== {}", stage.name);
        let began = Instant::now();
        (stage.run)().with_context(|| format!("stage {} failed", stage.name))?;
        let seconds = began.elapsed().as_secs();
        let over = match seconds > stage.budget_minutes * 60 {
            true => "  OVER BUDGET",
            false => "",
        };
        let budget = stage.budget_minutes;
        lines.push(format!(
            "{:<8} {seconds:>5} s of {budget:>2} min{over}",
            stage.name
        ));
    }
    println!("== all stages passed\n{}", lines.join("\n"));
    Ok(())
}

/// What a fresh machine must have besides Rust.
fn needs() -> Result<()> {
    for (program, argument, install) in [
        (
            "gcc",
            "--version",
            "a C compiler (on Debian: apt install gcc)",
        ),
        (
            "g++",
            "--version",
            "a C++ compiler (on Debian: apt install g++)",
        ),
        ("git", "--version", "git (on Debian: apt install git)"),
        (
            "python3",
            "--version",
            "python3 (on Debian: apt install python3)",
        ),
    ] {
        shell::output(shell::program(program).arg(argument))
            .with_context(|| format!("install {install}"))?;
    }
    shell::output(shell::program("python3").args(["-m", "pip", "--version"]))
        .context("install pip (on Debian: apt install python3-pip)")?;
    Ok(())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    shell::run(shell::cargo().args(clippy))
}

fn cuda() -> Result<()> {
    shell::run(shell::cargo().args(["xtask", "cuda"]))
}

/// Exactly the README's command.
fn test() -> Result<()> {
    shell::run(shell::cargo().args(["xtask", "test"]))
}
