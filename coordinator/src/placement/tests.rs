use std::sync::Arc;

use super::*;
use crate::snapshot::samples::{decode, id, model, prefill, snapshot};
use crate::snapshot::{self, Worker};
use lava::{Policy, Profile};

fn needs(format: RowFormat) -> Needs {
    let shape = CacheShape {
        layers: 2,
        kv_heads: 2,
        head_dim: 16,
        tokens: 400,
        window_rows: 32,
        wide_rows: 32,
        format,
    };
    Needs {
        tokens: 100,
        shape,
        kept_max: 1600,
        appended_max: 0,
    }
}

/// Names of the chosen workers, or why there are none, as the least load has it.
fn placed(workers: &[Worker], claims: &[(&str, Claimed)], shunned: &Shunned) -> String {
    let claims = claims.iter().map(|(name, claimed)| (id(name), *claimed));
    let rules = Rules {
        prefill: PolicyName::LeastLoaded,
        ..Rules::default()
    };
    let placement = place(
        Sight {
            snapshot: &snapshot(workers.iter().cloned()),
            claims: &claims.collect(),
            kept_tokens: &HashMap::new(),
            is_open: &|_| false,
            shunned,
        },
        &model("toy", 1),
        needs(RowFormat::F16),
        rules,
    );
    match placement {
        Ok(placement) => {
            assert_eq!((placement.pages_max, placement.missing_tokens), (104, 100));
            format!("{} {}", placement.prefill, placement.decode)
        }
        Err(why) => why.to_string(),
    }
}

#[track_caller]
fn check(workers: &[Worker], expected: &str) {
    assert_eq!(placed(workers, &[], &Shunned::default()), expected);
}

#[test]
fn the_shortest_queue_and_the_emptiest_pool_are_taken() {
    check(
        &[
            prefill("p1", 1, 30),
            prefill("p2", 1, 20),
            decode("d1", 1, 20),
            decode("d2", 1, 10),
        ],
        "p2 d2",
    );
}

#[test]
fn the_least_id_wins_among_equals() {
    check(
        &[
            prefill("p2", 1, 7),
            prefill("p1", 1, 7),
            decode("d2", 1, 7),
            decode("d1", 1, 7),
        ],
        "p1 d1",
    );
}

#[test]
fn only_ready_workers_of_the_fingerprint_count() {
    let unready = Worker {
        ready: false,
        ..prefill("p1", 1, 0)
    };
    check(
        &[
            unready.clone(),
            prefill("p2", 2, 0),
            prefill("p3", 1, 9),
            decode("d1", 2, 0),
            decode("d2", 1, 9),
        ],
        "p3 d2",
    );
    check(
        &[unready, decode("d2", 1, 9)],
        r#"no prefill worker of model "toy" is ready"#,
    );
    check(
        &[prefill("p1", 1, 0)],
        r#"no decode worker of model "toy" is ready"#,
    );
}

#[test]
fn a_request_that_no_pool_can_hold_is_told_from_one_that_must_wait() {
    let small = |name: &str, total| {
        let mut worker = decode(name, 1, 0);
        if let snapshot::Load::Decode { pages_total, .. } = &mut worker.load {
            *pages_total = total;
        }
        worker
    };
    let p = prefill("p", 1, 0);
    check(
        &[p.clone(), small("d1", 103), small("d2", 9)],
        "the cache may need 104 pages, the largest pool has 103; ask for fewer tokens or a smaller budget",
    );
    let why = |total| {
        let workers = snapshot([p.clone(), small("d1", total)]);
        never(&workers, &model("toy", 1), needs(RowFormat::F16))
    };
    assert!(matches!(
        why(103),
        Some(NoPlace::TooLarge { pages: 104, .. })
    ));
    assert_eq!(why(104), None);
    let busy = "no decode worker has a slot and enough free pages; try again later";
    check(&[p.clone(), small("d1", 103), decode("d2", 1, 897)], busy);
    check(&[p.clone(), decode("d2", 1, 896)], "p d2");
    let mut no_slot = decode("d", 1, 0);
    if let snapshot::Load::Decode { slots, .. } = &mut no_slot.load {
        *slots = 4;
    }
    check(&[p, no_slot], busy);
    let mut queued = prefill("p", 1, 0);
    if let snapshot::Load::Prefill { queue, .. } = &mut queued.load {
        *queue = 4;
    }
    check(
        &[queued, decode("d", 1, 0)],
        "every prefill queue is full; try again later",
    );
}

#[test]
fn claims_count_until_the_load_shows_them() {
    let workers = [
        prefill("p1", 1, 5),
        prefill("p2", 1, 6),
        decode("d1", 1, 5),
        decode("d2", 1, 6),
    ];
    let more = Claimed {
        requests: 1,
        tokens: 2,
        pages: 2,
        recent: 0,
    };
    let none = Shunned::default();
    assert_eq!(
        placed(&workers, &[("p1", more), ("d1", more)], &none),
        "p2 d2"
    );
    let full = Claimed {
        requests: 4,
        ..Claimed::default()
    };
    assert_eq!(
        placed(&workers, &[("p1", full), ("d1", full)], &none),
        "p2 d2"
    );
    let ended = Claimed {
        requests: -1,
        tokens: -6,
        pages: -6,
        recent: 0,
    };
    assert_eq!(
        placed(&workers, &[("p2", ended), ("d2", ended)], &none),
        "p2 d2"
    );
}

#[test]
fn full_workers_are_not_asked_again_and_broken_ones_only_if_alone() {
    let workers = [
        prefill("p1", 1, 0),
        prefill("p2", 1, 9),
        decode("d1", 1, 0),
        decode("d2", 1, 9),
    ];
    let set = |ids: &[&str]| -> BTreeSet<WorkerId> { ids.iter().map(|name| id(name)).collect() };
    let shunned = |full: &[&str], broken: &[&str]| Shunned {
        full: set(full),
        broken: set(broken).into_iter().map(|id| (id, 1)).collect(),
        pairs: BTreeSet::new(),
    };
    let check = |shunned, expected: &str| assert_eq!(placed(&workers, &[], &shunned), expected);
    check(shunned(&["p1", "d1"], &[]), "p2 d2");
    check(shunned(&[], &["p1", "d1"]), "p2 d2");
    check(shunned(&["p2"], &["p1", "d1", "d2"]), "p1 d1");
    // Of those that all broke, it is the one that broke least often.
    let mut often = shunned(&[], &["p1", "p2", "d1", "d2"]);
    often.broke(id("p1"));
    often.broke(id("d1"));
    check(often, "p2 d2");
    // Two that broke together are not tried again while there is another pair.
    let mut together = shunned(&[], &["p1", "p2", "d1", "d2"]);
    together.pairs = [(id("p1"), id("d1"))].into();
    check(together, "p2 d1");
    check(
        shunned(&["p1", "p2"], &[]),
        "every prefill queue is full; try again later",
    );
    check(
        shunned(&["d1", "d2"], &[]),
        "no decode worker has a slot and enough free pages; try again later",
    );
}

#[test]
fn pages_cover_kept_and_appended_rows_and_a_part_page_per_list() {
    let size = CacheSize {
        method: Method::new(Policy::Lava(Profile::Exact)),
        budget: 64,
        format: RowFormat::F16,
        tokens: 500,
        max_tokens: 11,
    };
    let needs = Needs::new(&model("toy", 1), size);
    assert_eq!(needs.rows_max(), 4 * 64 + 4 * 10);
    assert_eq!(needs.pages_max(16 * 64), Some(296 / 16 + 4));
    assert_eq!(needs.pages_max(63), None);
    let whole = CacheSize {
        method: Method::new(Policy::Full),
        max_tokens: 1,
        ..size
    };
    assert_eq!(Needs::new(&model("toy", 1), whole).rows_max(), 4 * 500);
}

#[test]
fn a_format_that_a_role_lacks_is_refused_with_those_it_has() {
    let mut old = decode("d1", 1, 0);
    Arc::make_mut(&mut old.model).row_formats = vec![RowFormat::F16, RowFormat::Int8];
    let place = |workers: &[Worker], format| {
        let sight = Sight {
            snapshot: &snapshot(workers.iter().cloned()),
            claims: &BTreeMap::new(),
            kept_tokens: &HashMap::new(),
            is_open: &|_| false,
            shunned: &Shunned::default(),
        };
        place(sight, &model("toy", 1), needs(format), Rules::default())
    };
    let alone = [prefill("p1", 1, 0), old.clone()];
    assert!(place(&alone, RowFormat::F16).is_ok());
    let refused = place(&alone, RowFormat::Int4).unwrap_err();
    assert!(!refused.may_pass());
    assert_eq!(
        refused.to_string(),
        "no decode worker of model \"toy\" has row format int4; known are f16, int8"
    );
    let newer = [prefill("p1", 1, 0), old, decode("d2", 1, 900)];
    assert_eq!(place(&newer, RowFormat::Int4).unwrap().decode, id("d2"));
}

#[test]
fn the_worker_that_has_the_prompt_takes_it_and_has_less_to_compute() {
    let workers = [prefill("p1", 1, 0), prefill("p2", 1, 0), decode("d", 1, 0)];
    let p2 = id("p2");
    let placed = |policy, is_open: &dyn Fn(&WorkerId) -> bool| {
        let sight = Sight {
            snapshot: &snapshot(workers.iter().cloned()),
            claims: &BTreeMap::new(),
            kept_tokens: &HashMap::from([(&p2, 96)]),
            is_open,
            shunned: &Shunned::default(),
        };
        let rules = Rules {
            prefill: policy,
            ..Rules::default()
        };
        let placed = place(sight, &model("toy", 1), needs(RowFormat::F16), rules).unwrap();
        (placed.prefill.to_string(), placed.missing_tokens)
    };
    let closed = |_: &WorkerId| false;
    let aware = PolicyName::PrefixAware;
    assert_eq!(placed(aware, &closed), ("p2".into(), 4));
    assert_eq!(placed(PolicyName::LeastLoaded, &closed), ("p1".into(), 100));
    // A worker whose calls broke is left alone, unless all are such.
    assert_eq!(placed(aware, &|id| *id == p2), ("p1".into(), 100));
    assert_eq!(placed(aware, &|_| true), ("p2".into(), 4));
}

#[test]
fn a_short_prompt_stays_on_one_host_and_a_long_one_goes_where_there_is_most_room() {
    let on = |host: &str, mut worker: Worker| {
        worker.address = format!("{host}:{}", worker.id);
        worker
    };
    let full = |mut worker: Worker| {
        if let snapshot::Load::Prefill { queue, .. } = &mut worker.load {
            *queue = 4;
        }
        worker
    };
    let workers = [
        on("a", prefill("p1", 1, 0)),
        on("b", prefill("p2", 1, 50)),
        on("c", full(prefill("p3", 1, 0))),
        on("b", decode("d1", 1, 500)),
        on("c", decode("d2", 1, 0)),
    ];
    let placed = |together_tokens_max, broken: &[&str]| {
        let shunned = Shunned {
            full: BTreeSet::new(),
            broken: broken.iter().map(|name| (id(name), 1)).collect(),
            pairs: BTreeSet::new(),
        };
        let sight = Sight {
            snapshot: &snapshot(workers.iter().cloned()),
            claims: &BTreeMap::new(),
            kept_tokens: &HashMap::new(),
            is_open: &|_| false,
            shunned: &shunned,
        };
        let rules = Rules {
            together_tokens_max,
            ..Rules::default()
        };
        let placed = place(sight, &model("toy", 1), needs(RowFormat::F16), rules).unwrap();
        format!("{} {}", placed.prefill, placed.decode)
    };
    // It has 100 tokens. c has no room for prompts.
    assert_eq!(placed(100, &[]), "p2 d1");
    assert_eq!(placed(99, &[]), "p1 d2");
    assert_eq!(placed(100, &["p2"]), "p1 d2");
    assert_eq!(placed(100, &["d1"]), "p1 d2");
}
