//! Text to hide things in.

use super::ask::Error;
use crate::dice::Dice;

/// The words of a text, with the places where a sentence ends. A piece that is longer than the
/// text goes on from its beginning.
pub struct Filler {
    words: Vec<String>,
    /// Indices of words that begin a sentence, ascending, the first one 0.
    starts: Vec<usize>,
}

impl Filler {
    /// # Errors
    /// The text has no words.
    pub fn new(text: &str) -> Result<Filler, Error> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            return Err(Error::EmptyFiller);
        }
        let mut starts = vec![0];
        let ends = (1..words.len()).filter(|&next| ends_sentence(&words[next - 1]));
        starts.extend(ends);
        Ok(Filler { words, starts })
    }

    /// A sentence's beginning.
    pub(super) fn start(&self, dice: &mut Dice) -> usize {
        *dice.pick(&self.starts)
    }

    /// `count` words from `start` on.
    pub(super) fn piece(&self, start: usize, count: usize) -> Vec<&str> {
        let around = self.words.iter().cycle().skip(start % self.words.len());
        around.take(count).map(String::as_str).collect()
    }

    /// Different lower-case words of letters only, four at least, in the order of the text.
    pub(super) fn vocabulary(&self) -> Vec<String> {
        let mut seen = std::collections::HashSet::new();
        self.words
            .iter()
            .map(|word| {
                word.trim_matches(|c: char| !c.is_alphabetic())
                    .to_lowercase()
            })
            .filter(|word| word.len() >= 4 && word.bytes().all(|b| b.is_ascii_lowercase()))
            .filter(|word| seen.insert(word.clone()))
            .collect()
    }
}

/// Puts each of `inserted` in front of the sentence that begins nearest before its place (between
/// 0 and 1) in `piece`, and joins everything. Places 0 and 1 are the very beginning and end. Two
/// insertions at one place keep their order.
pub(super) fn insert(piece: &[&str], inserted: &[(f64, String)]) -> String {
    let mut at: Vec<(usize, &str)> = inserted
        .iter()
        .map(|(place, text)| (boundary(piece, *place), text.as_str()))
        .collect();
    at.sort_by_key(|(index, _)| *index);
    let mut parts: Vec<&str> = Vec::with_capacity(piece.len() + at.len());
    let mut done = 0;
    for (index, text) in at {
        parts.extend(&piece[done..index]);
        parts.push(text);
        done = index;
    }
    parts.extend(&piece[done..]);
    parts.join(" ")
}

fn boundary(piece: &[&str], place: f64) -> usize {
    if place >= 1.0 {
        return piece.len();
    }
    let target = (place * piece.len() as f64) as usize;
    (1..=target.min(piece.len()))
        .rev()
        .find(|&index| ends_sentence(piece[index - 1]))
        .unwrap_or(0)
}

fn ends_sentence(word: &str) -> bool {
    let word = word.trim_end_matches(['"', '\'', ')', '”', '’', '_']);
    word.ends_with(['.', '!', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "One two. Three four five! \"Six seven?\" eight nine ten.";

    #[test]
    fn things_go_between_sentences() {
        let filler = Filler::new(TEXT).unwrap();
        let piece = filler.piece(0, 10);
        let with = |place: f64| insert(&piece, &[(place, "[X]".to_owned())]);
        assert!(with(0.0).starts_with("[X] One two."), "{}", with(0.0));
        assert!(with(1.0).ends_with("ten. [X]"), "{}", with(1.0));
        assert!(with(0.5).contains("five! [X] \"Six"), "{}", with(0.5));
        assert!(with(0.3).contains("two. [X] Three"), "{}", with(0.3));
    }

    #[test]
    fn insertions_at_one_place_keep_their_order() {
        let both = [
            (0.5, "A".to_owned()),
            (0.0, "B".to_owned()),
            (0.5, "C".to_owned()),
        ];
        assert_eq!(insert(&["x.", "y."], &both), "B x. A C y.");
    }

    #[test]
    fn a_piece_goes_round() {
        let filler = Filler::new("a b. c").unwrap();
        assert_eq!(filler.piece(2, 4), ["c", "a", "b.", "c"]);
        assert_eq!(filler.starts, [0, 2]);
        assert!(Filler::new(" \n").is_err());
    }

    #[test]
    fn the_vocabulary_has_each_plain_word_once() {
        let filler = Filler::new("Good, good day; don't Überall river-bank Rivers").unwrap();
        assert_eq!(filler.vocabulary(), ["good", "rivers"]);
    }
}
