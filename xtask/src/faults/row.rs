//! What is tried: one row for each fault at each stage. Data only.

use crate::cluster::member::Kind;

/// A fault, when it comes, and what it may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) stage: Stage,
    pub(super) fault: Fault,
    pub(super) limit: Limit,
    /// Whether an answer must have met it; otherwise the row says nothing.
    pub(super) must_hit: bool,
}

/// What a request is doing when the fault comes, told by gauges of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// There is no request yet.
    Idle,
    /// Another prompt is computed, so this one waits in its prefill worker.
    Waiting,
    /// Its prompt is computed; its decode worker has set its room aside.
    Running,
    /// Its cache is on its way between the two.
    Shipping,
    /// Its tokens are made.
    Decoding,
}

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// kill -9 of the process of this kind that is at the stage.
    Kill(Kind),
    /// SIGSTOP of it.
    Stop(Kind),
    /// The same to the leader of etcd.
    KillLeader,
    StopLeader,
    /// kill -9 of all nodes of etcd, for [`HOLD_SECONDS`].
    EtcdOutage,
    /// Packets are lost silently, for [`HOLD_SECONDS`] if that is `held`, and otherwise until all answers have come.
    Cut {
        ways: &'static [Way],
        held: bool,
    },
    /// All that the prefill worker sends goes through a narrow link.
    Slow,
    /// No byte more fits on the disk with the logs of all processes.
    FullDisk,
}

/// From these processes to those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) from: Side,
    pub(super) to: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The process of this kind that is at the stage.
    Hit(Kind),
    All(Kind),
}

/// Which of the two limits holds for the time to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// A connection that closes tells at once.
    Kill,
    /// What says nothing any more has to be found out.
    Stop,
}

/// How long faults last that would end by themselves: longer than a lease in etcd.
pub(super) const HOLD_SECONDS: u64 = 12;

/// Where a row happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ground {
    /// On loopback.
    Loopback,
    /// In network namespaces.
    Namespaces,
    /// On loopback, with logs on a small file system of their own.
    SmallDisk,
}

impl Row {
    pub(super) fn ground(&self) -> Ground {
        match self.fault {
            Fault::Cut { .. } | Fault::Slow => Ground::Namespaces,
            Fault::FullDisk => Ground::SmallDisk,
            _ => Ground::Loopback,
        }
    }

    /// Requests before the fault. Two prompts in one of two workers take three; where a pair of workers is cut, one request
    /// tells which pair it is.
    pub(super) fn first(&self) -> usize {
        match (self.stage, self.fault) {
            (Stage::Idle, _) => 0,
            (Stage::Waiting, _) => 4,
            (_, Fault::Cut { held: false, .. }) => 1,
            _ => 3,
        }
    }

    /// Requests right after it.
    pub(super) fn after(&self) -> usize {
        match self.stage {
            Stage::Idle => 4,
            _ => 2,
        }
    }

    /// Whether the fault lasts for [`HOLD_SECONDS`].
    pub(super) fn is_held(&self) -> bool {
        matches!(
            self.fault,
            Fault::EtcdOutage | Fault::Cut { held: true, .. }
        )
    }
}

const PREFILL: Side = Side::Hit(Kind::Prefill);
const DECODE: Side = Side::Hit(Kind::Decode);
const COORDINATORS: Side = Side::All(Kind::Coordinator);
const ETCD: Side = Side::All(Kind::Etcd);

const fn way(from: Side, to: Side) -> Way {
    Way { from, to }
}

const fn row(name: &'static str, stage: Stage, fault: Fault, limit: Limit) -> Row {
    Row {
        name,
        stage,
        fault,
        limit,
        must_hit: true,
    }
}

/// One that no answer needs to notice.
const fn quiet(name: &'static str, stage: Stage, fault: Fault, limit: Limit) -> Row {
    Row {
        name,
        stage,
        fault,
        limit,
        must_hit: false,
    }
}

const fn cut(name: &'static str, stage: Stage, ways: &'static [Way]) -> Row {
    row(name, stage, Fault::Cut { ways, held: false }, Limit::Stop)
}

/// From etcd only, which answers do not need.
const fn lost_etcd(name: &'static str, ways: &'static [Way]) -> Row {
    quiet(
        name,
        Stage::Decoding,
        Fault::Cut { ways, held: true },
        Limit::Kill,
    )
}

/// All rows, in the order in which they run.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    quiet("kill-prefill-idle", Stage::Idle, Fault::Kill(Kind::Prefill), Limit::Kill),
    row("kill-prefill-waiting", Stage::Waiting, Fault::Kill(Kind::Prefill), Limit::Kill),
    row("kill-prefill-running", Stage::Running, Fault::Kill(Kind::Prefill), Limit::Kill),
    row("kill-prefill-shipping", Stage::Shipping, Fault::Kill(Kind::Prefill), Limit::Kill),
    quiet("stop-prefill-idle", Stage::Idle, Fault::Stop(Kind::Prefill), Limit::Stop),
    row("stop-prefill-waiting", Stage::Waiting, Fault::Stop(Kind::Prefill), Limit::Stop),
    row("stop-prefill-running", Stage::Running, Fault::Stop(Kind::Prefill), Limit::Stop),
    row("stop-prefill-shipping", Stage::Shipping, Fault::Stop(Kind::Prefill), Limit::Stop),
    quiet("kill-decode-idle", Stage::Idle, Fault::Kill(Kind::Decode), Limit::Kill),
    row("kill-decode-reserved", Stage::Running, Fault::Kill(Kind::Decode), Limit::Kill),
    row("kill-decode-receiving", Stage::Shipping, Fault::Kill(Kind::Decode), Limit::Kill),
    row("kill-decode-decoding", Stage::Decoding, Fault::Kill(Kind::Decode), Limit::Kill),
    quiet("stop-decode-idle", Stage::Idle, Fault::Stop(Kind::Decode), Limit::Stop),
    row("stop-decode-reserved", Stage::Running, Fault::Stop(Kind::Decode), Limit::Stop),
    row("stop-decode-receiving", Stage::Shipping, Fault::Stop(Kind::Decode), Limit::Stop),
    row("stop-decode-decoding", Stage::Decoding, Fault::Stop(Kind::Decode), Limit::Stop),
    quiet("kill-coordinator-idle", Stage::Idle, Fault::Kill(Kind::Coordinator), Limit::Kill),
    row("kill-coordinator-decoding", Stage::Decoding, Fault::Kill(Kind::Coordinator), Limit::Kill),
    quiet("stop-coordinator-idle", Stage::Idle, Fault::Stop(Kind::Coordinator), Limit::Stop),
    row("stop-coordinator-decoding", Stage::Decoding, Fault::Stop(Kind::Coordinator), Limit::Stop),
    quiet("kill-etcd-leader", Stage::Decoding, Fault::KillLeader, Limit::Kill),
    quiet("stop-etcd-leader", Stage::Decoding, Fault::StopLeader, Limit::Kill),
    quiet("kill-etcd-all", Stage::Decoding, Fault::EtcdOutage, Limit::Kill),
    cut("cut-coordinators-decode", Stage::Decoding, &[way(COORDINATORS, DECODE), way(DECODE, COORDINATORS)]),
    cut("cut-coordinators-prefill", Stage::Running, &[way(COORDINATORS, PREFILL), way(PREFILL, COORDINATORS)]),
    cut("cut-prefill-decode", Stage::Shipping, &[way(PREFILL, DECODE), way(DECODE, PREFILL)]),
    cut("drop-coordinators-to-decode", Stage::Decoding, &[way(COORDINATORS, DECODE)]),
    cut("drop-decode-to-coordinators", Stage::Decoding, &[way(DECODE, COORDINATORS)]),
    cut("drop-coordinators-to-prefill", Stage::Running, &[way(COORDINATORS, PREFILL)]),
    cut("drop-prefill-to-coordinators", Stage::Running, &[way(PREFILL, COORDINATORS)]),
    cut("drop-prefill-to-decode", Stage::Shipping, &[way(PREFILL, DECODE)]),
    // The cache arrives all the same; only its receipt is lost.
    quiet("drop-decode-to-prefill", Stage::Shipping, Fault::Cut { ways: &[way(DECODE, PREFILL)], held: false }, Limit::Stop),
    lost_etcd("cut-prefill-etcd", &[way(PREFILL, ETCD), way(ETCD, PREFILL)]),
    lost_etcd("cut-decode-etcd", &[way(DECODE, ETCD), way(ETCD, DECODE)]),
    lost_etcd("cut-coordinators-etcd", &[way(COORDINATORS, ETCD), way(ETCD, COORDINATORS)]),
    quiet("slow-prefill", Stage::Running, Fault::Slow, Limit::Stop),
    quiet("full-disk", Stage::Decoding, Fault::FullDisk, Limit::Kill),
];

/// Rows that a small model is too fast for: its prompt is computed, and its cache has arrived, before anybody can look.
pub(super) fn needs_modelled_times(row: &Row) -> bool {
    matches!(row.stage, Stage::Waiting | Stage::Running | Stage::Shipping)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_different_and_say_what_happens() {
        let names: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            let first = row.name.split('-').next().unwrap();
            let expected: &[&str] = match row.fault {
                Fault::Kill(_) | Fault::KillLeader | Fault::EtcdOutage => &["kill"],
                Fault::Stop(_) | Fault::StopLeader => &["stop"],
                Fault::Cut { .. } => &["cut", "drop"],
                Fault::Slow => &["slow"],
                Fault::FullDisk => &["full"],
            };
            assert!(expected.contains(&first), "{}", row.name);
        }
    }

    #[test]
    fn both_signals_meet_every_role_at_every_stage_it_takes_part_in() {
        let stages = |kind| match kind {
            Kind::Prefill => {
                [Stage::Idle, Stage::Waiting, Stage::Running, Stage::Shipping].to_vec()
            }
            Kind::Decode => [
                Stage::Idle,
                Stage::Running,
                Stage::Shipping,
                Stage::Decoding,
            ]
            .to_vec(),
            Kind::Coordinator => [Stage::Idle, Stage::Decoding].to_vec(),
            Kind::Etcd => Vec::new(),
        };
        for kind in [Kind::Prefill, Kind::Decode, Kind::Coordinator] {
            for fault in [Fault::Kill(kind), Fault::Stop(kind)] {
                let found = ROWS.iter().filter(|row| row.fault == fault);
                let found: Vec<Stage> = found.map(|row| row.stage).collect();
                assert_eq!(found, stages(kind), "{fault:?}");
            }
        }
    }

    #[test]
    fn a_cut_that_is_full_goes_both_ways_and_a_drop_goes_one() {
        for row in ROWS {
            let Fault::Cut { ways, .. } = row.fault else {
                continue;
            };
            match row.name.starts_with("cut-") {
                true => assert_eq!(ways, [ways[0], way(ways[0].to, ways[0].from)]),
                false => assert_eq!(ways.len(), 1, "{}", row.name),
            }
        }
    }
}
