//! Answers that are not computed again, and never given when they should not be.

use std::time::Duration;

use engram_memory::backend::Forget;
use engram_memory::{Kind, MemoryConfig, Name, Query, Scope};

use crate::{Fixture, new, query, scope};

#[test]
fn an_answer_is_cached_until_something_is_written() {
    let fixture = Fixture::new(MemoryConfig::default());
    let id = fixture.remember(new(Kind::Code, "alpha"));
    let asked = query("alpha");
    let (first, again) = (fixture.search(&asked), fixture.search(&asked));
    assert!(!first.cached && again.cached && again.embed == Duration::ZERO);
    assert_eq!(first.hits, again.hits);
    let count = |text: &str| text.len();
    let none = Query { budget_tokens: Some(4), ..asked.clone() };
    let budgeted = fixture.memory.search(&none, Some(&count)).unwrap();
    assert!(budgeted.cached && budgeted.hits.is_empty());
    for changed in [
        Query { k: 9, ..asked.clone() },
        Query { kinds: vec![Kind::Code], ..asked.clone() },
        Query { min_score: Some(0.1), ..asked.clone() },
        Query { scope: scope().project("p").unwrap(), ..asked.clone() },
    ] {
        assert!(!fixture.search(&changed).cached, "{changed:?}");
    }
    let embedded = fixture.embedded();
    fixture.memory.feedback(&scope().partition, id, true).unwrap();
    let after = fixture.search(&asked);
    assert!(!after.cached && after.hits[0].record.feedback.useful == 1);
    assert_eq!(fixture.embedded(), embedded, "the query's vector was kept");
    fixture.remember(new(Kind::Code, "alpha too"));
    assert_eq!(fixture.search(&asked).hits.len(), 2);
    let stats = fixture.memory.stats(None).unwrap();
    assert_eq!((stats.recall_cache.hits, stats.recall_cache.misses), (2, 7));
    assert_eq!((stats.embedding_cache.hits, stats.embedding_cache.misses), (6, 1));
}

#[test]
fn no_answer_and_no_vector_is_shared_between_tenants() {
    let fixture = Fixture::new(MemoryConfig::default());
    fixture.search(&query("alpha"));
    let embedded = fixture.embedded();
    let other = Query { scope: Scope::of("other", "coding").unwrap(), ..query("alpha") };
    assert!(!fixture.search(&other).cached);
    let domain = Query { scope: Scope::of("acme", "business").unwrap(), ..query("alpha") };
    assert!(!fixture.search(&domain).cached);
    assert_eq!(fixture.embedded(), embedded + 2);
}

#[test]
fn a_cache_that_is_off_or_whose_time_is_over_gives_nothing() {
    let check = |change: fn(&mut MemoryConfig)| {
        let mut config = MemoryConfig::default();
        change(&mut config);
        let fixture = Fixture::new(config);
        fixture.remember(new(Kind::Conversation, "alpha"));
        fixture.search(&query("alpha"));
        assert!(!fixture.search(&query("alpha")).cached);
    };
    check(|config| config.caches.recall_bytes = 0);
    check(|config| config.caches.conversation = Duration::ZERO);
}

#[test]
fn a_forgotten_tenant_leaves_the_caches() {
    let fixture = Fixture::new(MemoryConfig::default());
    fixture.remember(new(Kind::Code, "alpha"));
    fixture.search(&query("alpha"));
    let embedded = fixture.embedded();
    fixture.memory.forget(&Forget::Tenant(Name::new("tenant", "acme").unwrap())).unwrap();
    let after = fixture.search(&query("alpha"));
    assert!(!after.cached && after.hits.is_empty());
    assert_eq!(fixture.embedded(), embedded + 1, "the vector of its query is gone too");
}
