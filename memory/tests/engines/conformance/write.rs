//! Writing, changing, expiring and forgetting.

use engram_memory::backend::{Backend, Change, Forget, Selection, Stored, Written};
use engram_memory::filter::{Comparison, Filter};
use engram_memory::{Feedback, Kind, MemoryError, Provenance, RecordId, Scope, Timestamp, Trust};
use serde_json::json;

use super::{DIM, all, between, put, record, scope, stored, vector};

pub fn puts_and_gets(backend: &dyn Backend) {
    let scope = scope().project("engram").unwrap().session("s-1").unwrap();
    let mut full = record(&scope, Kind::Document, "How the index is built");
    full.metadata = json!({"a": {"b": [1, 2.5, null, "x"]}, "big": 18446744073709551615_u64, "small": -3, "e": 1e17})
        .as_object()
        .unwrap()
        .clone();
    full.provenance = Provenance {
        path: Some("docs/index.md".into()),
        commit: Some("4ea3e44".into()),
        lines: Some((1, 90)),
        symbol: Some("Index".into()),
        language: Some("markdown".into()),
        request_id: Some("r-1".into()),
        trust: Trust::Model,
    };
    full.expires = Some(Timestamp(full.created.0 + 60_000));
    full.pinned = true;
    let full = Stored { record: full, vector: vector(3, 0.25) };
    let written = backend.put(vec![stored(&scope, "a"), full.clone(), stored(&scope, "b")]).unwrap();
    assert!(
        matches!(&written[..], [Written::Created(_), Written::Created(record), Written::Created(_)] if *record == full.record)
    );
    let partition = &scope.partition;
    assert_eq!(backend.get(partition, full.record.id, None).unwrap(), Some(full.record.clone()));
    assert_eq!(backend.get_many(partition, &[full.record.id]).unwrap(), [full]);
    assert_eq!(backend.get(partition, RecordId(7), None).unwrap(), None);
    assert_eq!(backend.put(Vec::new()).unwrap(), []);
}

pub fn sees_again(backend: &dyn Backend) {
    let scope = scope();
    let first = put(
        backend,
        Stored {
            record: super::Record { expires: Some(Timestamp(u64::MAX / 4)), ..record(&scope, Kind::Code, "x") },
            vector: vector(0, 0.0),
        },
    );
    let mut again = stored(&scope, "x");
    again.record.expires = Some(Timestamp(u64::MAX / 4 - 1));
    again.record.metadata = json!({"late": true}).as_object().unwrap().clone();
    let written = backend.put(vec![again.clone(), again.clone()]).unwrap();
    for (written, seen) in written.iter().zip([2, 3]) {
        let expected = super::Record { seen, ..first.clone() };
        assert_eq!(*written, Written::SeenAgain(expected), "only `seen` changes: the new expiry is earlier");
    }
    again.record.expires = None;
    assert_eq!(put(backend, again).expires, None, "never is later");
    assert_eq!(all(backend, &scope).len(), 1);

    let twice = backend.put(vec![stored(&scope, "y"), stored(&scope, "y")]).unwrap();
    assert!(matches!(&twice[..], [Written::Created(_), Written::SeenAgain(record)] if record.seen == 2));
    let other_kind = Stored { record: record(&scope, Kind::Knowledge, "x"), vector: vector(0, 0.0) };
    assert!(matches!(&backend.put(vec![other_kind]).unwrap()[..], [Written::Created(_)]));
}

pub fn takes_the_next_salt(backend: &dyn Backend) {
    let scope = scope();
    let first = put(backend, stored(&scope, "old"));
    let change = Change { content: Some(("new".into(), vector(1, 0.0))), ..Change::default() };
    backend.change(&scope.partition, first.id, change).unwrap();
    let second = put(backend, stored(&scope, "old"));
    assert_eq!(second.id, RecordId::of(&scope, Kind::Code, "old", 1));
    assert!(
        matches!(&backend.put(vec![stored(&scope, "old")]).unwrap()[..], [Written::SeenAgain(r)] if r.id == second.id)
    );
    assert_eq!(backend.get(&scope.partition, first.id, None).unwrap().unwrap().content, "new");
}

pub fn changes_and_keeps_the_past(backend: &dyn Backend) {
    let (scope, before) = (scope(), between());
    let first = put(backend, stored(&scope, "one"));
    let mut versions = vec![(first.clone(), between())];
    for content in ["two", "three"] {
        let change = Change { content: Some((content.into(), vector(2, 0.0))), ..Change::default() };
        let changed = backend.change(&scope.partition, first.id, change).unwrap();
        versions.push((changed, between()));
    }
    let metadata = json!({"k": 1}).as_object().unwrap().clone();
    let change = Change { metadata: Some(metadata.clone()), ..Change::default() };
    versions.push((backend.change(&scope.partition, first.id, change).unwrap(), between()));

    let get = |as_of| backend.get(&scope.partition, first.id, as_of).unwrap();
    assert_eq!(get(Some(before)), None, "not yet there");
    for (i, (version, time)) in versions.iter().enumerate() {
        assert_eq!((version.version as usize, version.id, version.created), (i + 1, first.id, first.created));
        assert_eq!(get(Some(*time)).as_ref(), Some(version), "as of version {}", i + 1);
    }
    let last = get(None).unwrap();
    assert_eq!((last.content.as_str(), &last.metadata, last.version), ("three", &metadata, 4));
    assert_eq!(last.content_hash, engram_memory::content_hash("three"));
}

pub fn changes_without_a_version(backend: &dyn Backend) {
    let scope = scope();
    let first = put(backend, stored(&scope, "x"));
    let expires = Some(Timestamp(first.created.0 + 1_000_000));
    let change = Change {
        expires: Some(expires),
        pinned: Some(true),
        feedback: Some(Feedback { useful: 2, wrong: 1 }),
        ..Change::default()
    };
    backend.change(&scope.partition, first.id, change.clone()).unwrap();
    let changed = backend.change(&scope.partition, first.id, change).unwrap();
    assert_eq!((changed.version, changed.updated, changed.expires, changed.pinned), (1, first.updated, expires, true));
    assert_eq!(changed.feedback, Feedback { useful: 4, wrong: 2 });
    let never = Change { expires: Some(None), pinned: Some(false), ..Change::default() };
    let changed = backend.change(&scope.partition, first.id, never).unwrap();
    assert_eq!((changed.expires, changed.pinned), (None, false));
    assert_eq!(backend.get(&scope.partition, first.id, None).unwrap(), Some(changed));
}

/// A file was renamed: the record is where the text is now, for filters, words and names, and no version is added.
pub fn moves_without_a_version(backend: &dyn Backend) {
    let scope = scope();
    let mut drifting = stored(&scope, "fn drift() {}");
    let from =
        Provenance { path: Some("src/old.rs".into()), symbol: Some("old::drift".into()), ..Provenance::default() };
    drifting.record.provenance = from.clone();
    let first = put(backend, drifting);
    let to = Provenance {
        path: Some("src/new.rs".into()),
        symbol: Some("fresh::float".into()),
        lines: Some((3, 4)),
        ..from
    };
    let moving = Change { provenance: Some(to.clone()), ..Change::default() };
    let moved = backend.change(&scope.partition, first.id, moving).unwrap();
    assert_eq!(moved, super::Record { provenance: to, ..first.clone() }, "nothing else changed");
    assert_eq!(backend.get(&scope.partition, first.id, None).unwrap(), Some(moved));
    let at = |path: &str| {
        let value = json!(path);
        let filter = Some(Filter::Eq(Comparison { field: "path".into(), value }));
        let selection = Selection { filter, ..Selection::all(scope.clone()) };
        let found = backend.nearest(&selection, &vector(0, 0.0), 9).unwrap();
        (backend.scan(&selection, None, None, 9).unwrap().len(), found.len())
    };
    assert_eq!((at("src/old.rs"), at("src/new.rs")), ((0, 0), (1, 1)));
    let literal = |text: &str| backend.literal(&Selection::all(scope.clone()), text, 9).unwrap().len();
    assert_eq!((literal("old::drift"), literal("fresh::float")), (0, 1));
}

pub fn refuses_to_change_what_is_not_there(backend: &dyn Backend) {
    let scope = scope();
    let error = backend.change(&scope.partition, RecordId(9), Change::default()).unwrap_err();
    assert!(matches!(error, MemoryError::NotFound(RecordId(9))), "{error}");
}

fn expired(scope: &Scope, content: &str, pinned: bool) -> Stored {
    let mut stored = stored(scope, content);
    stored.record.expires = Some(Timestamp(stored.record.created.0.saturating_sub(1)));
    stored.record.pinned = pinned;
    stored
}

pub fn expires(backend: &dyn Backend) {
    let scope = scope();
    let (gone, pinned) = (expired(&scope, "find me gone", false), expired(&scope, "find me pinned", true));
    let later = {
        let mut later = stored(&scope, "find me later");
        later.record.expires = Some(Timestamp(later.record.created.0 + 3_600_000));
        later
    };
    backend.put(vec![gone.clone(), pinned.clone(), later.clone()]).unwrap();
    let alive = |what: &str| {
        let mut expected = [pinned.record.id, later.record.id];
        expected.sort();
        assert_eq!(all(backend, &scope).iter().map(|record| record.id).collect::<Vec<_>>(), expected, "{what}");
        let selection = Selection::all(scope.clone());
        let searches = [
            backend.nearest(&selection, &vector(0, 0.0), 9).unwrap(),
            backend.lexical(&selection, "find me", 9).unwrap(),
            backend.literal(&selection, "\"find me\"", 9).unwrap(),
        ];
        for found in searches {
            let mut ids: Vec<RecordId> = found.iter().map(|found| found.id).collect();
            ids.sort();
            assert_eq!(ids, expected, "{what}");
        }
        assert_eq!(backend.get(&scope.partition, gone.record.id, None).unwrap(), None, "{what}");
        assert_eq!(backend.get_many(&scope.partition, &[gone.record.id]).unwrap(), [], "{what}");
    };
    alive("before they are removed");
    assert!(matches!(
        backend.change(&scope.partition, gone.record.id, Change::default()),
        Err(MemoryError::NotFound(_))
    ));
    assert!(backend.expire(Timestamp::now()).unwrap() >= 1);
    alive("after they were removed");
}

pub fn revives_what_expired(backend: &dyn Backend) {
    let scope = scope();
    put(backend, expired(&scope, "x", false));
    let written = backend.put(vec![stored(&scope, "x")]).unwrap();
    assert!(matches!(&written[..], [Written::Created(record)] if record.seen == 1), "{written:?}");
}

/// Two versions of a record, and a time at which the first stood.
fn with_history(backend: &dyn Backend, scope: &Scope, content: &str) -> (RecordId, Timestamp) {
    let first = put(backend, stored(scope, content));
    let time = between();
    let change = Change { content: Some((format!("{content} changed"), vector(1, 0.0))), ..Change::default() };
    backend.change(&scope.partition, first.id, change).unwrap();
    (first.id, time)
}

fn gone(backend: &dyn Backend, scope: &Scope, id: RecordId, then: Timestamp) -> bool {
    let get = |as_of| backend.get(&scope.partition, id, as_of).unwrap().is_none();
    let past = backend.scan(&Selection::all(scope.clone()), Some(then), None, 99).unwrap();
    get(None) && get(Some(then)) && past.iter().all(|stored| stored.record.id != id)
}

pub fn forgets_ids(backend: &dyn Backend) {
    let scope = scope();
    let (kept, then) = with_history(backend, &scope, "kept");
    let (forgotten, time) = with_history(backend, &scope, "forgotten");
    let forget = Forget::Ids(scope.partition.clone(), vec![forgotten, RecordId(3)]);
    assert_eq!(backend.forget(&forget).unwrap(), 1);
    assert!(gone(backend, &scope, forgotten, time));
    assert!(!gone(backend, &scope, kept, then));
    assert_eq!(backend.forget(&forget).unwrap(), 0);
    let again = put(backend, stored(&scope, "forgotten"));
    assert_eq!((again.id, again.seen, again.version), (forgotten, 1, 1), "nothing is left of it");
    assert!(gone(backend, &scope, RecordId(3), time));
}

pub fn forgets_a_selection(backend: &dyn Backend) {
    let scope = scope();
    let (a, b) = (scope.clone().project("a").unwrap(), scope.clone().project("b").unwrap());
    let (in_a, then) = with_history(backend, &a, "x");
    let (in_b, _) = with_history(backend, &b, "x");
    let mut tagged = stored(&b, "tagged");
    tagged.record.metadata = json!({"draft": true}).as_object().unwrap().clone();
    let tagged = put(backend, tagged).id;
    let draft = Filter::Eq(Comparison { field: "metadata.draft".into(), value: json!(true) });
    let selection = Selection { scope: scope.clone(), kinds: vec![Kind::Code], filter: Some(draft) };
    assert_eq!(backend.forget(&Forget::Matching(selection)).unwrap(), 1);
    assert!(backend.get(&scope.partition, tagged, None).unwrap().is_none());
    assert_eq!(backend.forget(&Forget::Matching(Selection::all(a.clone()))).unwrap(), 1);
    assert!(gone(backend, &a, in_a, then));
    assert!(!gone(backend, &b, in_b, then));
    let documents = Selection { kinds: vec![Kind::Document], ..Selection::all(scope) };
    assert_eq!(backend.forget(&Forget::Matching(documents)).unwrap(), 0);
}

pub fn forgets_a_tenant(backend: &dyn Backend) {
    let (coding, other) = (scope(), scope());
    let business = Scope::of(coding.partition.tenant.as_str(), "business").unwrap();
    let (first, then) = with_history(backend, &coding, "x");
    let (second, _) = with_history(backend, &business, "x");
    let (kept, _) = with_history(backend, &other, "x");
    assert_eq!(backend.forget(&Forget::Tenant(coding.partition.tenant.clone())).unwrap(), 2);
    assert!(gone(backend, &coding, first, then) && gone(backend, &business, second, then));
    assert!(!gone(backend, &other, kept, then));
    let stats = backend.stats(Some(&coding.partition)).unwrap();
    assert_eq!(stats.records.values().sum::<u64>(), 0);
}

pub fn keeps_every_text(backend: &dyn Backend) {
    let scope = scope();
    let texts = [
        "",
        " ",
        "\0",
        "a\0b",
        "日本語のコメント",
        "Größe ß ﬃ",
        "👩‍👩‍👧‍👦 \u{202e}rtl",
        "\u{FDD0}\u{FFFF}",
        "%_\\'\";--$1",
        "\r\n\t",
        "{\"a\":1}",
    ];
    for text in texts {
        let mut odd = stored(&scope, text);
        odd.record.metadata = json!({text: [text, {"k": text}]}).as_object().unwrap().clone();
        odd.record.provenance.path = Some(text.to_owned());
        odd.record.provenance.symbol = Some(text.to_owned());
        let id = put(backend, odd.clone()).id;
        assert_eq!(backend.get(&scope.partition, id, None).unwrap().as_ref(), Some(&odd.record), "{text:?}");
        let selection = Selection::all(scope.clone());
        backend.lexical(&selection, text, 3).unwrap();
        backend.literal(&selection, text, 3).unwrap();
        backend.literal(&selection, &format!("\"{text}\""), 3).unwrap();
    }
    assert_eq!(all(backend, &scope).len(), texts.len());
}

pub fn keeps_large_records(backend: &dyn Backend) {
    let scope = scope();
    let contents = [
        "x".repeat(1_000_000),
        (0..40_000).map(|i| format!("word{i} ")).collect(),
        "let the_same = the_same; ".repeat(20_000),
        "ü".repeat(300_000),
    ];
    for content in &contents {
        let id = put(backend, stored(&scope, content)).id;
        assert!(backend.get(&scope.partition, id, None).unwrap().unwrap().content == *content);
    }
    let many: Vec<Stored> = (0..700).map(|i| stored(&scope, &format!("record {i}"))).collect();
    let written = backend.put(many.clone()).unwrap();
    for (written, stored) in written.iter().zip(&many) {
        assert_eq!(*written, Written::Created(stored.record.clone()));
    }
    assert_eq!(all(backend, &scope).len(), 704);
}

pub fn refuses_vectors_of_another_length(backend: &dyn Backend) {
    let scope = scope();
    let mut short = stored(&scope, "x");
    short.vector.pop();
    assert!(matches!(backend.put(vec![short]), Err(MemoryError::Invalid { .. })));
    assert!(matches!(
        backend.nearest(&Selection::all(scope.clone()), &[1.0; DIM + 1], 3),
        Err(MemoryError::Invalid { .. })
    ));
    assert_eq!(all(backend, &scope), []);
}
