//! Windows of a text for language modelling.

use super::ask::Error;
use crate::dice::Dice;

/// How to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Tokens that the model reads; at least 1.
    pub prompt_tokens: usize,
    /// Tokens that it is asked to predict after them; at least 1.
    pub continuation_tokens: usize,
    /// Windows that are wanted; there are fewer if the text is too short.
    pub windows: usize,
    /// Which windows.
    pub seed: u64,
}

/// A prompt and what really follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window<'a> {
    /// Index of the first token in the text; with the text's name it makes an id.
    pub start: usize,
    /// `[prompt_tokens]`.
    pub prompt: &'a [u32],
    /// `[continuation_tokens]`.
    pub continuation: &'a [u32],
}

/// Cuts the token ids `[tokens]` of one text into windows side by side and takes some of them by
/// seed, in the order of the text. No token lies in two windows.
///
/// # Errors
/// A size of 0, or a text that is shorter than one window.
pub fn windows(ids: &[u32], cut: Cut) -> Result<Vec<Window<'_>>, Error> {
    for (setting, size) in [
        ("prompt_tokens", cut.prompt_tokens),
        ("continuation_tokens", cut.continuation_tokens),
        ("windows", cut.windows),
    ] {
        if size == 0 {
            return Err(Error::Setting {
                task: "lm",
                setting,
                found: "0".to_owned(),
                expected: "1 and more",
            });
        }
    }
    let size = cut.prompt_tokens.saturating_add(cut.continuation_tokens);
    let slots = ids.len() / size;
    if slots == 0 {
        return Err(Error::TooShort {
            task: "lm",
            asked: ids.len(),
            needed: size,
        });
    }
    let label = format!("lm/{}/{}", cut.prompt_tokens, cut.continuation_tokens);
    let chosen = Dice::new(cut.seed, &label).distinct(slots, cut.windows);
    let window = |slot: usize| {
        let start = slot * size;
        let (prompt, continuation) = ids[start..start + size].split_at(cut.prompt_tokens);
        Window {
            start,
            prompt,
            continuation,
        }
    };
    Ok(chosen.into_iter().map(window).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_lie_side_by_side(
            tokens in 1_usize..400,
            prompt_tokens in 1_usize..40,
            continuation_tokens in 1_usize..20,
            count in 1_usize..9,
            seed: u64,
        ) {
            let ids: Vec<u32> = (0..tokens as u32).collect();
            let cut = Cut { prompt_tokens, continuation_tokens, windows: count, seed };
            let size = prompt_tokens + continuation_tokens;
            let Ok(found) = windows(&ids, cut) else {
                prop_assert!(tokens < size);
                return Ok(());
            };
            prop_assert_eq!(found.len(), count.min(tokens / size));
            prop_assert!(found.windows(2).all(|pair| pair[0].start + size <= pair[1].start));
            for window in &found {
                prop_assert_eq!(window.prompt.len(), prompt_tokens);
                prop_assert_eq!(window.continuation.len(), continuation_tokens);
                prop_assert_eq!(window.prompt[0] as usize, window.start);
                prop_assert_eq!(window.continuation[0] as usize, window.start + prompt_tokens);
            }
            prop_assert_eq!(windows(&ids, cut).unwrap(), found);
        }
    }

    #[test]
    fn a_size_of_0_is_refused() {
        let cut = Cut {
            prompt_tokens: 0,
            continuation_tokens: 1,
            windows: 1,
            seed: 1,
        };
        let refusal = windows(&[1, 2], cut).unwrap_err().to_string();
        assert_eq!(refusal, "prompt_tokens of lm is 0, expected 1 and more");
    }
}
