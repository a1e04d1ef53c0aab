//! What is asked of a figure, and whether it is so.

/// A figure with its limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Criterion {
    pub(super) what: String,
    pub(super) found: f64,
    pub(super) limit: Limit,
    pub(super) unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unit {
    /// One figure over another.
    Times,
    /// Given as a share of 1.
    Percent,
}

impl Criterion {
    pub(super) fn is_met(&self) -> bool {
        match self.limit {
            Limit::AtLeast(limit) => self.found >= limit,
            Limit::AtMost(limit) => self.found <= limit,
            Limit::Below(limit) => self.found < limit,
        }
    }

    /// Cells of a row of [`table`].
    fn cells(&self) -> [String; 4] {
        let asked = match self.limit {
            Limit::AtLeast(limit) => format!("at least {}", self.unit.show(limit)),
            Limit::AtMost(limit) => format!("at most {}", self.unit.show(limit)),
            Limit::Below(limit) => format!("below {}", self.unit.show(limit)),
        };
        let met = if self.is_met() { "yes" } else { "**missed**" };
        [
            self.what.clone(),
            asked,
            self.unit.show(self.found),
            met.to_owned(),
        ]
    }
}

impl Unit {
    fn show(self, number: f64) -> String {
        match self {
            // Three digits, so that a miss by a hair does not read as a hit.
            Unit::Times => format!("{number:.3}"),
            Unit::Percent => format!("{:.2} %", 100.0 * number),
        }
    }
}

/// Criteria as a table in Markdown.
pub(super) fn table(criteria: &[Criterion]) -> String {
    let mut lines = vec![
        "| what | asked | found | met |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    lines.extend(
        criteria
            .iter()
            .map(|one| format!("| {} |", one.cells().join(" | "))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn what_is_missed_is_marked() {
        let criterion = |found, limit, unit| Criterion {
            what: "this over that".to_owned(),
            found,
            limit,
            unit,
        };
        let criteria = [
            criterion(2.0, Limit::AtLeast(2.0), Unit::Times),
            criterion(1.999, Limit::AtLeast(2.0), Unit::Times),
            criterion(0.05, Limit::Below(0.05), Unit::Percent),
            criterion(1.5, Limit::AtMost(1.5), Unit::Times),
            criterion(f64::NAN, Limit::Below(1.2), Unit::Times),
        ];
        expect![[r#"
            | what | asked | found | met |
            |---|---|---|---|
            | this over that | at least 2.000 | 2.000 | yes |
            | this over that | at least 2.000 | 1.999 | **missed** |
            | this over that | below 5.00 % | 5.00 % | **missed** |
            | this over that | at most 1.500 | 1.500 | yes |
            | this over that | below 1.200 | NaN | **missed** |"#]]
        .assert_eq(&table(&criteria));
    }
}
