//! Commits, plans that fail, reopening, copying.

use std::ops::ControlFlow;

use super::*;

fn open(dir: &Path) -> Store {
    let config = StoreConfig { reserve_bytes: 0, compact_floor_bytes: 1 << 20, ..StoreConfig::default() };
    Store::open(dir, config, Arc::new(|_| {})).expect("a store")
}

fn set(store: &Store, key: &'static str, text: &'static str) {
    store
        .write(move |view| {
            view.set(key.into(), value::seal(key.as_bytes(), text.as_bytes()));
            Ok(())
        })
        .expect("a write");
}

fn get(store: &Store, key: &str) -> Option<String> {
    let sealed = store.tree().get(key.as_bytes()).expect("a read")?;
    let bytes = value::unseal(key.as_bytes(), &sealed).expect("a whole value");
    Some(String::from_utf8(bytes.to_vec()).expect("text"))
}

#[test]
fn what_was_written_is_there_after_reopening_and_after_copying() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    set(&store, "a", "one");
    set(&store, "b", "two");
    store.compact().expect("a copy");
    set(&store, "b", "three");
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("one"), Some("three")));
    drop(store);
    let store = open(dir.path());
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("one"), Some("three")));
    assert!(matches!(
        Store::open(dir.path(), StoreConfig::default(), Arc::new(|_| {})),
        Err(MemoryError::Locked { .. })
    ));
}

#[test]
fn a_plan_that_fails_changes_nothing_and_plans_see_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    set(&store, "a", "one");
    let failed = store.write(|view| -> Result<()> {
        view.set(b"a".to_vec(), value::seal(b"a", b"lost"));
        view.remove(b"b".to_vec());
        Err(MemoryError::Closed)
    });
    assert!(matches!(failed, Err(MemoryError::Closed)));
    assert_eq!(get(&store, "a").as_deref(), Some("one"));
    let count = store.write(|view| {
        view.set(b"ab".to_vec(), value::seal(b"ab", b"x"));
        view.remove(b"a".to_vec());
        let mut seen = Vec::new();
        view.scan(b"a", |key, _| {
            seen.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(seen)
    });
    assert_eq!(count.expect("a write"), vec![b"ab".to_vec()]);
}

#[test]
fn writers_of_many_threads_are_all_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let counted = |view: &mut View<'_>| {
        let n: u64 = view.get_json(b"n")?.unwrap_or(0);
        view.set_json(b"n".to_vec(), &(n + 1));
        Ok(n)
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| assert!(store.write(counted).is_ok())));
        }
    });
    assert_eq!(store.write(counted).expect("a write"), 400);
}

#[test]
fn what_is_written_during_a_copy_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let put = |n: u32| {
        let key = n.to_be_bytes().to_vec();
        store.write(move |view| {
            view.set(key.clone(), value::seal(&key, &[7; 500]));
            if n.is_multiple_of(3) && n > 200 {
                view.remove((n - 200).to_be_bytes().to_vec());
            }
            Ok(())
        })
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..400).for_each(|n| put(n).expect("a write")));
        for _ in 0..3 {
            scope.spawn(|| store.compact().expect("a copy"));
        }
    });
    let expected = (0..400_u32).filter(|n| !((n + 200) % 3 == 0 && n + 200 < 400 && *n > 0)).count();
    let tree = store.tree();
    let kept = tree.scan(&[], &[]).filter(|pair| pair.as_ref().expect("a pair").0.len() == 4).count();
    assert_eq!(kept, expected);
}
