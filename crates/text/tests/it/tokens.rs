//! Ids of both models against llama.cpp (`tests/data/token_vectors.py` made the file).

use std::sync::LazyLock;

use lava_text::{Detokenizer, Tokenizer};
use serde_json::Value;

use crate::models;

static SMOLLM2: LazyLock<Tokenizer> = LazyLock::new(|| models::smollm2().tokenizer().unwrap());
static QWEN2: LazyLock<Tokenizer> = LazyLock::new(|| models::qwen2().tokenizer().unwrap());

struct Case {
    text: String,
    ids: Vec<u32>,
}

fn cases(model: &str) -> Vec<Case> {
    let file: Value = serde_json::from_str(include_str!("../data/token_vectors.json")).unwrap();
    let case = |case: &Value| {
        let ids = case[model].as_array().unwrap().iter();
        Case {
            text: case["text"].as_str().unwrap().to_owned(),
            ids: ids
                .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
                .collect(),
        }
    };
    let cases: Vec<Case> = file["cases"].as_array().unwrap().iter().map(case).collect();
    assert!(cases.len() >= 30, "only {} cases", cases.len());
    cases
}

fn check_ids(tokenizer: &Tokenizer, model: &str) {
    for Case { text, ids } in cases(model) {
        let found = tokenizer.encode(&text, false).unwrap();
        assert_eq!(found, ids, "{model}: {text:?}");
    }
}

#[test]
fn smollm2_gives_the_ids_that_llama_cpp_gives() {
    check_ids(&SMOLLM2, "smollm2");
}

#[test]
fn qwen2_gives_the_ids_that_llama_cpp_gives() {
    check_ids(&QWEN2, "qwen2");
}

/// Each text without markers, from the vectors' ids, so that encoding has no part in it.
fn check_pieces(tokenizer: &Tokenizer, model: &str) {
    let plain = |case: &Case| !case.text.contains("<|");
    for Case { text, ids } in cases(model).into_iter().filter(plain) {
        let mut detokenizer = Detokenizer::new();
        let mut joined = String::new();
        for id in ids {
            joined += &detokenizer.push(tokenizer, id);
            // A replacement character or half a character would not be a beginning of the text.
            assert!(text.starts_with(&joined), "{model}: {joined:?} of {text:?}");
        }
        assert_eq!(detokenizer.finish(), "", "{model}: {text:?}");
        assert_eq!(joined, text, "{model}");
    }
}

#[test]
fn pieces_of_smollm2_grow_to_the_text_without_half_characters() {
    check_pieces(&SMOLLM2, "smollm2");
}

#[test]
fn pieces_of_qwen2_grow_to_the_text_without_half_characters() {
    check_pieces(&QWEN2, "qwen2");
}

#[test]
fn the_ids_that_end_an_answer_are_those_of_the_models() {
    let check = |tokenizer: &Tokenizer, expected: [(&str, u32); 2]| {
        assert_eq!(tokenizer.end_of_text(), expected.map(|(_, id)| id));
        for (marker, id) in expected {
            assert_eq!(tokenizer.id(marker), Some(id), "{marker}");
        }
    };
    check(&SMOLLM2, [("<|endoftext|>", 0), ("<|im_end|>", 2)]);
    check(
        &QWEN2,
        [("<|endoftext|>", 151_643), ("<|im_end|>", 151_645)],
    );
}

#[test]
fn markers_are_one_id_each_and_add_no_text() {
    for tokenizer in [&*SMOLLM2, &*QWEN2] {
        for marker in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] {
            let id = tokenizer.id(marker).unwrap();
            assert_eq!(tokenizer.encode(marker, false).unwrap(), [id], "{marker}");
            assert_eq!(tokenizer.bytes(id), [0u8; 0], "{marker}");
        }
        assert_eq!(tokenizer.bytes(u32::MAX), [0u8; 0]);
    }
}

#[test]
fn neither_model_wraps_a_plain_prompt() {
    for tokenizer in [&*SMOLLM2, &*QWEN2] {
        let ids = |wrap| tokenizer.encode("Hello, world!", wrap).unwrap();
        assert_eq!(ids(true), ids(false));
    }
}

/// llama.cpp takes "</s>" for a marker in any vocabulary that has it. In Qwen2's it is an ordinary
/// token, and the splitting rule cuts such a text before and after the letter.
#[test]
fn the_end_marker_of_other_models_is_plain_text() {
    let marker = QWEN2.id("</s>").unwrap();
    let ids = QWEN2.encode("<s> </s>", false).unwrap();
    assert!(!ids.contains(&marker));
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| QWEN2.bytes(id)).collect();
    assert_eq!(bytes, b"<s> </s>");
    assert_eq!(QWEN2.bytes(marker), b"</s>");
}

/// llama.cpp leaves characters as they are; Qwen2's own tokenizer.json asks for NFC.
#[test]
fn qwen2_composes_characters_and_smollm2_keeps_them() {
    let (composed, decomposed) = ("café Ångström", "cafe\u{301} A\u{30a}ngstro\u{308}m");
    let ids = |tokenizer: &Tokenizer, text| tokenizer.encode(text, false).unwrap();
    assert_eq!(ids(&QWEN2, decomposed), ids(&QWEN2, composed));
    assert_ne!(ids(&SMOLLM2, decomposed), ids(&SMOLLM2, composed));
}
