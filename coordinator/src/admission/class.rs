//! Requests of one priority that wait, and the order between tenants: start-time fair queueing.
//!
//! Every tenant's next request has a start tag: the sum of what the tenant was served, in tokens divided
//! by its weight. The least tag goes first. The class's own time is the tag of what was served last, and
//! a tenant that comes (back) begins there, or at its old tag if that is later: who asked for nothing has
//! saved up nothing, and who leaves for a moment loses no debt. Within a tenant the first that came goes
//! first. A request that leaves unserved costs its tenant nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::tenant::Tenant;

/// Which request, in the order in which they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Number(pub(crate) u64);

/// A tag per token at weight 1, so that weights divide it finely.
const SCALE: u128 = 1 << 32;

/// Tenants whose tags are kept after their last request was served.
const DEBTS_MAX: usize = 1024;

/// The requests of one priority that wait.
#[derive(Debug, Default)]
pub(crate) struct Class {
    time: u128,
    flows: BTreeMap<Tenant, Flow>,
    /// Tags later than `time` of tenants of which nothing waits.
    debts: BTreeMap<Tenant, u128>,
}

/// What waits of one tenant, at least one request.
#[derive(Debug)]
struct Flow {
    /// Of its next request.
    tag: u128,
    weight: u32,
    /// Costs in tokens.
    waiting: BTreeMap<Number, u64>,
}

/// A tenant that may hold the most places for its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Longest {
    pub(crate) tenant: Tenant,
    pub(crate) weight: u32,
    pub(crate) waiting: usize,
    /// The one that came last.
    pub(crate) last: Number,
}

impl Class {
    /// One more waits.
    pub(crate) fn add(&mut self, number: Number, tenant: &Tenant, weight: u32, cost: u64) {
        assert!(weight > 0);
        let flow = self.flows.entry(tenant.clone()).or_insert_with(|| {
            let debt = self.debts.remove(tenant).unwrap_or_default();
            Flow {
                tag: debt.max(self.time),
                weight,
                waiting: BTreeMap::new(),
            }
        });
        flow.waiting.insert(number, cost);
    }

    /// One leaves unserved; false if it does not wait.
    pub(crate) fn remove(&mut self, number: Number, tenant: &Tenant) -> bool {
        let Some(flow) = self.flows.get_mut(tenant) else {
            return false;
        };
        let did_wait = flow.waiting.remove(&number).is_some();
        self.forget_if_empty(tenant);
        did_wait
    }

    /// One is served; false if it does not wait.
    pub(crate) fn serve(&mut self, number: Number, tenant: &Tenant) -> bool {
        let Some(flow) = self.flows.get_mut(tenant) else {
            return false;
        };
        let Some(cost) = flow.waiting.remove(&number) else {
            return false;
        };
        self.time = self.time.max(flow.tag);
        flow.tag += share(cost, flow.weight);
        self.forget_if_empty(tenant);
        true
    }

    /// The one whose turn it is.
    pub(crate) fn first(&self) -> Option<Number> {
        let firsts = self.flows.values().filter_map(|flow| {
            let (number, _) = flow.waiting.first_key_value()?;
            Some((flow.tag, *number))
        });
        firsts.min().map(|(_, number)| number)
    }

    /// How many of those who wait now go before one more of `tenant`.
    pub(crate) fn before_one_more(&self, tenant: &Tenant) -> usize {
        let tag = match self.flows.get(tenant) {
            Some(flow) => flow.tags().last().map_or(flow.tag, |(_, after)| after),
            None => self.debts.get(tenant).copied().unwrap_or_default(),
        };
        let tag = tag.max(self.time);
        let flows = self.flows.iter();
        // Of equal tags the one that came first goes first, and one more is the last to come.
        flows
            .map(|(of, flow)| match of == tenant {
                true => flow.waiting.len(),
                false => flow.tags().take_while(|(start, _)| *start <= tag).count(),
            })
            .sum()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.flows.values().map(|flow| flow.waiting.len()).sum()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many of a tenant wait.
    pub(crate) fn waiting_of(&self, tenant: &Tenant) -> usize {
        self.flows.get(tenant).map_or(0, |flow| flow.waiting.len())
    }

    /// What waits of each tenant. Who has the `turn` is not the last of any.
    pub(crate) fn tenants(&self, turn: Option<Number>) -> impl Iterator<Item = Longest> {
        self.flows.iter().filter_map(move |(tenant, flow)| {
            let mut numbers = flow.waiting.keys().rev();
            let last = *numbers.find(|number| Some(**number) != turn)?;
            Some(Longest {
                tenant: tenant.clone(),
                weight: flow.weight,
                waiting: flow.waiting.len(),
                last,
            })
        })
    }

    fn forget_if_empty(&mut self, tenant: &Tenant) {
        let Some(flow) = self.flows.get(tenant) else {
            return;
        };
        if !flow.waiting.is_empty() {
            return;
        }
        let tag = flow.tag;
        self.flows.remove(tenant);
        if self.flows.is_empty() {
            // Nobody was kept waiting by what was served, so nobody owes anything.
            *self = Class::default();
        } else if tag > self.time {
            if self.debts.len() >= DEBTS_MAX {
                self.forget_debts();
            }
            self.debts.insert(tenant.clone(), tag);
        }
    }

    /// Forgets debts that time has passed, or else the least one.
    fn forget_debts(&mut self) {
        self.debts.retain(|_, tag| *tag > self.time);
        if self.debts.len() >= DEBTS_MAX {
            let least = self.debts.iter().min_by_key(|(_, tag)| **tag);
            if let Some(tenant) = least.map(|(tenant, _)| tenant.clone()) {
                self.debts.remove(&tenant);
            }
        }
    }
}

impl Flow {
    /// The tags of what waits before and after each is served, in order.
    fn tags(&self) -> impl Iterator<Item = (u128, u128)> {
        self.waiting.values().scan(self.tag, |tag, cost| {
            let start = *tag;
            *tag += share(*cost, self.weight);
            Some((start, *tag))
        })
    }
}

impl Longest {
    /// Its places as they compare with another tenant's of weight 1, times `weight`.
    pub(crate) fn times(&self, weight: u32) -> u64 {
        self.waiting as u64 * u64::from(weight)
    }

    /// The most for its weight last, of equals the one that came last.
    pub(crate) fn order(&self, other: &Longest) -> Ordering {
        let (left, right) = (self.times(other.weight), other.times(self.weight));
        left.cmp(&right).then(self.last.cmp(&other.last))
    }
}

fn share(cost: u64, weight: u32) -> u128 {
    // A request that costs nothing would never give the turn to others.
    u128::from(cost.max(1)) * SCALE / u128::from(weight)
}

#[cfg(test)]
mod tests;
