//! Similarity of one line of code.

use super::lcs;

/// The first line without a back quote, `#` or `//` against the reference:
/// `2 · LCS / (|a| + |b|)` in whole hundredths, halves to even. That is `ratio` of `fuzzywuzzy`
/// on top of `python-Levenshtein`. LongBench's list of requirements lacks the latter, and without
/// it `fuzzywuzzy` falls back to `difflib`, which is lower by up to 0.2 on our test vectors (0.03
/// on average): compare with published tables with care.
pub(super) fn code_similarity(prediction: &str, reference: &str) -> f64 {
    let line = prediction
        .trim_start_matches('\n')
        .split('\n')
        .find(|line| !line.contains(['`', '#']) && !line.contains("//"))
        .unwrap_or_default();
    if line == reference {
        return 1.0;
    }
    let characters = |text: &str| text.chars().take(lcs::TOKENS_MAX).collect::<Vec<char>>();
    let (a, b) = (characters(line), characters(reference));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let ratio = 2.0 * lcs::length(&a, &b) as f64 / (a.len() + b.len()) as f64;
    (100.0 * ratio).round_ties_even() / 100.0
}
