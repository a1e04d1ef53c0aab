//! Chat templates against Jinja (`tests/data/chat_templates.py` checks the file), and templates that
//! fail.

use std::time::{Duration, Instant};

use lava_text::{ChatTemplate, Message, TextError};
use serde_json::Value;

use crate::models;

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

fn template(source: &str) -> Result<ChatTemplate, TextError> {
    ChatTemplate::new(source.to_owned(), "<s>".to_owned(), "</s>".to_owned())
}

fn render(source: &str) -> Result<String, TextError> {
    template(source)?.render(&[message("user", "Hi")], "24 Nov 2026")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn templates_give_what_jinja_gives() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../data/chat_templates.json")).unwrap();
    let smollm2 = models::smollm2().chat_template().unwrap();
    let qwen2 = models::qwen2().chat_template().unwrap();
    for case in cases {
        let messages = case["messages"].as_array().unwrap().iter();
        let messages: Vec<Message> = messages
            .map(|turn| message(text(&turn[0]), text(&turn[1])))
            .collect();
        let today = text(&case["today"]);
        let found = match text(&case["template"]) {
            "smollm2" => smollm2.render(&messages, today),
            "qwen2" => qwen2.render(&messages, today),
            source => template(source).unwrap().render(&messages, today),
        };
        let name = text(&case["name"]);
        match case["refusal"].as_str() {
            None => assert_eq!(found.unwrap(), text(&case["text"]), "{name}"),
            Some(refusal) => says(found, refusal),
        }
    }
}

#[track_caller]
fn says<T: std::fmt::Debug>(found: Result<T, TextError>, part: &str) {
    let error = found.unwrap_err();
    assert!(matches!(error, TextError::Template { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("the chat template failed: "), "{text}");
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[test]
fn a_template_that_does_not_parse_is_refused_with_its_line() {
    says(template("{% for m in messages %}"), "chat_template:1");
    says(template("a\n{{ messages[ }}"), "chat_template:2");
    says(template("a\nb\n{% nonsense %}"), "chat_template:3");
    says(template("{{ 'open }}"), "chat_template:1");
}

#[test]
fn a_template_that_fails_on_the_messages_is_refused() {
    says(render("{{ nothing.at.all }}"), "undefined");
    says(render("{{ messages[0].content.no_such() }}"), "no_such");
    says(render("{{ no_such('x') }}"), "no_such");
    says(render("{{ 1 // 0 }}"), "");
    says(render("{% include 'other' %}"), "other");
    says(render("{{ raise_exception('no tools') }}"), "no tools");
}

#[test]
fn a_template_without_end_is_stopped_in_seconds() {
    let start = Instant::now();
    says(render("{% for i in range(1000000000) %}{% endfor %}"), "");
    says(
        render("{% for i in range(1000000000) %}{{ i }}{% endfor %}"),
        "",
    );
    says(
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "fuel",
    );
    says(
        render("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"),
        "recursion",
    );
    says(render("{% include 'chat_template' %}"), "include");
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Wrong, but harmless while no template is given tools: Hugging Face's `tojson` leaves markup as it is.
#[test]
fn tojson_escapes_markup_today() {
    let messages = [message("user", "<b> & it's")];
    let found = template("{{ messages[0].content | tojson }}").unwrap();
    let found = found.render(&messages, "").unwrap();
    assert_eq!(found, r#""\u003cb\u003e \u0026 it\u0027s""#);
}

#[test]
fn text_of_a_message_is_never_a_template() {
    let messages = [message("user", "{{ 1 + 1 }}{% raw %}")];
    let found = template("{{ messages[0].content }}").unwrap();
    let found = found.render(&messages, "").unwrap();
    assert_eq!(found, "{{ 1 + 1 }}{% raw %}");
}
