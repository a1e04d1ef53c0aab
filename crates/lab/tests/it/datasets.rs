//! Files in the published formats of LongBench and InfiniteBench.

use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};
use lava_lab::{Metric, infinitebench, longbench};

fn file(folder: &Path, content: &str) -> PathBuf {
    let file = folder.join("set.jsonl");
    std::fs::write(&file, content).unwrap();
    file
}

const QA: &str = r#"{"input": "Who?", "context": "Ann came.", "answers": ["Ann", "Anna"], "length": 2, "dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "f00"}"#;

#[test]
fn a_longbench_sample_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let trec = r#"{"input": "Question: Why?\nType:", "context": "Question: Who?\nType: Person", "answers": ["Reason"], "dataset": "trec_e", "all_classes": ["Person", "Reason"], "_id": "f01"}"#;
    let samples = longbench::read(&file(folder.path(), &format!("{QA}\n\n{trec}\n")), 10).unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!(samples[0].id, "f00");
    assert_eq!(samples[0].metric, Metric::TokenF1);
    assert_eq!((samples[0].length, samples[0].max_tokens), (2, 32));
    assert!(samples[0].prompt.question.contains("Who?"));
    assert_eq!(samples[0].score("The anna!"), 1.0);
    assert_eq!(samples[1].score("\nReason\nPerson"), 1.0);
    assert_eq!(samples[1].score("Person or Reason"), 0.5);
}

#[test]
fn only_as_many_samples_as_wanted_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), &format!("{QA}\n{QA}\nbroken\n"));
    assert_eq!(longbench::read(&file, 2).unwrap().len(), 2);
}

#[test]
fn every_longbench_set_has_the_papers_bound() {
    let sum: usize = longbench::DATASETS.iter().map(|set| set.max_tokens).sum();
    // 4 sets of 128, 6 of 64 (the two multifieldqa included), 7 of 32, 4 of 512.
    assert_eq!(sum, 4 * 128 + 6 * 64 + 7 * 32 + 4 * 512);
    assert!(longbench::Dataset::named("lcc_e").is_some_and(|set| !set.chat));
    assert!(longbench::Dataset::named("qasper").is_some_and(|set| set.chat));
    assert!(longbench::Dataset::named("nope").is_none());
}

fn longbench_refuses(content: &str, expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    let refusal = longbench::read(&file(folder.path(), content), 10).unwrap_err();
    let text = refusal.to_string();
    expected.assert_eq(&text.replace(&folder.path().display().to_string(), "FOLDER"));
}

#[test]
fn a_broken_longbench_line_is_named() {
    longbench_refuses(
        &format!("{QA}\n{{\"input\": 3"),
        expect![
            "FOLDER/set.jsonl:2: invalid type: integer `3`, expected a string at line 1 column 11; expected a LongBench sample: context, input, answers and dataset"
        ],
    );
    longbench_refuses(
        r#"{"context": "", "dataset": "lcc"}"#,
        expect![
            "FOLDER/set.jsonl:1: missing field `answers` at line 1 column 33; expected a LongBench sample: context, input, answers and dataset"
        ],
    );
    longbench_refuses(
        &QA.replace("hotpotqa", "hotpot"),
        expect![[r#"FOLDER/set.jsonl:1: dataset is "hotpot", expected a data set of LongBench"#]],
    );
    longbench_refuses(
        &QA.replace(r#"["Ann", "Anna"]"#, "[]"),
        expect!["FOLDER/set.jsonl:1: answers is empty, expected one answer at least"],
    );
    longbench_refuses(
        &QA.replace("hotpotqa", "trec"),
        expect!["FOLDER/set.jsonl:1: all_classes is empty, expected the names of all classes"],
    );
    longbench_refuses("\n \n", expect!["FOLDER/set.jsonl: no samples"]);
}

#[test]
fn a_file_that_is_missing_or_no_text_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(longbench::read(&folder.path().join("none"), 1).is_err());
    let binary = folder.path().join("binary");
    std::fs::write(&binary, [0xFF, 0, 0xFE]).unwrap();
    assert!(longbench::read(&binary, 1).is_err());
}

fn infinite(task: &str, line: &str) -> Result<Vec<lava_lab::Sample>, String> {
    let folder = tempfile::tempdir().unwrap();
    let task = infinitebench::Task::named(task).unwrap();
    let read = infinitebench::read(task, &file(folder.path(), line), 10);
    read.map_err(|e| {
        e.to_string()
            .replace(&folder.path().display().to_string(), "FOLDER")
    })
}

#[test]
fn a_choice_has_its_letter_and_text() {
    let line = r#"{"id": 4, "context": "A book.", "input": "Who?", "answer": ["Bob"], "options": ["Ann", "Bob", "Cid", "Dan"]}"#;
    let sample = infinite("longbook_choice_eng", line).unwrap().remove(0);
    assert_eq!(sample.id, "longbook_choice_eng-4");
    assert_eq!(sample.answers, ["Bob", "B"]);
    assert_eq!(
        (sample.score("B."), sample.score("A"), sample.max_tokens),
        (1.0, 0.0, 40)
    );
    assert!(sample.prompt.question.contains("Who?\nA. Ann\nB. Bob"));
    assert_eq!(
        infinite("longbook_choice_eng", &line.replace("[\"Bob\"]", "\"Eve\"")).unwrap_err(),
        "FOLDER/set.jsonl:1: answer is \"Eve\", expected one of the options"
    );
}

#[test]
fn answers_are_text_numbers_or_lists() {
    let line =
        |answer: &str| format!(r#"{{"id": 0, "context": "x", "input": "y", "answer": {answer}}}"#);
    let answers = |task, answer| infinite(task, &line(answer)).map(|mut s| s.remove(0).answers);
    assert_eq!(answers("passkey", "71432").unwrap(), ["71432"]);
    assert_eq!(answers("passkey", "[\"71432\", \"2\"]").unwrap(), ["71432"]);
    assert_eq!(answers("math_find", "7.5").unwrap(), ["7.5"]);
    assert_eq!(
        answers("longbook_qa_eng", "[\"a\", \"b\"]").unwrap(),
        ["a", "b"]
    );
    assert!(
        answers("passkey", "[]")
            .unwrap_err()
            .contains("answer is empty")
    );
    assert!(
        answers("passkey", "null")
            .unwrap_err()
            .contains("set.jsonl:1:")
    );
}
