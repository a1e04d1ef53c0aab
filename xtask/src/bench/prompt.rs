//! Prompts of exact lengths: the demo's passage, repeated and cut.

use anyhow::{Context, Result};

use crate::shell;

/// From the root of the repository.
const PASSAGE: &str = "crates/cli/demo/prompt.txt";

/// So many tokens of the demo's model.
#[derive(Clone, Copy)]
pub(crate) struct Length {
    pub(crate) tokens: u64,
    /// Bytes of the repeated passage that are these tokens. They are counted, not computed: xtask has no tokenizer.
    bytes: usize,
}

/// The shortest first.
pub(crate) const LENGTHS: [Length; 3] = [
    Length {
        tokens: 512,
        bytes: 2_375,
    },
    Length {
        tokens: 2048,
        bytes: 9_366,
    },
    Length {
        tokens: 4096,
        bytes: 18_802,
    },
];

impl Length {
    pub(crate) fn text(self) -> Result<String> {
        let file = shell::root().join(PASSAGE);
        let passage = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        Ok(cut(&passage, self.bytes))
    }
}

/// As many whole characters as `bytes` hold.
fn cut(passage: &str, bytes: usize) -> String {
    let mut text = passage.repeat(bytes.div_ceil(passage.len()));
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_repeated_and_cut_between_characters() {
        let check = |bytes, expected: &str| assert_eq!(cut("aé", bytes), expected);
        check(0, "");
        check(1, "a");
        check(2, "a");
        check(3, "aé");
        check(4, "aéa");
        check(8, "aéaéa");
    }
}
