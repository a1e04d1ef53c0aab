//! Fairness between tenants, beside a slow and obvious form of the same rule.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn tenant(index: usize) -> Tenant {
    Tenant::named(&format!("t{index}")).unwrap()
}

/// The rule as papers write it: a start and a finish tag for each request when it comes.
#[derive(Default)]
struct Oracle {
    time: u128,
    finish: BTreeMap<usize, u128>,
    /// Start tag, number.
    waiting: Vec<(u128, Number)>,
}

impl Oracle {
    fn add(&mut self, number: Number, index: usize, weight: u32, cost: u64) {
        let before = self.finish.get(&index).copied().unwrap_or_default();
        let start = before.max(self.time);
        let finish = start + share(cost, weight);
        self.finish.insert(index, finish);
        self.waiting.push((start, number));
    }

    fn serve(&mut self) -> Option<Number> {
        let first = *self.waiting.iter().min()?;
        self.waiting.retain(|one| *one != first);
        self.time = first.0;
        if self.waiting.is_empty() {
            *self = Oracle::default();
        }
        Some(first.1)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add { tenant: usize, cost: u64 },
    Serve,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4usize, 1..3000u64).prop_map(|(tenant, cost)| Step::Add { tenant, cost }),
        Just(Step::Serve),
    ]
}

const WEIGHTS: [u32; 4] = [1, 2, 3, 10];

proptest! {
    #[test]
    fn the_order_is_that_of_tags_given_at_arrival(steps in vec(step(), 0..120)) {
        let (mut class, mut oracle) = (Class::default(), Oracle::default());
        let mut tenants = BTreeMap::new();
        for (count, step) in steps.into_iter().enumerate() {
            match step {
                Step::Add { tenant: index, cost } => {
                    let number = Number(count as u64);
                    class.add(number, &tenant(index), WEIGHTS[index], cost);
                    oracle.add(number, index, WEIGHTS[index], cost);
                    tenants.insert(number, index);
                }
                Step::Serve => {
                    let first = class.first();
                    prop_assert_eq!(first, oracle.serve());
                    if let Some(number) = first {
                        prop_assert!(class.serve(number, &tenant(tenants[&number])));
                    }
                }
            }
            prop_assert_eq!(class.len(), oracle.waiting.len());
        }
    }

    /// Of tenants that always have something waiting, none is ahead of its share by more than one request
    /// of its own and one of the other's.
    #[test]
    fn shares_converge_to_weights(costs in vec(vec(1..2000u64, 60), 4)) {
        let mut class = Class::default();
        let mut number = 0;
        for (index, costs) in costs.iter().enumerate() {
            for cost in costs {
                class.add(Number(number), &tenant(index), WEIGHTS[index], *cost);
                number += 1;
            }
        }
        let (mut served, mut left) = ([0.0; 4], [60; 4]);
        while left.iter().all(|left| *left > 0) {
            let Number(first) = class.first().unwrap();
            let index = first as usize / 60;
            prop_assert!(class.serve(Number(first), &tenant(index)));
            served[index] += costs[index][first as usize % 60] as f64 / f64::from(WEIGHTS[index]);
            left[index] -= 1;
            for one in 0..4 {
                for other in 0..4 {
                    let bound = 2000.0 / f64::from(WEIGHTS[one]) + 2000.0 / f64::from(WEIGHTS[other]);
                    prop_assert!(served[one] - served[other] <= bound, "{served:?}");
                }
            }
        }
    }

    /// Whatever comes, is served or leaves: what waits of a tenant is served in the order in which it came.
    #[test]
    fn within_a_tenant_the_first_that_came_goes_first(
        steps in vec((0..3u8, 0..4usize, 1..100u64), 0..80),
    ) {
        let mut class = Class::default();
        let mut waiting: Vec<Vec<Number>> = vec![Vec::new(); 4];
        for (count, (kind, index, cost)) in steps.into_iter().enumerate() {
            let of = &mut waiting[index];
            match kind {
                0 => {
                    class.add(Number(count as u64), &tenant(index), WEIGHTS[index], cost);
                    of.push(Number(count as u64));
                }
                1 if !of.is_empty() => {
                    let leaves = of.remove(cost as usize % of.len());
                    prop_assert!(class.remove(leaves, &tenant(index)));
                    prop_assert!(!class.remove(leaves, &tenant(index)));
                }
                _ => {
                    if let Some(first) = class.first() {
                        let owner = waiting.iter().position(|of| of.first() == Some(&first));
                        let owner = owner.expect("the first of some tenant");
                        waiting[owner].remove(0);
                        prop_assert!(class.serve(first, &tenant(owner)));
                    }
                }
            }
            prop_assert_eq!(class.len(), waiting.iter().map(Vec::len).sum::<usize>());
        }
    }

    /// What is foreseen for one more is what happens, if nobody else comes.
    #[test]
    fn as_many_go_before_one_more_as_was_foreseen(
        waiting in vec((0..4usize, 1..3000u64), 0..30),
        served in 0..10usize,
        index in 0..4usize,
    ) {
        let mut class = Class::default();
        let mut owners = Vec::new();
        for (owner, cost) in waiting {
            class.add(Number(owners.len() as u64), &tenant(owner), WEIGHTS[owner], cost);
            owners.push(owner);
        }
        owners.push(index);
        let serve = |class: &mut Class| {
            let first = class.first()?;
            class.serve(first, &tenant(owners[first.0 as usize])).then_some(first)
        };
        for _ in 0..served {
            serve(&mut class);
        }
        let foreseen = class.before_one_more(&tenant(index));
        let one_more = Number(owners.len() as u64 - 1);
        class.add(one_more, &tenant(index), WEIGHTS[index], 500);
        let mut before = 0;
        while serve(&mut class) != Some(one_more) {
            before += 1;
        }
        prop_assert_eq!(before, foreseen);
    }
}

#[test]
fn a_tenant_that_asked_for_nothing_has_saved_up_nothing() {
    let mut class = Class::default();
    for number in 0..200 {
        class.add(Number(number), &tenant(0), 1, 100);
    }
    for number in 0..100 {
        assert_eq!(class.first(), Some(Number(number)));
        class.serve(Number(number), &tenant(0));
    }
    // It comes after all that and does not get a hundred turns in a row.
    for number in 200..300 {
        class.add(Number(number), &tenant(1), 1, 100);
    }
    let mut turns = Vec::new();
    for _ in 0..20 {
        let first = class.first().unwrap();
        let index = usize::from(first.0 >= 200);
        class.serve(first, &tenant(index));
        turns.push(index);
    }
    assert_eq!(turns.iter().sum::<usize>(), 10, "{turns:?}");
}

#[test]
fn leaving_for_a_moment_pays_no_debt_and_leaving_unserved_costs_nothing() {
    let mut class = Class::default();
    class.add(Number(0), &tenant(0), 1, 1000);
    class.add(Number(1), &tenant(1), 1, 10);
    class.add(Number(2), &tenant(1), 1, 10);
    assert_eq!(class.first(), Some(Number(0)));
    class.serve(Number(0), &tenant(0));
    // Back at once: the other one's are first nevertheless.
    class.add(Number(3), &tenant(0), 1, 10);
    assert_eq!(class.first(), Some(Number(1)));
    class.serve(Number(1), &tenant(1));
    assert_eq!(class.first(), Some(Number(2)));
    // It leaves, and its tenant's next one stands where it stood.
    class.remove(Number(2), &tenant(1));
    class.add(Number(4), &tenant(1), 1, 10);
    assert_eq!(class.first(), Some(Number(4)));
}

#[test]
fn what_is_remembered_of_tenants_that_left_is_bounded() {
    let mut class = Class::default();
    let stays = Tenant::named("stays").unwrap();
    for number in 0..2 {
        class.add(Number(number), &stays, 1, 1);
    }
    for index in 0..3 * DEBTS_MAX {
        let number = Number(10 + index as u64);
        class.add(number, &tenant(index), 1, 1_000_000);
        class.serve(number, &tenant(index));
    }
    assert!(class.debts.len() <= DEBTS_MAX);
    for number in 0..2 {
        class.serve(Number(number), &stays);
    }
    assert!(class.is_empty() && class.debts.is_empty() && class.time == 0);
}
