//! Which two workers take a request. Pure functions of the snapshot, of what this coordinator has
//! placed since, and of what the request needs.

mod least_loaded;
mod policy;
mod power_of_two;
mod prefix_aware;
mod round_robin;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lava::Method;
use lava_kv::{CacheShape, RowFormat};

use crate::snapshot::{self, Model, Role, Snapshot, Worker, WorkerId};

pub use policy::PolicyName;
pub(crate) use policy::{Candidate, Load, Turn};

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
    /// Their calls broke: taken only if there is nobody else, since a connection may break under a
    /// healthy worker.
    pub(crate) broken: BTreeSet<WorkerId>,
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
    let prefill = field.choose(&prefill, rules.prefill, rules.turn);
    let prefill = prefill.ok_or(NoPlace::Busy(Scarce::PrefillQueue))?;
    Ok(Placement {
        prefill: prefill.id.clone(),
        decode: decode.id.clone(),
        pages_max: field.pages(decode.id, needs),
        missing_tokens: prefill.missing_tokens,
    })
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

/// The workers that a request may go to, as far as its model says.
struct Field<'a> {
    /// Ready ones of the right fingerprint.
    workers: Vec<&'a Worker>,
    format: RowFormat,
    sight: Sight<'a>,
}

impl<'a> Field<'a> {
    /// The prefill workers with a place in their queue.
    fn prefill(&self, model: &Model, needs: Needs) -> Result<Vec<Candidate<'a>>, NoPlace> {
        let able = self.able(model, Role::Prefill)?;
        let with_room = able.into_iter().filter_map(|worker| {
            let snapshot::Load::Prefill {
                queue,
                queue_max,
                queue_tokens,
                recent_tokens,
                ..
            } = worker.load
            else {
                return None;
            };
            let claimed = self.claimed(worker);
            let requests = plus(u64::from(queue), claimed.requests);
            let kept_tokens = self.sight.kept_tokens.get(&worker.id).copied();
            let room = requests < u64::from(queue_max) && !self.is_full(worker);
            room.then_some(Candidate {
                id: &worker.id,
                load: Load {
                    amount: plus(queue_tokens, claimed.tokens),
                    requests,
                },
                missing_tokens: needs.tokens.saturating_sub(kept_tokens.unwrap_or_default()),
                recent_tokens: plus(recent_tokens, claimed.recent),
            })
        });
        Ok(with_room.collect())
    }

    /// The decode workers with a slot and enough free pages.
    fn decode(&self, model: &Model, needs: Needs) -> Result<Vec<Candidate<'a>>, NoPlace> {
        let able = self.able(model, Role::Decode)?;
        // Pages needed and pages of the pool, of the worker that comes closest to holding them.
        let mut too_large: Option<(u64, u64)> = None;
        let mut fits_some = false;
        let mut with_room = Vec::new();
        for worker in able {
            let snapshot::Load::Decode {
                pages_reserved,
                pages_total,
                page_bytes,
                slots,
                slots_max,
            } = worker.load
            else {
                continue;
            };
            let Some(pages) = needs.pages_max(page_bytes) else {
                continue;
            };
            if pages > pages_total {
                if too_large.is_none_or(|(_, largest)| pages_total > largest) {
                    too_large = Some((pages, pages_total));
                }
                continue;
            }
            fits_some = true;
            let claimed = self.claimed(worker);
            let free = pages_total.saturating_sub(plus(pages_reserved, claimed.pages));
            let requests = plus(u64::from(slots), claimed.requests);
            if requests >= u64::from(slots_max) || free < pages || self.is_full(worker) {
                continue;
            }
            with_room.push(Candidate {
                id: &worker.id,
                load: Load {
                    amount: u64::MAX - free.saturating_mul(u64::from(page_bytes)),
                    requests,
                },
                missing_tokens: 0,
                recent_tokens: 0,
            });
        }
        match too_large {
            Some((pages, pages_total)) if !fits_some => {
                Err(NoPlace::TooLarge { pages, pages_total })
            }
            _ => Ok(with_room),
        }
    }

    /// A decode worker with a prefill worker on its host, both with room and sound.
    fn beside(
        &self,
        decode: &[Candidate<'a>],
        prefill: &[Candidate<'a>],
        rules: Rules,
    ) -> Option<Candidate<'a>> {
        let hosts: BTreeSet<&str> = self.sound(prefill).map(|c| self.host(c.id)).collect();
        let beside = self
            .sound(decode)
            .filter(|c| hosts.contains(self.host(c.id)));
        let beside: Vec<Candidate<'a>> = beside.collect();
        rules.decode_policy().choose(&beside, rules.turn)
    }

    /// The part of a worker's address that is not its port.
    fn host(&self, worker: &WorkerId) -> &'a str {
        let address = &self.sight.snapshot.workers[worker].address;
        address.rsplit_once(':').map_or(address, |(host, _)| host)
    }

    /// Pages that a decode worker with room will have to set aside.
    fn pages(&self, worker: &WorkerId, needs: Needs) -> u64 {
        let pages = match self.sight.snapshot.workers[worker].load {
            snapshot::Load::Decode { page_bytes, .. } => needs.pages_max(page_bytes),
            snapshot::Load::Prefill { .. } => None,
        };
        pages.expect("it is a candidate because its pages hold entries")
    }

    fn sound(&self, candidates: &[Candidate<'a>]) -> impl Iterator<Item = Candidate<'a>> {
        let sound = |candidate: &&Candidate<'a>| {
            !self.sight.shunned.broken.contains(candidate.id) && !(self.sight.is_open)(candidate.id)
        };
        candidates.iter().filter(sound).copied()
    }

    fn choose(
        &self,
        candidates: &[Candidate<'a>],
        policy: PolicyName,
        turn: Turn,
    ) -> Option<Candidate<'a>> {
        let sound: Vec<Candidate<'a>> = self.sound(candidates).collect();
        let chosen = policy.choose(&sound, turn);
        chosen.or_else(|| policy.choose(candidates, turn))
    }

    /// The workers of a role that have the row format.
    fn able(&self, model: &Model, role: Role) -> Result<Vec<&'a Worker>, NoPlace> {
        let of_role = || self.workers.iter().filter(|w| w.load.role() == role);
        let able = of_role().filter(|w| w.model.row_formats.contains(&self.format));
        let able: Vec<&'a Worker> = able.copied().collect();
        let model = model.name.clone();
        if of_role().next().is_none() {
            return Err(NoPlace::NoReadyWorkers { model, role });
        }
        if able.is_empty() {
            let known: BTreeSet<RowFormat> = of_role()
                .flat_map(|w| w.model.row_formats.iter().copied())
                .collect();
            return Err(NoPlace::NoRowFormat {
                model,
                role,
                format: self.format,
                known: known.iter().map(RowFormat::to_string).collect(),
            });
        }
        Ok(able)
    }

    fn claimed(&self, worker: &Worker) -> Claimed {
        let claimed = self.sight.claims.get(&worker.id);
        claimed.copied().unwrap_or_default()
    }

    fn is_full(&self, worker: &Worker) -> bool {
        self.sight.shunned.full.contains(&worker.id)
    }
}

fn plus(shown: u64, claimed: i64) -> u64 {
    shown.saturating_add_signed(claimed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::samples::{decode, id, model, prefill, snapshot};
    use lava::{Policy, Profile};

    fn needs(format: RowFormat) -> Needs {
        let shape = CacheShape {
            layers: 2,
            kv_heads: 2,
            head_dim: 16,
            tokens: 400,
            window_rows: 32,
            wide_rows: 32,
            format,
        };
        Needs {
            tokens: 100,
            shape,
            kept_max: 1600,
            appended_max: 0,
        }
    }

    /// Names of the chosen workers, or why there are none, as the least load has it.
    fn placed(workers: &[Worker], claims: &[(&str, Claimed)], shunned: &Shunned) -> String {
        let claims = claims.iter().map(|(name, claimed)| (id(name), *claimed));
        let rules = Rules {
            prefill: PolicyName::LeastLoaded,
            ..Rules::default()
        };
        let placement = place(
            Sight {
                snapshot: &snapshot(workers.iter().cloned()),
                claims: &claims.collect(),
                kept_tokens: &HashMap::new(),
                is_open: &|_| false,
                shunned,
            },
            &model("toy", 1),
            needs(RowFormat::F16),
            rules,
        );
        match placement {
            Ok(placement) => {
                assert_eq!((placement.pages_max, placement.missing_tokens), (104, 100));
                format!("{} {}", placement.prefill, placement.decode)
            }
            Err(why) => why.to_string(),
        }
    }

    #[track_caller]
    fn check(workers: &[Worker], expected: &str) {
        assert_eq!(placed(workers, &[], &Shunned::default()), expected);
    }

    #[test]
    fn the_shortest_queue_and_the_emptiest_pool_are_taken() {
        check(
            &[
                prefill("p1", 1, 30),
                prefill("p2", 1, 20),
                decode("d1", 1, 20),
                decode("d2", 1, 10),
            ],
            "p2 d2",
        );
    }

    #[test]
    fn the_least_id_wins_among_equals() {
        check(
            &[
                prefill("p2", 1, 7),
                prefill("p1", 1, 7),
                decode("d2", 1, 7),
                decode("d1", 1, 7),
            ],
            "p1 d1",
        );
    }

    #[test]
    fn only_ready_workers_of_the_fingerprint_count() {
        let unready = Worker {
            ready: false,
            ..prefill("p1", 1, 0)
        };
        check(
            &[
                unready.clone(),
                prefill("p2", 2, 0),
                prefill("p3", 1, 9),
                decode("d1", 2, 0),
                decode("d2", 1, 9),
            ],
            "p3 d2",
        );
        check(
            &[unready, decode("d2", 1, 9)],
            r#"no prefill worker of model "toy" is ready"#,
        );
        check(
            &[prefill("p1", 1, 0)],
            r#"no decode worker of model "toy" is ready"#,
        );
    }

    #[test]
    fn a_request_that_no_pool_can_hold_is_told_from_one_that_must_wait() {
        let small = |name: &str, total| {
            let mut worker = decode(name, 1, 0);
            if let snapshot::Load::Decode { pages_total, .. } = &mut worker.load {
                *pages_total = total;
            }
            worker
        };
        let p = prefill("p", 1, 0);
        check(
            &[p.clone(), small("d1", 103), small("d2", 9)],
            "the cache may need 104 pages, the largest pool has 103; ask for fewer tokens or a smaller budget",
        );
        let busy = "no decode worker has a slot and enough free pages; try again later";
        check(&[p.clone(), small("d1", 103), decode("d2", 1, 897)], busy);
        check(&[p.clone(), decode("d2", 1, 896)], "p d2");
        let mut no_slot = decode("d", 1, 0);
        if let snapshot::Load::Decode { slots, .. } = &mut no_slot.load {
            *slots = 4;
        }
        check(&[p, no_slot], busy);
        let mut queued = prefill("p", 1, 0);
        if let snapshot::Load::Prefill { queue, .. } = &mut queued.load {
            *queue = 4;
        }
        check(
            &[queued, decode("d", 1, 0)],
            "every prefill queue is full; try again later",
        );
    }

    #[test]
    fn claims_count_until_the_load_shows_them() {
        let workers = [
            prefill("p1", 1, 5),
            prefill("p2", 1, 6),
            decode("d1", 1, 5),
            decode("d2", 1, 6),
        ];
        let more = Claimed {
            requests: 1,
            tokens: 2,
            pages: 2,
            recent: 0,
        };
        let none = Shunned::default();
        assert_eq!(
            placed(&workers, &[("p1", more), ("d1", more)], &none),
            "p2 d2"
        );
        let full = Claimed {
            requests: 4,
            ..Claimed::default()
        };
        assert_eq!(
            placed(&workers, &[("p1", full), ("d1", full)], &none),
            "p2 d2"
        );
        let ended = Claimed {
            requests: -1,
            tokens: -6,
            pages: -6,
            recent: 0,
        };
        assert_eq!(
            placed(&workers, &[("p2", ended), ("d2", ended)], &none),
            "p2 d2"
        );
    }

    #[test]
    fn full_workers_are_not_asked_again_and_broken_ones_only_if_alone() {
        let workers = [
            prefill("p1", 1, 0),
            prefill("p2", 1, 9),
            decode("d1", 1, 0),
            decode("d2", 1, 9),
        ];
        let set = |ids: &[&str]| ids.iter().map(|name| id(name)).collect();
        let shunned = |full: &[&str], broken: &[&str]| Shunned {
            full: set(full),
            broken: set(broken),
        };
        let check = |shunned, expected: &str| assert_eq!(placed(&workers, &[], &shunned), expected);
        check(shunned(&["p1", "d1"], &[]), "p2 d2");
        check(shunned(&[], &["p1", "d1"]), "p2 d2");
        check(shunned(&["p2"], &["p1", "d1", "d2"]), "p1 d1");
        check(
            shunned(&["p1", "p2"], &[]),
            "every prefill queue is full; try again later",
        );
        check(
            shunned(&["d1", "d2"], &[]),
            "no decode worker has a slot and enough free pages; try again later",
        );
    }

    #[test]
    fn pages_cover_kept_and_appended_rows_and_a_part_page_per_list() {
        let size = CacheSize {
            method: Method::new(Policy::Lava(Profile::Exact)),
            budget: 64,
            format: RowFormat::F16,
            tokens: 500,
            max_tokens: 11,
        };
        let needs = Needs::new(&model("toy", 1), size);
        assert_eq!(needs.rows_max(), 4 * 64 + 4 * 10);
        assert_eq!(needs.pages_max(16 * 64), Some(296 / 16 + 4));
        assert_eq!(needs.pages_max(63), None);
        let whole = CacheSize {
            method: Method::new(Policy::Full),
            max_tokens: 1,
            ..size
        };
        assert_eq!(Needs::new(&model("toy", 1), whole).rows_max(), 4 * 500);
    }

    #[test]
    fn a_format_that_a_role_lacks_is_refused_with_those_it_has() {
        let mut old = decode("d1", 1, 0);
        Arc::make_mut(&mut old.model).row_formats = vec![RowFormat::F16, RowFormat::Int8];
        let place = |workers: &[Worker], format| {
            let sight = Sight {
                snapshot: &snapshot(workers.iter().cloned()),
                claims: &BTreeMap::new(),
                kept_tokens: &HashMap::new(),
                is_open: &|_| false,
                shunned: &Shunned::default(),
            };
            place(sight, &model("toy", 1), needs(format), Rules::default())
        };
        let alone = [prefill("p1", 1, 0), old.clone()];
        assert!(place(&alone, RowFormat::F16).is_ok());
        let refused = place(&alone, RowFormat::Int4).unwrap_err();
        assert!(!refused.may_pass());
        assert_eq!(
            refused.to_string(),
            "no decode worker of model \"toy\" has row format int4; known are f16, int8"
        );
        let newer = [prefill("p1", 1, 0), old, decode("d2", 1, 900)];
        assert_eq!(place(&newer, RowFormat::Int4).unwrap().decode, id("d2"));
    }

    #[test]
    fn the_worker_that_has_the_prompt_takes_it_and_has_less_to_compute() {
        let workers = [prefill("p1", 1, 0), prefill("p2", 1, 0), decode("d", 1, 0)];
        let p2 = id("p2");
        let placed = |policy, is_open: &dyn Fn(&WorkerId) -> bool| {
            let sight = Sight {
                snapshot: &snapshot(workers.iter().cloned()),
                claims: &BTreeMap::new(),
                kept_tokens: &HashMap::from([(&p2, 96)]),
                is_open,
                shunned: &Shunned::default(),
            };
            let rules = Rules {
                prefill: policy,
                ..Rules::default()
            };
            let placed = place(sight, &model("toy", 1), needs(RowFormat::F16), rules).unwrap();
            (placed.prefill.to_string(), placed.missing_tokens)
        };
        let closed = |_: &WorkerId| false;
        let aware = PolicyName::PrefixAware;
        assert_eq!(placed(aware, &closed), ("p2".into(), 4));
        assert_eq!(placed(PolicyName::LeastLoaded, &closed), ("p1".into(), 100));
        // A worker whose calls broke is left alone, unless all are such.
        assert_eq!(placed(aware, &|id| *id == p2), ("p1".into(), 100));
        assert_eq!(placed(aware, &|_| true), ("p2".into(), 4));
    }

    #[test]
    fn a_short_prompt_stays_on_one_host_and_a_long_one_goes_where_there_is_most_room() {
        let on = |host: &str, mut worker: Worker| {
            worker.address = format!("{host}:{}", worker.id);
            worker
        };
        let full = |mut worker: Worker| {
            if let snapshot::Load::Prefill { queue, .. } = &mut worker.load {
                *queue = 4;
            }
            worker
        };
        let workers = [
            on("a", prefill("p1", 1, 0)),
            on("b", prefill("p2", 1, 50)),
            on("c", full(prefill("p3", 1, 0))),
            on("b", decode("d1", 1, 500)),
            on("c", decode("d2", 1, 0)),
        ];
        let placed = |together_tokens_max, broken: &[&str]| {
            let shunned = Shunned {
                full: BTreeSet::new(),
                broken: broken.iter().map(|name| id(name)).collect(),
            };
            let sight = Sight {
                snapshot: &snapshot(workers.iter().cloned()),
                claims: &BTreeMap::new(),
                kept_tokens: &HashMap::new(),
                is_open: &|_| false,
                shunned: &shunned,
            };
            let rules = Rules {
                together_tokens_max,
                ..Rules::default()
            };
            let placed = place(sight, &model("toy", 1), needs(RowFormat::F16), rules).unwrap();
            format!("{} {}", placed.prefill, placed.decode)
        };
        // It has 100 tokens. c has no room for prompts.
        assert_eq!(placed(100, &[]), "p2 d1");
        assert_eq!(placed(99, &[]), "p1 d2");
        assert_eq!(placed(100, &["p2"]), "p1 d2");
        assert_eq!(placed(100, &["d1"]), "p1 d2");
    }
}
