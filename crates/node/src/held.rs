//! A share of something countable.

use prometheus_client::metrics::gauge::Gauge;

/// An amount (of pages, slots, tickets, bytes) that a gauge shows for as long as this value lives.
/// Put it into the struct that holds the things themselves.
#[derive(Debug)]
#[must_use = "dropped at once, it counts nothing"]
pub struct Held {
    gauge: Gauge,
    amount: i64,
}

impl Held {
    /// Adds `amount` to `gauge` until the drop.
    pub fn new(gauge: Gauge, amount: i64) -> Held {
        gauge.inc_by(amount);
        Held { gauge, amount }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec_by(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    #[test]
    fn the_gauge_returns_to_zero_in_any_order_of_drops() {
        let gauge: Gauge = Gauge::default();
        let first = Held::new(gauge.clone(), 3);
        let second = Held::new(gauge.clone(), 4);
        assert_eq!(gauge.get(), 7);
        drop(first);
        assert_eq!(gauge.get(), 4);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn the_gauge_returns_to_zero_when_the_holder_panics() {
        let gauge: Gauge = Gauge::default();
        let held = Held::new(gauge.clone(), 5);
        panic::catch_unwind(move || {
            let _held = held;
            panic!("the holder's bug");
        })
        .unwrap_err();
        assert_eq!(gauge.get(), 0);
    }
}
