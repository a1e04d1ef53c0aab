//! What a coordinator finds in etcd: keys and values that others may have written too.
//!
//! An input is a key, with its length before it, and then a value.

use lava_cluster::fuzzing::{read, written};

use crate::cursor::{Cursor, write_part};
use crate::memory;

const PREFIX: &str = "/lava";

/// Reads a record, and writes it again.
pub(crate) fn run(input: &[u8]) {
    let mut rest = Cursor(input);
    let (key, value) = (rest.part(), rest.0);
    let most = memory::SLACK_BYTES + 16 * input.len();
    let Ok((worker, record)) = memory::within(most, || read(PREFIX, key, value)) else {
        return;
    };
    assert!(
        key.starts_with(b"/lava/workers/"),
        "a key of somebody else's"
    );
    assert_eq!(record.worker.as_ref(), Some(&worker));
    let (again, value) = written(PREFIX, &worker, &record.address, record.incarnation);
    assert_eq!(again, key);
    assert_eq!(read(PREFIX, &again, &value), Ok((worker, record)));
}

/// As workers write them.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let record = |worker, address, incarnation| {
        let (key, value) = written(PREFIX, worker, address, incarnation);
        let mut out = Vec::new();
        write_part(&mut out, &key);
        out.extend(value);
        out
    };
    vec![
        ("first", record("prefill-1a2b", "10.0.0.7:7071", 1)),
        ("again", record("decode-\u{e9}", "[::1]:7072", u64::MAX)),
        ("quoted", record("a/b \"c\"", "host\\\u{7}:1", 3)),
    ]
}
