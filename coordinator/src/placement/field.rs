//! The workers that could take a request, with what each of them has to offer.

use std::collections::BTreeSet;

use lava_kv::RowFormat;

use super::policy::{Candidate, Load, PolicyName, Turn};
use super::{Claimed, Needs, NoPlace, Rules, Sight};
use crate::snapshot::{self, Model, Role, Worker, WorkerId};

/// The workers that a request may go to, as far as its model says.
pub(super) struct Field<'a> {
    /// Ready ones of the right fingerprint.
    pub(super) workers: Vec<&'a Worker>,
    pub(super) format: RowFormat,
    pub(super) sight: Sight<'a>,
}

impl<'a> Field<'a> {
    /// The prefill workers with a place in their queue.
    pub(super) fn prefill(
        &self,
        model: &Model,
        needs: Needs,
    ) -> Result<Vec<Candidate<'a>>, NoPlace> {
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
    pub(super) fn decode(
        &self,
        model: &Model,
        needs: Needs,
    ) -> Result<Vec<Candidate<'a>>, NoPlace> {
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
    pub(super) fn beside(
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
    pub(super) fn host(&self, worker: &WorkerId) -> &'a str {
        let address = &self.sight.snapshot.workers[worker].address;
        address.rsplit_once(':').map_or(address, |(host, _)| host)
    }

    /// Pages that a decode worker with room will have to set aside.
    pub(super) fn pages(&self, worker: &WorkerId, needs: Needs) -> u64 {
        let pages = match self.sight.snapshot.workers[worker].load {
            snapshot::Load::Decode { page_bytes, .. } => needs.pages_max(page_bytes),
            snapshot::Load::Prefill { .. } => None,
        };
        pages.expect("it is a candidate because its pages hold entries")
    }

    fn sound(&self, candidates: &[Candidate<'a>]) -> impl Iterator<Item = Candidate<'a>> {
        let is_sound = |candidate: &&Candidate<'a>| self.faults(candidate) == (0, false);
        candidates.iter().filter(is_sound).copied()
    }

    /// How often a candidate broke under the request, and whether its breaker is open.
    fn faults(&self, candidate: &Candidate<'a>) -> (u32, bool) {
        let broken = self.sight.shunned.broken.get(candidate.id).copied();
        (
            broken.unwrap_or_default(),
            (self.sight.is_open)(candidate.id),
        )
    }

    pub(super) fn choose(
        &self,
        candidates: &[Candidate<'a>],
        policy: PolicyName,
        turn: Turn,
    ) -> Option<Candidate<'a>> {
        let least = candidates.iter().map(|c| self.faults(c)).min()?;
        let best = candidates.iter().filter(|c| self.faults(c) == least);
        let best: Vec<Candidate<'a>> = best.copied().collect();
        policy.choose(&best, turn)
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
