//! What a coordinator counts. Every name begins with `lava_coordinator_`.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::admission::Priority;
use crate::snapshot::Role;
use crate::status::Reason;

/// The counters of one coordinator. Clones share them.
#[derive(Debug, Clone)]
pub struct CoordinatorMetrics {
    /// Answers under way, those that wait for room included.
    pub(crate) flights: Gauge,
    /// Those of them that wait for room, by priority.
    pub(crate) waiting: Family<PriorityLabels, Gauge>,
    /// Seconds that answers waited for room which then were let in; those that did not have to wait do not
    /// count.
    pub(crate) wait_seconds: Histogram,
    /// Answers still under way a second after their deadline: a bug.
    pub(crate) flights_stuck: Gauge,
    /// Shares of workers that placed attempts hold, and of ended ones those that the workers' loads may still show.
    pub(crate) claims: Gauge,
    /// Requests that were taken in, by how they ended.
    pub(crate) requests: Family<RequestLabels, Counter>,
    /// Requests that got no whole answer, by reason.
    pub(crate) refusals: Family<RefusalLabels, Counter>,
    /// Attempts that found workers.
    pub(crate) attempts: Counter,
    /// Prompts prefilled again after a fault.
    pub(crate) recomputes: Counter,
    /// Retries that the budget denied.
    pub(crate) retries_denied: Counter,
    /// Times that a worker was left alone because its calls broke.
    pub(crate) breaker_openings: Counter,
    /// Prompt tokens that prefill workers had to compute, as far as was known when they were chosen.
    pub(crate) missing_tokens: Counter,
    /// Workers that requests can be placed on, by role.
    pub(crate) workers_ready: Family<RoleLabels, Gauge>,
    /// Seconds from a request to the first token of each of its answers.
    pub(crate) first_token_seconds: Histogram,
    /// Seconds from a request to its end, whole answers only.
    pub(crate) request_seconds: Histogram,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "the names are the labels as they are scraped"
)]
pub(crate) enum Outcome {
    /// Every choice is whole.
    answered,
    /// Refused before anything was placed, or ended without a whole answer.
    refused,
    /// The client ended its call first.
    client_gone,
}

/// Why a request got no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusalLabels {
    pub(crate) reason: Reason,
}

/// How urgent a request is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PriorityLabels {
    pub(crate) priority: &'static str,
}

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RoleLabels {
    pub(crate) role: &'static str,
}

impl CoordinatorMetrics {
    /// Registers everything in the process's list.
    pub fn register(metrics: &mut lava_node::Metrics) -> CoordinatorMetrics {
        // 1 ms to 262 s twice; 10 ms to 2,600 s.
        let wait_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 19));
        let first_token_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 19));
        let request_seconds = Histogram::new(exponential_buckets(0.01, 2.0, 19));
        let new = CoordinatorMetrics {
            flights: Gauge::default(),
            waiting: Family::default(),
            wait_seconds,
            flights_stuck: Gauge::default(),
            claims: Gauge::default(),
            requests: Family::default(),
            refusals: Family::default(),
            attempts: Counter::default(),
            recomputes: Counter::default(),
            retries_denied: Counter::default(),
            breaker_openings: Counter::default(),
            missing_tokens: Counter::default(),
            workers_ready: Family::default(),
            first_token_seconds,
            request_seconds,
        };
        let list = metrics.sub_registry("coordinator");
        list.register("flights", "Answers under way", new.flights.clone());
        list.register(
            "waiting",
            "Answers that wait for room, by priority",
            new.waiting.clone(),
        );
        list.register(
            "wait_seconds",
            "Seconds that answers waited for room before they were let in",
            new.wait_seconds.clone(),
        );
        list.register(
            "flights_stuck",
            "Answers under way a second after their deadline",
            new.flights_stuck.clone(),
        );
        list.register(
            "claims",
            "Shares of workers that attempts hold, or held since the last probe",
            new.claims.clone(),
        );
        list.register(
            "requests",
            "Generate calls by how they ended",
            new.requests.clone(),
        );
        list.register(
            "refusals",
            "Generate calls without a whole answer, by reason",
            new.refusals.clone(),
        );
        list.register(
            "attempts",
            "Attempts that found workers",
            new.attempts.clone(),
        );
        list.register(
            "recomputes",
            "Prompts prefilled again after a fault",
            new.recomputes.clone(),
        );
        list.register(
            "retries_denied",
            "Answers that ended because too many were being retried",
            new.retries_denied.clone(),
        );
        list.register(
            "breaker_openings",
            "Times that a worker was left alone because its calls broke",
            new.breaker_openings.clone(),
        );
        list.register(
            "missing_tokens",
            "Prompt tokens that the chosen prefill workers did not have, as far as was known",
            new.missing_tokens.clone(),
        );
        list.register(
            "workers_ready",
            "Workers that requests can be placed on, by role",
            new.workers_ready.clone(),
        );
        list.register(
            "first_token_seconds",
            "Seconds from a request to the first token of each answer",
            new.first_token_seconds.clone(),
        );
        list.register(
            "request_seconds",
            "Seconds from a request to the end of its last answer",
            new.request_seconds.clone(),
        );
        new
    }

    pub(crate) fn answered(&self, seconds: f64) {
        self.request_seconds.observe(seconds);
        self.count(Outcome::answered);
    }

    pub(crate) fn refused(&self, reason: Reason) {
        self.count(match reason {
            Reason::client_gone => Outcome::client_gone,
            _ => Outcome::refused,
        });
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// Answers of a priority that wait.
    pub(crate) fn waiting(&self, priority: Priority) -> Gauge {
        let priority = priority.name();
        self.waiting
            .get_or_create(&PriorityLabels { priority })
            .clone()
    }

    pub(crate) fn workers_ready(&self, role: Role, count: usize) {
        let role = match role {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        };
        let gauge = self.workers_ready.get_or_create(&RoleLabels { role });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn count(&self, outcome: Outcome) {
        self.requests
            .get_or_create(&RequestLabels { outcome })
            .inc();
    }
}
