//! Budgets as a share of the prompt and in bytes, in one process and through the service.

use crate::cluster::Cluster;
use crate::{SMOLLM2, json, lava, model, refused, text};

/// Of an entry over all layers and KV heads: 30 layers, 3 heads, two rows of 64 values of two bytes.
const BYTES: u64 = 30 * 3 * 2 * 64 * 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_share_and_bytes_come_to_the_same_entries_here_and_through_the_service() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &["model.name=\"model\""]);
    let address = cluster.address.to_string();
    let story = "Once upon a time there was a queen who lived by the sea. ".repeat(8);
    let question = |budget| {
        let prompt = ["--raw", "--prompt", story.as_str()];
        let budget = ["--row-format", "f16", "--budget", budget];
        [&prompt[..], &["--max-tokens", "2"], &budget].concat()
    };
    let served =
        |budget| lava(&[&["generate", "--addr", &address], &question(budget)[..]].concat());

    let alone = json(&question("1MB"));
    let number = |key: &str| alone[key].as_u64().unwrap();
    assert_eq!(alone["budget_asked"], "1MB");
    assert_eq!(number("budget"), 1_000_000 / BYTES);
    assert!(number("kept_bytes") <= 1_000_000 && number("kept_bytes") > 950_000);

    let half = number("prompt_tokens") / 2;
    for (budget, expected) in [("1MB", number("budget")), ("50%", half)] {
        let output = served(budget);
        let table = text(&output.stdout);
        let line = format!(
            "policy          lava-peaks, rows in f16, budget {budget} = {expected} entries\n"
        );
        assert!(table.contains(&line), "{table}{}", text(&output.stderr));
    }
    refused(
        &served("700kB"),
        &[
            "budget_bytes",
            "the least that works is 760.32kB (33 entries)",
        ],
    );
    refused(&served("3mb"), &["\"3mb\" is not a budget"]);
    cluster.idle();
}
