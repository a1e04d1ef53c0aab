//! Tables and the page, on small inputs: what is there, and that nothing lies on anything else.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use lava_lab::report::{self, Summary, summarize};
use lava_lab::results::{FORMAT, Header, Record};

fn header() -> Header {
    Header {
        lava_eval: FORMAT,
        model: "toy <7B> & \"co\"".to_owned(),
        model_digest: "0123".to_owned(),
        commit: "abc".to_owned(),
        seed: 42,
        texts: BTreeMap::new(),
        settings: BTreeMap::from([("lengths".to_owned(), "4096,8192".to_owned())]),
    }
}

/// Two tasks, `full` and two policies at three budgets, needles over lengths and depths.
fn records(lengths: &[u64], depths: &[u64]) -> Vec<Record> {
    let mut records = Vec::new();
    let settings = [
        ("full", None),
        ("lava-exact", Some(128)),
        ("lava-exact", Some(256)),
        ("lava-exact", Some(1024)),
        ("snapkv", Some(128)),
        ("snapkv", Some(256)),
        ("snapkv", Some(1024)),
    ];
    for (policy, budget) in settings {
        let rows: u64 = budget.unwrap_or(8192);
        let quality = 1.0 - 20.0 / rows as f64 * if policy == "snapkv" { 2.0 } else { 1.0 };
        for &length in lengths {
            for &depth in depths {
                let luck = ((length / 7 + depth * 3 + rows) % 10) as f64 / 10.0;
                records.push(Record {
                    task: "needle".to_owned(),
                    sample: format!("needle-{length}-{depth}"),
                    policy: policy.to_owned(),
                    budget: budget.map(|b| b.to_string()),
                    cache_bytes: rows * 30 * 4096,
                    length: Some(length),
                    depth: Some(depth as f64 / 100.0),
                    score: Some(if luck < quality { 1.0 } else { 0.0 }),
                    layer_rows: (0..30).map(|layer| rows * 3 + layer * 7 % 50).collect(),
                    ..Record::default()
                });
            }
        }
        for sample in 0..5 {
            records.push(Record {
                task: "lm".to_owned(),
                sample: sample.to_string(),
                policy: policy.to_owned(),
                budget: budget.map(|b| b.to_string()),
                cache_bytes: rows * 30 * 4096,
                nll: Some(2.0 + (1.0 - quality) + f64::from(sample) / 10.0),
                kl: Some(1.0 - quality),
                top1: Some(quality),
                ..Record::default()
            });
        }
    }
    records
}

fn small() -> Summary {
    summarize(&header(), &records(&[4096, 8192], &[0, 50, 100]), "full")
}

#[test]
fn a_table_for_a_terminal() {
    expect![[r#"
        task    policy      budget  samples    cache             score (%)   minus full (points)            NLL (nats)                KL (nats)          top-1 (%)
        ------  ----------  ------  -------  -------  --------------------  --------------------  --------------------  -----------------------  -----------------
        lm      full           all        5  960 MiB                                              2.202 [2.082, 2.322]  0.0024 [0.0024, 0.0024]  99.8 [99.8, 99.8]
        lm      lava-exact     128        5   15 MiB                                              2.356 [2.236, 2.476]  0.1562 [0.1562, 0.1562]  84.4 [84.4, 84.4]
        lm      lava-exact     256        5   30 MiB                                              2.278 [2.158, 2.398]  0.0781 [0.0781, 0.0781]  92.2 [92.2, 92.2]
        lm      lava-exact    1024        5  120 MiB                                              2.220 [2.100, 2.340]  0.0195 [0.0195, 0.0195]  98.0 [98.0, 98.0]
        lm      snapkv         128        5   15 MiB                                              2.513 [2.393, 2.632]  0.3125 [0.3125, 0.3125]  68.8 [68.8, 68.8]
        lm      snapkv         256        5   30 MiB                                              2.356 [2.236, 2.476]  0.1562 [0.1562, 0.1562]  84.4 [84.4, 84.4]
        lm      snapkv        1024        5  120 MiB                                              2.239 [2.119, 2.359]  0.0391 [0.0391, 0.0391]  96.1 [96.1, 96.1]
        needle  full           all        6  960 MiB  100.0 [100.0, 100.0]
        needle  lava-exact     128        6   15 MiB  100.0 [100.0, 100.0]        0.0 [0.0, 0.0]
        needle  lava-exact     256        6   30 MiB  100.0 [100.0, 100.0]        0.0 [0.0, 0.0]
        needle  lava-exact    1024        6  120 MiB  100.0 [100.0, 100.0]        0.0 [0.0, 0.0]
        needle  snapkv         128        6   15 MiB     50.0 [16.7, 83.3]  -50.0 [-83.3, -16.7]
        needle  snapkv         256        6   30 MiB  100.0 [100.0, 100.0]        0.0 [0.0, 0.0]
        needle  snapkv        1024        6  120 MiB  100.0 [100.0, 100.0]        0.0 [0.0, 0.0]
    "#]].assert_eq(&report::plain(&small()));
}

#[test]
fn the_order_of_records_does_not_matter() {
    let mut shuffled = records(&[4096, 8192], &[0, 50, 100]);
    shuffled.reverse();
    assert_eq!(summarize(&header(), &shuffled, "full"), small());
}

#[test]
fn several_scored_tasks_have_a_mean_over_them() {
    let score = |task: &str, sample: &str, policy: &str, score| Record {
        task: task.to_owned(),
        sample: sample.to_owned(),
        policy: policy.to_owned(),
        cache_bytes: 1,
        score: Some(score),
        ..Record::default()
    };
    let records = [
        score("a", "1", "full", 1.0),
        score("a", "2", "full", 1.0),
        score("b", "1", "full", 0.0),
        // Has no task b, so no mean.
        score("a", "1", "h2o", 0.5),
        score("a", "3", "h2o", 0.5),
    ];
    let summary = summarize(&header(), &records, "full");
    let means: Vec<_> = summary
        .lines
        .iter()
        .filter(|line| line.task == "all tasks")
        .collect();
    assert_eq!(means.len(), 1);
    assert_eq!(means[0].score.unwrap().mean, 0.5);
    // Only sample 1 of task a is in both.
    let against = summary
        .lines
        .iter()
        .find_map(|line| line.against_baseline)
        .unwrap();
    assert_eq!(
        (
            against.difference.mean,
            against.difference.samples,
            against.less
        ),
        (-0.5, 1, 1)
    );
}

#[test]
fn an_empty_run_has_an_empty_report() {
    let summary = summarize(&header(), &[], "full");
    assert_eq!(summary.baseline, None);
    assert!(report::plain(&summary).starts_with("task"));
    assert_eq!(report::markdown(&summary), "");
    check_page(&report::html("empty", &summary));
}

#[test]
fn json_holds_the_summary() {
    let json: serde_json::Value = serde_json::from_str(&report::json(&small())).unwrap();
    assert_eq!(json["baseline"], "full");
    assert_eq!(json["lines"].as_array().unwrap().len(), 14);
    assert_eq!(json["heats"][0]["lengths"], serde_json::json!([4096, 8192]));
    assert_eq!(json["layers"][0]["rows"].as_array().unwrap().len(), 30);
}

#[test]
fn the_page_has_every_chart() {
    let page = report::html("Evaluation", &small());
    let labels = page
        .split("aria-label=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let labels: Vec<&str> = labels.collect();
    check(
        &labels.join("\n"),
        expect![[r#"
        full
        lava-exact
        snapkv
        Negative log-likelihood against cache bytes, lm
        KL divergence from the full cache against cache bytes, lm
        Top-1 agreement with the full cache against cache bytes, lm
        Score against cache bytes, needle
        Colours from a score of 0 to 100 %
        Score by length and depth, needle, full
        Score by length and depth, needle, lava-exact, 128 rows
        Score by length and depth, needle, lava-exact, 256 rows
        Score by length and depth, needle, lava-exact, 1024 rows
        Score by length and depth, needle, snapkv, 128 rows
        Score by length and depth, needle, snapkv, 256 rows
        Score by length and depth, needle, snapkv, 1024 rows
        Rows kept per layer, full
        Rows kept per layer, lava-exact, 128 rows
        Rows kept per layer, lava-exact, 256 rows
        Rows kept per layer, lava-exact, 1024 rows
        Rows kept per layer, snapkv, 128 rows
        Rows kept per layer, snapkv, 256 rows
        Rows kept per layer, snapkv, 1024 rows
    "#]],
    );
    check_page(&page);
    // Means with their bars, and marks: 7 settings each of 4 charts and 3 in the legend.
    assert_eq!(page.matches("<path class=\"f").count(), 4 * 7 + 3);
}

#[test]
fn nothing_overlaps_at_other_sizes() {
    let depths: Vec<u64> = (0..=10).map(|i| i * 10).collect();
    for (lengths, depths) in [
        (vec![1000], vec![50]),
        (vec![1000, 131_072], vec![0, 100]),
        ((1..30).map(|i| i * 4096).collect(), depths),
    ] {
        check_page(&report::html(
            "x",
            &summarize(&header(), &records(&lengths, &depths), "full"),
        ));
    }
    let mut many = records(&[1000], &[50]);
    for (index, record) in many.iter_mut().enumerate() {
        record.policy = format!("policy <{index}>");
        record.score = Some(index as f64 / 1e4);
        record.nll = Some(1e7 + index as f64);
        record.kl = Some(index as f64 * 1e-9);
        record.layer_rows = vec![index as u64 * 1_000_000; 1 + index * 5];
    }
    check_page(&report::html("many", &summarize(&header(), &many, "none")));
}

fn check(actual: &str, expected: Expect) {
    expected.assert_eq(&format!("{actual}\n"));
}

/// Self-contained, well-formed, every text inside its drawing and off every other text.
fn check_page(page: &str) {
    for banned in [
        "<script", "url(", " src=", "href=", "@import", "NaN", "inf ",
    ] {
        assert!(!page.contains(banned), "{banned}");
    }
    assert_eq!(
        page.replace("http://www.w3.org/2000/svg", "")
            .matches("http")
            .count(),
        0
    );
    check_tags(page);
    for drawing in page.split("<svg ").skip(1) {
        check_drawing(drawing.split("</svg>").next().unwrap());
    }
}

fn check_tags(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
        if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    tag.split(&format!("{name}=\"")).nth(1)?.split('"').next()
}

fn number(tag: &str, name: &str) -> Option<f64> {
    attribute(tag, name)?.parse().ok()
}

fn check_drawing(drawing: &str) {
    let (width, height) = (
        number(drawing, " width").unwrap(),
        number(drawing, " height").unwrap(),
    );
    let mut boxes: Vec<([f64; 4], String)> = Vec::new();
    for element in drawing.split("<text").skip(1) {
        let (tag, rest) = element.split_once('>').unwrap();
        let text = rest.split('<').next().unwrap().to_owned();
        // A little wider than the letters of most fonts at 12 pixels.
        let (w, h) = (text.chars().count() as f64 * 6.8, 12.0);
        let place = match attribute(tag, "transform") {
            Some(transform) => {
                let inner = transform.split(['(', ')']).nth(1).unwrap();
                let (x, y) = inner.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                [x - 10.0, y - w / 2.0, x + 2.0, y + w / 2.0]
            }
            None => {
                let (x, y) = (number(tag, " x").unwrap(), number(tag, " y").unwrap());
                let left = match attribute(tag, "text-anchor") {
                    Some("start") => x,
                    Some("middle") => x - w / 2.0,
                    _ => x - w,
                };
                [left, y - h + 2.0, left + w, y + 2.0]
            }
        };
        let [left, top, right, bottom] = place;
        assert!(
            left >= 0.0 && top >= 0.0 && right <= width && bottom <= height,
            "{text:?} at {place:?} leaves {width} x {height}"
        );
        for (other, other_text) in &boxes {
            let apart =
                right <= other[0] || other[2] <= left || bottom <= other[1] || other[3] <= top;
            assert!(
                apart,
                "{text:?} at {place:?} lies on {other_text:?} at {other:?}"
            );
        }
        boxes.push((place, text));
    }
    for element in drawing.split("<rect").skip(1) {
        let tag = element.split('>').next().unwrap();
        let [x, y, w, h] = [" x", " y", " width", " height"].map(|name| number(tag, name).unwrap());
        assert!(x >= 0.0 && y >= 0.0 && w > 0.0 && h >= 0.0, "{tag}");
        assert!(x + w <= width && y + h <= height, "{tag}");
    }
}
