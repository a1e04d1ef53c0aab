//! Answers that are numbers. A number is a run of ASCII digits; the published scripts also take
//! digits of other scripts, which then equal no reference.

use super::mark;

pub(super) fn count(prediction: &str, reference: &str) -> f64 {
    let (mut all, mut right) = (0_usize, 0_usize);
    for number in whole_numbers(prediction) {
        all += 1;
        right += usize::from(number == reference);
    }
    if all == 0 {
        return 0.0;
    }
    right as f64 / all as f64
}

/// [`count`] of the number behind the word for paragraph, in English or Chinese.
pub(super) fn retrieval(prediction: &str, reference: &str) -> f64 {
    let number = ["Paragraph ", "段落"]
        .iter()
        .flat_map(|marker| reference.split(marker).skip(1))
        .find(|after| after.starts_with(|c: char| c.is_ascii_digit()))
        .and_then(|after| whole_numbers(after).next());
    number.map_or(0.0, |number| count(prediction, number))
}

pub(super) fn first_number(prediction: &str, reference: &str) -> f64 {
    mark(whole_numbers(prediction).next() == Some(reference))
}

pub(super) fn math_find(prediction: &str, reference: &str) -> f64 {
    let first = prediction
        .find(|c: char| c.is_ascii_digit())
        .and_then(|start| {
            let rest = &prediction[start..];
            let whole = digits(rest);
            let fraction = rest[whole..].strip_prefix('.').map_or(0, digits);
            let end = if fraction > 0 {
                whole + 1 + fraction
            } else {
                whole
            };
            rest[..end].parse::<f64>().ok()
        });
    let expected = reference.trim().parse::<f64>().ok();
    mark(first.is_some() && first == expected)
}

pub(super) fn last_number(prediction: &str, reference: &str) -> f64 {
    let last = prediction
        .split(|c: char| c.is_whitespace() || ".`'\":".contains(c))
        .rfind(|word| !word.is_empty())
        .and_then(|word| word.parse::<i64>().ok());
    mark(last.is_some() && last == reference.trim().parse().ok())
}

fn whole_numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|run| !run.is_empty())
}

/// Length of the run of digits at the beginning.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}
