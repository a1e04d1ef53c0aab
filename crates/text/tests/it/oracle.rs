//! Ids and rendered chats against llama.cpp (`tests/data/vectors.py` made the file).

use lava_gguf::Gguf;
use lava_text::{ChatTemplate, Detokenizer, Message, Tokenizer};
use serde_json::Value;

use crate::models;

/// An e and an accent, two characters.
const DECOMPOSED: &str = "e\u{301}";

fn vectors() -> Value {
    serde_json::from_str(include_str!("../data/vectors.json")).unwrap()
}

fn check_ids(gguf: &Gguf, name: &str) {
    let vectors = vectors();
    let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
    let strings = vectors["strings"].as_array().unwrap();
    let expected = vectors[name]["ids"].as_array().unwrap();
    assert!(strings.len() >= 30 && strings.len() == expected.len());
    for (text, ids) in strings.iter().zip(expected) {
        let text = text.as_str().unwrap();
        let found: Value = tokenizer.encode(text, false).unwrap().into();
        if name == "qwen2" && text.contains(DECOMPOSED) {
            // Qwen2's own tokenizer.json composes characters first (NFC); llama.cpp does not.
            let composed = tokenizer
                .encode(&text.replace(DECOMPOSED, "é"), false)
                .unwrap();
            assert_eq!(found, Value::from(composed));
            continue;
        }
        assert_eq!(&found, ids, "{name}: {text:?}");
    }
}

#[test]
fn ids_of_smollm2_equal_those_of_llama_cpp() {
    check_ids(&models::smollm2(), "smollm2");
}

#[test]
fn ids_of_qwen2_equal_those_of_llama_cpp() {
    check_ids(&models::qwen2(), "qwen2");
}

fn check_chats(gguf: &Gguf, name: &str) {
    let vectors = vectors();
    let template = ChatTemplate::from_gguf(gguf).unwrap();
    let chats = vectors["chats"].as_array().unwrap();
    let expected = vectors[name]["chats"].as_array().unwrap();
    assert!(!chats.is_empty() && chats.len() == expected.len());
    for (chat, expected) in chats.iter().zip(expected) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let message = |pair: &Value| Message {
            role: text(&pair[0]),
            content: text(&pair[1]),
        };
        let messages: Vec<Message> = chat.as_array().unwrap().iter().map(message).collect();
        assert_eq!(
            template.render(&messages, "24 Nov 2026").unwrap(),
            text(expected),
            "{name}"
        );
    }
}

#[test]
fn chats_of_smollm2_are_rendered_as_by_llama_cpp() {
    check_chats(&models::smollm2(), "smollm2");
}

#[test]
fn chats_of_qwen2_are_rendered_as_by_llama_cpp() {
    check_chats(&models::qwen2(), "qwen2");
}

#[test]
fn the_ids_that_end_an_answer_are_known() {
    let end = |gguf: &Gguf| Tokenizer::from_gguf(gguf).unwrap().end_of_text().to_vec();
    assert_eq!(end(&models::smollm2()), [0, 2]);
    assert_eq!(end(&models::qwen2()), [151643, 151645]);
}

#[test]
fn pieces_join_to_the_text_and_are_never_half_a_character() {
    for gguf in [models::smollm2(), models::qwen2()] {
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        for text in vectors()["strings"].as_array().unwrap() {
            let text = text.as_str().unwrap();
            // Special markers have no text, and Qwen2 normalises decomposed characters.
            if text.contains("<|im_") || text.contains('\u{301}') {
                continue;
            }
            let mut detokenizer = Detokenizer::new();
            let ids = tokenizer.encode(text, false).unwrap();
            let pieces = ids.iter().map(|&id| detokenizer.push(&tokenizer, id));
            let joined = pieces.collect::<String>() + &detokenizer.finish();
            assert_eq!(joined, text);
        }
    }
}
