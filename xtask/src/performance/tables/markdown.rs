//! Tables in Markdown.

/// A table of numbers, aligned to the right.
pub(super) fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> String {
    let line = |cells: &[String; COLUMNS]| format!("| {} |", cells.join(" | "));
    let mut lines = vec![
        line(&header.map(str::to_owned)),
        format!("|{}", "---:|".repeat(COLUMNS)),
    ];
    lines.extend(rows.iter().map(line));
    lines.join("\n")
}

/// A share of 1.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let rows = [
            ["1".to_owned(), percent(0.034)],
            ["2".to_owned(), percent(1.0)],
        ];
        let expected = "| a | b |\n|---:|---:|\n| 1 | 3.40 % |\n| 2 | 100.00 % |";
        assert_eq!(table(["a", "b"], &rows), expected);
    }
}
