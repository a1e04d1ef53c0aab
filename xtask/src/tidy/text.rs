//! Rules on the text of single files.

use std::path::Path;

const FILE_BYTES_MAX: usize = 1_000_000;
const RUST_LINES_MAX: usize = 600;

/// Violations in one file, as `file:line: what`.
pub(crate) fn check(file: &Path, bytes: &[u8]) -> Vec<String> {
    let name = file.display();
    let mut found = Vec::new();
    if bytes.len() > FILE_BYTES_MAX {
        found.push(format!(
            "{name}: {} bytes, at most {FILE_BYTES_MAX}",
            bytes.len()
        ));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return found;
    };
    let rust = file.extension().is_some_and(|extension| extension == "rs");
    // Nobody reads or splits what a generator wrote.
    if rust && !file.starts_with("proto/src/generated") {
        let lines = text.lines().count();
        if lines > RUST_LINES_MAX {
            found.push(format!(
                "{name}: {lines} lines, at most {RUST_LINES_MAX}; split it by noun"
            ));
        }
        let entry = matches!(
            file.file_name().and_then(|n| n.to_str()),
            Some("lib.rs" | "main.rs")
        );
        if entry && file.parent().is_some_and(|p| p.ends_with("src")) && !text.starts_with("//!") {
            found.push(format!(
                "{name}:1: a crate begins with a paragraph on what it owns"
            ));
        }
    }
    // The rules themselves spell what they look for.
    if file.starts_with("xtask") {
        return found;
    }
    for (index, line) in text.lines().enumerate() {
        let mut report = |what: &str| found.push(format!("{name}:{}: {what}", index + 1));
        if names_a_machine(line) {
            report("a path of somebody's machine");
        }
        if rust
            && ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"]
                .iter()
                .any(|x| line.contains(x))
        {
            report("unfinished code");
        }
        if rust && line.contains("unsafe {") && !may_be_unsafe(file) {
            report("`unsafe` outside kernels/ and the mapping of weights");
        }
        let prose = file.extension().is_some_and(|extension| extension == "txt");
        if !prose && line.ends_with([' ', '\t']) {
            report("white space at the end of the line");
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            report("a conflict marker");
        }
    }
    found
}

fn names_a_machine(line: &str) -> bool {
    let begins_a_path = |at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"./_-}".contains(c))
    };
    ["home", "root", "Users", "work", "tmp"]
        .iter()
        .any(|folder| {
            let path = format!("/{folder}/");
            line.match_indices(&path).any(|(at, _)| begins_a_path(at))
        })
}

fn may_be_unsafe(file: &Path) -> bool {
    file.starts_with("kernels") || file.starts_with("crates/engine/src/weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> usize {
        check(Path::new(file), text.as_bytes()).len()
    }

    #[test]
    fn each_rule_finds_its_violation() {
        assert_eq!(lines("a.md", "see /home/someone/x"), 1);
        assert_eq!(
            lines("a.md", "see crates/work/x and https://x.org/home/y"),
            0
        );
        assert_eq!(lines("a.rs", "fn f() { todo!() }"), 1);
        assert_eq!(lines("crates/lava/src/a.rs", "unsafe { x() }"), 1);
        assert_eq!(lines("kernels/src/a.rs", "unsafe { x() }"), 0);
        assert_eq!(lines("a.toml", "x = 1 "), 1);
        assert_eq!(lines("crates/x/src/lib.rs", "pub fn f() {}"), 1);
        assert_eq!(
            lines("crates/x/src/lib.rs", "//! Owns f.\npub fn f() {}"),
            0
        );
        assert_eq!(lines("a.rs", &"\n".repeat(601)), 1);
        assert_eq!(
            check(Path::new("a.bin"), &[0xFF; FILE_BYTES_MAX + 1]).len(),
            1
        );
    }
}
