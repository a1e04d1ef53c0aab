//! A worker's record as etcd holds it.

use serde::{Deserialize, Serialize};

use crate::WorkerRecord;

/// The value. Fields that we do not know are ignored, so that later releases can add some.
#[derive(Debug, Serialize, Deserialize)]
struct Value {
    address: String,
    incarnation: u64,
}

/// What somebody else wrote under our prefix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableRecord {
    #[error("the key is not UTF-8")]
    Key,
    #[error("the value is not a record: {0}")]
    Value(serde_json::Error),
}

/// What every key begins with.
pub(crate) fn folder(prefix: &str) -> String {
    format!("{prefix}/workers/")
}

/// The id of the worker that the key stands for.
pub(crate) fn worker<'k>(folder: &str, key: &'k [u8]) -> Option<&'k str> {
    std::str::from_utf8(key.strip_prefix(folder.as_bytes())?).ok()
}

pub(crate) fn encode(address: &str, incarnation: u64) -> String {
    let value = Value {
        address: address.to_owned(),
        incarnation,
    };
    serde_json::to_string(&value).expect("a string and a number are JSON")
}

pub(crate) fn decode(
    folder: &str,
    key: &[u8],
    value: &[u8],
) -> Result<(String, WorkerRecord), UnreadableRecord> {
    let worker = worker(folder, key).ok_or(UnreadableRecord::Key)?;
    let Value {
        address,
        incarnation,
    } = serde_json::from_slice(value).map_err(UnreadableRecord::Value)?;
    let record = WorkerRecord {
        worker: Some(worker.to_owned()),
        address,
        incarnation,
    };
    Ok((worker.to_owned(), record))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(key: &[u8], value: &str, expected: Expect) {
        let found = match decode("/lava/workers/", key, value.as_bytes()) {
            Ok((worker, record)) => {
                assert_eq!(record.worker.as_deref(), Some(worker.as_str()));
                format!("{worker:?} {:?} {}", record.address, record.incarnation)
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn a_record_is_the_same_after_it_was_written_and_read() {
        for (id, address) in [
            ("w", "h:1"),
            ("", ""),
            ("a/b \"c\" é\n\0", "[::1]:7071\\\u{7}"),
        ] {
            let folder = folder("/lava");
            let key = format!("{folder}{id}");
            let value = encode(address, u64::MAX);
            let (worker, record) = decode(&folder, key.as_bytes(), value.as_bytes()).unwrap();
            assert_eq!(worker, id);
            assert_eq!(record.worker.as_deref(), Some(id));
            assert_eq!(record.address, address);
            assert_eq!(record.incarnation, u64::MAX);
        }
    }

    #[test]
    fn the_value_is_json_that_people_can_read() {
        expect![[r#"{"address":"10.0.0.7:7071","incarnation":2}"#]]
            .assert_eq(&encode("10.0.0.7:7071", 2));
    }

    #[test]
    fn unknown_fields_are_ignored() {
        check(
            b"/lava/workers/w",
            r#"{"address":"h:1","zone":{"a":[1]},"incarnation":3}"#,
            expect![[r#""w" "h:1" 3"#]],
        );
    }

    #[test]
    fn what_is_no_record_is_told() {
        check(
            b"/lava/workers/w",
            r#"{"address":"h:1"}"#,
            expect!["the value is not a record: missing field `incarnation` at line 1 column 17"],
        );
        check(
            b"/lava/workers/w",
            r#"{"address":"h:1","incarnation":-1}"#,
            expect![
                "the value is not a record: invalid value: integer `-1`, expected u64 at line 1 column 33"
            ],
        );
        check(
            b"/lava/workers/w",
            "",
            expect!["the value is not a record: EOF while parsing a value at line 1 column 0"],
        );
        check(b"/lava/workers/\xFF", "{}", expect!["the key is not UTF-8"]);
    }
}
