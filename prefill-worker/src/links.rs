//! One link per decode worker.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lava_transfer::{LaneSetup, Link, ShipError};

/// Decode workers that are remembered; a fleet has fewer, restarts with other ports add up.
const LINKS_MAX: usize = 1024;

/// The links of this process.
#[derive(Debug)]
pub(crate) struct Links {
    connect_timeout: Duration,
    lanes: Option<LaneSetup>,
    known: Mutex<HashMap<String, Link>>,
}

impl Links {
    pub(crate) fn new(connect_timeout: Duration, lanes: Option<LaneSetup>) -> Self {
        Self {
            connect_timeout,
            lanes,
            known: Mutex::default(),
        }
    }

    /// The link to `address`. It connects when it is used.
    pub(crate) fn to(&self, address: &str) -> Result<Link, ShipError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = known.get(address) {
            return Ok(link.clone());
        }
        let link = Link::new(address, self.connect_timeout, self.lanes.as_ref())?;
        if known.len() == LINKS_MAX {
            // Links in use live on in their transfers.
            known.clear();
        }
        known.insert(address.to_owned(), link.clone());
        Ok(link)
    }
}
