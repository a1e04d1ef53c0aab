//! At which stage a process is. Plain functions over its `/metrics`.

use super::row::Stage;
use crate::cluster::member::Kind;
use crate::cluster::metrics::value;

/// Whether the page of a process of this kind says that it has a request at the stage. Nothing can be said of etcd's.
pub(super) fn is_at(kind: Kind, stage: Stage, page: &str) -> bool {
    let gauge = |name| value(page, name).unwrap_or(0.0);
    match kind {
        Kind::Prefill => {
            let queue = gauge("lava_prefill_queue");
            let shipped = gauge("lava_prefill_transfers");
            match stage {
                Stage::Idle => true,
                // What is shipped may still have its place.
                Stage::Waiting => queue - shipped >= 2.0,
                Stage::Running => queue - shipped >= 1.0,
                Stage::Shipping => shipped >= 1.0,
                // Its part is over.
                Stage::Decoding => true,
            }
        }
        Kind::Decode => {
            let slots = gauge("lava_decode_slots");
            let reserved = gauge("lava_decode_tickets");
            let received = gauge("lava_decode_transfers");
            match stage {
                Stage::Idle => true,
                Stage::Waiting | Stage::Running => reserved >= 1.0,
                Stage::Shipping => received >= 1.0,
                Stage::Decoding => slots - reserved - received >= 1.0,
            }
        }
        // Which stages its answers are at, its workers tell.
        Kind::Coordinator => stage == Stage::Idle || gauge("lava_coordinator_flights") >= 1.0,
        Kind::Etcd => true,
    }
}

/// Whether the page says that its node of etcd leads.
pub(super) fn leads(page: &str) -> bool {
    value(page, "etcd_server_is_leader") == Some(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, page: &str, expected: &[Stage]) {
        let all = [
            Stage::Waiting,
            Stage::Running,
            Stage::Shipping,
            Stage::Decoding,
        ];
        let found = all.into_iter().filter(|stage| is_at(kind, *stage, page));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{page}");
    }

    #[test]
    fn gauges_tell_the_stage() {
        let prefill = |queue, transfers| {
            format!("lava_prefill_queue {queue}\nlava_prefill_transfers {transfers}\n")
        };
        // A prefill worker has nothing to do with the last stage, so it is as good as another one.
        check(Kind::Prefill, &prefill(0, 0), &[Stage::Decoding]);
        check(
            Kind::Prefill,
            &prefill(1, 0),
            &[Stage::Running, Stage::Decoding],
        );
        check(
            Kind::Prefill,
            &prefill(1, 1),
            &[Stage::Shipping, Stage::Decoding],
        );
        check(
            Kind::Prefill,
            &prefill(2, 0),
            &[Stage::Waiting, Stage::Running, Stage::Decoding],
        );
        let decode = |slots, tickets, transfers| {
            format!(
                "lava_decode_slots {slots}\nlava_decode_tickets {tickets}\nlava_decode_transfers {transfers}\n"
            )
        };
        check(Kind::Decode, &decode(0, 0, 0), &[]);
        check(
            Kind::Decode,
            &decode(1, 1, 0),
            &[Stage::Waiting, Stage::Running],
        );
        check(Kind::Decode, &decode(1, 0, 1), &[Stage::Shipping]);
        check(
            Kind::Decode,
            &decode(2, 0, 1),
            &[Stage::Shipping, Stage::Decoding],
        );
        check(Kind::Coordinator, "lava_coordinator_flights 0\n", &[]);
        assert!(leads("etcd_server_is_leader 1\n"));
        assert!(!leads("etcd_server_is_leader 0\n"));
    }
}
