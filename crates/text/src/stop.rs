//! Stop strings in a stream of text pieces.

use crate::error::TextError;

const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1024;

/// Finds the first stop string wherever the pieces are cut, and holds back only what could still
/// become one.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

/// What may be shown after a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Text that no stop string can begin in.
    pub text: String,
    /// The stop string that was found; nothing follows `text` then.
    pub stopped_by: Option<String>,
}

impl StopStrings {
    /// A matcher for at most 16 strings of at most 1,024 bytes.
    ///
    /// # Errors
    /// Too many, or one that is empty or too long.
    pub fn new(stops: Vec<String>) -> Result<Self, TextError> {
        if stops.len() > STOPS_MAX {
            return Err(TextError::TooManyStops {
                found: stops.len(),
                max: STOPS_MAX,
            });
        }
        let lengths = stops.iter().map(String::len).enumerate();
        for (index, found) in lengths {
            if found == 0 || found > STOP_BYTES_MAX {
                return Err(TextError::StopLength {
                    index,
                    found,
                    max: STOP_BYTES_MAX,
                });
            }
        }
        let held = String::new();
        Ok(Self { stops, held })
    }

    /// Adds a piece. If several stop strings occur, the one that ends first wins, as if the text came byte by
    /// byte, and the longest of those.
    pub fn push(&mut self, piece: &str) -> Checked {
        self.held.push_str(piece);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| Some((self.held.find(stop)?, stop)))
            .min_by_key(|(start, stop)| (start + stop.len(), *start));
        if let Some((start, stop)) = found {
            let stopped_by = Some(stop.clone());
            self.held.truncate(start);
            let text = std::mem::take(&mut self.held);
            return Checked { text, stopped_by };
        }
        let rest = self.held.split_off(self.held.len() - self.held_back());
        let text = std::mem::replace(&mut self.held, rest);
        Checked {
            text,
            stopped_by: None,
        }
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn held_back(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest)
                .rev()
                .find(|&len| self.held.as_bytes().ends_with(&stop.as_bytes()[..len]))
        };
        let len = self.stops.iter().filter_map(begins).max().unwrap_or(0);
        // A stop string may be cut inside a character; text is not.
        (len..=self.held.len())
            .find(|&len| self.held.is_char_boundary(self.held.len() - len))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by looking at every front of the text, the shortest first.
    fn whole(text: &str, stops: &[String]) -> (String, bool) {
        let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
        for front in ends.map(|end| &text[..end]) {
            let shown = stops.iter().filter_map(|stop| front.strip_suffix(stop));
            if let Some(shown) = shown.min_by_key(|shown| shown.len()) {
                return (shown.to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn streamed(pieces: &[&str], stops: Vec<String>) -> (String, bool) {
        let mut matcher = StopStrings::new(stops).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let checked = matcher.push(piece);
            text += &checked.text;
            if checked.stopped_by.is_some() {
                return (text, true);
            }
        }
        (text + &matcher.finish(), false)
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            text in "[abé☃]{0,40}", stops in prop::collection::vec("[abé☃]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1))
                .filter(|&at| text.is_char_boundary(at)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(streamed(&pieces, stops.clone()), whole(&text, &stops));
        }
    }

    #[test]
    fn a_stop_inside_another_ends_the_text_however_it_is_cut() {
        let stops = || vec!["b".to_owned(), "abc".to_owned()];
        let stopped = ("xa".to_owned(), true);
        assert_eq!(streamed(&["xabc"], stops()), stopped);
        assert_eq!(streamed(&["xab", "c"], stops()), stopped);
    }

    #[test]
    fn text_that_cannot_be_a_stop_is_shown_at_once() {
        let mut matcher = StopStrings::new(vec!["STOP".into()]).unwrap();
        assert_eq!(matcher.push("go S").text, "go ");
        assert_eq!(matcher.push("o").text, "So");
        let checked = matcher.push("STOP more");
        assert_eq!(
            (checked.text.as_str(), checked.stopped_by.as_deref()),
            ("", Some("STOP"))
        );
    }

    #[test]
    fn empty_long_and_many_stops_are_refused() {
        assert!(matches!(
            StopStrings::new(vec!["x".into(), String::new()]),
            Err(TextError::StopLength {
                index: 1,
                found: 0,
                max: STOP_BYTES_MAX
            })
        ));
        assert!(StopStrings::new(vec!["x".repeat(1025)]).is_err());
        assert!(matches!(
            StopStrings::new(vec!["x".into(); 17]),
            Err(TextError::TooManyStops { found: 17, max: 16 })
        ));
    }
}
