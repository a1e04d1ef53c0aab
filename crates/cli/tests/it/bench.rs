//! `lava bench`.

use lava_test_support::{Architecture, HfDtype, ToyModel};

use crate::{lava, refused, text};

fn decode(model: &str, arguments: &[&str]) -> std::process::Output {
    let sizes = "--prompt-tokens 90 --batch 2 --steps 2 --rounds 3";
    let sizes: Vec<&str> = sizes.split(' ').collect();
    lava(
        &[
            &["bench", "decode", "--model", model],
            &sizes[..],
            arguments,
        ]
        .concat(),
    )
}

#[test]
fn a_batch_is_decoded_in_every_row_format() {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Llama);
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let model = folder.path().to_str().unwrap();

    let output = decode(model, &["--budget", "48", "--row-formats", "f16,int4"]);
    let table = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2 + 2, "{table}");
    let cells = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (plain, packed) = (cells(lines[2]), cells(lines[3]));
    assert_eq!((plain[0].as_str(), packed[0].as_str()), ("f16", "int4"));
    let number = |cell: &str| cell.parse::<f64>().unwrap();
    assert!(
        number(&packed[1]) < number(&plain[1]),
        "int4 is smaller: {table}"
    );
    assert!(
        number(&plain[3]) > 0.0 && number(&packed[3]) > 0.0,
        "{table}"
    );
    assert_eq!(number(&plain[4]), 1.0);

    refused(
        &decode(model, &["--budget", "8"]),
        &["the budget is 8 entries", "window"],
    );
    refused(
        &decode(model, &["--row-formats", "int5"]),
        &["unknown row format \"int5\"", "int4"],
    );
}

#[test]
fn page_sizes_are_compared_and_prompts_may_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let toy = ToyModel::new(Architecture::Llama);
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    let model = folder.path().to_str().unwrap();
    let json = folder.path().join("figures.json");
    let sizes =
        "--prefill-tokens --decode-tokens 90 --batches 1,2 --budgets 48 --steps 2 --rounds 1";
    let sizes: Vec<&str> = sizes.split(' ').collect();
    let engine = |page_rows: &str| {
        let json = json.to_str().unwrap();
        let own = ["--json", json, "--page-rows", page_rows];
        lava(&[&["bench", "engine", "--model", model], &sizes[..], &own].concat())
    };

    let output = engine("2,64");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let content = std::fs::read_to_string(&json).unwrap();
    let figures: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(figures["prefill"], serde_json::json!([]));
    let rows = figures["decode"].as_array().unwrap();
    let bytes = |row: usize, key: &str| rows[row][key].as_u64().unwrap();
    assert_eq!(rows.len(), 2 * 2, "{content}");
    for batch in [0, 2] {
        let (small, large) = (batch, batch + 1);
        assert_eq!(bytes(small, "page_rows"), 2);
        assert_eq!(bytes(large, "page_rows"), 64);
        assert_eq!(bytes(small, "cache_bytes"), bytes(large, "cache_bytes"));
        assert!(bytes(small, "cache_bytes") <= bytes(small, "page_bytes"));
        assert!(bytes(small, "page_bytes") < bytes(large, "page_bytes"));
    }

    refused(&engine("1"), &["invalid value '1'", "--page-rows"]);
    let none = ["bench", "engine", "--model", model, "--batches", "0"];
    refused(&lava(&none), &["invalid value '0'", "--batches"]);
}
