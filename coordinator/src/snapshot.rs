//! The workers as they last described themselves. Plain data: who keeps it current is `roster`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use lava::{EntryBytes, Shape};
use lava_kv::{CacheShape, RowFormat};

use crate::placement::{CacheSize, NoPlace};

/// What a worker calls itself; another one after each start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId(pub(crate) Arc<str>);

/// Hash of what two workers must have in common to be paired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fingerprint(pub(crate) [u8; 16]);

/// Hash of a model's tokenizer and chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TextDigest(pub(crate) [u8; 16]);

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// Runs prompts.
    Prefill,
    /// Makes tokens.
    Decode,
}

/// What a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
    /// Most tokens of a prompt and its answer together.
    pub(crate) positions_max: u32,
    /// `L`.
    pub(crate) layers: u32,
    /// `Hkv`.
    pub(crate) kv_heads: u32,
    /// `V`.
    pub(crate) vocabulary: u32,
    /// `D`.
    pub(crate) head_dim: u32,
    /// How it can store rows.
    pub(crate) row_formats: Vec<RowFormat>,
    /// Ids that end an answer.
    pub(crate) end_of_text: Vec<u32>,
    pub(crate) text_digest: TextDigest,
}

/// How busy a worker said it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Of a prefill worker.
    Prefill {
        /// Requests that wait or run.
        queue: u32,
        /// Most of them.
        queue_max: u32,
        /// Their prompts' tokens that are to be computed.
        queue_tokens: u64,
        /// Those that it was given lately.
        recent_tokens: u64,
        /// Tokens of a block of the fronts of prompts that it keeps, if it keeps any.
        block_tokens: Option<u32>,
    },
    /// Of a decode worker.
    Decode {
        pages_reserved: u64,
        pages_total: u64,
        /// Bytes of a page, which holds at least one entry of any of its row formats.
        page_bytes: u32,
        /// Sequences that wait or run.
        slots: u32,
        /// Most of them.
        slots_max: u32,
    },
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    /// host:port of its gRPC port.
    pub(crate) address: String,
    pub(crate) model: Arc<Model>,
    pub(crate) load: Load,
    /// It answered the last probe, drains not, speaks our wire version, and its tokenizer is here.
    pub(crate) ready: bool,
}

/// All workers that have answered at least once and are still members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
}

/// A model that can be asked for: the workers of one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    /// As the first of its ready workers describes it, with the smallest context among them.
    pub(crate) model: Arc<Model>,
    /// Ready ones.
    pub(crate) prefill_workers: u32,
    /// Ready ones.
    pub(crate) decode_workers: u32,
    /// Row formats of which some ready worker of each role has each.
    pub(crate) row_formats: BTreeSet<RowFormat>,
}

impl Load {
    pub(crate) fn role(&self) -> Role {
        match self {
            Load::Prefill { .. } => Role::Prefill,
            Load::Decode { .. } => Role::Decode,
        }
    }
}

impl Model {
    /// The cache of a prompt of so many tokens before eviction.
    pub(crate) fn shape(&self, tokens: u32) -> Shape {
        Shape {
            layers: self.layers as usize,
            kv_heads: self.kv_heads as usize,
            tokens: tokens as usize,
        }
    }

    /// The cache that prefill leaves.
    pub(crate) fn cache_shape(&self, size: CacheSize) -> CacheShape {
        let shape = self.shape(size.tokens);
        let budget = size.budget as usize;
        CacheShape {
            layers: shape.layers,
            kv_heads: shape.kv_heads,
            head_dim: self.head_dim as usize,
            tokens: shape.tokens,
            window_rows: shape.window_rows(&size.method, budget),
            wide_rows: match size.format.is_packed() {
                true => shape.pinned_rows(&size.method, budget),
                false => shape.tokens,
            },
            format: size.format,
        }
    }

    /// Bytes of a cache's entries.
    pub(crate) fn entry_bytes(&self, format: RowFormat) -> EntryBytes {
        let head_dim = self.head_dim as usize;
        EntryBytes {
            pinned: format.wide().entry_bytes(head_dim),
            other: format.entry_bytes(head_dim),
            table: format.mean_bytes(head_dim),
        }
    }
}

impl Snapshot {
    /// The models that a request could be placed for now, by name.
    pub(crate) fn served_models(&self) -> Vec<Served> {
        let names: BTreeSet<&str> = self.names();
        let served = names.into_iter().filter_map(|name| self.served(name).ok());
        served.collect()
    }

    /// The workers that a request for a model goes to. If a name stands for several fingerprints, as
    /// during a rolling update, it is the one with the most ready decode workers, then the most ready
    /// prefill workers, then the least fingerprint.
    ///
    /// # Errors
    /// The client named what nobody serves, or the cluster lacks a pair of ready workers.
    pub(crate) fn served(&self, name: &str) -> Result<Served, NoPlace> {
        let mut groups: BTreeMap<Fingerprint, Served> = BTreeMap::new();
        for worker in self.ready_workers(name) {
            let group = groups
                .entry(worker.model.fingerprint)
                .or_insert_with(|| Served {
                    model: Arc::clone(&worker.model),
                    prefill_workers: 0,
                    decode_workers: 0,
                    row_formats: BTreeSet::new(),
                });
            match worker.load.role() {
                Role::Prefill => group.prefill_workers += 1,
                Role::Decode => group.decode_workers += 1,
            }
            if worker.model.positions_max < group.model.positions_max {
                Arc::make_mut(&mut group.model).positions_max = worker.model.positions_max;
            }
        }
        let mut served = groups
            .into_values()
            .filter(|group| group.prefill_workers > 0 && group.decode_workers > 0)
            // Of equal ones `max_by_key` takes the last, and the first has the least fingerprint.
            .rev()
            .max_by_key(|group| (group.decode_workers, group.prefill_workers))
            .ok_or_else(|| self.unserved(name))?;
        let formats = |role: Role| -> BTreeSet<RowFormat> {
            self.ready_workers(name)
                .filter(|w| w.model.fingerprint == served.model.fingerprint)
                .filter(|w| w.load.role() == role)
                .flat_map(|w| w.model.row_formats.iter().copied())
                .collect()
        };
        served.row_formats = &formats(Role::Prefill) & &formats(Role::Decode);
        Ok(served)
    }

    fn unserved(&self, name: &str) -> NoPlace {
        let known = self.names();
        if known.is_empty() {
            return NoPlace::NoWorkers;
        }
        if !known.contains(name) {
            return NoPlace::UnknownModel {
                found: name.to_owned(),
                known: known.into_iter().map(str::to_owned).collect(),
            };
        }
        let roles: BTreeSet<Role> = self.ready_workers(name).map(|w| w.load.role()).collect();
        let missing = [Role::Prefill, Role::Decode]
            .into_iter()
            .find(|role| !roles.contains(role));
        let model = name.to_owned();
        match missing {
            Some(role) => NoPlace::NoReadyWorkers { model, role },
            None => NoPlace::NoCompatiblePair { model },
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        let names = self.workers.values().map(|w| w.model.name.as_str());
        names.collect()
    }

    fn ready_workers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Worker> {
        let workers = self.workers.values();
        workers.filter(move |worker| worker.ready && worker.model.name == name)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        })
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! A small cluster for tests.

    use super::*;

    pub(crate) fn id(name: &str) -> WorkerId {
        WorkerId(name.into())
    }

    /// Two layers, two KV heads, 1,000 positions.
    pub(crate) fn model(name: &str, fingerprint: u8) -> Model {
        Model {
            name: name.to_owned(),
            fingerprint: Fingerprint([fingerprint; 16]),
            positions_max: 1000,
            layers: 2,
            kv_heads: 2,
            vocabulary: 259,
            head_dim: 16,
            row_formats: vec![RowFormat::F16, RowFormat::Int4],
            end_of_text: vec![2],
            text_digest: TextDigest([7; 16]),
        }
    }

    pub(crate) fn prefill(name: &str, fingerprint: u8, queue_tokens: u64) -> Worker {
        Worker {
            id: id(name),
            address: format!("{name}:1"),
            model: Arc::new(model("toy", fingerprint)),
            load: Load::Prefill {
                queue: 1,
                queue_max: 4,
                queue_tokens,
                recent_tokens: 0,
                block_tokens: None,
            },
            ready: true,
        }
    }

    /// A pool of 1,000 pages of 16 rows in half precision.
    pub(crate) fn decode(name: &str, fingerprint: u8, pages_reserved: u64) -> Worker {
        Worker {
            id: id(name),
            address: format!("{name}:1"),
            model: Arc::new(model("toy", fingerprint)),
            load: Load::Decode {
                pages_reserved,
                pages_total: 1000,
                page_bytes: 16 * 64,
                slots: 0,
                slots_max: 4,
            },
            ready: true,
        }
    }

    pub(crate) fn snapshot(workers: impl IntoIterator<Item = Worker>) -> Snapshot {
        let workers = workers.into_iter().map(|w| (w.id.clone(), w)).collect();
        Snapshot { workers }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{decode, prefill, snapshot};
    use super::*;

    fn unready(worker: Worker) -> Worker {
        Worker {
            ready: false,
            ..worker
        }
    }

    #[track_caller]
    fn check_refused(workers: impl IntoIterator<Item = Worker>, name: &str, expected: &str) {
        let refused = snapshot(workers).served(name).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn a_model_without_a_ready_pair_says_what_is_missing() {
        check_refused([], "toy", "no worker has described itself yet");
        check_refused(
            [prefill("p", 1, 0)],
            "Toy",
            r#"unknown model "Toy"; known are toy"#,
        );
        check_refused(
            [prefill("p", 1, 0), unready(decode("d", 1, 0))],
            "toy",
            r#"no decode worker of model "toy" is ready"#,
        );
        check_refused(
            [unready(prefill("p", 1, 0)), decode("d", 1, 0)],
            "toy",
            r#"no prefill worker of model "toy" is ready"#,
        );
        check_refused(
            [prefill("p", 1, 0), decode("d", 2, 0)],
            "toy",
            r#"no ready prefill worker of model "toy" has the fingerprint of a ready decode worker"#,
        );
    }

    #[test]
    fn a_rolling_update_serves_the_fingerprint_with_more_decode_workers() {
        let served = snapshot([
            prefill("p1", 1, 0),
            decode("d1", 1, 0),
            prefill("p2", 2, 0),
            decode("d2", 2, 0),
            decode("d3", 2, 0),
        ])
        .served("toy")
        .unwrap();
        assert_eq!(served.model.fingerprint, Fingerprint([2; 16]));
        assert_eq!((served.prefill_workers, served.decode_workers), (1, 2));
    }

    #[test]
    fn of_equal_groups_the_least_fingerprint_is_served() {
        let workers = [1, 2].into_iter().flat_map(|fingerprint| {
            [
                prefill(&format!("p{fingerprint}"), fingerprint, 0),
                decode(&format!("d{fingerprint}"), fingerprint, 0),
            ]
        });
        let served = snapshot(workers).served("toy").unwrap();
        assert_eq!(served.model.fingerprint, Fingerprint([1; 16]));
    }

    #[test]
    fn the_context_is_that_of_the_smallest_ready_worker() {
        let mut small = decode("d", 1, 0);
        Arc::make_mut(&mut small.model).positions_max = 500;
        let mut smaller = unready(decode("e", 1, 0));
        Arc::make_mut(&mut smaller.model).positions_max = 400;
        let snapshot = snapshot([prefill("p", 1, 0), small, smaller]);
        assert_eq!(snapshot.served("toy").unwrap().model.positions_max, 500);
        assert_eq!(snapshot.served_models().len(), 1);
    }
}
