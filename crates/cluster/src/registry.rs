//! The members, and who follows them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::Member;

/// The members of a cluster, in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// Holds a member in its registry; dropping it takes the member out.
#[derive(Debug)]
#[must_use = "dropped at once, the member is gone"]
pub struct Registration {
    member: Member,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// How many registrations each member has: during a restart two may overlap.
    counts: Mutex<BTreeMap<Member, usize>>,
    published: watch::Sender<Arc<BTreeSet<Member>>>,
}

impl Registry {
    /// One without members.
    #[expect(
        clippy::new_without_default,
        reason = "which registry a process has is decided once, by name"
    )]
    pub fn new() -> Registry {
        Registry::of_addresses([])
    }

    /// One with a fixed list, which later registrations add to. Repeated addresses count once.
    pub fn of_addresses(addresses: impl IntoIterator<Item = String>) -> Registry {
        let members: BTreeSet<Member> = addresses
            .into_iter()
            .map(|address| Member { address })
            .collect();
        let counts = members.iter().map(|member| (member.clone(), 1)).collect();
        Registry {
            shared: Arc::new(Shared {
                counts: Mutex::new(counts),
                published: watch::Sender::new(Arc::new(members)),
            }),
        }
    }

    /// Adds a member for as long as the answer lives.
    pub fn register(&self, member: Member) -> Registration {
        self.shared.change(|counts| {
            *counts.entry(member.clone()).or_default() += 1;
        });
        Registration {
            member,
            shared: Arc::clone(&self.shared),
        }
    }

    /// The members now, and news of every change. A slow follower skips states and always gets the
    /// last one. It ends when the last registry and registration are gone.
    pub fn watch(&self) -> watch::Receiver<Arc<BTreeSet<Member>>> {
        self.shared.published.subscribe()
    }
}

impl Shared {
    /// Followers hear of it only if the set of members is another one.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Member, usize>)) {
        // Nothing in here panics half way, so a poisoned map is whole.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        let members: BTreeSet<Member> = counts.keys().cloned().collect();
        self.published.send_if_modified(|published| {
            let changed = **published != members;
            if changed {
                *published = Arc::new(members);
            }
            changed
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.change(|counts| {
            if let Some(count) = counts.get_mut(&self.member) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.member);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(address: &str) -> Member {
        Member {
            address: address.to_owned(),
        }
    }

    fn now(registry: &Registry) -> Vec<String> {
        let members = registry.watch().borrow().clone();
        members.iter().map(Member::to_string).collect()
    }

    #[test]
    fn a_fixed_list_stays_and_repeats_count_once() {
        let registry = Registry::of_addresses(["b:1", "a:1", "b:1"].map(str::to_owned));
        assert_eq!(now(&registry), ["a:1", "b:1"]);
        drop(registry.register(member("a:1")));
        assert_eq!(now(&registry), ["a:1", "b:1"]);
    }

    #[test]
    fn a_registration_lasts_as_long_as_its_value() {
        let registry = Registry::new();
        let first = registry.register(member("a:1"));
        let second = registry.clone().register(member("a:1"));
        assert_eq!(now(&registry), ["a:1"]);
        drop(first);
        assert_eq!(now(&registry), ["a:1"]);
        drop(second);
        assert!(now(&registry).is_empty());
    }

    #[tokio::test]
    async fn a_follower_hears_of_changes_and_of_nothing_else() {
        let registry = Registry::new();
        let mut follower = registry.watch();
        let first = registry.register(member("a:1"));
        follower.changed().await.unwrap();
        assert_eq!(follower.borrow_and_update().len(), 1);
        let again = registry.register(member("a:1"));
        assert!(!follower.has_changed().unwrap());
        drop((first, again));
        follower.changed().await.unwrap();
        assert!(follower.borrow_and_update().is_empty());
        drop(registry);
        assert!(follower.changed().await.is_err());
    }
}
