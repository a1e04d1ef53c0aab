//! What each tenant may use: answers at a time, and tokens over time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bucket::{Bucket, Rate, Short};
use super::tenant::Tenant;

/// What a tenant may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Turns that it gets where others get one, at least 1.
    pub(crate) weight: u32,
    /// Answers under way or waiting, if they are bounded.
    pub(crate) flights_max: Option<u32>,
    /// Tokens over time, if they are bounded.
    pub(crate) tokens: Option<Rate>,
}

/// Why a tenant gets no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverQuota {
    #[error(
        "tenant {tenant} has {flights} answers under way or waiting and asks for {asked} more, expected at most {max} together; try again later"
    )]
    Flights {
        tenant: Tenant,
        flights: u32,
        asked: u32,
        max: u32,
    },
    #[error(
        "tenant {tenant} has used up its tokens: the request may need {cost}, and they come at {} per second; try again later",
        rate.per_second
    )]
    Tokens {
        tenant: Tenant,
        cost: u64,
        rate: Rate,
        /// When they would be there.
        after: Duration,
    },
    #[error(
        "the request may need {cost} tokens (prompt and max_tokens, times n), and tenant {tenant} may use {} at once; ask for fewer",
        rate.burst
    )]
    TooLarge {
        tenant: Tenant,
        cost: u64,
        rate: Rate,
    },
}

impl OverQuota {
    /// Whose quota it is.
    pub(crate) fn tenant(&self) -> &Tenant {
        match self {
            OverQuota::Flights { tenant, .. }
            | OverQuota::Tokens { tenant, .. }
            | OverQuota::TooLarge { tenant, .. } => tenant,
        }
    }
}

/// What all tenants have used. Tenants of which nothing would be lost are forgotten.
#[derive(Debug)]
pub(crate) struct Quotas {
    /// Of those that the operator named.
    named: BTreeMap<Tenant, Quota>,
    /// Of each of the others.
    default: Quota,
    /// Most of the others that are told apart; further ones count as one.
    tenants_max: usize,
    used: BTreeMap<Tenant, Used>,
    /// Those of `used` that the operator did not name.
    unnamed: usize,
}

#[derive(Debug)]
struct Used {
    flights: u32,
    bucket: Option<Bucket>,
}

impl Quotas {
    pub(crate) fn new(
        named: BTreeMap<Tenant, Quota>,
        default: Quota,
        tenants_max: usize,
    ) -> Quotas {
        Quotas {
            named,
            default,
            tenants_max,
            used: BTreeMap::new(),
            unnamed: 0,
        }
    }

    /// What a tenant may use.
    pub(crate) fn quota(&self, tenant: &Tenant) -> Quota {
        *self.named.get(tenant).unwrap_or(&self.default)
    }

    /// Counts answers of a tenant; returns whom they are counted for.
    ///
    /// # Errors
    /// It has too many.
    pub(crate) fn enter(
        &mut self,
        tenant: Tenant,
        asked: u32,
        now: Duration,
    ) -> Result<Tenant, OverQuota> {
        let tenant = self.told_apart(tenant, now);
        let quota = self.quota(&tenant);
        let is_named = self.named.contains_key(&tenant);
        let used = self.used.entry(tenant.clone()).or_insert_with(|| {
            self.unnamed += usize::from(!is_named);
            Used {
                flights: 0,
                bucket: quota.tokens.map(|rate| Bucket::new(rate, now)),
            }
        });
        let flights = used.flights;
        let together = flights.saturating_add(asked);
        if let Some(max) = quota.flights_max.filter(|max| together > *max) {
            return Err(OverQuota::Flights {
                tenant,
                flights,
                asked,
                max,
            });
        }
        used.flights = together;
        Ok(tenant)
    }

    /// So many of its answers have ended.
    pub(crate) fn leave(&mut self, tenant: &Tenant, count: u32, now: Duration) {
        if let Some(used) = self.used.get_mut(tenant) {
            used.flights -= count;
            if used.tells_nothing(now) {
                self.used.remove(tenant);
                self.unnamed -= usize::from(!self.named.contains_key(tenant));
            }
        }
    }

    /// Takes what a request may need at most. The tenant has entered.
    ///
    /// # Errors
    /// It is more than is in store.
    pub(crate) fn take(
        &mut self,
        tenant: &Tenant,
        cost: u64,
        now: Duration,
    ) -> Result<(), OverQuota> {
        let Some(Used {
            bucket: Some(bucket),
            ..
        }) = self.used.get_mut(tenant)
        else {
            return Ok(());
        };
        let rate = bucket.rate();
        let tenant = tenant.clone();
        bucket.take(cost, now).map_err(|short| match short {
            Short::For(after) => OverQuota::Tokens {
                tenant,
                cost,
                rate,
                after,
            },
            Short::Forever => OverQuota::TooLarge { tenant, cost, rate },
        })
    }

    /// Puts back what was not needed. The tenant has not left.
    pub(crate) fn give_back(&mut self, tenant: &Tenant, tokens: u64, now: Duration) {
        if let Some(Used {
            bucket: Some(bucket),
            ..
        }) = self.used.get_mut(tenant)
        {
            bucket.give_back(tokens, now);
        }
    }

    /// The tenant itself if there is room to remember it.
    fn told_apart(&mut self, tenant: Tenant, now: Duration) -> Tenant {
        if self.used.contains_key(&tenant) || self.named.contains_key(&tenant) {
            return tenant;
        }
        if self.unnamed >= self.tenants_max {
            self.used.retain(|_, used| !used.tells_nothing(now));
            let unnamed = self.used.keys().filter(|of| !self.named.contains_key(of));
            self.unnamed = unnamed.count();
        }
        match self.unnamed < self.tenants_max {
            true => tenant,
            false => Tenant::others(),
        }
    }
}

impl Used {
    /// One who is forgotten would be the same when it comes back.
    fn tells_nothing(&mut self, now: Duration) -> bool {
        let bucket = self.bucket.as_mut();
        self.flights == 0 && bucket.is_none_or(|bucket| bucket.is_full(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 100,
        burst: 1000,
    };

    fn quota(flights_max: u32) -> Quota {
        Quota {
            weight: 1,
            flights_max: Some(flights_max),
            tokens: Some(RATE),
        }
    }

    fn quotas(tenants_max: usize) -> Quotas {
        let named = [(tenant("vip"), quota(8))].into();
        Quotas::new(named, quota(2), tenants_max)
    }

    fn tenant(name: &str) -> Tenant {
        Tenant::named(name).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn answers_at_a_time_are_bounded_for_each_tenant_by_itself() {
        let mut quotas = quotas(8);
        for name in ["a", "b"] {
            quotas.enter(tenant(name), 2, at(0)).unwrap();
            let error = quotas.enter(tenant(name), 1, at(0)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "tenant {name} has 2 answers under way or waiting and asks for 1 more, \
                     expected at most 2 together; try again later"
                )
            );
        }
        quotas.enter(tenant("vip"), 8, at(0)).unwrap();
        quotas.leave(&tenant("a"), 1, at(0));
        quotas.enter(tenant("a"), 1, at(0)).unwrap();
    }

    #[test]
    fn tokens_are_taken_at_the_start_and_given_back_at_the_end() {
        let mut quotas = quotas(8);
        let a = quotas.enter(tenant("a"), 1, at(0)).unwrap();
        quotas.take(&a, 900, at(0)).unwrap();
        let error = quotas.take(&a, 300, at(0)).unwrap_err();
        assert!(matches!(error, OverQuota::Tokens { after, .. } if after == at(2)));
        quotas.give_back(&a, 800, at(0));
        quotas.take(&a, 900, at(0)).unwrap();
        let error = quotas.take(&a, 1001, at(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the request may need 1001 tokens (prompt and max_tokens, times n), and tenant a may \
             use 1000 at once; ask for fewer"
        );
    }

    #[test]
    fn a_tenant_that_owes_nothing_is_forgotten_and_one_that_does_is_not() {
        let mut quotas = quotas(8);
        let a = quotas.enter(tenant("a"), 1, at(0)).unwrap();
        quotas.leave(&a, 1, at(0));
        assert!(quotas.used.is_empty());
        let a = quotas.enter(tenant("a"), 1, at(0)).unwrap();
        quotas.take(&a, 1000, at(0)).unwrap();
        quotas.leave(&a, 1, at(0));
        quotas.enter(tenant("a"), 1, at(1)).unwrap();
        assert!(quotas.take(&a, 101, at(1)).is_err());
    }

    #[test]
    fn more_tenants_than_are_told_apart_count_as_one() {
        let mut quotas = quotas(3);
        for index in 0..1000 {
            let entered = quotas.enter(tenant(&format!("t{index}")), 1, at(0));
            match index {
                0..3 => assert_eq!(entered.unwrap(), tenant(&format!("t{index}"))),
                3 | 4 => assert_eq!(entered.unwrap(), Tenant::others()),
                _ => assert!(entered.is_err()),
            }
        }
        assert_eq!(quotas.used.len(), 4);
        // Named ones are always told apart.
        quotas.enter(tenant("vip"), 1, at(0)).unwrap();
        assert!(quotas.used.contains_key(&tenant("vip")));
        // And others are, once there is room again.
        quotas.leave(&tenant("t0"), 1, at(0));
        quotas.leave(&Tenant::others(), 2, at(0));
        assert_eq!(
            quotas.enter(tenant("new"), 1, at(0)).unwrap(),
            tenant("new")
        );
    }

    #[test]
    fn debts_of_tenants_that_left_do_not_fill_the_list_for_ever() {
        let mut quotas = quotas(2);
        for name in ["a", "b"] {
            let entered = quotas.enter(tenant(name), 1, at(0)).unwrap();
            quotas.take(&entered, 1000, at(0)).unwrap();
            quotas.leave(&entered, 1, at(0));
        }
        assert_eq!(
            quotas.enter(tenant("c"), 1, at(9)).unwrap(),
            Tenant::others()
        );
        quotas.leave(&Tenant::others(), 1, at(9));
        assert_eq!(quotas.enter(tenant("c"), 1, at(10)).unwrap(), tenant("c"));
    }
}
