//! The file of results: resumed, torn, damaged, of another run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use expect_test::expect;
use lava_lab::results::{self, Error, FORMAT, Header, Key, Record, Results};
use proptest::prelude::*;

fn header() -> Header {
    let map = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    Header {
        lava_eval: FORMAT,
        model: "toy".to_owned(),
        model_digest: "0123".to_owned(),
        commit: "abc".to_owned(),
        seed: 42,
        texts: map("a.txt", "77"),
        settings: map("tasks", "needle"),
    }
}

fn record(sample: &str) -> Record {
    Record {
        task: "needle".to_owned(),
        sample: sample.to_owned(),
        policy: "lava-exact".to_owned(),
        budget: Some("128".to_owned()),
        cache_bytes: 4096,
        score: Some(0.5),
        ..Record::default()
    }
}

struct Place {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.jsonl");
    Place {
        _folder: folder,
        file,
    }
}

fn written(samples: &[&str]) -> Place {
    let place = place();
    let (mut results, found) = Results::open(&place.file, &header()).unwrap();
    assert_eq!(found, []);
    for sample in samples {
        results.append(&record(sample)).unwrap();
    }
    place
}

#[test]
fn the_file_can_be_read_by_eye() {
    let place = written(&["s1"]);
    expect![[r#"
        {"lava_eval":2,"model":"toy","model_digest":"0123","commit":"abc","seed":42,"texts":{"a.txt":"77"},"settings":{"tasks":"needle"}}
        {"task":"needle","sample":"s1","policy":"lava-exact","budget":"128","cache_bytes":4096,"prompt_tokens":0,"output_tokens":0,"score":0.5}
    "#]]
    .assert_eq(&fs::read_to_string(&place.file).unwrap());
}

#[test]
fn a_run_goes_on_where_it_was() {
    let place = written(&["s1", "s2"]);
    let (mut results, found) = Results::open(&place.file, &header()).unwrap();
    assert_eq!(found, [record("s1"), record("s2")]);
    assert!(results.is_done(&record("s1").key()));
    let other = Key {
        budget: None,
        ..record("s1").key()
    };
    assert!(!results.is_done(&other));
    results.append(&record("s3")).unwrap();
    assert!(matches!(
        results.append(&record("s3")),
        Err(Error::Done { .. })
    ));
    drop(results);
    let contents = results::read(&place.file).unwrap();
    assert_eq!(contents.header, Some(header()));
    assert_eq!(contents.records.len(), 3);
}

#[test]
fn every_cut_of_the_last_line_is_dropped_and_overwritten() {
    let place = written(&["s1", "s2"]);
    let whole = fs::read(&place.file).unwrap();
    for cut in 0..whole.len() {
        fs::write(&place.file, &whole[..cut]).unwrap();
        let (mut results, found) = Results::open(&place.file, &header()).unwrap();
        for sample in ["s1", "s2"] {
            if !results.is_done(&record(sample).key()) {
                results.append(&record(sample)).unwrap();
            }
        }
        drop(results);
        assert!(found.len() < 2);
        assert_eq!(fs::read(&place.file).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn a_line_that_is_damaged_elsewhere_is_named() {
    let place = written(&["s1", "s2"]);
    let whole = fs::read_to_string(&place.file).unwrap();
    let refusal = |content: String| {
        fs::write(&place.file, content).unwrap();
        let text = Results::open(&place.file, &header())
            .unwrap_err()
            .to_string();
        assert_eq!(results::read(&place.file).unwrap_err().to_string(), text);
        text.replace(&place.file.display().to_string(), "FILE")
    };
    expect!["FILE:2: no record: expected value at line 1 column 9"].assert_eq(&refusal(
        whole
            .replacen("\"needle\",", "?", 1)
            .replacen("\"tasks\":?", "\"tasks\":\"needle\"", 1),
    ));
    expect!["FILE:1: no header: expected ident at line 1 column 2"]
        .assert_eq(&refusal("no header\n".to_owned()));
    let line = whole.lines().nth(1).unwrap();
    expect!["FILE:4: s1 of needle with lava-exact at 128 is on line 2 already"]
        .assert_eq(&refusal(format!("{whole}{line}\n")));
    expect!["FILE:4: no record: EOF while parsing a value at line 2 column 0"]
        .assert_eq(&refusal(format!("{whole}\n")));
}

#[test]
fn a_file_of_somebody_else_is_not_written_over() {
    let place = place();
    // Without an end of line, all of it is a last line that could have been cut off.
    for content in ["my notes", "{\"a\": 1}", "17", "GGUF\u{3}"] {
        fs::write(&place.file, content).unwrap();
        let refusal = Results::open(&place.file, &header()).unwrap_err();
        assert!(refusal.to_string().contains(":1: no header: "), "{refusal}");
        assert_eq!(fs::read_to_string(&place.file).unwrap(), content);
    }
}

#[test]
fn a_run_with_other_settings_is_refused_and_told_which() {
    let place = written(&["s1"]);
    let mut other = header();
    other.seed = 43;
    other.texts.clear();
    other
        .settings
        .insert("budgets".to_owned(), "128".to_owned());
    let refusal = Results::open(&place.file, &other).unwrap_err();
    assert!(matches!(&refusal, Error::OtherRun { differences, .. } if differences.len() == 3));
    expect![[r#"FILE belongs to another run: seed is "42", expected "43"; settings.budgets is nothing, expected "128"; texts.a.txt is "77", expected nothing"#]]
        .assert_eq(&refusal.to_string().replace(&place.file.display().to_string(), "FILE"));
}

#[test]
fn two_runs_do_not_share_a_file() {
    let place = place();
    let first = Results::open(&place.file, &header()).unwrap();
    assert!(matches!(
        Results::open(&place.file, &header()),
        Err(Error::Busy { .. })
    ));
    drop(first);
    assert!(Results::open(&place.file, &header()).is_ok());
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    let place = written(&["s1"]);
    let before = fs::read(&place.file).unwrap();
    let (mut results, _) = Results::open(&place.file, &header()).unwrap();
    let nan = Record {
        nll: Some(f64::NAN),
        ..record("s2")
    };
    assert!(matches!(
        results.append(&nan),
        Err(Error::NotFinite { field: "nll", .. })
    ));
    let long = Record {
        output: Some("x".repeat(results::LINE_BYTES_MAX)),
        ..record("s2")
    };
    assert!(matches!(results.append(&long), Err(Error::TooLong { .. })));
    assert!(!results.is_done(&record("s2").key()));
    assert_eq!(fs::read(&place.file).unwrap(), before);
}

#[test]
fn a_folder_that_is_missing_is_an_error() {
    let place = place();
    let missing = place.file.join("x.jsonl");
    assert!(matches!(
        Results::open(&missing, &header()),
        Err(Error::System { .. })
    ));
    assert!(matches!(results::read(&missing), Err(Error::System { .. })));
}

proptest! {
    #[test]
    fn a_record_survives_its_line(
        sample in "\\PC{0,20}",
        output in proptest::option::of(".{0,20}"),
        score in proptest::option::of(proptest::num::f64::NORMAL),
        layer_rows in proptest::collection::vec(any::<u64>(), 0..4),
        budget in proptest::option::of("[0-9]{1,9}"),
    ) {
        let record = Record { output, score, layer_rows, budget, ..record(&sample) };
        let line = serde_json::to_string(&record).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }
}
