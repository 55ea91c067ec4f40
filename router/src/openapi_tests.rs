//! The document against the routes and the parsers.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::DOCUMENT;
use crate::answer::{Asked, Endpoint};
use crate::auth::doors::Need;
use crate::error::ApiError;
use crate::memory::wire::{self, Where};
use crate::openai::chat::ChatRequest;
use crate::openai::completion::CompletionRequest;
use crate::openai::embedding::EmbeddingRequest;
use crate::openai::tokenize::DetokenizeRequest;

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("JSON")
}

/// The methods of a route, as the router itself tells them when asked by a wrong one.
async fn methods(path: &str) -> BTreeSet<String> {
    let (state, _) = crate::scripted::server(&[], |_, _| ());
    let path = path.replace("{*id}", "x").replace("{id}", "x").replace("{name}", "x");
    let request = Request::builder().method("LINK").uri(path).body(Body::empty()).expect("a request");
    let response = crate::app::router(state).oneshot(request).await.expect("infallible");
    let allowed = response.headers()[header::ALLOW].to_str().expect("text").to_ascii_lowercase();
    // HEAD comes with every GET.
    allowed.split(',').map(|method| method.trim().to_owned()).filter(|method| method != "head").collect()
}

#[tokio::test]
async fn every_route_and_method_is_in_it_and_nothing_else() {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let routes = crate::app::paths();
    assert_eq!(paths.len(), routes.len());
    for route in routes {
        let documented = &paths[&route.replace("{*id}", "{id}")];
        let documented: BTreeSet<String> = documented.as_object().expect(route).keys().cloned().collect();
        assert_eq!(documented, methods(route).await, "{route}");
    }
}

/// What a route asks for decides which refusals it may answer with.
#[test]
fn refusals_of_the_doors_are_documented_where_they_happen() {
    let document = document();
    for (path, need) in crate::app::needs() {
        let documented = &document["paths"][&path.replace("{*id}", "{id}")];
        for operation in documented.as_object().expect(path).values() {
            let has = |status: &str| operation["responses"][status].is_object();
            let expected = (need != Need::Nothing, matches!(need, Need::Scope(_)), need != Need::Nothing);
            assert_eq!((has("401"), has("403"), has("429")), expected, "{path}");
        }
    }
}

#[test]
fn every_reference_resolves_and_every_schema_is_used() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        let pointer = reference.strip_prefix('#').expect("inside the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for part in ["schemas", "responses"] {
        for name in document["components"][part].as_object().expect(part).keys() {
            assert!(found.contains(&format!("#/components/{part}/{name}")), "{name} is not used");
        }
    }
}

#[test]
fn operations_are_named_once_and_say_their_errors() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for operation in methods.as_object().expect("methods").values() {
            assert!(names.insert(operation["operationId"].as_str().expect(path).to_owned()), "{path}");
            assert!(operation["responses"]["200"]["content"].is_object(), "{path}");
            let open = operation["security"] == json!([]);
            assert_eq!(operation["responses"]["401"].is_object(), !open, "{path}");
        }
    }
}

/// Every parameter that the document has is one that the parser knows: misspelt, it is the one suggested.
#[test]
fn every_documented_parameter_is_known_to_its_parser() {
    type Parse = Box<dyn Fn(&[u8]) -> Result<(), ApiError>>;
    fn place() -> Where {
        Where::new("ada", engram_memory::Scope::default_domain()).expect("names")
    }
    let table: Vec<(&str, Value, Parse)> = vec![
        (
            "ChatRequest",
            json!({"messages": [{"role": "user", "content": "x"}]}),
            Box::new(|body| ChatRequest::from_map(Asked::read(Endpoint::Chat, body)?.body).map(drop)),
        ),
        (
            "CompletionRequest",
            json!({"prompt": "x"}),
            Box::new(|body| CompletionRequest::from_map(Asked::read(Endpoint::Completions, body)?.body).map(drop)),
        ),
        ("EmbeddingRequest", json!({"input": "x"}), Box::new(|body| EmbeddingRequest::from_slice(body).map(drop))),
        ("DetokenizeRequest", json!({"tokens": [1]}), Box::new(|body| DetokenizeRequest::from_slice(body).map(drop))),
        ("NewRecord", json!({"content": "x"}), Box::new(|body| wire::read_records(body, &place()).map(drop))),
        ("RecordPatch", json!({"pinned": true}), Box::new(|body| wire::read_patch(body).map(drop))),
        ("SearchRequest", json!({"query": "x"}), Box::new(|body| wire::read_search(body, &place()).map(drop))),
        (
            "IndexRequest",
            json!({"manifest": {"format": 1, "chunker": "", "complete": true, "files": {}}}),
            Box::new(|body| wire::read_manifest(body, &place()).map(drop)),
        ),
        ("ReembedRequest", json!({}), Box::new(|body| wire::read_reembed(body).map(drop))),
        ("RelocateRequest", json!({"moved": []}), Box::new(|body| wire::read_moves(body, &place()).map(drop))),
        ("CreateKeyRequest", json!({"name": "ci"}), Box::new(|body| crate::api::admin::keys::read_new(body).map(drop))),
        (
            "FlagChange",
            json!({"enabled": true}),
            Box::new(|body| crate::api::admin::flags::read_change(body).map(drop)),
        ),
        ("ForgetRequest", json!({"kinds": ["code"]}), Box::new(|body| wire::read_forget(body, &place()).map(drop))),
    ];
    let document = document();
    for (name, least, parse) in table {
        parse(least.to_string().as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let properties = document["components"]["schemas"][name]["properties"].as_object().expect(name);
        for property in properties.keys() {
            let mut body = least.clone();
            body[format!("{property}_")] = json!(1);
            let error = parse(body.to_string().as_bytes()).expect_err(property).to_string();
            assert!(error.contains(&format!("did you mean `{property}`?")), "{name}.{property}: {error}");
        }
    }
}
