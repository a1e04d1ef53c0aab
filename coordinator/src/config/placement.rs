//! How workers are chosen.

use lava_node::{Backoff, ConfigError, config};
use serde::Deserialize;

use super::ms;
use crate::breaker::Breaking;
use crate::placement::PolicyName;

/// How the workers of a request are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// Rule for prefill workers.
    pub prefill: PolicyName,
    /// Rule for decode workers.
    pub decode: PolicyName,
    /// Prompts of so many tokens at most stay on one host, if it has a worker of each role with room.
    pub together_tokens_max: u32,
    /// Broken calls in a row after which a worker is left alone.
    pub breaker_failures: u32,
    /// How long, the first time, milliseconds.
    pub breaker_pause_ms: u64,
    /// How long at most, milliseconds.
    pub breaker_pause_max_ms: u64,
}

impl Default for PlacementConfig {
    fn default() -> PlacementConfig {
        PlacementConfig {
            prefill: PolicyName::PrefixAware,
            decode: PolicyName::LeastLoaded,
            together_tokens_max: 0,
            breaker_failures: 3,
            breaker_pause_ms: 1000,
            breaker_pause_max_ms: 30_000,
        }
    }
}

/// How workers are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlacementPlan {
    pub(crate) prefill: PolicyName,
    pub(crate) decode: PolicyName,
    pub(crate) together_tokens_max: u64,
    pub(crate) breaking: Breaking,
}

impl PlacementConfig {
    pub(super) fn into_plan(self) -> Result<PlacementPlan, ConfigError> {
        let (pause, most) = (self.breaker_pause_ms, self.breaker_pause_max_ms);
        config::at_least(&[
            (
                "placement.breaker_failures",
                self.breaker_failures.into(),
                1,
            ),
            ("placement.breaker_pause_ms", pause, 1),
            ("placement.breaker_pause_max_ms", most, pause),
        ])?;
        Ok(PlacementPlan {
            prefill: self.prefill,
            decode: self.decode,
            together_tokens_max: self.together_tokens_max.into(),
            breaking: Breaking {
                failures: self.breaker_failures,
                pause: Backoff {
                    first: ms(pause),
                    most: ms(most),
                },
            },
        })
    }
}
