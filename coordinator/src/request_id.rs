//! The name of a request in all logs.

use std::fmt;
use std::sync::Arc;

use tonic::metadata::MetadataMap;

/// Where the client may name its request, and where it gets the name back.
pub(crate) const HEADER: &str = "x-request-id";

/// The name of a request in all logs: the client's, or a random one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// The client's name if it is one: 1 to 64 of A-Z, a-z, 0-9, dot, underscore and hyphen. Otherwise
    /// 16 hex digits of `random`: a bad name is no reason to refuse a request.
    pub(crate) fn of(metadata: &MetadataMap, random: u64) -> RequestId {
        let given = metadata.get(HEADER).and_then(|name| name.to_str().ok());
        match given.filter(|name| is_name(name)) {
            Some(name) => RequestId(name.into()),
            None => RequestId(format!("{random:016x}").into()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_name(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &str, expected: &str) {
        let mut metadata = MetadataMap::new();
        metadata.insert(HEADER, given.parse().unwrap());
        assert_eq!(RequestId::of(&metadata, 0xab).as_str(), expected);
    }

    #[test]
    fn a_good_name_is_kept_and_a_bad_one_replaced() {
        check("a.B_c-9", "a.B_c-9");
        check(&"x".repeat(64), &"x".repeat(64));
        for bad in ["", "a b", "a/b", "a\"b", &"x".repeat(65)] {
            check(bad, "00000000000000ab");
        }
        let none = RequestId::of(&MetadataMap::new(), u64::MAX);
        assert_eq!(none.as_str(), "ffffffffffffffff");
    }
}
