//! Prompts that are longer than a model reads.

use crate::Prompt;

/// A prompt that fits, and its token ids.
pub(crate) struct Fitting {
    pub(crate) prompt: Prompt,
    pub(crate) ids: Vec<u32>,
}

/// Takes as much out of the middle of the context as has to be for at most `max` ids: the benchmarks
/// do so too. None if the question alone has more; then its ids are counted in the error.
pub(crate) fn cut_to<E>(
    prompt: &Prompt,
    max: usize,
    encode: &dyn Fn(&Prompt) -> Result<Vec<u32>, E>,
) -> Result<Result<Fitting, QuestionTooLong>, E> {
    let fitting = |prompt: Prompt| {
        let ids = encode(&prompt)?;
        Ok(Fitting { prompt, ids })
    };
    let whole = fitting(prompt.clone())?;
    if whole.ids.len() <= max {
        return Ok(Ok(whole));
    }
    let characters: Vec<char> = prompt.context.chars().collect();
    let kept = |count: usize| {
        let (head, tail) = (count.div_ceil(2), count / 2);
        let tail = &characters[characters.len() - tail..];
        Prompt {
            context: characters[..head].iter().chain(tail).collect(),
            ..prompt.clone()
        }
    };
    let mut best = fitting(kept(0))?;
    if best.ids.len() > max {
        let found = best.ids.len();
        return Ok(Err(QuestionTooLong { found, max }));
    }
    let (mut fits, mut too_many) = (0, characters.len());
    while fits + 1 < too_many {
        let tried = fits + (too_many - fits) / 2;
        let found = fitting(kept(tried))?;
        if found.ids.len() <= max {
            (fits, best) = (tried, found);
        } else {
            too_many = tried;
        }
    }
    Ok(Ok(best))
}

/// The question leaves no room for a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the question alone has {found} tokens, and the model has room for {max}")]
pub struct QuestionTooLong {
    /// Tokens of the prompt without its context.
    pub found: usize,
    /// What is left of the model's positions beside the answer.
    pub max: usize,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A character is a token.
    fn encode(prompt: &Prompt) -> Result<Vec<u32>, Infallible> {
        Ok(prompt.joined().chars().map(u32::from).collect())
    }

    fn cut(context: &str, max: usize) -> Result<String, QuestionTooLong> {
        let prompt = Prompt {
            context: context.to_owned(),
            question: "q".to_owned(),
            lead: String::new(),
        };
        let fitting = cut_to(&prompt, max, &encode).unwrap()?;
        assert_eq!(encode(&fitting.prompt).unwrap(), fitting.ids);
        Ok(fitting.prompt.context)
    }

    #[test]
    fn the_middle_goes_first_and_no_more_than_has_to() {
        assert_eq!(cut("abcdefgh", 11).as_deref(), Ok("abcdefgh"));
        assert_eq!(cut("abcdefgh", 10).as_deref(), Ok("abcdfgh"));
        assert_eq!(cut("äbcdefgh", 5).as_deref(), Ok("äh"));
        assert_eq!(cut("abcdefgh", 1).as_deref(), Ok(""));
        assert_eq!(
            cut("abcdefgh", 0),
            Err(QuestionTooLong { found: 1, max: 0 })
        );
    }
}
