//! The tests that docs/promises.md names.

/// Where promises are written down.
pub(crate) const FILE: &str = "docs/promises.md";

/// Every test that the document names and no source file has, and every test called a promise that the
/// document does not name.
pub(crate) fn check(document: &str, sources: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(document) {
        let definition = format!("fn {name}(");
        if !sources.iter().any(|source| source.contains(&definition)) {
            found.push(format!("{FILE}: there is no test {name}"));
        }
    }
    for source in sources {
        for name in promises(source) {
            if !document.contains(&format!("`{name}`")) {
                found.push(format!("{FILE}: the test {name} is not in it"));
            }
        }
    }
    found
}

/// What stands in backticks and looks like the name of a test.
fn names(document: &str) -> impl Iterator<Item = &str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter(|text| {
        let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        is_word && text.contains('_') && !text.ends_with('_')
    })
}

/// Functions of a source file that are called promises.
fn promises(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches("async ");
        let name = line.strip_prefix("fn promise_")?.split('(').next()?;
        let end = "fn ".len() + "promise_".len() + name.len();
        line.get("fn ".len()..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tests_must_match() {
        let sources = ["#[test]\n    async fn promise_1_x() {}\nfn a_b() {}".to_owned()];
        let check = |document: &str| check(document, &sources);
        assert!(check("| `promise_1_x`, `a_b` | `promise_` in `some/folder`").is_empty());
        assert_eq!(
            check("`promise_1_x`, `b_c`"),
            ["docs/promises.md: there is no test b_c"]
        );
        assert_eq!(
            check("`a_b`"),
            ["docs/promises.md: the test promise_1_x is not in it"]
        );
    }
}
