//! The `/metrics` pages of all processes as one page. Plain functions over text.

use std::collections::HashMap;
use std::fmt::Write;

/// What a process answered.
pub(crate) struct Page {
    pub(crate) process: String,
    /// None if it did not answer.
    pub(crate) text: Option<String>,
}

/// One page of OpenMetrics text: each series has a label `process` more, and `up` tells who answered. A family's series
/// stand together, as the format demands, under the description that the first process gives it.
pub(crate) fn join(pages: &[Page]) -> String {
    let mut families = Families::default();
    families.describe("up", "HELP", "Whether the process answered.");
    let up = families.describe("up", "TYPE", "gauge");
    for Page { process, text } in pages {
        let value = u8::from(text.is_some());
        families.list[up].push(process, &format!("up {value}"));
    }
    for Page { process, text } in pages {
        families.add(process, text.as_deref().unwrap_or_default());
    }
    let mut joined = String::new();
    for family in families.list {
        joined.extend(family.description.into_iter().map(|(_, line)| line));
        joined.push_str(&family.series);
    }
    joined + "# EOF\n"
}

/// The value of a series without labels.
pub(crate) fn value(page: &str, name: &str) -> Option<f64> {
    let of_name = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(of_name)
}

/// In the order in which they were first seen.
#[derive(Default)]
struct Families {
    list: Vec<Family>,
    index_of: HashMap<String, usize>,
}

#[derive(Default)]
struct Family {
    /// Kind (HELP, TYPE, UNIT) and whole line.
    description: Vec<(String, String)>,
    series: String,
}

impl Families {
    fn add(&mut self, process: &str, page: &str) {
        let dialect = Dialect::of(page);
        let mut current: Option<(&str, usize)> = None;
        for line in page.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                // Anything else, and `# EOF`, describes nothing.
                let (Some(kind @ ("HELP" | "TYPE" | "UNIT")), Some(name)) =
                    (words.next(), words.next())
                else {
                    continue;
                };
                let (name, text) =
                    dialect.description(name, kind, words.next().unwrap_or_default());
                current = Some((name, self.describe(name, kind, text)));
                continue;
            }
            let name = line.split(['{', ' ']).next().unwrap_or(line);
            let index = match current {
                // The series of a histogram add to their family's name.
                Some((family, index)) if name.starts_with(family) => index,
                _ => self.index(name),
            };
            self.list[index].push(process, line);
        }
    }

    /// Adds a line of the description unless the family has one of its kind; returns the family's index.
    fn describe(&mut self, name: &str, kind: &str, text: &str) -> usize {
        let index = self.index(name);
        let description = &mut self.list[index].description;
        if description.iter().all(|(known, _)| known != kind) {
            description.push((kind.to_owned(), format!("# {kind} {name} {text}\n")));
        }
        index
    }

    fn index(&mut self, name: &str) -> usize {
        if let Some(index) = self.index_of.get(name) {
            return *index;
        }
        self.list.push(Family::default());
        let index = self.list.len() - 1;
        self.index_of.insert(name.to_owned(), index);
        index
    }
}

impl Family {
    /// The label goes in front, so nothing has to be known about the others and their quotes.
    fn push(&mut self, process: &str, line: &str) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let written = match rest.strip_prefix('{') {
            Some(rest) if rest.starts_with('}') => {
                writeln!(self.series, "{name}{{process=\"{process}\"{rest}")
            }
            Some(rest) => writeln!(self.series, "{name}{{process=\"{process}\",{rest}"),
            None => writeln!(self.series, "{name}{{process=\"{process}\"}}{rest}"),
        };
        written.expect("a string takes everything");
    }
}

/// Ours is OpenMetrics. etcd speaks the older Prometheus text, where a counter's family ends in `_total` as its series.
enum Dialect<'a> {
    OpenMetrics,
    /// With the type of each family.
    Prometheus(HashMap<&'a str, &'a str>),
}

impl<'a> Dialect<'a> {
    fn of(page: &'a str) -> Self {
        if page.lines().any(|line| line == "# EOF") {
            return Self::OpenMetrics;
        }
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        Self::Prometheus(types.filter_map(|line| line.split_once(' ')).collect())
    }

    /// Name and text of a description in OpenMetrics.
    fn description<'b>(&self, name: &'b str, kind: &str, text: &'b str) -> (&'b str, &'b str) {
        let Self::Prometheus(types) = self else {
            return (name, text);
        };
        let is_type = kind == "TYPE";
        match (types.get(name).copied(), name.strip_suffix("_total")) {
            (Some("counter"), Some(family)) => (family, text),
            (Some("counter" | "untyped"), _) if is_type => (name, "unknown"),
            _ => (name, text),
        }
    }
}

#[cfg(test)]
mod tests;
