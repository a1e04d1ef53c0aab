//! Multiple choice.

use super::mark;

/// In this order: the first character, if it is one of the letters A to D; the whole answer, if it
/// is the option's text; what follows the first known introduction ("answer is", …); the first word that is a letter. `references` are the
/// option's text and letter, and either will do.
pub(super) fn choice(prediction: &str, references: &[String]) -> f64 {
    let is_right = |answer: &str| references.iter().any(|reference| reference == answer);
    let prediction = prediction.trim();
    let Some(first) = prediction.chars().next() else {
        return 0.0;
    };
    if ('A'..='D').contains(&first) {
        return mark(is_right(&first.to_string()));
    }
    if is_right(prediction) {
        return 1.0;
    }
    let plain = collapse(prediction);
    let introductions = ["answer is:", "answer:", "answer is", "option is"];
    let after = introductions
        .iter()
        .find_map(|introduction| Some(&plain[plain.find(introduction)? + introduction.len()..]));
    if let Some(after) = after {
        let mut rest = after.chars();
        // One character between the introduction and the answer, whatever it is.
        rest.next();
        let rest = rest.as_str();
        return mark(
            !after.is_empty()
                && references
                    .iter()
                    .any(|r| !r.is_empty() && rest.starts_with(r.as_str())),
        );
    }
    // As published, "AB" is found in "ABCD" too, and is then wrong.
    let letter = plain.split_whitespace().find(|word| "ABCD".contains(word));
    mark(letter.is_some_and(is_right))
}

/// Some punctuation becomes a space, and runs of spaces one.
fn collapse(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if "\n\"'.,?!{}".contains(c) { ' ' } else { c };
        if c != ' ' || !plain.ends_with(' ') {
            plain.push(c);
        }
    }
    plain
}
