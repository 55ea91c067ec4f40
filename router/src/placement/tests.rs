use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::ring::mix;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|node| format!("node-{node}")).collect()
}

fn placement(count: usize, settings: PlacementSettings) -> (Arc<Placement>, Instant) {
    let (placement, now) = (Placement::new(settings), Instant::now());
    placement.set_nodes(names(count).iter().map(String::as_str), now);
    (placement, now)
}

fn key(head: u64, conversation: u64) -> Option<PrefixKey> {
    Some(PrefixKey { head: mix(head, 11), conversation: mix(conversation, 12), going_on: false })
}

fn node(placement: &Arc<Placement>, key: Option<PrefixKey>, draw: u64, now: Instant) -> String {
    placement.choose(key, |_| true, draw, now).expect("a node").node().to_owned()
}

#[test]
fn a_conversation_stays_and_its_load_is_counted() {
    let (placement, now) = placement(8, PlacementSettings::default());
    let home = node(&placement, key(1, 1), 0, now);
    let held: Vec<Placed> = (0..4).filter_map(|_| placement.choose(key(1, 1), |_| true, 0, now)).collect();
    assert!(held.iter().all(|placed| placed.node() == home), "four at once are no burden");
    let next = placement.choose(key(1, 1), |_| true, 0, now).expect("a node");
    assert_ne!(next.node(), home, "a fifth is over the bound");
    let loads = |state: Vec<NodeState>| state.iter().map(|node| node.in_flight).sum::<usize>();
    assert_eq!(loads(placement.nodes(now)), 5);
    let going_on = key(1, 1).map(|key| PrefixKey { going_on: true, ..key });
    drop(next);
    let mut settings = PlacementSettings::default();
    settings.bound.comfortable = 1;
    let (strict, now) = self::placement(8, settings);
    // 16 to 20 requests at once: a node may have 3, and from the fifth 4, for new conversations, and 5 or 6 for one that goes on.
    let _others: Vec<Placed> =
        (0..16).filter_map(|turn| strict.choose(None, |name| *name == *format!("node-{}", turn % 8), 0, now)).collect();
    let at_home = |key| {
        let held: Vec<Placed> = (0..5).filter_map(|_| strict.choose(key, |_| true, 0, now)).collect();
        held.iter().filter(|placed| placed.node() == home).count()
    };
    assert_eq!((at_home(key(1, 1)), at_home(going_on)), (2, 4));
    drop(held);
    assert_eq!(loads(placement.nodes(now)), 0);
    assert_eq!(node(&placement, key(1, 1), 0, now), home);
}

#[test]
fn what_a_node_reports_counts_as_its_load() {
    let (placement, now) = placement(4, PlacementSettings::default());
    let home = node(&placement, key(1, 1), 0, now);
    placement.reported(&home, 40);
    assert_ne!(node(&placement, key(1, 1), 0, now), home);
    placement.reported(&home, 0);
    assert_eq!(node(&placement, key(1, 1), 0, now), home);
}

#[test]
fn only_who_may_is_asked() {
    let (placement, now) = placement(4, PlacementSettings::default());
    for draw in 0..50 {
        let placed = placement.choose(key(draw, draw), |name| name == "node-2", mix(draw, 1), now);
        assert_eq!(placed.expect("one may").node(), "node-2");
        let placed = placement.choose(None, |name| name == "node-2", mix(draw, 1), now);
        assert_eq!(placed.expect("one may").node(), "node-2");
    }
    assert!(placement.choose(key(1, 1), |_| false, 0, now).is_none());
    let nobody = Placement::new(PlacementSettings::default());
    assert!(nobody.choose(None, |_| true, 0, now).is_none());
}

#[test]
fn a_hot_head_is_spread_and_a_cold_one_is_not() {
    let (placement, now) = placement(16, PlacementSettings::default());
    let mut held = Vec::new();
    for step in 0..4000u64 {
        // Two of five requests have one head; about 160 run at once.
        let head = if step % 5 < 2 { 0 } else { 1 + step % 997 };
        held.push(placement.choose(key(head, step), |_| true, step, now).expect("a node"));
        if held.len() > 160 {
            held.remove(mix(step, 2) as usize % 160);
        }
    }
    drop(held);
    let met =
        |head: u64| -> HashSet<String> { (0..200).map(|talk| node(&placement, key(head, talk), 0, now)).collect() };
    let hot = met(0).len();
    assert!((11..=14).contains(&hot), "40 % of the load, with as much to spare, on {hot} of 16 nodes");
    assert_eq!(met(500_000).len(), 1);
}

#[test]
fn an_ejected_node_gets_nothing_and_returns_by_slow_start() {
    let mut settings = PlacementSettings::default();
    settings.outlier.slow_start = 100 * SECOND;
    let (placement, now) = placement(8, settings);
    let bad = node(&placement, key(1, 1), 0, now);
    for _ in 0..5 {
        let placed = placement.choose(None, |name| name == bad, 0, now).expect("a node");
        placed.failed(now);
    }
    let standing = |now| placement.nodes(now).into_iter().find(|node| *node.name == *bad).expect("there").standing;
    assert_eq!(standing(now), Standing::Ejected(10 * SECOND));
    for step in 0..2000 {
        let key = if step % 2 == 0 { key(step, step) } else { None };
        assert_ne!(node(&placement, key, mix(step, 3), now + 9 * SECOND), bad);
    }
    // Back, with a tenth of the others' share: of 320 at once it holds at most about a tenth of 40.
    let back = now + 10 * SECOND;
    let held: Vec<Placed> = (0..320).filter_map(|step| placement.choose(key(step, step), |_| true, 0, back)).collect();
    let holds = held.iter().filter(|placed| placed.node() == bad).count();
    assert!((1..=6).contains(&holds), "{holds} of 320");
}

#[test]
fn no_more_than_a_third_is_ejected_and_all_gone_is_nobody_gone() {
    let (placement, now) = placement(9, PlacementSettings::default());
    for name in names(9) {
        let placed: Vec<Placed> = (0..5).filter_map(|_| placement.choose(None, |node| node == name, 0, now)).collect();
        placed.iter().for_each(|placed| placed.failed(now));
    }
    let ejected = placement.nodes(now).iter().filter(|node| node.standing.weight() == 0.0).count();
    assert_eq!(ejected, 3);
    for name in names(9) {
        placement.checked(&name, false, now);
    }
    let met: HashSet<String> = (0..400).map(|step| node(&placement, None, mix(step, 4), now)).collect();
    assert_eq!(met.len(), 9, "all are down, so all are asked");
    placement.checked("node-5", true, now);
    let met: HashSet<String> = (0..400).map(|step| node(&placement, None, mix(step, 4), now)).collect();
    assert_eq!(met, HashSet::from(["node-5".to_owned()]));
}

#[test]
fn a_slow_node_is_told_by_its_peers() {
    let (placement, now) = placement(6, PlacementSettings::default());
    for round in 0..60u64 {
        for name in names(6) {
            let Some(placed) = placement.choose(None, |node| node == name, 0, now) else { continue };
            let jitter = Duration::from_millis(50 + mix(round, 8) % 100);
            placed.answered(if name == "node-3" { jitter * 8 } else { jitter }, now);
        }
    }
    let out: Vec<String> = placement
        .nodes(now)
        .into_iter()
        .filter(|node| node.standing.weight() == 0.0)
        .map(|node| node.name.to_string())
        .collect();
    assert_eq!(out, ["node-3"]);
}

#[test]
fn a_node_of_the_same_name_is_another_node() {
    let (placement, now) = placement(3, PlacementSettings::default());
    let old = placement.choose(None, |name| name == "node-0", 0, now).expect("a node");
    placement.set_nodes(["node-1", "node-2"], now);
    placement.set_nodes(["node-0", "node-1", "node-2"], now);
    (0..9).for_each(|_| old.failed(now));
    drop(old);
    let state = placement.nodes(now).into_iter().find(|node| &*node.name == "node-0").expect("there");
    assert_eq!((state.in_flight, state.standing), (0, Standing::Warming(0.1)));
}

#[test]
fn two_threads_never_take_one_place() {
    let settings = PlacementSettings { bound: Bound { factor: 1.0, comfortable: 0 }, ..PlacementSettings::default() };
    let (placement, now) = placement(4, settings);
    let held: Vec<Placed> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u64)
            .map(|thread| {
                let placement = &placement;
                scope.spawn(move || -> Vec<Placed> {
                    (0..100)
                        .filter_map(|step| placement.choose(key(1, 1), |_| true, thread * 100 + step, now))
                        .collect()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(held.len(), 800);
    assert!(placement.nodes(now).iter().all(|node| node.in_flight == 200), "{:?}", placement.nodes(now));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A node that comes or goes moves about one key in so many as there are nodes, and only to or from itself.
    #[test]
    fn few_conversations_move(count in 2usize..32, last: bool) {
        let (placement, now) = placement(count, PlacementSettings::default());
        let mut homes: HashMap<u64, String> = HashMap::new();
        for talk in 0..1500 {
            homes.insert(talk, node(&placement, key(talk, talk), 0, now));
        }
        let changed = format!("node-{}", if last { count - 1 } else { count });
        let kept = names(count + 1).into_iter().take(if last { count - 1 } else { count + 1 });
        let kept: Vec<String> = kept.collect();
        placement.set_nodes(kept.iter().map(String::as_str), now);
        // A new node is warm by then.
        let later = now + 3600 * SECOND;
        let mut moved = 0;
        for talk in 0..1500 {
            let home = node(&placement, key(talk, talk), 0, later);
            if home != homes[&talk] {
                prop_assert!(home == changed || homes[&talk] == changed);
                moved += 1;
            }
        }
        prop_assert!(moved as f64 <= 2.0 * 1500.0 / count as f64, "{moved} of 1500, {count} nodes");
    }
}

/// The simulation that `engram bench placement` reports, with fewer nodes: more is found in caches, and the slowest wait less.
#[test]
fn simulated_it_is_ahead_of_round_robin_and_least_loaded() {
    use engram_benches::placement::{PlacementBench, Row, run};
    let bench = PlacementBench { nodes: 16, rate: 40.0, seconds: 100.0, instructions: 300, seed: 5 };
    let ours = || Box::new(simulated::Simulated::new(PlacementSettings::default())) as Box<_>;
    let report = run(&bench, ours, |_| ());
    assert_eq!(report, run(&bench, ours, |_| ()), "a seed is a run");
    let days: HashSet<&str> = report.rows.iter().map(|row| row.scenario).collect();
    assert_eq!((days.len(), report.rows.len()), (5, 20));
    for day in days {
        let row = |policy| -> &Row { report.row(day, policy).expect("a row") };
        let ours = row("engram");
        for other in ["round robin", "least loaded"].map(row) {
            assert!(ours.hit_rate > other.hit_rate + 0.3, "{ours:?} and {other:?}");
            // The slowest of a small fleet are the longest prompts that nobody has cached, under every policy.
            assert!(ours.first_token[1] < other.first_token[1], "{ours:?} and {other:?}");
            assert!(ours.first_token[0] < 0.5 * other.first_token[0], "{ours:?} and {other:?}");
        }
        assert!(ours.hit_rate > row("consistent hash").hit_rate, "{ours:?} and {:?}", row("consistent hash"));
    }
}
