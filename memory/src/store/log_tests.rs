//! Torn, damaged and missing frames.

use super::*;

fn ops(n: u8) -> Vec<Op> {
    vec![(vec![n], Some(vec![n; 40])), (vec![n, 1], None)]
}

/// A log of `frames` commits, its file changed by `spoil`, then read back: the numbers seen, or `None` for damage.
fn check(frames: u8, spoil: impl Fn(&mut Vec<u8>), expected: Option<&[u64]>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Log::create(dir.path(), 1).expect("a log");
    for n in 0..frames {
        assert_eq!(log.append(&ops(n)).expect("an append"), u64::from(n) + 1);
    }
    let mut bytes = std::fs::read(log.path()).expect("its bytes");
    spoil(&mut bytes);
    std::fs::write(log.path(), &bytes).expect("spoiling");
    let mut seen = Vec::new();
    let outcome = replay(dir.path(), 0, false, |frame| {
        assert_eq!(frame.ops, ops(frame.seq as u8 - 1));
        seen.push(frame.seq);
        Ok(())
    });
    match expected {
        Some(expected) => {
            outcome.expect("a readable log");
            assert_eq!(seen, expected);
        }
        None => assert!(matches!(outcome, Err(Fault::Corrupt { .. })), "{outcome:?}"),
    }
}

#[test]
fn a_torn_end_is_cut_and_damage_before_it_is_named() {
    check(3, |_| {}, Some(&[1, 2, 3]));
    check(3, |bytes| bytes.truncate(bytes.len() - 1), Some(&[1, 2]));
    check(3, |bytes| bytes.truncate(bytes.len() - 60), Some(&[1, 2]));
    check(1, |bytes| bytes.truncate(17), Some(&[]));
    check(1, |bytes| bytes.truncate(5), Some(&[]));
    check(3, |bytes| *bytes.last_mut().expect("a byte") ^= 1, Some(&[1, 2]));
    check(2, |bytes| bytes.extend_from_slice(&[0; 100]), Some(&[1, 2]));
    check(3, |bytes| bytes[20] ^= 1, None);
    check(3, |bytes| bytes[16] = 0xff, None);
    check(3, |bytes| bytes[0] = b'X', None);
}

#[test]
fn replay_begins_after_what_is_applied_and_rotation_removes_the_old() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Log::create(dir.path(), 1).expect("a log");
    log.append(&ops(0)).expect("an append");
    log.append(&ops(1)).expect("an append");
    let mut seen = Vec::new();
    let all = |seen: &mut Vec<u64>, applied| {
        seen.clear();
        replay(dir.path(), applied, false, |frame| {
            seen.push(frame.seq);
            Ok(())
        })
        .expect("a replay")
        .0
    };
    assert_eq!((all(&mut seen, 1), seen.clone()), (2, vec![2]));
    log.rotate().expect("a rotation");
    assert_eq!(files(dir.path()).expect("files").len(), 1);
    log.append(&ops(2)).expect("an append");
    assert_eq!((all(&mut seen, 2), seen.clone()), (3, vec![3]));
}

proptest::proptest! {
    #[test]
    fn batches_read_back_as_they_were(ops in proptest::collection::vec(
        (proptest::collection::vec(proptest::num::u8::ANY, 0..20),
         proptest::option::of(proptest::collection::vec(proptest::num::u8::ANY, 0..50))), 0..20)) {
        let bytes = batch::encode(&ops);
        proptest::prop_assert_eq!(batch::decode(&bytes), Some(ops));
        proptest::prop_assert_eq!(batch::decode(&bytes[..bytes.len() - 1]), None);
    }
}
