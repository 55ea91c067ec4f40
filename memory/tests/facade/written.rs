//! Records going in, changing, and going.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use engram_memory::backend::{Forget, Selection, Written};
use engram_memory::{Kind, Lifetime, MemoryConfig, MemoryError, NewRecord, Patch, RecordId, Redactor, Timestamp};
use serde_json::json;

use crate::{Fixture, new, query, scope};

#[test]
fn what_is_the_same_record() {
    let check = |kind: Kind, first: &str, second: &str, same: bool| {
        let fixture = Fixture::new(MemoryConfig::default());
        fixture.remember(new(kind, first));
        let again = fixture.memory.remember(vec![new(kind, second)]).unwrap();
        assert_eq!(matches!(again[0], Written::SeenAgain(_)), same, "{second}");
        assert_eq!(again[0].record().seen, if same { 2 } else { 1 });
        assert_eq!(fixture.memory.stats(None).unwrap().stored.vectors, if same { 1 } else { 2 });
    };
    check(Kind::Code, "fn a() {}", "fn a() {}", true);
    check(Kind::Code, "fn a() {}", "fn  a() {}", false);
    check(Kind::Knowledge, "We retry three times.", "We retry three\n times", true);
    check(Kind::Knowledge, "We retry three times.", "we retry three times.", false);
    check(Kind::Knowledge, "the timeout is 30 s", "the timeout is 60 s", false);
    check(Kind::Knowledge, "refuse when x < 5", "refuse when x > 5", false);
}

#[test]
fn a_pinned_or_changed_record_takes_no_near_copy() {
    let fixture = Fixture::new(MemoryConfig::default());
    fixture.remember(new(Kind::Knowledge, "we retry three times"));
    let pinned = NewRecord { pinned: true, ..new(Kind::Knowledge, "we retry three  times") };
    assert!(matches!(fixture.memory.remember(vec![pinned]).unwrap()[0], Written::Created(_)));
    let id = fixture.remember(new(Kind::Knowledge, "alpha beta"));
    let patch = Patch { content: Some("gamma delta".into()), ..Patch::default() };
    fixture.memory.update(&scope().partition, id, patch).unwrap();
    let near = fixture.memory.remember(vec![new(Kind::Knowledge, "gamma  delta")]).unwrap();
    assert!(matches!(near[0], Written::Created(_)));
    let first = fixture.memory.remember(vec![new(Kind::Knowledge, "alpha beta")]).unwrap();
    assert!(matches!(&first[0], Written::Created(record) if record.id != id));
}

#[test]
fn a_record_written_again_costs_the_encoder_nothing() {
    let fixture = Fixture::new(MemoryConfig::default());
    let records = || (0..150).map(|i| new(Kind::Code, &format!("fn f{i}() {{}}"))).collect::<Vec<_>>();
    fixture.memory.remember(records()).unwrap();
    let before = fixture.embedded();
    let again = fixture.memory.remember(records()).unwrap();
    assert_eq!((before, fixture.embedded()), (150, 150));
    assert!(again.iter().all(|written| matches!(written, Written::SeenAgain(_))));
}

#[test]
fn lifetimes_are_of_the_kind_unless_told() {
    let fixture = Fixture::new(MemoryConfig::default());
    let days = |kind, lifetime| {
        let content = format!("{kind} {lifetime:?}");
        let id = fixture.remember(NewRecord { lifetime, ..new(kind, &content) });
        let record = fixture.memory.get(&scope().partition, id, None).unwrap().unwrap();
        record.expires.map(|expires| (expires.0 - record.created.0) / 86_400_000)
    };
    assert_eq!(days(Kind::Conversation, Lifetime::OfKind), Some(30));
    assert_eq!(days(Kind::Conversation, Lifetime::Forever), None);
    assert_eq!(days(Kind::Workflow, Lifetime::OfKind), Some(180));
    assert_eq!(days(Kind::Code, Lifetime::OfKind), None);
    assert_eq!(days(Kind::Code, Lifetime::For(Duration::from_secs(86_400 * 2))), Some(2));
    assert_eq!(fixture.memory.expire(Timestamp(Timestamp::now().0 + 31 * 86_400_000)).unwrap(), 2);
}

#[test]
fn what_is_refused_before_anything_is_written() {
    let mut config = MemoryConfig::default();
    config.limits.content_bytes = 20;
    config.limits.metadata_bytes = 20;
    config.limits.records = 2;
    let fixture = Fixture::new(config);
    let check = |records: Vec<NewRecord>, expected: &str| {
        assert_eq!(fixture.memory.remember(records).unwrap_err().to_string(), expected);
        assert_eq!(fixture.memory.stats(None).unwrap().stored.vectors, 0);
    };
    let good = || new(Kind::Code, "fn a() {}");
    check(vec![good(), good(), good()], "list in records is 3, the limit is 2");
    check(vec![good(), new(Kind::Code, " \n")], "`records[1].content`: is empty, there is nothing to remember");
    check(vec![new(Kind::Code, &"x".repeat(21))], "content in bytes is 21, the limit is 20");
    let metadata = json!({"note": "twenty bytes and more"}).as_object().unwrap().clone();
    check(vec![NewRecord { metadata, ..good() }], "metadata in bytes is 32, the limit is 20");
    let absent = fixture.memory.feedback(&scope().partition, RecordId(7), true).unwrap_err();
    assert!(matches!(absent, MemoryError::NotFound(RecordId(7))));
}

struct NoTokens;

impl Redactor for NoTokens {
    fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if text.contains("s3cr3t") { text.replace("s3cr3t", "[redacted]").into() } else { text.into() }
    }
}

#[test]
fn secrets_reach_neither_store_nor_index() {
    let Fixture { memory, encoder } = Fixture::new(MemoryConfig::default());
    let fixture = Fixture { memory: memory.redacted_by(Arc::new(NoTokens)), encoder };
    let metadata = json!({"env": {"keys": ["s3cr3t", 1]}}).as_object().unwrap().clone();
    let id = fixture.remember(NewRecord { metadata, ..new(Kind::Knowledge, "the key is s3cr3t here") });
    let partition = scope().partition;
    let record = fixture.memory.get(&partition, id, None).unwrap().unwrap();
    assert_eq!(record.content, "the key is [redacted] here");
    assert_eq!(serde_json::Value::Object(record.metadata), json!({"env": {"keys": ["[redacted]", 1]}}));
    let patch = Patch { content: Some("now s3cr3t too".into()), ..Patch::default() };
    assert_eq!(fixture.memory.update(&partition, id, patch).unwrap().content, "now [redacted] too");
    assert!(fixture.search(&query("\"s3cr3t\"")).hits.iter().all(|hit| hit.signals.literal.is_none()));
}

#[test]
fn forgotten_is_forgotten() {
    let fixture = Fixture::new(MemoryConfig::default());
    let id = fixture.remember(new(Kind::Knowledge, "alpha decision"));
    fixture.remember(new(Kind::Code, "alpha code"));
    assert_eq!(fixture.search(&query("alpha")).hits.len(), 2);
    let forget = |what: &Forget| fixture.memory.forget(what).unwrap();
    assert_eq!(forget(&Forget::Ids(scope().partition, vec![id])), 1);
    assert_eq!(fixture.contents(&query("alpha")), ["alpha code"]);
    let code = Selection { kinds: vec![Kind::Code], ..Selection::all(scope()) };
    assert_eq!(forget(&Forget::Matching(code)), 1);
    assert!(fixture.search(&query("alpha")).hits.is_empty());
}
