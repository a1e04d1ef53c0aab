//! Normal form of answers.

/// Lower case, ASCII punctuation removed, the words a, an and the removed, white space collapsed:
/// the order matters ("a.n" becomes "an" and is removed).
pub(super) fn normalize(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let mut kept = String::with_capacity(plain.len());
    // Word boundaries, not white space: the article in a curly quote goes too.
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = plain.as_str();
    while let Some(first) = rest.chars().next() {
        let inside = is_word(first);
        let end = rest.find(|c| is_word(c) != inside).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        kept.push_str(match run {
            "a" | "an" | "the" => " ",
            _ => run,
        });
        rest = after;
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lower-case characters without white space and without ASCII and CJK punctuation.
pub(super) fn characters(text: &str) -> Vec<char> {
    text.to_lowercase()
        .chars()
        .filter(|&c| !c.is_whitespace() && !c.is_ascii_punctuation() && !is_cjk_punctuation(c))
        .collect()
}

/// The punctuation that InfiniteBench and LongBench remove from Chinese text, as ranges.
fn is_cjk_punctuation(c: char) -> bool {
    matches!(c,
        '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}' | '\u{ff3b}'..='\u{ff40}' | '\u{ff5b}'..='\u{ff64}'
        | '\u{3001}'..='\u{3003}' | '\u{300a}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{3030}'
        | '\u{303e}' | '\u{303f}' | '\u{2013}' | '\u{2014}' | '\u{2018}' | '\u{2019}' | '\u{201b}'..='\u{201f}'
        | '\u{2026}' | '\u{2027}' | '\u{fe4f}')
}
