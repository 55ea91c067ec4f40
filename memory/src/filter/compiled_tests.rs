use proptest::prelude::*;
use serde_json::json;

use crate::filter::{Filter, Outline};
use crate::{Kind, Provenance, Record, RecordId, Scope, Timestamp, content_hash};

fn record() -> Record {
    let scope = Scope::of("acme", "coding").unwrap().project("engram").unwrap();
    let metadata = json!({
        "team": "core", "stars": 5, "ratio": 0.5, "tags": ["fast", "safe", 3], "draft": false, "gone": null,
        "owner": {"name": "ada", "level": 2}
    });
    let provenance = Provenance {
        path: Some("src/index/graph.rs".into()),
        symbol: Some("Graph::search".into()),
        language: Some("rust".into()),
        ..Provenance::default()
    };
    Record {
        id: RecordId::of(&scope, Kind::Code, "fn a() {}", 0),
        scope,
        kind: Kind::Code,
        content: "fn a() {}".into(),
        metadata: metadata.as_object().unwrap().clone(),
        provenance,
        created: Timestamp(1_000),
        updated: Timestamp(2_000),
        expires: None,
        content_hash: content_hash("fn a() {}"),
        version: 3,
        seen: 1,
        pinned: true,
        feedback: Default::default(),
    }
}

fn outline(record: &Record) -> Outline<'_> {
    Outline {
        kind: record.kind,
        project: record.scope.project.as_ref().map(|name| name.as_str()),
        session: record.scope.session.as_ref().map(|name| name.as_str()),
        trust: record.provenance.trust,
        created: record.created,
        updated: record.updated,
        version: record.version,
        pinned: record.pinned,
    }
}

fn parse(filter: serde_json::Value) -> Filter {
    serde_json::from_value(filter).unwrap()
}

#[test]
fn conditions_on_a_record() {
    let record = record();
    let check = |filter: serde_json::Value, expected: bool| {
        let parsed = parse(filter.clone());
        parsed.validate().unwrap();
        assert_eq!(parsed.matches(&record), expected, "{filter}");
        let decided = parsed.compile().unwrap().decides(&outline(&record));
        assert!(decided.is_none_or(|decided| decided == expected), "{filter}: the outline says {decided:?}");
    };
    let eq = |field: &str, value: serde_json::Value| json!({"eq": {"field": field, "value": value}});
    let ne = |field: &str, value: serde_json::Value| json!({"ne": {"field": field, "value": value}});
    let glob = |field: &str, pattern: &str| json!({"glob": {"field": field, "pattern": pattern}});

    check(eq("kind", json!("code")), true);
    check(eq("kind", json!("document")), false);
    check(eq("project", json!("engram")), true);
    check(eq("session", json!("s")), false);
    check(ne("session", json!("s")), true);
    check(eq("trust", json!("user")), true);
    check(eq("pinned", json!(true)), true);
    check(eq("version", json!(3.0)), true);
    check(eq("version", json!("3")), false);
    check(eq("metadata.stars", json!(5.0)), true);
    check(eq("metadata.tags", json!("safe")), true);
    check(eq("metadata.tags", json!(3.0)), true);
    check(eq("metadata.tags", json!(["fast", "safe", 3])), true);
    check(eq("metadata.tags", json!(["fast"])), false);
    check(ne("metadata.tags", json!("safe")), false);
    check(eq("metadata.owner.name", json!("ada")), true);
    check(eq("metadata.owner", json!({"level": 2.0, "name": "ada"})), true);
    check(eq("metadata.team.name", json!("core")), false);
    check(json!({"in": {"field": "language", "values": ["go", "rust"]}}), true);
    check(json!({"in": {"field": "language", "values": []}}), false);
    check(json!({"range": {"field": "created", "gte": 1000, "lt": 1001}}), true);
    check(json!({"range": {"field": "created", "gt": 1000}}), false);
    check(json!({"range": {"field": "metadata.ratio", "gt": 0, "lte": 0.5}}), true);
    check(json!({"range": {"field": "metadata.team", "gte": "a", "lt": "d"}}), true);
    check(json!({"range": {"field": "metadata.team", "gte": 1}}), false);
    check(json!({"not": {"range": {"field": "metadata.absent", "gte": 1}}}), true);
    check(json!({"exists": {"field": "metadata.draft"}}), true);
    check(json!({"exists": {"field": "metadata.gone"}}), false);
    check(json!({"exists": {"field": "commit"}}), false);
    check(glob("path", "src/**/*.rs"), true);
    check(glob("path", "src/*.rs"), false);
    check(glob("path", "src/{index,store}/*.rs"), true);
    check(glob("path", "src/index/[a-f]*.rs"), false);
    check(glob("path", "SRC/**"), false);
    check(glob("metadata.stars", "*"), false);
    check(json!({"and": []}), true);
    check(json!({"or": []}), false);
    check(
        json!({"and": [eq("kind", json!("code")), {"or": [eq("pinned", json!(false)), glob("symbol", "Graph*")]}]}),
        true,
    );
}

#[test]
fn what_is_refused_and_where() {
    let check = |filter: serde_json::Value, expected: &str| {
        let error = parse(filter).validate().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(json!({"eq": {"field": "colour", "value": 1}}), "`filter.eq.field`: no field `colour`, known: kind");
    check(json!({"exists": {"field": "metadata."}}), "`filter.exists.field`: no field `metadata.`");
    check(json!({"exists": {"field": "metadata"}}), "`filter.exists.field`: no field `metadata`");
    check(json!({"and": [{"not": {"range": {"field": "created"}}}]}), "`filter.and[0].not.range`: has no bound");
    check(json!({"range": {"field": "created", "gt": 1, "lt": "b"}}), "`filter.range`: bounds are all numbers");
    check(json!({"range": {"field": "created", "gt": true}}), "`filter.range`: bounds are all numbers");
    check(json!({"ne": {"field": "path", "value": null}}), "`filter.ne`: null equals nothing");
    check(json!({"glob": {"field": "path", "pattern": "src/[a"}}), "`filter.glob.pattern`: error parsing glob");
    check(json!({"in": {"field": "path", "values": vec![1; 1025]}}), "`in` in values is 1025, the limit is 1024");
    check(json!({"or": vec![json!({"and": []}); 256]}), "filter in conditions is 257, the limit is 256");
    let deep = (0..16).fold(json!({"and": []}), |inner, _| json!({"not": inner}));
    check(deep, "filter in levels is 17, the limit is 16");
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let field = prop::sample::select(vec!["kind", "path", "created", "metadata.tags", "metadata.stars", "session"]);
    let value = prop_oneof![Just(json!("code")), Just(json!(5)), Just(json!("safe")), Just(json!(1000))];
    let leaf = (field, value, 0..4).prop_map(|(field, value, shape)| {
        parse(match shape {
            0 => json!({"eq": {"field": field, "value": value}}),
            1 => json!({"ne": {"field": field, "value": value}}),
            2 => json!({"exists": {"field": field}}),
            _ => json!({"range": {"field": field, "gte": value}}),
        })
    });
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::Or),
            inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

proptest! {
    #[test]
    fn not_is_the_opposite_and_the_wire_form_keeps_the_meaning(filter in any_filter()) {
        let record = record();
        let direct = filter.matches(&record);
        prop_assert_eq!(Filter::Not(Box::new(filter.clone())).matches(&record), !direct);
        let wire = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(serde_json::from_str::<Filter>(&wire).unwrap().matches(&record), direct);
    }
}

/// What is decided without the record, and what is not.
#[test]
fn an_outline_decides_what_it_tells() {
    let record = record();
    let check = |filter: serde_json::Value, expected: Option<bool>| {
        assert_eq!(parse(filter.clone()).compile().unwrap().decides(&outline(&record)), expected, "{filter}");
    };
    let session = json!({"eq": {"field": "session", "value": "s"}});
    let recent = json!({"range": {"field": "updated", "gte": 2000}});
    let path = json!({"glob": {"field": "path", "pattern": "**/*.rs"}});
    check(session.clone(), Some(false));
    check(recent.clone(), Some(true));
    check(path.clone(), None);
    check(json!({"not": path}), None);
    check(json!({"and": [path, session]}), Some(false));
    check(json!({"and": [path, recent]}), None);
    check(json!({"or": [path, recent]}), Some(true));
    check(json!({"or": [path, session]}), None);
    check(json!({"and": []}), Some(true));
    check(json!({"not": {"or": [session, {"eq": {"field": "kind", "value": "document"}}]}}), Some(true));
    check(json!({"exists": {"field": "metadata.team"}}), None);
}
