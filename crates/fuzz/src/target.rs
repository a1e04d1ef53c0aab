//! The targets by name.

use crate::{
    attempts, descriptions, events, frames, lanes, models, records, requests, ship, texts,
};

/// What is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As it is asked for; its corpus has the folder of this name.
    pub name: &'static str,
    /// Puts an input through.
    ///
    /// # Panics
    /// If a law is broken.
    pub run: fn(&[u8]),
    /// Inputs that the search begins with, by name: what real peers send.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target {
        name: "frames",
        run: frames::run,
        seeds: frames::seeds,
    },
    Target {
        name: "ship",
        run: ship::run,
        seeds: ship::seeds,
    },
    Target {
        name: "lanes",
        run: lanes::run,
        seeds: lanes::seeds,
    },
    Target {
        name: "attempts",
        run: attempts::run,
        seeds: attempts::seeds,
    },
    Target {
        name: "requests",
        run: requests::run,
        seeds: requests::seeds,
    },
    Target {
        name: "descriptions",
        run: descriptions::run,
        seeds: descriptions::seeds,
    },
    Target {
        name: "events",
        run: events::run,
        seeds: events::seeds,
    },
    Target {
        name: "records",
        run: records::run,
        seeds: records::seeds,
    },
    Target {
        name: "texts",
        run: texts::run,
        seeds: texts::seeds,
    },
    Target {
        name: "models",
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
