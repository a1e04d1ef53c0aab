//! Tenants and priorities from the command line, through a service that knows some.

use crate::cluster::Cluster;
use crate::{SMOLLM2, lava, model, refused, text};

#[test]
fn a_request_is_made_for_a_tenant_and_within_what_it_may_use() {
    let cluster = Cluster::one_process(
        &model(SMOLLM2),
        &[
            "model.name=\"model\"",
            "admission.tenants.small.tokens_per_second=1",
            "admission.tenants.small.tokens_burst=40",
        ],
    );
    let address = cluster.address.to_string();
    let ask = |options: &[&str]| {
        let prompt = ["generate", "--raw", "--prompt", "One two three"];
        lava(&[&prompt[..], options].concat())
    };
    let served = |options: &[&str]| ask(&[&["--addr", &address], options].concat());

    let small = ["--priority", "high", "--tenant", "small"];
    let answered = served(&[&small[..], &["--max-tokens", "30"]].concat());
    assert!(answered.status.success(), "{}", text(&answered.stderr));
    refused(
        &served(&[&small[..], &["--max-tokens", "36"]].concat()),
        &["tenant small has used up its tokens", "ResourceExhausted"],
    );
    refused(
        &served(&[&small[..], &["--max-tokens", "100"]].concat()),
        &["tenant small may use 40 at once; ask for fewer"],
    );
    let others = served(&["--max-tokens", "100", "--tenant", "other"]);
    assert!(others.status.success(), "{}", text(&others.stderr));
    refused(
        &served(&["--max-tokens", "2", "--tenant", "two words"]),
        &["x-lava-tenant is no name", "InvalidArgument"],
    );
    refused(&ask(&["--model", "x", "--tenant", "small"]), &["--addr"]);
    cluster.idle();
}
