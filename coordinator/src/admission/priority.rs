//! How urgent a request is.

/// How urgent a request is, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) enum Priority {
    /// After the others.
    Low,
    /// Neither.
    #[default]
    Normal,
    /// Before the others.
    High,
}

impl Priority {
    /// All of them, the least first: the order of [`Priority::index`].
    pub(crate) const ALL: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

    /// Where it stands in an array of one entry per priority.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// As a label and in words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_stand_where_their_index_says() {
        for (index, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority.index(), index);
        }
    }
}
