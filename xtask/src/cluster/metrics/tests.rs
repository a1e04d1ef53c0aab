use super::*;

fn joined(pages: &[(&str, Option<&str>)]) -> String {
    let page = |(process, text): &(&str, Option<&str>)| Page {
        process: (*process).to_owned(),
        text: text.map(str::to_owned),
    };
    join(&pages.iter().map(page).collect::<Vec<_>>())
}

/// Without the lines of `up`, which the first test shows.
fn check(pages: &[(&str, Option<&str>)], expected: &str) {
    let joined = joined(pages);
    let rest = joined
        .lines()
        .filter(|line| !line.starts_with("up{") && !line.contains(" up "));
    assert_eq!(rest.collect::<Vec<_>>().join("\n"), expected.trim());
}

#[test]
fn a_process_that_does_not_answer_is_down() {
    assert_eq!(
        joined(&[("decode-1", Some("# EOF\n")), ("decode-2", None)]),
        r#"# HELP up Whether the process answered.
# TYPE up gauge
up{process="decode-1"} 1
up{process="decode-2"} 0
# EOF
"#
    );
}

#[test]
fn families_stand_together_and_are_described_once() {
    let page = "# HELP slots Sequences.\n# TYPE slots gauge\nslots 3\n\
                # HELP tokens Tokens made.\n# TYPE tokens counter\ntokens_total 70\n# EOF\n";
    check(
        &[("decode-1", Some(page)), ("decode-2", Some(page))],
        r#"
# HELP slots Sequences.
# TYPE slots gauge
slots{process="decode-1"} 3
slots{process="decode-2"} 3
# HELP tokens Tokens made.
# TYPE tokens counter
tokens_total{process="decode-1"} 70
tokens_total{process="decode-2"} 70
# EOF"#,
    );
}

#[test]
fn labels_stay_whatever_they_hold() {
    let page = r#"# TYPE cancelled counter
cancelled_total{stage="queue"} 1
cancelled_total{stage="a \"b}, {c\" \\"} 2
cancelled_total{} 3
# EOF"#;
    check(
        &[("p", Some(page))],
        r#"
# TYPE cancelled counter
cancelled_total{process="p",stage="queue"} 1
cancelled_total{process="p",stage="a \"b}, {c\" \\"} 2
cancelled_total{process="p"} 3
# EOF"#,
    );
}

#[test]
fn a_histogram_is_one_family() {
    let page = r#"# HELP step_seconds Time of a step.
# TYPE step_seconds histogram
# UNIT step_seconds seconds
step_seconds_sum 0.5
step_seconds_count 2
step_seconds_bucket{le="0.001"} 0
step_seconds_bucket{le="+Inf"} 2
# EOF"#;
    check(
        &[("a", Some(page)), ("b", Some(page))],
        r#"
# HELP step_seconds Time of a step.
# TYPE step_seconds histogram
# UNIT step_seconds seconds
step_seconds_sum{process="a"} 0.5
step_seconds_count{process="a"} 2
step_seconds_bucket{process="a",le="0.001"} 0
step_seconds_bucket{process="a",le="+Inf"} 2
step_seconds_sum{process="b"} 0.5
step_seconds_count{process="b"} 2
step_seconds_bucket{process="b",le="0.001"} 0
step_seconds_bucket{process="b",le="+Inf"} 2
# EOF"#,
    );
}

#[test]
fn the_text_of_etcd_becomes_open_metrics() {
    let page = "# HELP puts_total Puts.\n# TYPE puts_total counter\nputs_total 5\n\
                # HELP lookups Lookups.\n# TYPE lookups counter\nlookups 0\n\
                # TYPE version untyped\nversion{v=\"3\"} 1\n\
                # TYPE keys_total gauge\nkeys_total 2\n\
                undescribed 1\n";
    check(
        &[("etcd-1", Some(page))],
        r#"
# HELP puts Puts.
# TYPE puts counter
puts_total{process="etcd-1"} 5
# HELP lookups Lookups.
# TYPE lookups unknown
lookups{process="etcd-1"} 0
# TYPE version unknown
version{process="etcd-1",v="3"} 1
# TYPE keys_total gauge
keys_total{process="etcd-1"} 2
undescribed{process="etcd-1"} 1
# EOF"#,
    );
}

#[test]
fn a_value_is_found_by_its_whole_name() {
    let page = "lava_decode_slots_max 9\nlava_decode_slots 3\n";
    assert_eq!(value(page, "lava_decode_slots"), Some(3.0));
    assert_eq!(value(page, "lava_decode"), None);
}
