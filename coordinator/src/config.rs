//! The settings of a coordinator. `deploy/config/coordinator.toml` explains each of them.

mod admission;
mod budget;
mod placement;

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use lava::{Budget, Method};
use lava_cluster::{ClusterMetrics, EtcdConfig, Registry};
use lava_kv::RowFormat;
use lava_node::{Backoff, ConfigError, HttpConfig, Metrics, TelemetryConfig, config};
use serde::Deserialize;

use crate::flight::Retry;

pub(crate) use admission::AdmissionPlan;
pub use admission::{AdmissionConfig, TenantConfig};
pub use placement::PlacementConfig;
pub(crate) use placement::PlacementPlan;

/// Most stop strings, and most bytes of one, that the matcher of crates/text takes.
const STOP_STRINGS_MAX: usize = 16;
const STOP_STRING_BYTES_MAX: usize = 1024;

/// Longest pause before a retry.
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// The configuration as it is written; [`Config::into_plan`] checks it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients come in.
    pub listen: ListenConfig,
    /// Where scrapers and probes come in.
    pub http: HttpConfig,
    /// The log.
    pub telemetry: TelemetryConfig,
    /// Bounds on requests.
    pub limits: LimitsConfig,
    /// Who is let in, and who waits.
    pub admission: AdmissionConfig,
    /// What a request gets that does not say.
    pub defaults: DefaultsConfig,
    /// Where workers are found.
    pub etcd: EtcdConfig,
    /// How workers are found and watched.
    pub workers: WorkersConfig,
    /// How the workers of a request are chosen.
    pub placement: PlacementConfig,
    /// What is done about faults.
    pub retry: RetryConfig,
    /// How the process ends.
    pub drain: DrainConfig,
}

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// Address and port of the gRPC service.
    pub address: SocketAddr,
    /// Time between pings on a client's connection, milliseconds.
    pub keep_alive_ms: u64,
}

/// Bounds on requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Most answers that workers make at a time.
    pub flights_max: u32,
    /// Most answers of one request.
    pub choices_max: u32,
    /// Most stop strings of a request.
    pub stop_strings_max: usize,
    /// Most bytes of one of them.
    pub stop_string_bytes_max: usize,
    /// Most bytes of a request.
    pub message_bytes_max: usize,
    /// Tokens of an answer if the request does not say.
    pub max_tokens_default: u32,
    /// Time for a request if the client does not say, milliseconds.
    pub deadline_default_ms: u64,
    /// Most time for a request, milliseconds.
    pub deadline_max_ms: u64,
    /// Most messages that wait for a client to read them.
    pub answer_messages_max: usize,
}

/// What a request gets that does not say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultsConfig {
    /// Name of the eviction policy.
    pub policy: String,
    /// Entries per layer and KV head, window included, or a share or bytes as text.
    #[serde(deserialize_with = "budget::deserialize")]
    pub budget: Budget,
    /// How entries that compete for the budget are stored.
    pub row_format: String,
}

/// How workers are found and watched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkersConfig {
    /// host:port of each worker.
    pub addresses: Vec<String>,
    /// Time between two probes of a worker, milliseconds.
    pub probe_interval_ms: u64,
    /// Time for the answer to a probe, milliseconds.
    pub probe_timeout_ms: u64,
    /// Time for a connection to be made, milliseconds.
    pub connect_timeout_ms: u64,
    /// Time between pings on a worker's connections, and time for their answer, milliseconds.
    pub keep_alive_ms: u64,
}

/// What is done about faults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Most attempts of one answer, the first one included; a decode worker that lets nothing in is free once.
    pub attempts_max: u32,
    /// Longest pause before the first retry; it doubles with each, up to a second. Milliseconds.
    pub pause_ms: u64,
    /// Retries that 100 requests add to those in store, which are at most `limits.flights_max`.
    pub percent: u32,
    /// Time that an accepted request looks for workers after a fault, milliseconds.
    pub place_wait_ms: u64,
    /// Time for a decode worker's reservation, milliseconds.
    pub reserve_ms: u64,
    /// Time between two signs of life of an answer once its first token has come, the rest of its transfer
    /// included, milliseconds.
    pub silence_ms: u64,
}

/// How the process ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Time for running answers to end after shutdown began, milliseconds.
    pub timeout_ms: u64,
}

impl Default for ListenConfig {
    fn default() -> ListenConfig {
        ListenConfig {
            address: SocketAddr::from(([127, 0, 0, 1], 7070)),
            keep_alive_ms: 20_000,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            flights_max: 1024,
            choices_max: 8,
            stop_strings_max: STOP_STRINGS_MAX,
            stop_string_bytes_max: STOP_STRING_BYTES_MAX,
            message_bytes_max: 16 << 20,
            max_tokens_default: 256,
            deadline_default_ms: 600_000,
            deadline_max_ms: 3_600_000,
            answer_messages_max: 64,
        }
    }
}

impl Default for DefaultsConfig {
    fn default() -> DefaultsConfig {
        DefaultsConfig {
            policy: "lava-peaks".to_owned(),
            budget: Budget::Entries(1024),
            row_format: RowFormat::Int4.to_string(),
        }
    }
}

impl Default for WorkersConfig {
    fn default() -> WorkersConfig {
        WorkersConfig {
            addresses: Vec::new(),
            probe_interval_ms: 1000,
            probe_timeout_ms: 2000,
            connect_timeout_ms: 2000,
            keep_alive_ms: 3000,
        }
    }
}

impl Default for RetryConfig {
    fn default() -> RetryConfig {
        RetryConfig {
            attempts_max: 3,
            pause_ms: 20,
            percent: 20,
            place_wait_ms: 5000,
            reserve_ms: 5000,
            silence_ms: 30_000,
        }
    }
}

impl Default for DrainConfig {
    fn default() -> DrainConfig {
        DrainConfig { timeout_ms: 30_000 }
    }
}

/// Settings that make sense, alone and together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) client_keep_alive: Duration,
    pub(crate) message_bytes_max: usize,
    pub(crate) limits: Limits,
    pub(crate) admission: AdmissionPlan,
    pub(crate) deadlines: Deadlines,
    pub(crate) defaults: Defaults,
    pub(crate) workers: Workers,
    pub(crate) placement: PlacementPlan,
    pub(crate) retry: Retry,
    /// Retries that 100 requests add to those in store.
    pub(crate) retry_percent: u32,
    pub(crate) drain_timeout: Duration,
}

/// Bounds on requests, all at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) flights_max: u32,
    pub(crate) choices_max: u32,
    pub(crate) stop_strings_max: usize,
    pub(crate) stop_string_bytes_max: usize,
    pub(crate) max_tokens_default: u32,
    pub(crate) answer_messages_max: usize,
}

/// How much time requests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub(crate) default: Duration,
    pub(crate) max: Duration,
}

/// What a request gets that does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Defaults {
    pub(crate) method: Method,
    pub(crate) budget: Budget,
    pub(crate) format: RowFormat,
}

/// How workers are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workers {
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive: Duration,
    /// Answers that may share one connection.
    pub(crate) calls_max: u32,
}

impl Config {
    /// The registry of a coordinator that is a process of its own. The series of one in etcd are registered
    /// in `metrics`.
    ///
    /// # Errors
    /// The operator gave neither etcd nor the address of a worker, or both, or one that cannot be.
    pub fn registry(&self, metrics: &mut Metrics) -> Result<Registry, ConfigError> {
        let addresses = &self.workers.addresses;
        let key = "workers.addresses";
        match (self.etcd.clone().into_plan()?, addresses.is_empty()) {
            (Some(plan), true) => {
                return Ok(Registry::etcd(plan, ClusterMetrics::register(metrics)));
            }
            (Some(_), false) => {
                let expected = "nothing beside `etcd.endpoints`";
                return Err(contradiction(key, &"given", &expected));
            }
            (None, true) => {
                let expected = "host:port of at least one worker, or `etcd.endpoints`";
                return Err(contradiction(key, &"empty", &expected));
            }
            (None, false) => {}
        }
        let is_address = |address: &str| match address.rsplit_once(':') {
            Some((host, port)) => {
                let bare = host.parse::<std::net::Ipv6Addr>().is_ok();
                !host.is_empty() && !host.contains('/') && !bare && port.parse::<u16>().is_ok()
            }
            None => false,
        };
        if let Some(bad) = addresses.iter().find(|address| !is_address(address)) {
            return Err(contradiction(key, &format!("{bad:?}"), &"host:port"));
        }
        Ok(Registry::of_addresses(addresses.iter().cloned()))
    }

    /// Checks every value and every pair of values that could contradict each other.
    ///
    /// # Errors
    /// The operator wrote a bound of zero, a policy that does not exist, or values that contradict
    /// each other.
    pub fn into_plan(self) -> Result<Plan, ConfigError> {
        let Config {
            limits,
            defaults,
            workers,
            retry,
            ..
        } = &self;
        config::at_least(&[
            ("listen.keep_alive_ms", self.listen.keep_alive_ms, 1),
            ("limits.flights_max", limits.flights_max.into(), 1),
            ("limits.choices_max", limits.choices_max.into(), 1),
            (
                "limits.message_bytes_max",
                limits.message_bytes_max as u64,
                1,
            ),
            (
                "limits.max_tokens_default",
                limits.max_tokens_default.into(),
                1,
            ),
            ("limits.deadline_default_ms", limits.deadline_default_ms, 1),
            (
                "limits.answer_messages_max",
                limits.answer_messages_max as u64,
                1,
            ),
            ("workers.probe_interval_ms", workers.probe_interval_ms, 1),
            ("workers.probe_timeout_ms", workers.probe_timeout_ms, 1),
            ("workers.connect_timeout_ms", workers.connect_timeout_ms, 1),
            ("workers.keep_alive_ms", workers.keep_alive_ms, 1),
            ("retry.attempts_max", retry.attempts_max.into(), 1),
            ("retry.pause_ms", retry.pause_ms, 1),
            ("retry.reserve_ms", retry.reserve_ms, 1),
            ("retry.silence_ms", retry.silence_ms, 1),
        ])?;
        for (key, value, max, whose) in [
            (
                "limits.choices_max",
                u64::from(limits.choices_max),
                u64::from(limits.flights_max),
                "limits.flights_max",
            ),
            (
                "limits.deadline_default_ms",
                limits.deadline_default_ms,
                limits.deadline_max_ms,
                "limits.deadline_max_ms",
            ),
            (
                "limits.stop_strings_max",
                limits.stop_strings_max as u64,
                STOP_STRINGS_MAX as u64,
                "the matcher",
            ),
            (
                "limits.stop_string_bytes_max",
                limits.stop_string_bytes_max as u64,
                STOP_STRING_BYTES_MAX as u64,
                "the matcher",
            ),
        ] {
            if value > max {
                let expected = format!("at most {max}, the most of {whose}");
                return Err(contradiction(key, &value, &expected));
            }
        }
        let method = defaults.policy.parse::<Method>().map_err(|error| {
            let found = format!("{:?}", defaults.policy);
            contradiction("defaults.policy", &found, &format!("a method ({error})"))
        })?;
        budget::check(defaults.budget, &method)?;
        let format = defaults.row_format.parse::<RowFormat>().map_err(|error| {
            let found = format!("{:?}", defaults.row_format);
            contradiction(
                "defaults.row_format",
                &found,
                &format!("a row format ({error})"),
            )
        })?;
        Ok(Plan {
            client_keep_alive: ms(self.listen.keep_alive_ms),
            message_bytes_max: limits.message_bytes_max,
            limits: Limits {
                flights_max: limits.flights_max,
                choices_max: limits.choices_max,
                stop_strings_max: limits.stop_strings_max,
                stop_string_bytes_max: limits.stop_string_bytes_max,
                max_tokens_default: limits.max_tokens_default,
                answer_messages_max: limits.answer_messages_max,
            },
            admission: self.admission.to_plan()?,
            deadlines: Deadlines {
                default: ms(limits.deadline_default_ms),
                max: ms(limits.deadline_max_ms),
            },
            defaults: Defaults {
                method,
                budget: defaults.budget,
                format,
            },
            workers: Workers {
                probe_interval: ms(workers.probe_interval_ms),
                probe_timeout: ms(workers.probe_timeout_ms),
                connect_timeout: ms(workers.connect_timeout_ms),
                keep_alive: ms(workers.keep_alive_ms),
                calls_max: limits.flights_max,
            },
            placement: self.placement.into_plan()?,
            retry: Retry {
                attempts_max: retry.attempts_max,
                pause: Backoff {
                    first: ms(retry.pause_ms),
                    most: ms(retry.pause_ms).max(PAUSE_MOST),
                },
                place_wait_max: ms(retry.place_wait_ms),
                wait_max: ms(self.admission.wait_max_ms),
                reserve_max: ms(retry.reserve_ms),
                silence_max: ms(retry.silence_ms),
            },
            retry_percent: retry.percent,
            drain_timeout: ms(self.drain.timeout_ms),
        })
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn contradiction(key: &str, found: &dyn Display, expected: &dyn Display) -> ConfigError {
    ConfigError::Contradiction {
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::{Expect, expect};
    use lava_node::{Override, config};

    use super::*;

    fn with(overrides: &[&str]) -> Config {
        let overrides: Vec<Override> = overrides.iter().map(|o| o.parse().unwrap()).collect();
        config::load(None, &overrides).unwrap()
    }

    #[track_caller]
    fn check_refused(overrides: &[&str], expected: Expect) {
        let error = with(overrides).into_plan().unwrap_err();
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn the_sample_file_states_the_defaults() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = root.join("deploy/config/coordinator.toml");
        let sample: Config = config::load(Some(&file), &[]).unwrap();
        assert_eq!(sample, Config::default());
        Config::default().into_plan().unwrap();
        // A key that the file leaves out would also be equal to its default.
        let text = std::fs::read_to_string(&file).unwrap();
        for key in [
            "address",
            "keep_alive_ms",
            "format",
            "level",
            "flights_max",
            "choices_max",
            "stop_strings_max",
            "stop_string_bytes_max",
            "message_bytes_max",
            "max_tokens_default",
            "deadline_default_ms",
            "deadline_max_ms",
            "answer_messages_max",
            "policy",
            "budget",
            "row_format",
            "endpoints",
            "prefix",
            "lease_ttl_ms",
            "request_timeout_ms",
            "addresses",
            "probe_interval_ms",
            "probe_timeout_ms",
            "connect_timeout_ms",
            "attempts_max",
            "pause_ms",
            "percent",
            "place_wait_ms",
            "reserve_ms",
            "silence_ms",
            "timeout_ms",
        ] {
            let stated = text
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")));
            assert!(stated, "{key} is missing");
        }
    }

    #[test]
    fn zero_bounds_are_refused() {
        check_refused(
            &["limits.flights_max=0"],
            expect!["`limits.flights_max` is 0, expected at least 1"],
        );
        check_refused(
            &["retry.attempts_max=0"],
            expect!["`retry.attempts_max` is 0, expected at least 1"],
        );
        assert_eq!(
            with(&["drain.timeout_ms=0"])
                .into_plan()
                .unwrap()
                .drain_timeout,
            Duration::ZERO
        );
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        check_refused(
            &[
                "limits.deadline_default_ms=5000",
                "limits.deadline_max_ms=4000",
            ],
            expect![
                "`limits.deadline_default_ms` is 5000, expected at most 4000, the most of limits.deadline_max_ms"
            ],
        );
        check_refused(
            &["limits.flights_max=4"],
            expect![
                "`limits.choices_max` is 8, expected at most 4, the most of limits.flights_max"
            ],
        );
        check_refused(
            &["limits.stop_strings_max=17"],
            expect![
                "`limits.stop_strings_max` is 17, expected at most 16, the most of the matcher"
            ],
        );
        check_refused(
            &["defaults.policy=magic"],
            expect![[
                r#"`defaults.policy` is "magic", expected a method (unknown policy "magic"; known are full, lava, lava-exact, lava-paper, lava-code, lava-peaks, lava-uniform, lava-heads, snapkv, pyramidkv, ada-snapkv, ada-pyramidkv, cake, streaming-llm, h2o, tova, random)"#
            ]],
        );
        check_refused(
            &["defaults.budget=32"],
            expect![
                "`defaults.budget` is 32, expected one that fits the policy (the budget is 32 entries per KV head and layer, expected more than the window's 32)"
            ],
        );
        with(&["defaults.budget=0", "defaults.policy=full"])
            .into_plan()
            .unwrap();
        check_refused(
            &["defaults.budget=0%"],
            expect!["`defaults.budget` is 0%, expected more than nothing"],
        );
    }

    #[test]
    fn a_process_of_its_own_needs_addresses_or_etcd() {
        let registry = |overrides: &[&str]| with(overrides).registry(&mut Metrics::new());
        let refused = |overrides: &[&str]| registry(overrides).unwrap_err().to_string();
        expect!["`workers.addresses` is empty, expected host:port of at least one worker, or `etcd.endpoints`"]
            .assert_eq(&refused(&[]));
        expect!["`workers.addresses` is given, expected nothing beside `etcd.endpoints`"]
            .assert_eq(&refused(&[
                "workers.addresses=['b:1']",
                "etcd.endpoints=['a:1']",
            ]));
        registry(&["etcd.endpoints=['a:1']"]).unwrap();
        expect![[r#"`workers.addresses` is "http://a:1", expected host:port"#]]
            .assert_eq(&refused(&["workers.addresses=['b:1', 'http://a:1']"]));
        for bad in ["a", "a:", ":1", "a:70000", "::1:80"] {
            refused(&[&format!("workers.addresses=['{bad}']")]);
        }
        registry(&["workers.addresses=['a:1', '[::1]:2', '10.0.0.1:3']"]).unwrap();
    }
}
