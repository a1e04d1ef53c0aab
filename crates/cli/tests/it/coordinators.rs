//! A client that knows several coordinators.

use serde_json::Value;

use crate::cluster::{Cluster, free_address};
use crate::{SMOLLM2, lava, model, refused, text};

#[test]
fn a_client_asks_the_next_coordinator_if_one_is_not_there() {
    let cluster = Cluster::one_process(&model(SMOLLM2), &[]);
    let (gone, there) = (free_address().to_string(), cluster.address.to_string());
    let question = ["--prompt", "Say hello.", "--max-tokens", "8"];
    let ask = |addresses: &str, more: &[&str]| {
        let to = ["generate", "--addr", addresses];
        lava(&[&to, &question[..], more].concat())
    };
    let read = |addresses: &str| -> Value {
        let output = ask(addresses, &["--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (alone, both) = (read(&there), read(&format!("{gone},{there}")));
    assert_eq!(alone["text"], both["text"]);
    assert_eq!(alone["lost"], serde_json::json!([]));
    let lost = both["lost"].as_array().unwrap();
    assert_eq!(
        (lost.len(), &lost[0]["addr"], &lost[0]["tokens"]),
        (1, &gone.clone().into(), &0.into())
    );
    // Times are in order, and later than the request.
    let times = both["tokens"].as_array().unwrap().iter();
    let times: Vec<f64> = times.map(|token| token["ms"].as_f64().unwrap()).collect();
    assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");

    // Without JSON nothing was shown yet either.
    let shown = ask(&format!("{gone},{there}"), &[]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains(both["text"].as_str().unwrap()));
    refused(&ask(&gone, &[]), &["cannot reach a coordinator", &gone]);
    // What would be the same everywhere is not asked twice.
    refused(
        &ask(&format!("{there},{gone}"), &["--model", "other"]),
        &["NotFound"],
    );
}
