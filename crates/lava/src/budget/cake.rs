//! CAKE's budgets: shares of preferences that have no upper bound, so nothing is known early.

use crate::Cut;

/// Until the last layer every head may keep as much as one layer can get at most,
/// `min(n, L · (b - W))`, and nothing is certain; then all budgets are known. CAKE itself cuts after
/// every layer, by shares among the layers so far. That ends in other sets, because its even
/// redistribution of what saturated layers leave may give back what was dropped; here the end is exact
/// (`cake` of `tests/data/reference.py`) and memory pays for it, see [`rows_peak`](crate::rows_peak).
#[derive(Debug, Clone)]
pub(crate) struct CakeBudgets {
    layers: usize,
    /// `L · (b - W)`, per KV head.
    total: usize,
    /// Rows outside the window.
    n: usize,
    /// Of the finished layers.
    preferences: Vec<f64>,
    /// Per layer and KV head; empty until all layers are finished.
    budgets: Vec<usize>,
}

impl CakeBudgets {
    pub(crate) fn new(layers: usize, contested: usize, n: usize) -> CakeBudgets {
        CakeBudgets {
            layers,
            total: layers.saturating_mul(contested),
            n,
            preferences: Vec::with_capacity(layers),
            budgets: Vec::new(),
        }
    }

    pub(crate) fn add_layer(&mut self, preference: f64) {
        assert!(
            self.preferences.len() < self.layers,
            "all layers are finished"
        );
        self.preferences.push(preference);
        if self.preferences.len() == self.layers {
            self.budgets = budgets(&self.preferences, self.total, self.n);
        }
    }

    pub(crate) fn cut(&self, layer: usize) -> Cut {
        match self.budgets.get(layer) {
            None => Cut {
                budget: self.n.min(self.total),
                certain: 0,
            },
            Some(&budget) => Cut {
                budget,
                certain: budget,
            },
        }
    }
}

/// `cake_budgets` of `tests/data/reference.py`: proportional and truncated, limited to `n`, what that
/// leaves spread evenly over the layers below `n`, then all of it brought to sum to `total` the same
/// way. None exceeds `n`: what the last step adds beyond is lost, as it is to the script's selection.
/// Where all preferences are zero, and the script would divide zero by zero, layers share evenly.
fn budgets(preferences: &[f64], total: usize, n: usize) -> Vec<usize> {
    let sum: f64 = preferences.iter().sum();
    let share = |preference: f64| {
        if sum > 0.0 {
            preference / sum
        } else {
            1.0 / preferences.len() as f64
        }
    };
    let wanted: Vec<usize> = preferences
        .iter()
        .map(|&preference| (share(preference) * total as f64) as usize)
        .collect();
    let surplus: usize = wanted.iter().map(|&budget| budget.saturating_sub(n)).sum();
    let mut budgets: Vec<usize> = wanted.into_iter().map(|budget| budget.min(n)).collect();
    let below = |budget: usize| budget < n;
    spread(&mut budgets, surplus, below, |budget, part| *budget += part);

    let found: usize = budgets.iter().sum();
    if found <= total {
        spread(&mut budgets, total - found, below, |budget, part| {
            *budget += part;
        });
    } else {
        // The product of a rounded share rounded up to the next integer: an entry or two.
        spread(
            &mut budgets,
            found - total,
            |budget| budget > 1,
            |budget, part| *budget = budget.saturating_sub(part),
        );
    }
    budgets.into_iter().map(|budget| budget.min(n)).collect()
}

/// Spreads `amount` evenly over the budgets that `takes` names; the first ones take the remainder.
fn spread(
    budgets: &mut [usize],
    amount: usize,
    takes: impl Fn(usize) -> bool,
    give: impl Fn(&mut usize, usize),
) {
    let takers = budgets.iter().filter(|&&budget| takes(budget)).count();
    if takers == 0 {
        return;
    }
    let (each, rest) = (amount / takers, amount % takers);
    let taking = budgets.iter_mut().filter(|budget| takes(**budget));
    for (index, budget) in taking.enumerate() {
        give(budget, each + usize::from(index < rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surplus_goes_to_the_layers_that_have_room() {
        assert_eq!(budgets(&[8.0, 1.0, 1.0], 30, 12), [12, 9, 9]);
        assert_eq!(budgets(&[1.0, 1.0, 1.0], 11, 12), [4, 4, 3]);
        // The first surplus of 30 would lift the second layer above n; what is above is lost.
        assert_eq!(budgets(&[9.0, 1.0], 50, 30), [30, 30 - 10]);
        assert_eq!(budgets(&[9.0, 1.0], 100, 30), [30, 30]);
    }

    #[test]
    fn layers_without_preference_share_evenly() {
        assert_eq!(budgets(&[0.0; 4], 32, 12), [8; 4]);
    }

    #[test]
    fn nothing_is_certain_until_everything_is() {
        let mut cake = CakeBudgets::new(2, 10, 15);
        cake.add_layer(1.0);
        let first = Cut {
            budget: 15,
            certain: 0,
        };
        assert_eq!(cake.cut(0), first);
        cake.add_layer(1.0);
        let last = Cut {
            budget: 10,
            certain: 10,
        };
        assert_eq!((cake.cut(0), cake.cut(1)), (last, last));
    }
}
