//! What rounds came to, and whether that is right.

use std::time::Duration;

use super::load::Came;
use super::look::Look;

/// Most that memory at rest, without the pools' pages, may grow from the first round to the last, in bytes. What is
/// allocated grows a little with each new record of requests under way, whose buffers are kept: about a megabyte was
/// seen, and a leak of two kilobytes a request is more than this. What is resident depends on how the allocator's free
/// pieces lie.
const HEAP_GROWTH_MAX: f64 = 2e6;
const RESIDENT_GROWTH_MAX: f64 = 32e6;
/// Most requests that may be turned away, in percent of all.
const TURNED_AWAY_MAX: u64 = 2;

pub(super) const HEADER: &str = "round   time  answered  left  stalled  away  failed  longest gap | at most: flights  pages  resident | at rest: held     pages        heap   resident";

/// A round, from its first request until nothing was held.
pub(super) struct Round {
    pub(super) took: Duration,
    pub(super) came: Came,
    pub(super) peak: Peak,
    pub(super) rest: Look,
}

/// The most that was seen.
#[derive(Default)]
pub(super) struct Peak {
    flights: f64,
    pages: f64,
    resident_bytes: f64,
}

impl Peak {
    pub(super) fn add(&mut self, look: &Look) {
        self.flights = self.flights.max(look.flights);
        self.pages = self.pages.max(look.pages);
        self.resident_bytes = self.resident_bytes.max(look.resident_bytes);
    }
}

impl Round {
    /// A line under [`HEADER`].
    pub(super) fn row(&self, number: usize) -> String {
        let Round {
            took,
            came,
            peak,
            rest,
        } = self;
        format!(
            "{:>5} {:>4} s {:>9} {:>5} {:>8} {:>5} {:>7} {:>9.0} ms | {:>16} {:>6} {:>6.1} MB | {:>13} {:>6.1} MB {:>8.2} MB {:>5.0} MB",
            number + 1,
            took.as_secs(),
            came.answered,
            came.left,
            came.stalled,
            came.refused + came.not_sent,
            came.failures.len(),
            came.gap_ms_max,
            peak.flights,
            peak.pages,
            peak.resident_bytes / 1e6,
            rest.held.len(),
            rest.made_bytes / 1e6,
            rest.heap_bytes / 1e6,
            rest.resident_bytes / 1e6,
        )
    }
}

/// What is wrong, in words.
pub(super) fn judge(rounds: &[Round], stall_timeout: Duration) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        let number = number + 1;
        let Came {
            failures,
            gap_ms_max,
            ..
        } = &round.came;
        if let Some(first) = failures.first() {
            let count = failures.len();
            wrong.push(format!(
                "{count} requests of round {number} failed, the first: {first}"
            ));
        }
        if !round.rest.held.is_empty() {
            let held = round.rest.held.join(", ");
            wrong.push(format!("held after round {number}: {held}"));
        }
        // A client that reads must not wait for one that does not.
        if *gap_ms_max >= stall_timeout.as_secs_f64() * 1e3 {
            wrong.push(format!(
                "a client of round {number} waited {gap_ms_max:.0} ms for a token"
            ));
        }
    }
    let sum = |of: fn(&Came) -> u64| -> u64 { rounds.iter().map(|round| of(&round.came)).sum() };
    let turned_away = sum(|came| came.refused + came.not_sent);
    if turned_away * 100 > TURNED_AWAY_MAX * sum(|came| came.answered) {
        wrong.push(format!(
            "{turned_away} requests were refused or not sent: this machine needs a lower --rate"
        ));
    }
    if sum(|came| came.left) == 0 {
        wrong.push("no client left before its answer ended".to_owned());
    }
    if sum(|came| came.stalled) == 0 {
        wrong.push("no client stalled for long enough to fill what is on the way".to_owned());
    }
    let [first, .., last] = rounds else {
        return wrong;
    };
    for (what, of, most) in [
        ("allocated", heap as fn(&Round) -> f64, HEAP_GROWTH_MAX),
        ("resident", resident, RESIDENT_GROWTH_MAX),
    ] {
        let growth = of(last) - of(first);
        if growth > most {
            wrong.push(format!(
                "{what} memory beside the pools' pages grew by {:.1} MB from the first round to the last, expected at most {:.1} MB",
                growth / 1e6,
                most / 1e6
            ));
        }
    }
    wrong
}

fn heap(round: &Round) -> f64 {
    round.rest.heap_bytes - round.rest.made_bytes
}

fn resident(round: &Round) -> f64 {
    round.rest.resident_bytes - round.rest.made_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(heap_bytes: f64) -> Round {
        let came = Came {
            answered: 90,
            left: 9,
            stalled: 1,
            gap_ms_max: 200.0,
            ..Came::default()
        };
        Round {
            took: Duration::from_secs(5),
            came,
            peak: Peak::default(),
            rest: Look {
                held: Vec::new(),
                flights: 0.0,
                pages: 0.0,
                made_bytes: 0.0,
                heap_bytes,
                resident_bytes: 3e8,
            },
        }
    }

    #[track_caller]
    fn check(rounds: &[Round], expected: &[&str]) {
        let wrong = judge(rounds, Duration::from_secs(3));
        assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
        for (found, part) in wrong.iter().zip(expected) {
            assert!(found.contains(part), "{found:?} does not say {part:?}");
        }
    }

    #[test]
    fn what_is_lost_held_late_or_leaked_is_named() {
        check(&[round(1e8), round(1.001e8)], &[]);
        check(
            &[round(1e8), round(1.03e8)],
            &["allocated memory beside the pools' pages grew by 3.0 MB"],
        );
        let mut more_pages = round(1.05e8);
        more_pages.rest.made_bytes = 5e6;
        check(&[round(1e8), more_pages], &[]);
        let mut bad = round(1e8);
        bad.came.failures.push("broken".to_owned());
        bad.came.gap_ms_max = 3000.0;
        bad.came.not_sent = 9;
        bad.rest.held.push("lava_decode_slots 1".to_owned());
        check(
            &[round(1e8), bad],
            &[
                "1 requests of round 2 failed, the first: broken",
                "held after round 2: lava_decode_slots 1",
                "waited 3000 ms",
                "9 requests were refused or not sent",
            ],
        );
        let mut calm = round(1e8);
        (calm.came.left, calm.came.stalled) = (0, 0);
        check(&[calm], &["no client left", "no client stalled"]);
    }

    #[test]
    fn a_row_stands_under_its_header() {
        let row = round(1.234e8).row(0);
        assert_eq!(row.find('|'), HEADER.find('|'), "{row}");
        assert_eq!(row.rfind('|'), HEADER.rfind('|'), "{row}");
        assert!(row.contains("123.40 MB"), "{row}");
    }
}
