//! Which two workers take a request. Pure functions of the snapshot, of what this coordinator has
//! placed since, and of what the request needs.

mod field;
mod least_loaded;
mod policy;
mod power_of_two;
mod prefix_aware;
mod round_robin;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lava::Method;
use lava_kv::{CacheShape, RowFormat};

use crate::snapshot::{Model, Role, Snapshot, WorkerId};

use field::Field;
use policy::Candidate;
pub use policy::PolicyName;
pub(crate) use policy::Turn;

/// What a request needs of the workers that take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// `N`.
    pub(crate) tokens: u64,
    /// What its cache looks like.
    pub(crate) shape: CacheShape,
    /// Entries that prefill leaves at most.
    pub(crate) kept_max: usize,
    /// Entries that each layer and KV head gets after that, at most.
    pub(crate) appended_max: usize,
}

/// What a request says about its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheSize {
    pub(crate) method: Method,
    /// `b`.
    pub(crate) budget: u32,
    /// How entries that compete are stored.
    pub(crate) format: RowFormat,
    /// `N`.
    pub(crate) tokens: u32,
    /// Tokens that may be made; the last one never enters the cache.
    pub(crate) max_tokens: u32,
}

/// What placed requests take of one worker, beyond what its load shows. Negative if the load still
/// shows requests that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Claimed {
    /// Requests of a prefill queue, or slots of a decode worker.
    pub(crate) requests: i64,
    /// Prompt tokens of a prefill queue that are to be computed.
    pub(crate) tokens: i64,
    /// Pages of a decode worker.
    pub(crate) pages: i64,
    /// Prompt tokens that a prefill worker was given lately, as far as it does not say so itself.
    pub(crate) recent: i64,
}

/// Workers that a request has met faults on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shunned {
    /// They had no room; asking again at once would be no help.
    pub(crate) full: BTreeSet<WorkerId>,
    /// Their calls broke, so often: taken only if all others broke as often or more, since a connection may
    /// break under a healthy worker, and a worker be blamed for the other one of its pair.
    pub(crate) broken: BTreeMap<WorkerId, u32>,
    /// Prefill and decode workers that broke together: another pair is tried first, so that all of them have
    /// been before one is again, whoever was blamed.
    pub(crate) pairs: BTreeSet<(WorkerId, WorkerId)>,
}

/// Two workers of one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) prefill: WorkerId,
    pub(crate) decode: WorkerId,
    /// Pages that the decode worker may have to set aside.
    pub(crate) pages_max: u64,
    /// Tokens of the prompt that the prefill worker has to compute, as far as is known.
    pub(crate) missing_tokens: u64,
}

/// Why a request cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    #[error("no worker has described itself yet")]
    NoWorkers,
    #[error("unknown model {found:?}; known are {}", known.join(", "))]
    UnknownModel { found: String, known: Vec<String> },
    #[error("no {role} worker of model {model:?} is ready")]
    NoReadyWorkers { model: String, role: Role },
    #[error("no {role} worker of model {model:?} has row format {format}; known are {}", known.join(", "))]
    NoRowFormat {
        model: String,
        role: Role,
        format: RowFormat,
        /// Of the role's ready workers.
        known: Vec<String>,
    },
    #[error(
        "no ready prefill worker of model {model:?} has the fingerprint of a ready decode worker"
    )]
    NoCompatiblePair { model: String },
    #[error(
        "the cache may need {pages} pages, the largest pool has {pages_total}; ask for fewer tokens or a smaller budget"
    )]
    TooLarge { pages: u64, pages_total: u64 },
    #[error("{0}; try again later")]
    Busy(Scarce),
}

/// What every ready worker has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Scarce {
    #[error("every prefill queue is full")]
    PrefillQueue,
    #[error("no decode worker has a slot and enough free pages")]
    DecodeRoom,
}

impl Shunned {
    /// A call to this worker broke.
    pub(crate) fn broke(&mut self, worker: WorkerId) {
        *self.broken.entry(worker).or_default() += 1;
    }
}

impl NoPlace {
    /// Whether the next look may find a place.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            NoPlace::NoWorkers
            | NoPlace::NoReadyWorkers { .. }
            | NoPlace::NoCompatiblePair { .. }
            | NoPlace::Busy(_) => true,
            NoPlace::UnknownModel { .. }
            | NoPlace::NoRowFormat { .. }
            | NoPlace::TooLarge { .. } => false,
        }
    }
}

impl Needs {
    pub(crate) fn new(model: &Model, size: CacheSize) -> Needs {
        let budget = size.budget as usize;
        Needs {
            tokens: u64::from(size.tokens),
            shape: model.cache_shape(size),
            kept_max: lava::rows_max(&size.method, model.shape(size.tokens), budget),
            appended_max: size.max_tokens.saturating_sub(1) as usize,
        }
    }

    /// Entries that its cache has at most.
    pub(crate) fn rows_max(&self) -> u64 {
        let appended = self.shape.tables().saturating_mul(self.appended_max);
        self.kept_max.saturating_add(appended) as u64
    }

    /// Pages that it needs at most, as the decode worker counts them; `None` if its pages hold no entry.
    pub(crate) fn pages_max(&self, page_bytes: u32) -> Option<u64> {
        let page_bytes = page_bytes as usize;
        let holds = |bytes: usize| bytes <= page_bytes;
        let (format, d) = (self.shape.format, self.shape.head_dim);
        let holds_entries = holds(format.entry_bytes(d)) && holds(format.wide().entry_bytes(d));
        let pages = || {
            self.shape
                .pages_max(page_bytes, self.kept_max, self.appended_max)
        };
        holds_entries.then(|| pages() as u64)
    }
}

/// What is known of the workers when a request is placed.
#[derive(Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// What this coordinator placed and their loads do not show.
    pub(crate) claims: &'a BTreeMap<WorkerId, Claimed>,
    /// Tokens of the prompt that workers have; those that have none are left out.
    pub(crate) kept_tokens: &'a HashMap<&'a WorkerId, u64>,
    /// Whether a worker's circuit breaker is open.
    pub(crate) is_open: &'a dyn Fn(&WorkerId) -> bool,
    pub(crate) shunned: &'a Shunned,
}

/// How workers are chosen among those that could take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rules {
    pub(crate) prefill: PolicyName,
    pub(crate) decode: PolicyName,
    /// Shorter prompts stay on one host, if it has a worker of each role with room.
    pub(crate) together_tokens_max: u64,
    pub(crate) turn: Turn,
}

/// Chooses a prefill worker with room in its queue and a decode worker with a slot and enough free pages, each
/// as its rule says. Workers that broke under this request, or whose breaker is open, are taken only if there
/// is nobody else.
///
/// A cache whose prompt is short has nearly the prompt's size, and the way to another host costs more than two
/// workers gain. Such a request goes to the decode worker that the rule chooses among those with a prefill
/// worker beside them, and to one of these.
///
/// # Errors
/// Nobody can take the request, now or ever.
pub(crate) fn place(
    sight: Sight<'_>,
    model: &Model,
    needs: Needs,
    rules: Rules,
) -> Result<Placement, NoPlace> {
    let workers = sight.snapshot.workers.values();
    let able = workers.filter(|w| w.ready && w.model.fingerprint == model.fingerprint);
    let field = Field {
        workers: able.collect(),
        format: needs.shape.format,
        sight,
    };
    let decode = field.decode(model, needs)?;
    let mut prefill = field.prefill(model, needs)?;
    let beside = match needs.tokens <= rules.together_tokens_max {
        true => field.beside(&decode, &prefill, rules),
        false => None,
    };
    if let Some(decode) = beside {
        let host = field.host(decode.id);
        prefill.retain(|candidate| field.host(candidate.id) == host);
    }
    let decode = beside.or_else(|| field.choose(&decode, rules.decode_policy(), rules.turn));
    let decode = decode.ok_or(NoPlace::Busy(Scarce::DecodeRoom))?;
    let is_tried = |candidate: &Candidate<'_>| {
        let pair = (candidate.id.clone(), decode.id.clone());
        sight.shunned.pairs.contains(&pair)
    };
    let (tried, new): (Vec<_>, Vec<_>) = prefill.into_iter().partition(is_tried);
    let prefill = field.choose(&new, rules.prefill, rules.turn);
    let prefill = prefill.or_else(|| field.choose(&tried, rules.prefill, rules.turn));
    let prefill = prefill.ok_or(NoPlace::Busy(Scarce::PrefillQueue))?;
    Ok(Placement {
        prefill: prefill.id.clone(),
        decode: decode.id.clone(),
        pages_max: field.pages(decode.id, needs),
        missing_tokens: prefill.missing_tokens,
    })
}

/// Why a request could not be placed even if nothing else were there, if that is so.
pub(crate) fn never(snapshot: &Snapshot, model: &Model, needs: Needs) -> Option<NoPlace> {
    let sight = Sight {
        snapshot,
        claims: &BTreeMap::new(),
        kept_tokens: &HashMap::new(),
        is_open: &|_| false,
        shunned: &Shunned::default(),
    };
    let placed = place(sight, model, needs, Rules::default());
    placed.err().filter(|why| !why.may_pass())
}

impl Rules {
    /// Decode workers keep no prompts.
    fn decode_policy(self) -> PolicyName {
        match self.decode {
            PolicyName::PrefixAware => PolicyName::LeastLoaded,
            policy => policy,
        }
    }
}

#[cfg(test)]
mod tests;
