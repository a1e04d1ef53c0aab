//! The table of `status`.

use anyhow::Result;

use super::member::{Kind, Member, State};
use super::metrics;
use crate::http;

const HEAD: [&str; 6] = ["name", "pid", "state", "address", "metrics", "work"];

/// Looks at every member.
pub(crate) fn status(members: &mut [Member]) -> Result<String> {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for member in members {
        let state = member.state()?;
        let work = match state {
            State::Ready | State::Running => work(member),
            State::Stopped | State::Dead(_) => String::new(),
        };
        let pid = match state {
            State::Dead(_) => "-".to_owned(),
            State::Ready | State::Running | State::Stopped => member.id().to_string(),
        };
        let state = match state {
            State::Ready => "ready".to_owned(),
            State::Running => "running".to_owned(),
            State::Stopped => "stopped".to_owned(),
            State::Dead(status) => format!("dead ({status})"),
        };
        let (address, http) = (member.places.address, member.places.http);
        let name = member.name.clone();
        rows.push([
            name,
            pid,
            state,
            address.to_string(),
            http.to_string(),
            work,
        ]);
    }
    Ok(table(&rows))
}

/// What a member has to do, from its metrics.
fn work(member: &Member) -> String {
    let (metric, unit) = match member.kind {
        Kind::Etcd => return String::new(),
        Kind::Prefill => ("lava_prefill_queue", "in the queue"),
        Kind::Decode => ("lava_decode_slots", "slots"),
        Kind::Coordinator => ("lava_coordinator_flights", "flights"),
    };
    let page = http::get(member.places.http, "/metrics");
    let value = page.and_then(|page| metrics::value(&page, metric));
    value.map_or_else(String::new, |value| format!("{value} {unit}"))
}

fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["name", "state", "work"],
            ["etcd-1", "ready", ""],
            ["a", "dead (exit status: 1)", "3 slots"],
        ];
        let expected = "\
name    state                  work
etcd-1  ready
a       dead (exit status: 1)  3 slots
";
        assert_eq!(table(&rows.map(|row| row.map(str::to_owned))), expected);
    }
}
