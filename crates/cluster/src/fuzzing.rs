//! How a record of etcd's is read and written: a door for the fuzz targets of `crates/fuzz`, since only a session with
//! a real etcd goes this way otherwise. No program uses it.

use crate::WorkerRecord;
use crate::etcd::record;

/// What a key and its value under a prefix say.
///
/// # Errors
/// They are no record.
pub fn read(prefix: &str, key: &[u8], value: &[u8]) -> Result<(String, WorkerRecord), String> {
    let read = record::decode(&record::folder(prefix), key, value);
    read.map_err(|error| error.to_string())
}

/// The key and the value of a worker.
pub fn written(prefix: &str, worker: &str, address: &str, incarnation: u64) -> (Vec<u8>, Vec<u8>) {
    let key = record::folder(prefix) + worker;
    let value = record::encode(address, incarnation);
    (key.into_bytes(), value.into_bytes())
}
