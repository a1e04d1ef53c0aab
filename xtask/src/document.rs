//! Documents with measured tables: what is written by hand stays, tables are written between markers.

use anyhow::{Context, Result, bail};

use crate::shell;

/// Of the working tree, which has to be clean but for docs/: figures belong to a commit.
pub(crate) fn clean_commit() -> Result<String> {
    let mut status = shell::program("git");
    let changed = shell::output(status.args(["status", "--porcelain", "--", ".", ":!docs"]))?;
    let changed = changed.trim_end();
    if !changed.is_empty() {
        bail!("figures belong to a commit; commit these changes first:\n{changed}");
    }
    commit()
}

/// The commit that is checked out.
pub(crate) fn commit() -> Result<String> {
    let mut git = shell::program("git");
    let commit = shell::output(git.args(["rev-parse", "--short", "HEAD"]))?;
    Ok(commit.trim().to_owned())
}

/// Writes what was measured between the markers of a part; `document` is a path in the repository.
pub(crate) fn fill(document: &str, name: &str, content: &str) -> Result<()> {
    let file = shell::root().join(document);
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let text = filled(&text, name, content).with_context(|| document.to_owned())?;
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// `text` with other words between the markers of a part.
pub(crate) fn filled(text: &str, name: &str, content: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- {name} -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let places = text.find(&begin).zip(text.find(&end));
    let Some((from, to)) = places.map(|(from, to)| (from + begin.len(), to)) else {
        bail!("there are no markers for {name}: expected a line {begin:?} and later {end:?}");
    };
    if from > to {
        bail!("the markers of {name} are the wrong way round");
    }
    Ok(format!(
        "{}\n{}\n\n{}",
        &text[..from],
        content.trim(),
        &text[to..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n";
        let once = filled(text, "a", "new\n").unwrap();
        assert_eq!(
            once,
            "before\n<!-- a -->\n\nnew\n\n<!-- end of a -->\nafter\n"
        );
        assert_eq!(filled(&once, "a", "new").unwrap(), once);
        let error = filled(text, "b", "new").unwrap_err().to_string();
        assert!(error.contains("no markers for b"), "{error}");
        let turned = "<!-- end of a -->\n<!-- a -->\n";
        assert!(filled(turned, "a", "new").is_err());
    }
}
