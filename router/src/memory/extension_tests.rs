//! What a request wants of the memory: its own words over its key's.

use serde_json::{Value, json};

use super::*;
use crate::config::{Sources, resolve};

fn settings(text: &str) -> MemorySettings {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("engram.toml");
    std::fs::write(&file, format!("[memory]\n{text}")).expect("written");
    let env = [("HOME".to_owned(), "/nowhere".to_owned())].into();
    resolve(&Sources { files: vec![file], env, flags: Vec::new() }).expect(text).config.memory
}

fn wish(memory: Value, settings: &MemorySettings) -> Result<Option<MemoryWish>, ApiError> {
    let mut fields = Fields::from_slice(json!({"memory": memory}).to_string().as_bytes())?;
    MemoryWish::resolve(MemoryMember::read(&mut fields)?, &Tenant::named("ada"), settings)
}

#[test]
fn nothing_is_wanted_unless_somebody_says_so() {
    let bare = settings("");
    let on = settings("recall = \"auto\"");
    let mine = settings("keys = [\"ada recall=auto remember=session project=web\"]");
    let summary = |memory: Value, settings: &MemorySettings| {
        wish(memory, settings).expect("good").map(|wish| {
            let project = wish.scope.project.map(|name| name.as_str().to_owned());
            (wish.recall.map(|recall| recall.k), wish.remember, project)
        })
    };
    let web = || Some("web".to_owned());
    let table = [
        (json!(null), &bare, None),
        (json!({}), &bare, None),
        (json!({"recall": "off"}), &on, None),
        (json!(null), &on, Some((Some(6), Remember::Off, None))),
        (json!({"recall": "auto"}), &bare, Some((Some(6), Remember::Off, None))),
        (json!({"recall": {"k": 2, "kinds": ["code"]}}), &bare, Some((Some(2), Remember::Off, None))),
        (json!(null), &mine, Some((Some(6), Remember::Off, web()))),
        (json!({"scope": {"session": "s"}}), &mine, Some((Some(6), Remember::Session, web()))),
        (json!({"scope": {"session": "s", "domain": "business"}}), &mine, Some((Some(6), Remember::Session, None))),
        (json!({"remember": "project", "recall": "off"}), &mine, Some((None, Remember::Project, web()))),
    ];
    for (memory, settings, expected) in table {
        assert_eq!(summary(memory.clone(), settings), expected, "{memory}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let bare = settings("");
    for (memory, param, part) in [
        (json!("auto"), "memory", "must be an object"),
        (json!({"recal": "auto"}), "memory.recal", "did you mean `memory.recall`?"),
        (json!({"recall": "always"}), "memory.recall", "must be \"auto\", \"off\" or an object"),
        (json!({"recall": {"k": 0}}), "memory.recall.k", "between 1 and 100"),
        (json!({"recall": {"kinds": ["x"]}}), "memory.recall.kinds[0]", "must be one of code"),
        (json!({"remember": "all"}), "memory.remember", "must be one of off, session, project"),
        (json!({"remember": "session"}), "memory.scope.session", "is missing: `remember: \"session\"` needs it"),
        (json!({"remember": "project"}), "memory.scope.project", "needs it"),
        (json!({"scope": {"domain": "a/b"}}), "memory.scope.domain", "letters, digits"),
        (json!({"scope": {"tenant": "bob"}}), "memory.scope.tenant", "unknown parameter"),
    ] {
        let error = wish(memory.clone(), &bare).expect_err(&memory.to_string());
        assert_eq!(error.param(), Some(param), "{memory}: {error}");
        assert!(error.to_string().contains(part), "{memory}: {error}");
    }
}

#[test]
fn a_key_gets_of_the_memory_what_it_is_for() {
    let mine = settings("keys = [\"ada recall=auto remember=session project=web\"]");
    let wish = |memory: Value, tenant: &Tenant| {
        let mut fields = Fields::from_slice(json!({"memory": memory}).to_string().as_bytes())?;
        MemoryWish::resolve(MemoryMember::read(&mut fields)?, tenant, &mine)
    };
    let ada = Tenant::named("ada");
    let blind = Tenant { scopes: ada.scopes.without(auth::Scope::Memory), ..ada.clone() };
    assert_eq!(wish(json!(null), &blind).expect("nothing is wanted"), None, "the tenant's defaults open nothing");
    let error = wish(json!({"recall": "off"}), &blind).expect_err("not for the memory");
    assert_eq!(error.code(), ErrorCode::InsufficientScope);
    let pinned = Tenant { domain: Some("web".into()), ..ada };
    let found = wish(json!(null), &pinned).expect("good").expect("the tenant's defaults");
    assert_eq!((found.scope.partition.domain.as_str(), found.scope.project), ("web", None));
    assert!(wish(json!({"scope": {"domain": "web"}}), &pinned).is_ok());
    let error = wish(json!({"scope": {"domain": "coding"}}), &pinned).expect_err("another domain");
    assert_eq!((error.code(), error.param()), (ErrorCode::DomainNotAllowed, Some("memory.scope.domain")));
}
