//! The metrics against what the published scripts and packages give.

use lava_lab::Metric;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    metric: Metric,
    prediction: String,
    answers: Vec<String>,
    expected: f64,
}

#[test]
fn metrics_give_what_the_published_scripts_give() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../data/metric_vectors.json")).unwrap();
    assert!(cases.len() > 700, "{} cases", cases.len());
    for case in &cases {
        let score = case.metric.score(&case.prediction, &case.answers);
        // Both sides compute in f64; the order of two products may differ.
        assert!(
            (score - case.expected).abs() < 1e-12,
            "{:?} of {:?} against {:?}: {score}, expected {}",
            case.metric,
            case.prediction,
            case.answers,
            case.expected
        );
    }
}
