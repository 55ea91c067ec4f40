//! No record ever crosses: not a tenant, not a domain, not a project that was asked for.

use engram_memory::filter::Filter;
use engram_memory::{Kind, MemoryConfig, NewRecord, Query, Scope, Signals};
use proptest::prelude::*;
use serde_json::json;

use crate::{Fixture, new, query};

fn any_scope() -> impl Strategy<Value = Scope> {
    let name = || prop::option::of(prop::sample::select(vec!["p", "q"]));
    let tenant = prop::sample::select(vec!["acme", "bolt", "acme/coding"]);
    let domain = prop::sample::select(vec!["coding", "business"]);
    (tenant, domain, name(), name()).prop_map(|(tenant, domain, project, session)| {
        let scope = Scope::of(tenant, domain).unwrap();
        let scope = project.map_or(scope.clone(), |project| scope.project(project).unwrap());
        session.map_or(scope.clone(), |session| scope.session(session).unwrap())
    })
}

fn any_text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["alpha", "beta", "load_config", "gamma"]);
    prop::collection::vec(word, 1..4).prop_map(|words| words.join(" "))
}

fn any_record() -> impl Strategy<Value = NewRecord> {
    (any_scope(), prop::sample::select(Kind::ALL.to_vec()), any_text(), 0..4).prop_map(|(scope, kind, text, team)| {
        let metadata = json!({"team": team}).as_object().unwrap().clone();
        NewRecord { scope, metadata, ..new(kind, &text) }
    })
}

fn any_filter() -> impl Strategy<Value = Option<Filter>> {
    let leaf = (0..4).prop_map(|team| json!({"eq": {"field": "metadata.team", "value": team}}));
    let filter = leaf.prop_flat_map(|leaf| {
        prop::sample::select(vec![
            leaf.clone(),
            json!({"not": leaf}),
            json!({"or": [leaf, {"exists": {"field": "kind"}}]}),
        ])
    });
    prop::option::of(filter.prop_map(|filter| serde_json::from_value(filter).unwrap()))
}

/// One thing that a tenant does.
#[derive(Debug, Clone)]
enum Act {
    Remember(NewRecord),
    Search(Query),
    ForgetAll(Scope),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => any_record().prop_map(Act::Remember),
        4 => (any_scope(), any_text(), any_filter()).prop_map(|(scope, text, filter)| {
            Act::Search(Query { scope, filter, ..query(&text) })
        }),
        1 => any_scope().prop_map(Act::ForgetAll),
    ]
}

impl Act {
    fn tenant(&self) -> &str {
        let scope = match self {
            Self::Remember(record) => &record.scope,
            Self::Search(query) => &query.scope,
            Self::ForgetAll(scope) => scope,
        };
        scope.partition.tenant.as_str()
    }
}

/// What somebody can learn of one act: what it answers, and the work it is, by which its time is told.
#[derive(Debug, PartialEq)]
struct Learnt {
    hits: Vec<(String, String)>,
    cached: bool,
    embedded: usize,
    cache_hits: [u64; 2],
    cache_misses: [u64; 2],
}

fn learn(fixture: &Fixture, act: &Act) -> Learnt {
    let counts = || {
        let stats = fixture.memory.stats(None).unwrap();
        let (embedding, recall) = (stats.embedding_cache, stats.recall_cache);
        ([embedding.hits, recall.hits], [embedding.misses, recall.misses])
    };
    let (embedded, before) = (fixture.embedded(), counts());
    let (mut hits, mut cached) = (Vec::new(), false);
    match act {
        Act::Remember(record) => hits.push((fixture.remember(record.clone()).to_string(), String::new())),
        Act::Search(query) => {
            let recall = fixture.search(query);
            cached = recall.cached;
            hits.extend(recall.hits.iter().map(|hit| (hit.record.id.to_string(), format!("{:.3}", hit.score))));
        }
        Act::ForgetAll(scope) => {
            let all = engram_memory::backend::Selection::all(scope.clone());
            let gone = fixture.memory.forget(&engram_memory::backend::Forget::Matching(all)).unwrap();
            hits.push((gone.to_string(), String::new()));
        }
    }
    let after = counts();
    let grown = |before: [u64; 2], after: [u64; 2]| [after[0] - before[0], after[1] - before[1]];
    Learnt {
        hits,
        cached,
        embedded: fixture.embedded() - embedded,
        cache_hits: grown(before.0, after.0),
        cache_misses: grown(before.1, after.1),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever others remember, search and forget: each of a tenant's own acts answers the same and is the same work as
    /// if he were alone. What another has just cached is a miss, and what he cached himself is a hit.
    #[test]
    fn nobody_learns_from_answer_or_work_what_another_does(acts in prop::collection::vec(any_act(), 1..60)) {
        let together = Fixture::new(MemoryConfig::default());
        let learnt: Vec<Learnt> = acts.iter().map(|act| learn(&together, act)).collect();
        for tenant in ["acme", "bolt", "acme/coding"] {
            let alone = Fixture::new(MemoryConfig::default());
            for (act, learnt) in acts.iter().zip(&learnt).filter(|(act, _)| act.tenant() == tenant) {
                prop_assert_eq!(&learn(&alone, act), learnt, "{:?}", act);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_search_sees_its_own_scope_and_all_of_it(
        records in prop::collection::vec(any_record(), 1..40),
        searches in prop::collection::vec((any_scope(), any_text(), any_filter(), any::<bool>()), 1..12),
    ) {
        let fixture = Fixture::new(MemoryConfig::default());
        for record in records {
            fixture.remember(record);
        }
        for (scope, text, filter, literal) in searches {
            let signals = Signals { literal, ..Signals::default() };
            let asked = Query { scope, filter, signals, k: 50, ..query(&text) };
            // Twice: the second answer comes from the cache.
            for cached in [false, true] {
                let recall = fixture.search(&asked);
                prop_assert!(recall.cached || !cached);
                for hit in &recall.hits {
                    prop_assert!(asked.scope.covers(&hit.record.scope));
                    prop_assert!(asked.filter.as_ref().is_none_or(|filter| filter.matches(&hit.record)));
                }
                let selection = engram_memory::backend::Selection {
                    scope: asked.scope.clone(), kinds: Vec::new(), filter: asked.filter.clone(),
                };
                let there = fixture.memory.backend().scan(&selection, None, None, 1000).unwrap();
                prop_assert_eq!(recall.hits.len(), there.len().min(50));
            }
        }
    }
}
