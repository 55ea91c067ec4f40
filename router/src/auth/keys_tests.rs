//! Which keys open, for whom, and until when.

use axum::http::{HeaderMap, header};

use super::*;
use crate::auth::tenant::KeyLimits;

fn keys(list: &[&str]) -> ApiKeys {
    ApiKeys::new(list).expect("good keys")
}

fn headers(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value.parse().expect("a header value"));
    headers
}

fn with(key: &str) -> HeaderMap {
    headers(&format!("Bearer {key}"))
}

fn stored() -> (tempfile::TempDir, KeyStore) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = KeyStore::in_dir(dir.path());
    (dir, store)
}

fn open(configured: &[&str], store: &KeyStore) -> ApiKeys {
    keys(configured).with_store(store.clone(), Scopes::ALL).expect("readable")
}

#[test]
fn only_a_configured_key_opens() {
    let keys = keys(&["sk-alpha-1", "sk-beta-22"]);
    let table = [
        ("Bearer sk-alpha-1", true),
        ("bearer sk-beta-22", true),
        ("BEARER   sk-beta-22 ", true),
        ("Bearer sk-alpha-2", false),
        ("Bearer SK-ALPHA-1", false),
        ("Bearer sk-alpha-", false),
        ("Bearer sk-alpha-11", false),
        ("Bearer sk-alpha-1, Bearer sk-alpha-1", false),
        ("Bearer ", false),
        ("Bearer", false),
        ("Basic sk-alpha-1", false),
        ("sk-alpha-1", false),
    ];
    for (value, open) in table {
        assert_eq!(keys.authenticate(&headers(value)).is_ok(), open, "{value:?}");
    }
    assert_eq!(keys.authenticate(&HeaderMap::new()).expect_err("no key"), Denied::NoKey);
}

#[test]
fn each_key_is_a_tenant_of_its_own_and_stays_it() {
    let one = keys(&["sk-alpha-1", "sk-beta-22"]);
    let a = one.authenticate(&with("sk-alpha-1")).expect("known").tenant.clone();
    let b = one.authenticate(&with("sk-beta-22")).expect("known").tenant.clone();
    assert_ne!((a.salt, &a.name, &a.key_id), (b.salt, &b.name, &b.key_id));
    assert!(!a.name.contains("alpha"));
    assert_eq!(a.scopes, Scopes::ALL, "the operator's own keys may do everything");
    assert_eq!(keys(&["sk-alpha-1"]).first(), Some(a));
}

#[test]
fn without_keys_everyone_is_one_tenant() {
    let open = ApiKeys::default();
    for headers in [HeaderMap::new(), with("what"), headers("nonsense")] {
        assert_eq!(open.authenticate(&headers).expect("open").tenant, Tenant::anonymous());
    }
    assert!(open.is_open() && !keys(&["sk-alpha-1"]).is_open());
}

#[test]
fn bad_keys_are_refused_by_their_place() {
    assert_eq!(ApiKeys::new(["sk-alpha-1", "short"]).expect_err("short"), KeyError::TooShort { index: 1, len: 5 });
    assert_eq!(ApiKeys::new(["with a space in"]).expect_err("space"), KeyError::NotVisible { index: 0 });
    for name in ["key-1", "anonymous", "a/b", "é"] {
        let error = ApiKeys::new([format!("{name} sk-alpha-1")]).expect_err(name);
        assert_eq!(error, KeyError::BadName { index: 0 });
    }
}

#[test]
fn keys_of_one_name_are_one_tenant_with_accounts_of_their_own() {
    let keys = keys(&["ada sk-alpha-1", "ada sk-alpha-2", "bob sk-beta-22"]);
    let tenant = |key: &str| keys.authenticate(&with(key)).expect("known").tenant.clone();
    let (one, two, bob) = (tenant("sk-alpha-1"), tenant("sk-alpha-2"), tenant("sk-beta-22"));
    assert_eq!((&one.name, one.salt), (&two.name, two.salt));
    assert_eq!(one.name, "ada");
    assert_ne!(one.key_id, two.key_id);
    assert_ne!(bob.salt, one.salt);
    assert!(keys.authenticate(&with("ada sk-alpha-1")).is_err());
}

#[test]
fn a_running_server_follows_the_store() {
    let (_dir, store) = stored();
    let keys = open(&[], &store);
    assert!(keys.is_open(), "no file, no keys");
    let made = store.create(NewKey::named("ci")).expect("made");
    assert!(keys.reload().expect("readable") && !keys.is_open());
    assert!(!keys.reload().expect("readable"), "nothing has changed since");
    let credential = keys.authenticate(&with(&made.key)).expect("opens");
    assert_eq!((&credential.tenant.name, &credential.tenant.key_id), (&"ci".to_owned(), &made.record.id));
    let turned = store.rotate("ci", Duration::from_secs(60)).expect("rotated");
    keys.reload().expect("readable");
    for key in [&made.key, &turned.key] {
        let same = keys.authenticate(&with(key)).expect("both open");
        assert!(Arc::ptr_eq(&same.gate, &credential.gate), "one account for both");
    }
    assert_eq!(keys.count(), 2);
    store.rotate("ci", Duration::ZERO).expect("rotated");
    keys.reload().expect("readable");
    assert_eq!(keys.authenticate(&with(&turned.key)).expect_err("no grace"), Denied::Unknown);
    assert!(credential.life.goes_on(unix_now()), "the first still has its minute");
    store.revoke("ci").expect("revoked");
    keys.reload().expect("readable");
    assert_eq!(keys.authenticate(&with(&made.key)).expect_err("revoked"), Denied::Unknown);
    assert!(!credential.life.goes_on(unix_now()), "who came in by it learns of it");
}

#[test]
fn once_shut_the_doors_stay_shut() {
    let (_dir, store) = stored();
    let keys = open(&[], &store);
    let made = keys.create(NewKey::named("ci")).expect("a store").expect("made");
    keys.revoke("ci").expect("a store").expect("revoked");
    assert_eq!(keys.authenticate(&HeaderMap::new()).expect_err("no key"), Denied::NoKey);
    assert!(!open(&[], &store).is_open(), "nor does a restart open them");
    std::fs::remove_file(store.path()).expect("removed");
    keys.reload().expect("no file is fine");
    assert_eq!(keys.authenticate(&with(&made.key)).expect_err("gone"), Denied::Unknown);
    assert!(!keys.is_open());
}

#[test]
fn a_damaged_store_changes_nothing_and_starts_no_server() {
    let (_dir, store) = stored();
    let made = store.create(NewKey::named("ci")).expect("made");
    let keys = open(&["sk-alpha-1"], &store);
    std::fs::write(store.path(), "{").expect("written");
    assert!(matches!(keys.reload(), Err(StoreError::Corrupt { .. })));
    assert!(keys.authenticate(&with(&made.key)).is_ok() && keys.authenticate(&with("sk-alpha-1")).is_ok());
    assert!(ApiKeys::default().with_store(store, Scopes::ALL).is_err());
}

#[test]
fn an_expired_key_opens_nothing_and_ends_what_runs() {
    let (_dir, store) = stored();
    let keys = open(&[], &store);
    let new = NewKey { expires_in: Some(Duration::from_secs(2)), ..NewKey::named("ci") };
    let key = keys.create(new).expect("a store").expect("made").key;
    let credential = keys.authenticate(&with(&key)).expect("opens");
    let end = keys.store().expect("a store").read().expect("readable").expect("a file")[0].expires.expect("set");
    assert!(credential.life.goes_on(end - 1) && !credential.life.goes_on(end));
    while unix_now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(keys.authenticate(&with(&key)).expect_err("late"), Denied::Expired);
    assert_eq!(keys.count(), 0);
}

#[test]
fn a_change_of_the_store_gives_nobody_a_new_account() {
    let (_dir, store) = stored();
    let keys = open(&[], &store);
    let limits = KeyLimits { rpm: Some(1), ..KeyLimits::default() };
    let key = keys.create(NewKey { limits, ..NewKey::named("ci") }).expect("a store").expect("made").key;
    let enter = |key: &str| keys.authenticate(&with(key)).expect("opens").gate.enter(Instant::now()).is_ok();
    assert!(enter(&key) && !enter(&key));
    keys.create(NewKey::named("other")).expect("a store").expect("made");
    assert!(!enter(&key));
    let turned = keys.rotate("ci", Duration::ZERO).expect("a store").expect("rotated").key;
    assert!(!enter(&turned));
}

/// Lookups take the same time among 20,000 keys as among one, for keys that are there and for those that are not.
#[test]
fn the_time_of_a_lookup_does_not_grow_with_the_keys() {
    let many = ApiKeys::new((0..20_000).map(|number| format!("sk-number-{number}"))).expect("good keys");
    let one = keys(&["sk-number-0"]);
    // The least of many rounds: what others do on this machine can only add to it.
    let least = |keys: &ApiKeys, key: &str| {
        let headers = with(key);
        let round = || {
            let begun = Instant::now();
            (0..100).for_each(|_| drop(std::hint::black_box(keys.authenticate(&headers))));
            begun.elapsed()
        };
        (0..50).map(|_| round()).min().expect("rounds")
    };
    let alone = least(&one, "sk-number-0");
    for key in ["sk-number-0", "sk-number-19999", "sk-number-20000", "sk-number-1999x"] {
        let among = least(&many, key);
        assert!(among < 4 * alone, "{key}: {among:?} among many, {alone:?} alone");
    }
}

/// Eight bytes find a key, all thirty-two open by it.
#[test]
fn a_digest_that_begins_like_a_keys_opens_nothing() {
    let digest =
        |end: char| format!("{}{}", "ab".repeat(8), end.to_string().repeat(48)).parse::<Digest>().expect("hex");
    let mut set = KeySet::default();
    for (end, name) in [('1', "one"), ('2', "two")] {
        set.insert(digest(end), Arc::new(Credential::unlimited(Tenant::named(name))));
    }
    let found = |end: char| set.find(&digest(end)).map(|credential| credential.tenant.name.as_str());
    assert_eq!((found('1'), found('2'), found('3')), (Some("one"), Some("two"), None));
}
