//! Bodies of `/v1/memory`: what they become, and in which words they are refused.

use engram_memory::backend::Forget;
use engram_memory::{Kind, Lifetime, Scope};
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorCode;

fn place() -> Where {
    Where::new("ada", Scope::default_domain()).expect("names")
}

#[test]
fn a_record_has_its_defaults_and_the_keys_tenant() {
    let (records, list) = read_records(br#"{"content": "use spaces"}"#, &place()).expect("good");
    assert!(!list);
    let record = &records[0];
    assert_eq!(record.scope, Scope::of("ada", "coding").expect("names"));
    assert_eq!((record.kind, record.lifetime, record.pinned), (Kind::Knowledge, Lifetime::OfKind, false));
    let body = json!([
        {"content": "a", "kind": "code", "ttl": null, "scope": {"domain": "business", "project": "p", "session": "s"},
         "provenance": {"path": "src/a.rs", "lines": [1, 9], "trust": "tool"}, "metadata": {"k": 1}, "pinned": true},
        {"content": "b", "ttl": 1.5}
    ]);
    let (records, list) = read_records(body.to_string().as_bytes(), &place()).expect("good");
    assert!(list);
    let scope = Scope::of("ada", "business").and_then(|scope| scope.project("p")?.session("s")).expect("names");
    assert_eq!(records[0].scope, scope);
    assert_eq!(records[0].lifetime, Lifetime::Forever);
    assert_eq!(records[0].provenance.lines, Some((1, 9)));
    assert_eq!(records[1].lifetime, Lifetime::For(std::time::Duration::from_millis(1500)));
}

#[test]
fn bad_bodies_are_named() {
    type Read = fn(&[u8]) -> Result<(), ApiError>;
    let records: Read = |body| read_records(body, &place()).map(drop);
    let patch: Read = |body| read_patch(body).map(drop);
    let search: Read = |body| read_search(body, &place()).map(drop);
    let forget: Read = |body| read_forget(body, &place()).map(drop);
    let many = format!("[{}]", vec!["{}"; MAX_RECORDS + 1].join(","));
    let long = json!({"content": "x".repeat(MAX_CONTENT + 1)}).to_string();
    let table: Vec<(Read, &str, Option<&str>, &str)> = vec![
        (records, "7", None, "the body is a number, a record or a list of them"),
        (records, "[]", None, "the list of records is empty"),
        (records, "{", None, "line 1 column 1"),
        (records, &many, Some("records"), "has 1001 entries, at most 1000"),
        (records, &long, Some("content"), "has 262145 bytes, at most 262144"),
        (records, "{}", Some("content"), "`content` is missing"),
        (records, r#"{"content": " "}"#, Some("content"), "nothing to remember"),
        (records, r#"[{"content": "a"}, {"content": 1}]"#, Some("[1].content"), "is 1, must be a string"),
        (records, r#"{"content": "a", "tenant": "bob"}"#, Some("tenant"), "unknown parameter `tenant`"),
        (records, r#"{"content": "a", "scope": {"tenant": "bob"}}"#, Some("scope.tenant"), "unknown parameter"),
        (records, r#"{"content": "a", "kind": "poem"}"#, Some("kind"), "must be one of code, knowledge"),
        (records, r#"{"content": "a", "scope": {"domain": "../x"}}"#, Some("scope.domain"), "letters, digits"),
        (records, r#"{"content": "a", "scope": {"domain": ".."}}"#, Some("scope.domain"), "not begin with a dot"),
        (records, r#"{"content": "a", "scope": {"project": ""}}"#, Some("scope.project"), "must not be empty"),
        (records, r#"{"content": "a", "ttl": 0}"#, Some("ttl"), "must be above 0"),
        (records, r#"{"content": "a", "ttl": 1e300}"#, Some("ttl"), "at most 3155760000 seconds"),
        (records, r#"{"content": "a", "ttl": "1d"}"#, Some("ttl"), "a number of seconds, or null"),
        (records, r#"{"content": "a", "provenance": {"trust": "god"}}"#, Some("provenance"), "unknown variant `god`"),
        (records, r#"{"content": "a", "metadata": []}"#, Some("metadata"), "must be an object"),
        (patch, "{}", None, "nothing to change"),
        (patch, r#"{"kind": "code"}"#, Some("kind"), "unknown parameter `kind`"),
        (patch, r#"{"feedback": "meh"}"#, Some("feedback"), "must be useful or wrong"),
        (search, "{}", Some("query"), "`query` is missing"),
        (search, r#"{"query": "a", "k": 201}"#, Some("k"), "must be between 1 and 200"),
        (search, r#"{"query": "a", "min_score": 2}"#, Some("min_score"), "must be between 0 and 1"),
        (search, r#"{"query": "a", "signals": []}"#, Some("signals"), "`signals` is empty"),
        (search, r#"{"query": "a", "signals": ["magic"]}"#, Some("signals[0]"), "`magic`, must be dense"),
        (search, r#"{"query": "a", "kinds": ["poem"]}"#, Some("kinds[0]"), "must be one of"),
        (search, r#"{"query": "a", "filter": {"equals": 1}}"#, Some("filter"), "unknown variant `equals`"),
        (search, r#"{"query": "a", "top_k": 3}"#, Some("top_k"), "unknown parameter"),
        (forget, "{}", Some("confirm"), "forgets everything in the domain `coding`"),
        (forget, r#"{"tenant": true}"#, Some("confirm"), "everything of this key, in every domain"),
        (forget, r#"{"ids": []}"#, Some("ids"), "`ids` is empty"),
        (forget, r#"{"ids": ["x"]}"#, Some("ids[0]"), "32 hexadecimal digits"),
        (forget, r#"{"ids": ["00000000000000000000000000000000"], "tenant": true}"#, Some("ids"), "not both"),
        (forget, r#"{"tenant": true, "kinds": ["code"], "confirm": true}"#, Some("tenant"), "without `kinds`"),
    ];
    for (read, body, param, part) in table {
        let shown = &body[..body.len().min(80)];
        let error = read(body.as_bytes()).expect_err(shown);
        assert_eq!(error.param(), param, "{shown}: {error}");
        assert!(error.to_string().contains(part), "{shown}: {error}");
        assert!(error.status().is_client_error(), "{shown}: {error}");
    }
}

#[test]
fn a_search_reads_whole() {
    let body = json!({"query": "q", "scope": {"project": "p"}, "k": 3, "kinds": ["code"], "min_score": 0.5,
        "filter": {"and": [{"eq": {"field": "language", "value": "rust"}}, {"not": {"exists": {"field": "path"}}}]},
        "as_of": 17, "budget_tokens": 9, "signals": ["dense", "literal"], "model": "m"});
    let request = read_search(body.to_string().as_bytes(), &place()).expect("good");
    let query = request.query;
    assert_eq!((query.k, query.kinds, query.min_score), (3, vec![Kind::Code], Some(0.5)));
    assert_eq!((query.as_of, query.budget_tokens), (Some(engram_memory::Timestamp(17)), Some(9)));
    assert!(query.signals.dense && query.signals.literal && !query.signals.lexical);
    assert_eq!(serde_json::to_value(query.filter).expect("JSON"), body["filter"]);
    assert_eq!(request.model.as_deref(), Some("m"));
}

#[test]
fn everything_goes_only_when_that_is_said() {
    let read = |body: Value| read_forget(body.to_string().as_bytes(), &place());
    assert!(
        matches!(read(json!({"tenant": true, "confirm": true})), Ok(Forget::Tenant(name)) if name.as_str() == "ada")
    );
    for body in [json!({"confirm": true}), json!({"scope": {"project": "p"}}), json!({"kinds": ["code"]})] {
        assert!(matches!(read(body.clone()), Ok(Forget::Matching(_))), "{body}");
    }
    let ids = json!({"ids": ["0123456789abcdef0123456789abcdef"], "scope": {"domain": "business"}});
    assert!(matches!(read(ids), Ok(Forget::Ids(partition, _)) if partition.to_string() == "ada/business"));
    let error = read(json!({"confirm": false})).expect_err("not confirmed");
    assert_eq!(error.code(), ErrorCode::MissingParameter);
}
