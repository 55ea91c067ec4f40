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
