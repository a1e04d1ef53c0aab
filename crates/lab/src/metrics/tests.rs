use super::*;

fn check(metric: &Metric, prediction: &str, references: &[&str], expected: f64) {
    let references: Vec<String> = references.iter().map(|&r| r.to_owned()).collect();
    let score = metric.score(prediction, &references);
    assert!(
        (score - expected).abs() < 1e-6,
        "{metric:?} of {prediction:?} against {references:?}: {score}, expected {expected}"
    );
}

fn all() -> Vec<Metric> {
    vec![
        Metric::TokenF1,
        Metric::CharF1,
        Metric::RougeL,
        Metric::RougeLChars,
        Metric::Rouge1,
        Metric::RougeLsum,
        Metric::Classification {
            classes: vec!["x".to_owned(), "y".to_owned()],
        },
        Metric::Retrieval,
        Metric::Count,
        Metric::CodeSimilarity,
        Metric::ExactMatch,
        Metric::AllOf,
        Metric::AnyOf,
        Metric::FirstNumber,
        Metric::Word,
        Metric::UpperWord,
        Metric::Choice,
        Metric::MathFind,
        Metric::LastNumber,
        Metric::FirstLine(Box::new(Metric::TokenF1)),
    ]
}

#[test]
fn worked_by_hand() {
    // precision 2/3, recall 2/2.
    check(&Metric::TokenF1, "The cat sat!", &["a cat sat"], 1.0);
    check(&Metric::TokenF1, "big cat sat", &["cat sat"], 0.8);
    check(&Metric::CharF1, "北京。", &["北京市"], 0.8);
    // Common words in order: a, c; sets of 3 and 2.
    check(&Metric::RougeL, "a b c", &["a c"], 0.8);
    check(&Metric::RougeLChars, "北 京", &["北京"], 1.0);
    check(&Metric::Rouge1, "Sat, cat", &["cat sat"], 1.0);
    check(&Metric::RougeLsum, "cat\nsat", &["sat\ncat"], 1.0);
    check(
        &Metric::Retrieval,
        "Paragraph 12 or 3",
        &["Paragraph 12"],
        0.5,
    );
    check(&Metric::Count, "12", &["12"], 1.0);
    // LCS "abd", 2 * 3 / 8 = 0.75.
    check(&Metric::CodeSimilarity, "# no\nabcd", &["abxd"], 0.75);
    check(&Metric::ExactMatch, " The  Sun.", &["sun"], 1.0);
    check(&Metric::ExactMatch, "sunny", &["sun"], 0.0);
}

#[test]
fn several_references_mean_what_the_metric_says() {
    check(&Metric::TokenF1, "blue", &["red", "blue"], 1.0);
    check(
        &Metric::AllOf,
        "it is ONE and two",
        &["one", "two", "six", "ten"],
        0.5,
    );
    check(&Metric::AnyOf, "it is ONE", &["six", "one"], 1.0);
    check(&Metric::AnyOf, "it is ONE", &["six"], 0.0);
}

#[test]
fn a_first_line_hides_the_rest() {
    let metric = Metric::FirstLine(Box::new(Metric::AnyOf));
    check(&metric, "\n\nred\nblue", &["blue"], 0.0);
    check(&metric, "\n\nred\nblue", &["red"], 1.0);
    check(&metric, "", &["red"], 0.0);
}

#[test]
fn odd_input_gives_a_score_between_0_and_1() {
    let odd = [
        "",
        " ",
        "\n",
        "...",
        "\u{0}",
        "é",
        "e\u{301}",
        "🦀🦀",
        "İ",
        "日本語",
        "Paragraph ",
        "段落",
        "1.",
        "99999999999999999999999",
        "answer is",
        "answer is:é",
        "ABCD",
        "-",
        "`",
        "{}",
    ];
    for metric in all() {
        assert_eq!(metric.score("x", &[]), 0.0, "{metric:?}");
        for prediction in odd {
            for reference in odd {
                let score = metric.score(prediction, &[reference.to_owned()]);
                assert!((0.0..=1.0).contains(&score), "{metric:?}: {score}");
            }
        }
    }
}

#[test]
fn long_input_costs_bounded_work() {
    let long = "a b. ".repeat(200_000);
    let other = "b a\n".repeat(200_000);
    for metric in all() {
        let score = metric.score(&long, std::slice::from_ref(&other));
        assert!((0.0..=1.0).contains(&score), "{metric:?}: {score}");
    }
}

#[test]
fn a_metric_survives_a_file() {
    for metric in all() {
        let text = serde_json::to_string(&metric).unwrap();
        assert_eq!(serde_json::from_str::<Metric>(&text).unwrap(), metric);
    }
}
