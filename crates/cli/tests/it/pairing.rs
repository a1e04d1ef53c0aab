//! What docs/promises.md says of workers that do not fit together, with real processes and a real etcd.

use lava_proto::v1;
use lava_test_support::{HfDtype, ToyModel};
use tonic::Code;

use crate::asking::ask;
use crate::fleet::Fleet;
use crate::promises::request;

#[tokio::test(flavor = "multi_thread")]
async fn promise_12_workers_of_other_models_or_row_formats_are_never_paired() {
    let folder = tempfile::tempdir().unwrap();
    ToyModel::default()
        .write_hf(folder.path(), HfDtype::F32, 1)
        .unwrap();
    // Another model under the same name.
    let toy = format!("model.path={:?}", folder.path().display().to_string());
    let mut fleet = Fleet::with(&[
        ("decode-1", &toy),
        ("decode-0", "model.row_formats=[\"int4\", \"f16\"]"),
    ])
    .await;
    let mut client = fleet.client().await;
    for index in 0..6 {
        let answer = ask(&mut client, request(30 + index, 3, 64)).await.unwrap();
        assert_eq!(answer.transfer().recomputes, 0);
    }
    let no_format = v1::GenerateRequest {
        row_format: "int8".into(),
        ..request(30, 3, 64)
    };
    let refused = ask(&mut client, no_format).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("row format int8"), "{refused}");
    let asked = |fleet: &Fleet, name: &str| {
        let of = |series| fleet.process(name).metric(series).unwrap();
        of("lava_decode_reserved_total") + of("lava_decode_refused_total")
    };
    assert_eq!(
        (asked(&fleet, "decode-0"), asked(&fleet, "decode-1")),
        (6.0, 0.0)
    );

    // Without its match nobody is asked for anything.
    fleet.kill("decode-0");
    fleet.workers_ready("decode", 1);
    let prefilled = fleet.metric("lava_prefill_prompt_tokens_total");
    let refused = ask(&mut client, request(30, 3, 64)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        refused
            .message()
            .contains("has the fingerprint of a ready decode worker"),
        "{refused}"
    );
    assert_eq!(asked(&fleet, "decode-1"), 0.0);
    assert_eq!(fleet.metric("lava_prefill_prompt_tokens_total"), prefilled);
    assert_eq!(fleet.metric("lava_prefill_refused_total"), 0.0);
    fleet.idle();
}
