//! The file of keys: what survives, what is refused, what is never written.

use super::*;
use crate::auth::digest::Digest;

fn store() -> (tempfile::TempDir, KeyStore) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = KeyStore::in_dir(dir.path());
    (dir, store)
}

#[test]
fn a_key_from_its_making_to_its_end() {
    let (_dir, store) = store();
    assert!(store.read().expect("no file is fine").is_none());
    let made = store.create(NewKey::named("ci")).expect("made");
    let kept = store.read().expect("readable").expect("a file");
    assert_eq!(kept, std::slice::from_ref(&made.record));
    assert_eq!(kept[0].sha256, Digest::of(made.key.as_bytes()));
    let text = std::fs::read_to_string(store.path()).expect("text");
    assert!(!text.contains(&made.key) && text.contains(&made.record.prefix), "{text}");
    assert!(matches!(store.create(NewKey::named("ci")), Err(StoreError::Taken(name)) if name == "ci"));
    let turned = store.rotate("ci", Duration::from_secs(60)).expect("by name");
    assert_eq!((&turned.record.id, turned.record.retiring.len()), (&made.record.id, 1));
    assert_ne!(turned.key, made.key);
    assert!(matches!(store.rotate("cy", Duration::ZERO), Err(StoreError::Unknown(name)) if name == "cy"));
    store.revoke(&made.record.id).expect("by id");
    assert_eq!(store.read().expect("readable"), Some(Vec::new()), "the file stays, so that the doors stay shut");
}

#[cfg(unix)]
#[test]
fn only_the_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = store();
    // What a crash left behind, open to all.
    std::fs::write(dir.path().join("keys.json.new"), "half").expect("written");
    std::fs::set_permissions(dir.path().join("keys.json.new"), std::fs::Permissions::from_mode(0o666)).expect("set");
    store.create(NewKey::named("ci")).expect("made");
    store.create(NewKey::named("cd")).expect("made");
    let mode = std::fs::metadata(store.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_file_is_named_with_the_place_and_never_overwritten() {
    let (_dir, store) = store();
    store.create(NewKey::named("ci")).expect("made");
    let good = std::fs::read_to_string(store.path()).expect("text");
    let cut = &good[..good.len() / 2];
    let table: Vec<(String, &str)> = vec![
        (String::new(), "line 1 column 0"),
        (cut.to_owned(), "line"),
        ("[]".into(), "line 1"),
        (good.replace("\"inference\"", "\"root\""), "\"root\" is no scope"),
        (good.replace("\"sha256\": \"", "\"sha256\": \"zz"), "64 hexadecimal digits"),
        (good.replace("\"format\": 1", "\"format\": 2"), "format 2, this version reads 1"),
        (good.replace("\"prefix\"", "\"prefixx\""), "prefixx"),
        (twice(&good), "two keys are called \"ci\""),
    ];
    for (text, part) in table {
        std::fs::write(store.path(), &text).expect("written");
        let error = store.read().expect_err(part).to_string();
        assert!(error.contains(part) && error.contains("keys.json"), "{error}");
        assert!(store.create(NewKey::named("cd")).is_err(), "{part}");
        assert_eq!(std::fs::read_to_string(store.path()).expect("text"), text, "left as it was");
    }
    std::fs::write(store.path(), [0xff, 0xfe, 0x00]).expect("written");
    assert!(store.read().expect_err("no text").to_string().contains("is damaged: it is no text"));
}

/// The file with its one key in it twice.
fn twice(good: &str) -> String {
    let mut content: serde_json::Value = serde_json::from_str(good).expect("JSON");
    let key = content["keys"][0].clone();
    content["keys"].as_array_mut().expect("a list").push(key);
    content.to_string()
}

#[test]
fn changes_at_once_are_all_kept() {
    let (dir, _) = store();
    let path = dir.path();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                // One store a thread, as of separate processes.
                let store = KeyStore::in_dir(path);
                for key in 0..8 {
                    store.create(NewKey::named(format!("k{thread}.{key}"))).expect("made");
                }
            });
        }
    });
    assert_eq!(KeyStore::in_dir(path).read().expect("readable").expect("a file").len(), 32);
}

#[test]
fn every_change_has_its_own_stamp() {
    let (_dir, store) = store();
    assert_eq!(store.stamp().expect("no file is fine"), None);
    store.create(NewKey::named("ci")).expect("made");
    let first = store.stamp().expect("a file");
    assert_eq!(store.stamp().expect("a file"), first);
    store.rotate("ci", Duration::ZERO).expect("rotated");
    assert_ne!(store.stamp().expect("a file"), first);
    // Of one length and, as far as the file system's clock can tell, of one time.
    let frozen = |store: &KeyStore| {
        let file = OpenOptions::new().write(true).open(store.path()).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).expect("set");
        store.stamp().expect("a file")
    };
    let second = frozen(&store);
    store.rotate("ci", Duration::ZERO).expect("rotated");
    assert_ne!(frozen(&store), second);
}
