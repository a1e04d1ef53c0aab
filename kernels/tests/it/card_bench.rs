//! What the benchmark on a card runs, at small sizes on a GPU that is the CPU: everything is within its buffers, written
//! before it is read, and free of races.

#[path = "../../benches/card/appending.rs"]
mod appending;
#[path = "../../benches/card/caches.rs"]
mod caches;
#[path = "../../benches/card/cases.rs"]
mod cases;
#[path = "../../benches/card/decoding.rs"]
mod decoding;
#[path = "../../benches/card/gathering.rs"]
mod gathering;
#[path = "../../benches/card/memory.rs"]
mod memory;
#[path = "../../benches/card/prefill.rs"]
mod prefill;
#[path = "../../benches/card/random.rs"]
mod random;
#[path = "../../benches/card/ranking.rs"]
mod ranking;
#[path = "../../benches/card/report.rs"]
mod report;
#[path = "../../benches/card/scoring.rs"]
mod scoring;
#[path = "../../benches/card/stock.rs"]
mod stock;
#[path = "../../benches/card/task.rs"]
mod task;

use std::collections::BTreeSet;
use std::time::Duration;

use lava_kernels::cuda::{Buffer, H100, Heads};
use lava_kv::RowFormat;
use lava_test_support::WatchedGpu;

use crate::cuda::ORDERS;
use appending::Appending;
use caches::CacheSizes;
use cases::of_llama_8b;
use decoding::Decoding;
use gathering::Gathering;
use prefill::Prefill;
use ranking::Ranking;
use report::{HEADING, Line, time};
use scoring::Scoring;
use stock::Stock;
use task::Task;

/// One of each kind. Of rankings one takes all that there is, one a part.
fn small() -> Vec<Task> {
    let heads = Heads {
        kv_heads: 2,
        group: 4,
        head_dim: 128,
    };
    let (tokens, window) = (150, 4);
    let ranking = |kept| Ranking {
        heads,
        tokens,
        window,
        kept,
    };
    let compact = CacheSizes {
        heads,
        format: RowFormat::Int4,
        batch: 3,
        wide: 17,
        appended: 1,
        others: 70,
    };
    let full = CacheSizes {
        format: RowFormat::F16,
        wide: 300,
        others: 0,
        ..compact
    };
    vec![
        Task::Prefill(Prefill { heads, tokens }),
        Task::Scoring(Scoring {
            heads,
            tokens,
            window,
            observers: 6,
        }),
        Task::Ranking(ranking(heads.kv_heads * tokens)),
        Task::Ranking(ranking(40)),
        Task::Gathering(Gathering {
            heads,
            format: RowFormat::Int4,
            tokens,
            window,
            budget: 70,
        }),
        Task::Decoding(Decoding { sizes: compact }),
        Task::Decoding(Decoding { sizes: full }),
        Task::Appending(Appending { sizes: compact }),
    ]
}

#[test]
fn cases_do_nothing_wrong_however_often_they_run() {
    for order in ORDERS {
        let watched = WatchedGpu::start(order);
        let device = watched.gpu().compute;
        let stock = Stock::new(&device).unwrap();
        // What a kernel does wrong is told by what is read next.
        let something = Buffer::of(&device, &[1]).unwrap();
        for (index, task) in small().iter().enumerate() {
            let prepared = task.prepare(&stock).unwrap();
            for _ in 0..2 {
                prepared.run().unwrap();
            }
            let read = something.read(0, 1);
            read.unwrap_or_else(|error| panic!("task {index}, {order:?}: {error}"));
        }
        drop((stock, something));
        assert_eq!(watched.live_buffers(), 0);
    }
}

#[test]
fn every_floor_of_the_readme_is_measured_against() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("<!-- floors -->").unwrap();
    let (tables, _) = rest.split_once("<!-- end of floors -->").unwrap();
    let rows = tables.lines().filter(|line| line.ends_with("s |"));
    let rows: Vec<&str> = rows.collect();
    let cases = of_llama_8b(false);
    assert_eq!(cases.len(), rows.len());
    for (case, row) in cases.iter().zip(rows) {
        let work = case.task.work();
        let times = [work.floor(&H100), work.expected(&H100)].map(time);
        assert!(
            row.ends_with(&format!("| {} | {} |", times[0], times[1])),
            "{}: {row}",
            case.name()
        );
    }
    let half_an_h100 = 40 << 30;
    assert!(
        cases
            .iter()
            .all(|case| case.task.memory_bytes() < half_an_h100)
    );
    let names: BTreeSet<String> = cases.iter().map(|case| case.name()).collect();
    assert_eq!(names.len(), cases.len(), "no two have the same name");
}

#[test]
fn a_line_has_all_figures() {
    let cases = of_llama_8b(true);
    let case = cases
        .iter()
        .find(|case| case.name() == "decode attention (full, 32k, B = 8)");
    let line = Line {
        case: case.unwrap(),
        measured: Duration::from_micros(641),
    };
    let expected = "| decode attention      |  full, 32k |      |  8 |  641.0 µs |  320.5 µs |  463.9 µs |              2.0 |   1675 |    13.4 |";
    assert_eq!(line.text(), expected);
    for above in HEADING.lines() {
        assert_eq!(above.chars().count(), expected.chars().count());
    }
    let json = line.json("a card");
    assert_eq!(json["kernel"], "decode attention");
    assert_eq!(json["budget"], serde_json::Value::Null);
    assert_eq!(json["measured_seconds"], 641e-6);
}
