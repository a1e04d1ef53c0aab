//! What clients ask of the public service: `Generate` with its headers, and `Tokenize`.
//!
//! An input is a byte that says which of the two it is, the headers `grpc-timeout` and `x-request-id`, each with its
//! length before it, and the message.

use std::sync::OnceLock;

use lava_coordinator::fuzzing::{Door, Taken};
use lava_engine::PrefillRequest as EngineRequest;
use lava_proto::v1::{self, GenerateRequest, TokenizeRequest, prompt::Form};
use lava_proto::worker::Role;
use lava_worker::{Attempt, prompt_ids};
use prost::Message as _;
use tonic::{Code, Status};

use crate::cursor::{Cursor, write_part};
use crate::{descriptions, memory, texts, toy};

const GENERATE: u8 = 0;
const TOKENIZE: u8 = 1;
/// The libraries for tokenizers and templates take their share.
const LIBRARY_BYTES_MAX: usize = 16 << 20;
/// Texts of a prompt from this length on are looked for in statuses.
const TOLD_BYTES_MIN: usize = 12;

/// A coordinator that serves the toy.
pub(crate) fn door() -> &'static Door {
    static DOOR: OnceLock<Door> = OnceLock::new();
    DOOR.get_or_init(|| {
        let description = toy::description("d", Role::Decode);
        let door = Door::new(description, &toy::loaded().text());
        door.expect("the toy's description and its files are whole")
    })
}

/// Takes a call in.
pub(crate) fn run(input: &[u8]) {
    let mut rest = Cursor(input);
    let kind = rest.u8();
    let headers = [rest.part(), rest.part()];
    let most = memory::SLACK_BYTES + LIBRARY_BYTES_MAX + 256 * input.len();
    let door = door();
    match kind & 1 {
        GENERATE => {
            let Ok(request) = GenerateRequest::decode(rest.0) else {
                return;
            };
            let asked = request.clone();
            match memory::within(most, || door.generate(headers, asked)) {
                Ok(taken) => check_taken(&taken, &request),
                Err(status) => check_refusal(&status, headers, request),
            }
        }
        _ => {
            let Ok(request) = TokenizeRequest::decode(rest.0) else {
                return;
            };
            let asked = request.clone();
            match memory::within(most, || door.tokenize(asked)) {
                Ok(ids) => check_ids(&request, &ids),
                Err(status) => descriptions::check_refusal(&status),
            }
        }
    }
}

/// Ids come back as they are, and text becomes ids of the vocabulary.
fn check_ids(request: &TokenizeRequest, ids: &[u32]) {
    match request
        .prompt
        .as_ref()
        .and_then(|prompt| prompt.form.as_ref())
    {
        Some(Form::Tokens(tokens)) => assert_eq!(tokens.ids, ids),
        Some(Form::Text(_) | Form::Chat(_)) => {
            let vocabulary = toy::loaded().model.config().vocabulary;
            assert!(ids.iter().all(|&id| (id as usize) < vocabulary));
        }
        None => panic!("no prompt became ids"),
    }
}

/// What a coordinator lets in, both workers take, now and after any number of tokens.
fn check_taken(taken: &Taken, request: &GenerateRequest) {
    if let Some(Form::Tokens(tokens)) = request.prompt.as_ref().and_then(|p| p.form.as_ref()) {
        assert_eq!(tokens.ids, taken.prompt());
    }
    assert!(taken.max_tokens() <= request.max_tokens.unwrap_or(u32::MAX));
    let last = taken.max_tokens() as usize - 1;
    for emitted in [0, 1, last] {
        let emitted = vec![5; emitted.min(last)];
        check_calls(taken, &emitted);
    }
}

fn check_calls(taken: &Taken, emitted: &[u32]) {
    let loaded = toy::loaded();
    let (decode, prefill) = taken.calls(emitted);
    assert_eq!(decode.attempt, prefill.attempt, "both are told the same");
    let message = prefill.attempt.expect("it is always there");
    let sampling = message.sampling.expect("every field is present");
    assert!(sampling.seed.is_some() && sampling.top_k.is_some() && sampling.min_p.is_some());
    let attempt = Attempt::check(message, loaded);
    let attempt = attempt.unwrap_or_else(|refusal| panic!("a worker refuses it: {refusal}"));
    assert_eq!(
        attempt.rows_grown_max() as u64,
        decode.rows_max,
        "two sizes of one cache"
    );
    let prompt = prompt_ids(&prefill.prompt, attempt.prompt_digest, attempt.shape.tokens);
    let prompt = prompt.unwrap_or_else(|refusal| panic!("a worker refuses it: {refusal}"));
    assert_eq!(attempt.prompt_digest, lava_proto::prompt_digest(&prompt));
    assert_eq!(attempt.shape.tokens, prompt.len());
    assert_eq!(prompt, [taken.prompt(), emitted].concat());
    assert_eq!(attempt.answered, emitted);
    let engine = EngineRequest {
        tokens: &prompt,
        method: attempt.method,
        budget: attempt.budget,
        format: attempt.shape.format,
        appended_max: 0,
    };
    let checked = engine.check(&loaded.model);
    checked.unwrap_or_else(|error| panic!("the engine refuses it: {error}"));
}

/// Few words, the client's fault, and nothing of the prompt in them.
fn check_refusal(status: &Status, headers: [&[u8]; 2], mut request: GenerateRequest) {
    descriptions::check_refusal(status);
    assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
    let prompt = request.prompt.take();
    let rest = format!("{request:?}");
    // A prompt may happen to say what we say ourselves.
    request.prompt = prompt.clone().map(another);
    let anyway = door().generate(headers, request).err();
    let anyway = anyway.as_ref().map_or("", Status::message);
    let texts = match prompt.and_then(|prompt| prompt.form) {
        Some(Form::Text(text)) => vec![text],
        Some(Form::Chat(chat)) => chat.messages.into_iter().map(|one| one.content).collect(),
        _ => Vec::new(),
    };
    for text in texts {
        let is_told =
            status.message().contains(&text) && !rest.contains(&text) && !anyway.contains(&text);
        assert!(
            text.len() < TOLD_BYTES_MIN || !is_told,
            "{}",
            status.message()
        );
    }
}

/// A prompt of the same form with other words.
fn another(mut prompt: v1::Prompt) -> v1::Prompt {
    const WORDS: &str = "another";
    match &mut prompt.form {
        Some(Form::Text(text)) => *text = WORDS.into(),
        Some(Form::Chat(chat)) => {
            for message in &mut chat.messages {
                message.content = WORDS.into();
            }
        }
        Some(Form::Tokens(_)) | None => {}
    }
    prompt
}

/// The prompt as a message.
pub(crate) fn prompt(form: Form) -> Option<v1::Prompt> {
    Some(v1::Prompt { form: Some(form) })
}

/// A request with every field.
pub(crate) fn whole(form: Form) -> GenerateRequest {
    GenerateRequest {
        model: "toy".into(),
        prompt: prompt(form),
        max_tokens: Some(24),
        sampling: Some(v1::Sampling {
            temperature: Some(0.8),
            top_k: Some(20),
            top_p: Some(0.95),
            min_p: Some(0.05),
            repetition_penalty: Some(1.2),
            frequency_penalty: Some(0.5),
            presence_penalty: Some(-0.5),
            seed: Some(42),
        }),
        stop: vec!["\n\n".into(), "end".into()],
        stop_token_ids: vec![100],
        ignore_end_of_text: true,
        policy: "lava-peaks+sinks=4".into(),
        n: Some(2),
        logprobs: Some(3),
        row_format: "int8".into(),
        priority: v1::Priority::High.into(),
        budget_form: Some(v1::generate_request::BudgetForm::Budget(64)),
    }
}

/// Calls of clients.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let message = |role: &str, content: &str| v1::ChatMessage {
        role: role.into(),
        content: content.into(),
    };
    let chat = Form::Chat(v1::Chat {
        messages: vec![
            message("system", "Be brief."),
            message("user", "Who wrote <|im_end|> here?"),
        ],
    });
    let ids = Form::Tokens(v1::TokenIds {
        ids: (3..100).collect(),
    });
    let call = |kind, timeout: &str, id: &str, message: Vec<u8>| {
        let mut out = vec![kind];
        write_part(&mut out, timeout.as_bytes());
        write_part(&mut out, id.as_bytes());
        [out, message].concat()
    };
    let text = whole(Form::Text("Once upon a time".into())).encode_to_vec();
    let mut in_bytes = whole(ids.clone());
    in_bytes.budget_form = Some(v1::generate_request::BudgetForm::BudgetBytes(100_000));
    in_bytes.policy = "cake".into();
    let mut share = whole(chat.clone());
    share.budget_form = Some(v1::generate_request::BudgetForm::BudgetShareMilli(500));
    share.policy = "ada-pyramidkv".into();
    let tokenize = TokenizeRequest {
        model: "toy".into(),
        prompt: prompt(chat),
    };
    vec![
        ("text", call(GENERATE, "30S", "my-request", text)),
        (
            "bytes",
            call(GENERATE, "500m", "", in_bytes.encode_to_vec()),
        ),
        ("share", call(GENERATE, "", "", share.encode_to_vec())),
        ("tokenize", call(TOKENIZE, "", "", tokenize.encode_to_vec())),
    ]
}

/// The text of ids, where stop strings and silent ids cut it.
pub(crate) fn text_of(ids: &[u32], silent: &[u32]) -> String {
    static TEXTS: OnceLock<lava_text::Tokenizer> = OnceLock::new();
    let tokenizer = TEXTS.get_or_init(|| {
        let files = lava_text::TextFiles::from_bytes(&toy::loaded().text());
        let tokenizer = files.and_then(|files| files.tokenizer());
        tokenizer.expect("the toy's files are whole")
    });
    texts::check_text(tokenizer, ids);
    let spoken = ids.iter().filter(|id| !silent.contains(id));
    let bytes: Vec<u8> = spoken.flat_map(|&id| tokenizer.bytes(id)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
