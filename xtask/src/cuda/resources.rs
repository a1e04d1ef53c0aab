//! What a kernel uses of a multiprocessor, as ptxas says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

/// One kernel on one architecture.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resources {
    pub(super) name: String,
    pub(super) architecture: &'static str,
    pub(super) registers: u32,
    pub(super) shared_bytes: u32,
    /// Stored and loaded.
    pub(super) spilled_bytes: u32,
}

/// Of all kernels in the words of `ptxas -v`.
pub(super) fn parse(said: &str, architecture: &'static str) -> Result<Vec<Resources>> {
    let mut found = Vec::new();
    let (mut name, mut spilled_bytes) = (None, 0);
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next();
        } else if line.contains("bytes spill stores") {
            spilled_bytes = number_before(line, " bytes spill stores")?
                + number_before(line, " bytes spill loads")?;
        } else if line.contains(": Used ") {
            let name = name
                .take()
                .with_context(|| format!("of which kernel: {line}"))?;
            found.push(Resources {
                name: name.to_owned(),
                architecture,
                registers: number_before(line, " registers")?,
                shared_bytes: number_before(line, " bytes smem").unwrap_or(0),
                spilled_bytes,
            });
        }
    }
    Ok(found)
}

fn number_before(line: &str, words: &str) -> Result<u32> {
    let (before, _) = line
        .split_once(words)
        .with_context(|| format!("no {words:?} in {line:?}"))?;
    let digits = before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits
        .parse()
        .with_context(|| format!("no number before {words:?} in {line:?}"))
}

/// A line for each kernel, all architectures side by side.
pub(super) fn table(found: &[Resources]) -> String {
    let mut kernels: BTreeMap<&str, Vec<&Resources>> = BTreeMap::new();
    for one in found {
        kernels.entry(&one.name).or_default().push(one);
    }
    let mut table = String::from(
        "# Written by `cargo xtask cuda --write`. Registers of a thread; bytes of shared memory; bytes spilled.\n",
    );
    for (name, architectures) in kernels {
        let _ = write!(table, "{name:<26}");
        for one in architectures {
            let Resources {
                architecture,
                registers,
                shared_bytes,
                spilled_bytes,
                ..
            } = one;
            let _ = write!(
                table,
                "  {architecture} {registers:>3} {shared_bytes:>5} {spilled_bytes}"
            );
        }
        table.push('\n');
    }
    table
}

/// Lines that are in one table only.
pub(super) fn difference(recorded: &str, found: &str) -> String {
    let lines = |text: &str, other: &str, sign: char| -> String {
        let lines = text
            .lines()
            .filter(|line| !other.lines().any(|one| one == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    lines(recorded, found, '-') + &lines(found, recorded, '+')
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const SAID: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'merge' for 'sm_80'
ptxas info    : Function properties for merge
    8 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 8 bytes cumulative stack size, 256 bytes smem, 392 bytes cmem[0]
ptxas info    : Compile time = 1.0 ms
ptxas info    : Compiling entry function 'append' for 'sm_80'
ptxas info    : Function properties for append
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers, 416 bytes cmem[0]
";

    #[test]
    fn the_words_of_the_assembler_become_a_table() {
        let mut found = parse(SAID, "sm_80").unwrap();
        found.extend(parse(&SAID.replace("32 reg", "40 reg"), "sm_90").unwrap());
        expect![[r#"
            # Written by `cargo xtask cuda --write`. Registers of a thread; bytes of shared memory; bytes spilled.
            append                      sm_80  20     0 0  sm_90  20     0 0
            merge                       sm_80  32   256 20  sm_90  40   256 20
        "#]]
        .assert_eq(&table(&found));
    }

    #[test]
    fn a_changed_kernel_is_shown_as_it_was_and_as_it_is() {
        expect![[r#"
            - b 2
            + b 3
        "#]]
        .assert_eq(&difference("a 1\nb 2\n", "a 1\nb 3\n"));
    }
}
