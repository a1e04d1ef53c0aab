use expect_test::{Expect, expect};

use super::*;
use crate::config::{Config as Settings, Plan};
use crate::snapshot::samples;

fn plan() -> Plan {
    Settings::default().into_plan().unwrap()
}

fn ids(count: usize) -> Option<v1::Prompt> {
    let form = Form::Tokens(v1::TokenIds {
        ids: vec![5; count],
    });
    Some(v1::Prompt { form: Some(form) })
}

fn request() -> v1::GenerateRequest {
    v1::GenerateRequest {
        model: "toy".to_owned(),
        prompt: ids(100),
        ..v1::GenerateRequest::default()
    }
}

/// For the model of 1,000 positions and 259 ids.
fn order(request: v1::GenerateRequest) -> Result<Order, Invalid> {
    order_under(&plan(), request)
}

fn order_under(plan: &Plan, request: v1::GenerateRequest) -> Result<Order, Invalid> {
    let (prompt, asked) = Asked::new(request, &plan.limits, &plan.defaults)?;
    let PromptForm::Ids(prompt) = prompt else {
        panic!("these tests have no tokenizer");
    };
    asked.of_model(Arc::new(samples::model("toy", 1)), prompt, 77)
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut v1::GenerateRequest), expected: Expect) {
    let mut request = request();
    change(&mut request);
    expected.assert_eq(&order(request).unwrap_err().to_string());
}

#[track_caller]
fn check_sampling_refused(change: impl FnOnce(&mut v1::Sampling), expected: Expect) {
    let mut sampling = v1::Sampling::default();
    change(&mut sampling);
    check_refused(|r| r.sampling = Some(sampling), expected);
}

#[test]
fn an_empty_request_has_the_defaults() {
    let order = order(request()).unwrap();
    let expected = CacheSize {
        method: Method::new(Policy::LavaPeaks),
        budget: 1024,
        format: RowFormat::Int4,
        tokens: 100,
        max_tokens: 256,
    };
    assert_eq!(order.size, expected);
    assert_eq!(
        (order.choices, order.capped, order.logprobs),
        (1, false, None)
    );
    assert_eq!(*order.end_of_text, [2]);
    let sampling = v1::Sampling {
        temperature: Some(0.0),
        top_k: Some(259),
        top_p: Some(1.0),
        min_p: Some(0.0),
        repetition_penalty: Some(1.0),
        frequency_penalty: Some(0.0),
        presence_penalty: Some(0.0),
        seed: Some(77),
    };
    assert_eq!(order.sampling(0), sampling);
    assert_eq!(order.sampling(2).seed, Some(79));
}

#[test]
fn the_seeds_of_choices_wrap() {
    let mut request = request();
    request.sampling = Some(v1::Sampling {
        seed: Some(u64::MAX),
        ..v1::Sampling::default()
    });
    assert_eq!(order(request).unwrap().sampling(1).seed, Some(0));
}

#[test]
fn prompts_that_cannot_be_read_are_refused() {
    check_refused(
        |r| r.prompt = None,
        expect!["prompt is missing, expected text, chat or tokens"],
    );
    check_refused(
        |r| r.prompt = Some(v1::Prompt { form: None }),
        expect!["prompt is missing, expected text, chat or tokens"],
    );
    check_refused(
        |r| r.prompt = ids(0),
        expect!["prompt is empty, expected at least 1 token"],
    );
    check_refused(
        |r| {
            let form = Form::Chat(v1::Chat::default());
            r.prompt = Some(v1::Prompt { form: Some(form) });
        },
        expect!["prompt.chat.messages is empty, expected at least 1 message"],
    );
    check_refused(
        |r| r.prompt = ids(1000),
        expect![
            "prompt has 1000 tokens, expected at most 999: the model's context of 1000 has to hold the answer too"
        ],
    );
    check_refused(
        |r| {
            let ids = vec![1, 258, 259];
            let form = Form::Tokens(v1::TokenIds { ids });
            r.prompt = Some(v1::Prompt { form: Some(form) });
        },
        expect!["prompt.tokens.ids[2] is outside the vocabulary, expected an id below 259"],
    );
}

#[test]
fn policies_and_budgets_are_checked_as_the_method_does() {
    check_refused(
        |r| r.policy = "magic".to_owned(),
        expect![[
            r#"unknown policy "magic"; known are full, lava, lava-exact, lava-paper, lava-code, lava-peaks, lava-uniform, lava-heads, snapkv, pyramidkv, ada-snapkv, ada-pyramidkv, cake, streaming-llm, h2o, tova, random"#
        ]],
    );
    check_refused(
        |r| r.budget_form = Some(BudgetForm::Budget(0)),
        expect!["budget is 0, expected at least 1"],
    );
    check_refused(
        |r| r.budget_form = Some(BudgetForm::Budget(32)),
        expect![
            "budget: the budget is 32 entries per KV head and layer, expected more than the window's 32"
        ],
    );
    let mut whole = request();
    whole.budget_form = Some(BudgetForm::Budget(32));
    whole.policy = "full".to_owned();
    assert_eq!(order(whole).unwrap().size.method, Method::new(Policy::Full));
    let mut short = request();
    short.budget_form = Some(BudgetForm::Budget(1));
    short.prompt = ids(32);
    assert_eq!(order(short).unwrap().size.budget, 1);
}

#[test]
fn shares_and_bytes_become_entries_of_the_prompt_and_the_model() {
    let entries = |form, policy: &str| {
        let mut request = request();
        request.budget_form = Some(form);
        request.policy = policy.to_owned();
        request.row_format = "f16".to_owned();
        order(request).unwrap().size.budget
    };
    // 100 tokens; 4 lists of rows, 64 bytes of an entry.
    assert_eq!(entries(BudgetForm::BudgetShareMilli(505), ""), 50);
    assert_eq!(entries(BudgetForm::BudgetShareMilli(1000), ""), 100);
    assert_eq!(entries(BudgetForm::BudgetBytes(50 * 256), ""), 50);
    assert_eq!(entries(BudgetForm::BudgetBytes(51 * 256 - 1), ""), 50);
    assert_eq!(entries(BudgetForm::BudgetBytes(1 << 40), ""), 100);
    assert_eq!(entries(BudgetForm::BudgetBytes(100 * 256), "full"), 100);
    check_refused(
        |r| r.budget_form = Some(BudgetForm::BudgetShareMilli(0)),
        expect!["budget_share_milli is 0, expected 1 to 1000"],
    );
    check_refused(
        |r| r.budget_form = Some(BudgetForm::BudgetShareMilli(1001)),
        expect!["budget_share_milli is 1001, expected 1 to 1000"],
    );
    check_refused(
        |r| r.budget_form = Some(BudgetForm::BudgetShareMilli(320)),
        expect![
            "budget_share_milli: a budget of 32% comes to 32 entries per KV head and layer, the window alone has 32; the least that works is 33% (33 entries)"
        ],
    );
    check_refused(
        |r| r.budget_form = Some(BudgetForm::BudgetBytes(0)),
        expect!["budget_bytes is 0, expected at least 1"],
    );
    check_refused(
        |r| {
            r.budget_form = Some(BudgetForm::BudgetBytes(33 * 256 - 1));
            r.row_format = "f16".to_owned();
        },
        expect![
            "budget_bytes: a budget of 8.447kB comes to 32 entries per KV head and layer, the window alone has 32; the least that works is 8.448kB (33 entries)"
        ],
    );
    check_refused(
        |r| {
            r.budget_form = Some(BudgetForm::BudgetBytes(33 * 256));
            r.policy = "full".to_owned();
            r.row_format = "f16".to_owned();
        },
        expect![
            "budget_bytes: a budget of 8.448kB comes to 33 entries per KV head and layer, the prompt is kept whole and has 100; the least that works is 25.6kB (100 entries)"
        ],
    );
}

#[test]
fn bytes_hold_more_packed_entries_and_an_unknown_format_is_refused_with_the_known() {
    let entries = |format: &str| {
        let mut request = request();
        request.budget_form = Some(BudgetForm::BudgetBytes(50 * 256));
        request.row_format = format.to_owned();
        order(request).unwrap().size.budget
    };
    // A list: 32 entries of 64 bytes, a mean key of 32, others of 2 * (16 + 2) or 2 * (8 + 2).
    assert_eq!(entries("int8"), 32 + (50 * 64 - 32 * 64 - 32) / 36);
    assert_eq!(entries("int4"), 32 + (50 * 64 - 32 * 64 - 32) / 20);
    assert_eq!(entries(""), entries("int4"));
    check_refused(
        |r| {
            r.budget_form = Some(BudgetForm::BudgetBytes(8000));
            r.row_format = "int4".to_owned();
        },
        expect![
            "budget_bytes: a budget of 8kB comes to 30 entries per KV head and layer, the window alone has 32; the least that works is 8.4kB (33 entries)"
        ],
    );
    check_refused(
        |r| r.row_format = "int5".to_owned(),
        expect![[r#"unknown row format "int5"; known are f32, f16, bf16, int8, fp8, int4"#]],
    );
}

#[test]
fn a_default_in_bytes_cuts_requests_that_name_no_budget_but_those_for_everything() {
    let mut settings = Settings::default();
    settings.defaults.budget = "12.8kB".parse().unwrap();
    let plan = settings.into_plan().unwrap();
    let entries = |policy: &str| {
        let mut request = request();
        request.policy = policy.to_owned();
        request.row_format = "f16".to_owned();
        order_under(&plan, request).unwrap().size.budget
    };
    assert_eq!((entries(""), entries("full")), (50, 100));
}

#[test]
fn a_budget_is_still_field_9_of_the_wire() {
    use prost::Message;
    let entries = [0x48, 0x80, 0x01];
    let request = v1::GenerateRequest::decode(&entries[..]).unwrap();
    assert_eq!(request.budget_form, Some(BudgetForm::Budget(128)));
    assert_eq!(request.encode_to_vec(), entries);
}

#[test]
fn counts_and_lengths_are_bounded() {
    check_refused(|r| r.n = Some(0), expect!["n is 0, expected 1 to 8"]);
    check_refused(|r| r.n = Some(9), expect!["n is 9, expected 1 to 8"]);
    check_refused(
        |r| r.logprobs = Some(21),
        expect!["logprobs is 21, expected at most 20"],
    );
    check_refused(
        |r| r.stop = vec!["x".to_owned(); 17],
        expect!["stop has 17 strings, expected at most 16"],
    );
    check_refused(
        |r| r.stop = vec!["x".to_owned(), String::new()],
        expect!["stop[1] has 0 bytes, expected 1 to 1024"],
    );
    check_refused(
        |r| r.stop = vec!["x".repeat(1025)],
        expect!["stop[0] has 1025 bytes, expected 1 to 1024"],
    );
    check_refused(
        |r| r.stop_token_ids = vec![1; 1025],
        expect!["stop_token_ids has 1025 ids, expected at most 1024"],
    );
    check_refused(
        |r| r.stop_token_ids = vec![259],
        expect!["stop_token_ids[0] is outside the vocabulary, expected an id below 259"],
    );
    check_refused(
        |r| r.max_tokens = Some(0),
        expect!["max_tokens is 0, expected at least 1"],
    );
}

#[test]
fn an_answer_longer_than_the_context_is_capped_and_says_so() {
    for (max_tokens, expected, capped) in
        [(900, 900, false), (901, 900, true), (u32::MAX, 900, true)]
    {
        let mut request = request();
        request.max_tokens = Some(max_tokens);
        let order = order(request).unwrap();
        assert_eq!((order.size.max_tokens, order.capped), (expected, capped));
    }
    let mut request = request();
    request.prompt = ids(999);
    let order = order(request).unwrap();
    assert_eq!((order.size.max_tokens, order.capped), (1, true));
}

#[test]
fn sampling_out_of_range_is_refused() {
    check_sampling_refused(
        |s| s.temperature = Some(100.5),
        expect!["sampling.temperature is 100.5, expected 0 (greedy) to 100"],
    );
    check_sampling_refused(
        |s| s.temperature = Some(f32::NAN),
        expect!["sampling.temperature is NaN, expected 0 (greedy) to 100"],
    );
    check_sampling_refused(
        |s| s.top_k = Some(0),
        expect!["sampling.top_k is 0, expected at least 1, or none"],
    );
    check_sampling_refused(
        |s| s.top_p = Some(0.0),
        expect!["sampling.top_p is 0, expected above 0, at most 1"],
    );
    check_sampling_refused(
        |s| s.min_p = Some(-0.1),
        expect!["sampling.min_p is -0.1, expected 0 to 1"],
    );
    check_sampling_refused(
        |s| s.repetition_penalty = Some(0.0),
        expect!["sampling.repetition_penalty is 0, expected 0.01 to 100"],
    );
    check_sampling_refused(
        |s| s.frequency_penalty = Some(2.5),
        expect!["sampling.frequency_penalty is 2.5, expected -2 to 2"],
    );
    check_sampling_refused(
        |s| s.presence_penalty = Some(f32::INFINITY),
        expect!["sampling.presence_penalty is inf, expected -2 to 2"],
    );
}

#[test]
fn an_answer_that_began_with_everything_kept_goes_on_so() {
    let mut request = request();
    request.budget_form = Some(BudgetForm::Budget(100));
    let whole = order(request.clone()).unwrap();
    assert_eq!(whole.size_after(0), whole.size);
    let expected = CacheSize {
        method: Method::new(Policy::Full),
        budget: 100,
        format: RowFormat::Int4,
        tokens: 103,
        max_tokens: 253,
    };
    assert_eq!(whole.size_after(3), expected);
    request.budget_form = Some(BudgetForm::Budget(99));
    let cut = order(request).unwrap();
    assert_eq!(cut.size_after(3).method, Method::new(Policy::LavaPeaks));
}

#[test]
fn an_answer_that_goes_on_keeps_the_entries_of_its_first_attempt() {
    for (form, after) in [
        (BudgetForm::BudgetShareMilli(500), "lava-peaks"),
        (BudgetForm::BudgetBytes(50 * 256), "lava-peaks"),
        (BudgetForm::BudgetShareMilli(1000), "full"),
        (BudgetForm::BudgetBytes(100 * 256), "full"),
    ] {
        let mut request = request();
        request.budget_form = Some(form);
        let order = order(request).unwrap();
        let size = order.size_after(30);
        assert_eq!(size.budget, order.size.budget);
        assert_eq!(
            (size.tokens, size.method.to_string().as_str()),
            (130, after)
        );
    }
}

#[test]
fn end_of_text_can_be_ignored() {
    let mut request = request();
    request.ignore_end_of_text = true;
    assert!(order(request).unwrap().end_of_text.is_empty());
}
