//! The targets by name.

use crate::{
    attempts, descriptions, events, frames, lanes, models, records, replies, requests, ship, texts,
};

/// What is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As it is asked for; its corpus has the folder of this name.
    pub name: &'static str,
    /// Messages of calls that it decodes, or that carry what it reads.
    pub messages: &'static [&'static str],
    /// Puts an input through.
    ///
    /// # Panics
    /// If a law is broken.
    pub run: fn(&[u8]),
    /// Inputs that the search begins with, by name: what real peers send.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "frames",
        messages: &[],
        run: frames::run,
        seeds: frames::seeds,
    },
    Target {
        name: "ship",
        messages: &["ShipMessage"],
        run: ship::run,
        seeds: ship::seeds,
    },
    Target {
        name: "replies",
        messages: &["ShipReply"],
        run: replies::run,
        seeds: replies::seeds,
    },
    Target {
        name: "lanes",
        messages: &["LaneMessage"],
        run: lanes::run,
        seeds: lanes::seeds,
    },
    Target {
        name: "attempts",
        messages: &["PrefillRequest", "DecodeRequest"],
        run: attempts::run,
        seeds: attempts::seeds,
    },
    Target {
        name: "requests",
        messages: &["GenerateRequest", "TokenizeRequest"],
        run: requests::run,
        seeds: requests::seeds,
    },
    Target {
        name: "descriptions",
        messages: &["Description"],
        run: descriptions::run,
        seeds: descriptions::seeds,
    },
    Target {
        name: "events",
        messages: &["PrefillEvent", "DecodeEvent"],
        run: events::run,
        seeds: events::seeds,
    },
    Target {
        name: "records",
        messages: &[],
        run: records::run,
        seeds: records::seeds,
    },
    Target {
        name: "texts",
        messages: &["TextFiles"],
        run: texts::run,
        seeds: texts::seeds,
    },
    Target {
        name: "models",
        messages: &[],
        run: models::run,
        seeds: models::seeds,
    },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }
}
