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
