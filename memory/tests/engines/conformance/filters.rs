//! A filter means in the engine what [`Filter::matches`] says it means.

use engram_memory::backend::{Backend, Selection, Stored};
use engram_memory::filter::Filter;
use engram_memory::{Kind, Provenance, Record, RecordId, Scope, Timestamp, Trust};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::{record, scope, stored, vector};

fn parse(filter: Value) -> Filter {
    serde_json::from_value(filter).unwrap()
}

/// By every way in that takes a selection: the records that the definition says, and no others.
fn check(backend: &dyn Backend, scope: &Scope, records: &[Record], filter: &Filter) -> Result<(), TestCaseError> {
    let mut expected: Vec<RecordId> =
        records.iter().filter(|record| filter.matches(record)).map(|record| record.id).collect();
    expected.sort();
    let selection = Selection { scope: scope.clone(), kinds: Vec::new(), filter: Some(filter.clone()) };
    let wire = serde_json::to_string(filter).unwrap();
    let scanned = backend.scan(&selection, None, None, 999).unwrap();
    let scanned: Vec<RecordId> = scanned.iter().map(|stored| stored.record.id).collect();
    prop_assert_eq!(&scanned, &expected, "scan with {}", &wire);
    let found = [
        backend.nearest(&selection, &vector(0, 0.0), 999).unwrap(),
        backend.lexical(&selection, "common", 999).unwrap(),
        backend.literal(&selection, "\"common\"", 999).unwrap(),
    ];
    for found in found {
        let mut ids: Vec<RecordId> = found.iter().map(|candidate| candidate.id).collect();
        ids.sort();
        prop_assert_eq!(&ids, &expected, "search with {}", &wire);
    }
    Ok(())
}

pub fn every_operator(backend: &dyn Backend) {
    let scope = scope();
    let metadata = [
        json!({"stars": 5, "tags": ["fast", 3], "owner": {"name": "ada"}, "draft": false}),
        json!({"stars": 5.0, "tags": "fast", "owner": null, "draft": true}),
        json!({"stars": "5", "tags": [["fast"]], "owner": {"name": ["ada"]}}),
        json!({"stars": 9007199254740993_u64, "a.b": 1, "a": {"b": 2}}),
        json!({"stars": -0.5, "0": "zero", "list": [{"0": 1}]}),
        json!({}),
    ];
    let paths = ["src/a.rs", "src/index/graph.rs", "docs/é.md", "src/[x].rs", "a\nb", ""];
    let records: Vec<Record> = (0..6)
        .map(|i| {
            let mut record = record(&scope, Kind::ALL[i % 5], &format!("common {i}"));
            record.metadata = metadata[i].as_object().unwrap().clone();
            record.provenance = Provenance { path: Some(paths[i].into()), ..Provenance::default() };
            record.created = Timestamp(1000 * i as u64);
            record.pinned = i == 2;
            record
        })
        .collect();
    backend
        .put(records.iter().map(|record| Stored { record: record.clone(), vector: vector(0, 0.0) }).collect())
        .unwrap();
    let filters = [
        json!({"eq": {"field": "kind", "value": "code"}}),
        json!({"eq": {"field": "metadata.stars", "value": 5}}),
        json!({"eq": {"field": "metadata.stars", "value": 9007199254740993_u64}}),
        json!({"eq": {"field": "metadata.tags", "value": "fast"}}),
        json!({"eq": {"field": "metadata.tags", "value": ["fast"]}}),
        json!({"eq": {"field": "metadata.tags.0", "value": "fast"}}),
        json!({"eq": {"field": "metadata.0", "value": "zero"}}),
        json!({"eq": {"field": "metadata.a.b", "value": 2}}),
        json!({"eq": {"field": "metadata.owner", "value": {"name": "ada"}}}),
        json!({"ne": {"field": "metadata.owner.name", "value": "ada"}}),
        json!({"ne": {"field": "session", "value": "s"}}),
        json!({"in": {"field": "metadata.draft", "values": [true, "x", 1]}}),
        json!({"in": {"field": "metadata.draft", "values": []}}),
        json!({"range": {"field": "metadata.stars", "gt": -1, "lte": 5}}),
        json!({"range": {"field": "metadata.stars", "gt": 9007199254740992_u64}}),
        json!({"range": {"field": "metadata.stars", "gte": "4", "lt": "6"}}),
        json!({"not": {"range": {"field": "metadata.stars", "gte": 0.5}}}),
        json!({"range": {"field": "created", "gte": 2000, "lt": 4000}}),
        json!({"range": {"field": "path", "gte": "docs/", "lt": "src/i"}}),
        json!({"exists": {"field": "metadata.owner"}}),
        json!({"not": {"exists": {"field": "metadata.draft"}}}),
        json!({"eq": {"field": "pinned", "value": true}}),
        json!({"glob": {"field": "path", "pattern": "src/*.rs"}}),
        json!({"glob": {"field": "path", "pattern": "**/*.{rs,md}"}}),
        json!({"glob": {"field": "path", "pattern": "docs/?.md"}}),
        json!({"glob": {"field": "path", "pattern": "docs/??.md"}}),
        json!({"glob": {"field": "path", "pattern": "src/\\[x\\].rs"}}),
        json!({"glob": {"field": "path", "pattern": "a*"}}),
        json!({"glob": {"field": "metadata.tags", "pattern": "f[!b]st"}}),
        json!({"and": [{"exists": {"field": "metadata.stars"}}, {"not": {"eq": {"field": "kind", "value": "code"}}}]}),
        json!({"or": [{"eq": {"field": "version", "value": 2}}, {"eq": {"field": "trust", "value": "user"}}]}),
        json!({"and": []}),
        json!({"or": []}),
    ];
    for filter in filters {
        if let Err(error) = check(backend, &scope, &records, &parse(filter)) {
            panic!("{error}");
        }
    }
    let unknown = Selection { filter: Some(parse(json!({"exists": {"field": "colour"}}))), ..Selection::all(scope) };
    assert!(backend.scan(&unknown, None, None, 9).is_err());
}

fn text() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b", "ab", "a/b", "src/a.rs", "é", "a\0", "a\u{1}", "A", "\u{10ffff}", "[a]", "5", "a.b"])
        .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (-3..4_i64).prop_map(|n| json!(n)),
        select(vec![0.5, -0.0, 1.0, 2.5e3, 1e-7]).prop_map(|x| json!(x)),
        select(vec![u64::MAX, i64::MAX as u64]).prop_map(|n| json!(n)),
    ];
    let leaf = prop_oneof![text().prop_map(Value::from), number, any::<bool>().prop_map(Value::from)];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(select(vec!["a", "b", "0"]), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())),
        ]
    })
}

fn metadata() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![4 => value(), 1 => Just(Value::Null)];
    prop::collection::hash_map(select(vec!["a", "b", "c", "0"]), value, 0..4)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Metadata, language, path, kind, trust, time and pin.
type Parts = (Map<String, Value>, Option<String>, Option<String>, Kind, Trust, u64, bool);

fn any_record() -> impl Strategy<Value = Parts> {
    let trust = select(vec![Trust::User, Trust::Tool, Trust::Model, Trust::Imported]);
    let (path, symbol) = (prop::option::of(text()), prop::option::of(text()));
    (metadata(), path, symbol, select(Kind::ALL.to_vec()), trust, 0..5_u64, any::<bool>())
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let field = select(vec![
        "kind",
        "project",
        "path",
        "symbol",
        "trust",
        "created",
        "version",
        "pinned",
        "metadata.a",
        "metadata.b",
        "metadata.a.b",
        "metadata.a.0",
        "metadata.0",
    ]);
    let bound = || prop_oneof![text().prop_map(Value::from), (-3..4_i64).prop_map(|n| json!(n)), Just(json!(0.5))];
    let glob =
        select(vec!["*", "**", "a*", "?", "??", "**/*.rs", "{a,b}*", "[a-b]", "[!a]", "\\[a\\]", "a/**", "é", "*\0"]);
    let shape = (field, value(), bound(), glob, 0..8);
    let leaf = shape.prop_map(|(field, value, bound, glob, shape)| {
        parse(match shape {
            0 => json!({"eq": {"field": field, "value": value}}),
            1 => json!({"ne": {"field": field, "value": value}}),
            2 => json!({"in": {"field": field, "values": [value, "a", 1]}}),
            3 => json!({"exists": {"field": field}}),
            4 => json!({"range": {"field": field, "gt": bound}}),
            5 => json!({"range": {"field": field, "lte": bound}}),
            6 => json!({"range": {"field": field, "gte": bound, "lt": bound}}),
            _ => json!({"glob": {"field": field, "pattern": glob}}),
        })
    });
    leaf.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

pub fn agrees_with_matches(backend: &dyn Backend) {
    let case = (prop::collection::vec(any_record(), 1..12), prop::collection::vec(any_filter(), 12));
    let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let outcome = TestRunner::new(config).run(&case, |(drawn, filters)| {
        let scope = scope().project("a").unwrap();
        let make = |(i, (metadata, path, symbol, kind, trust, created, pinned))| {
            let mut record = stored(&scope, &format!("common {i}")).record;
            record.kind = kind;
            record.id = RecordId::of(&scope, kind, &record.content, 0);
            record.metadata = metadata;
            record.provenance = Provenance { path, symbol, trust, ..Provenance::default() };
            (record.created, record.pinned) = (Timestamp(created), pinned);
            record
        };
        let records: Vec<Record> = drawn.into_iter().enumerate().map(make).collect();
        let all = records.iter().map(|record| Stored { record: record.clone(), vector: vector(0, 0.0) });
        backend.put(all.collect()).unwrap();
        filters.iter().try_for_each(|filter| check(backend, &scope, &records, filter))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
