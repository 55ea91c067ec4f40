//! Torn, damaged and missing frames.

use super::super::replay::{Reading, replay};
use super::*;

fn ops(n: u8) -> Vec<Op> {
    vec![(vec![n], Some(vec![n; 40])), (vec![n, 1], None)]
}

fn exact(base: u64, applied: u64) -> Reading {
    Reading { base, applied, written: 0, lenient: false }
}

/// A log of `frames` commits, its file changed by `spoil`, then read back: the numbers seen, or `None` for damage.
fn check(frames: u8, spoil: impl Fn(&mut Vec<u8>), expected: Option<&[u64]>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Log::create(dir.path(), 1).expect("a log");
    for n in 0..frames {
        assert_eq!(log.append(&ops(n), u64::from(n) * 10).expect("an append"), u64::from(n) + 1);
    }
    let mut bytes = std::fs::read(log.path()).expect("its bytes");
    spoil(&mut bytes);
    std::fs::write(log.path(), &bytes).expect("spoiling");
    let mut seen = Vec::new();
    let outcome = replay(dir.path(), exact(0, 0), |frame| {
        assert_eq!(frame.ops, ops(frame.seq as u8 - 1));
        seen.push(frame.seq);
        Ok(())
    });
    match expected {
        Some(expected) => {
            let last = expected.last().copied();
            let found = outcome.expect("a readable log");
            assert_eq!((found.last, found.records), (last.unwrap_or(0), last.map(|last| (last - 1) * 10)));
            assert_eq!(seen, expected);
        }
        None => assert!(matches!(outcome, Err(Fault::Corrupt { .. })), "{outcome:?}"),
    }
}

#[test]
fn a_torn_end_is_cut_and_damage_before_it_is_named() {
    check(3, |_| {}, Some(&[1, 2, 3]));
    check(3, |bytes| bytes.truncate(bytes.len() - 1), Some(&[1, 2]));
    check(3, |bytes| bytes.truncate(bytes.len() - 80), Some(&[1, 2]));
    check(1, |bytes| bytes.truncate(17), Some(&[]));
    check(1, |bytes| bytes.truncate(5), Some(&[]));
    check(3, |bytes| *bytes.last_mut().expect("a byte") ^= 1, Some(&[1, 2]));
    check(2, |bytes| bytes.extend_from_slice(&[0; 100]), Some(&[1, 2]));
    check(3, |bytes| bytes[20] ^= 1, None);
    check(3, |bytes| bytes[16] = 0xff, None);
    check(3, |bytes| bytes[0] = b'X', None);
}

/// A log of three commits of two pairs, spoiled, read leniently: the keys that are kept, and the gaps.
fn salvaged(spoil: impl Fn(&mut Vec<u8>), written: u64, expected: &[&[u8]], gaps: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Log::create(dir.path(), 1).expect("a log");
    (0..3).for_each(|n| assert!(log.append(&ops(n), 0).is_ok()));
    let mut bytes = std::fs::read(log.path()).expect("its bytes");
    spoil(&mut bytes);
    std::fs::write(log.path(), &bytes).expect("spoiling");
    let mut keys = Vec::new();
    let found = replay(dir.path(), Reading { base: 0, applied: 0, written, lenient: true }, |frame| {
        keys.extend(frame.ops.into_iter().map(|(key, _)| key));
        Ok(())
    });
    assert_eq!(found.expect("a lenient reading").gaps, gaps);
    assert_eq!(keys, expected);
}

#[test]
fn what_can_be_read_of_a_damaged_log_is_what_was_not_hit() {
    let frame = FRAME_HEAD + batch::encoded_len(&ops(0));
    let second = FILE_HEAD + batch::encoded_len(&ops(0)) + FRAME_HEAD;
    salvaged(|_| {}, 3, &[&[0], &[0, 1], &[1], &[1, 1], &[2], &[2, 1]], 0);
    salvaged(|bytes| bytes[second] ^= 1, 3, &[&[0], &[0, 1], &[1], &[1, 1], &[2], &[2, 1]], 1);
    salvaged(|bytes| bytes[second + FRAME_HEAD + 20] ^= 1, 3, &[&[0], &[0, 1], &[1, 1], &[2], &[2, 1]], 1);
    salvaged(|bytes| drop(bytes.drain(second..second + frame)), 3, &[&[0], &[0, 1], &[2], &[2, 1]], 1);
    salvaged(|bytes| bytes[3] = 0, 3, &[&[0], &[0, 1], &[1], &[1, 1], &[2], &[2, 1]], 1);
    // An end that nobody knows to have been whole is a torn write, of which nothing is taken; else it is damage.
    salvaged(|bytes| bytes.truncate(bytes.len() - 3), 2, &[&[0], &[0, 1], &[1], &[1, 1]], 0);
    salvaged(|bytes| bytes.truncate(bytes.len() - 3), 3, &[&[0], &[0, 1], &[1], &[1, 1], &[2]], 2);
}

#[test]
fn replay_begins_after_what_is_applied_and_rotation_keeps_the_old() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Log::create(dir.path(), 1).expect("a log");
    log.append(&ops(0), 0).expect("an append");
    log.append(&ops(1), 0).expect("an append");
    let seen = |base, applied| {
        let mut seen = Vec::new();
        let found = replay(dir.path(), exact(base, applied), |frame| {
            seen.push(frame.seq);
            Ok(())
        });
        (found.expect("a replay").last, seen)
    };
    assert_eq!(seen(0, 1), (2, vec![2]));
    log.rotate().expect("a rotation");
    assert_eq!(files(dir.path()).expect("files").len(), 2);
    log.append(&ops(2), 0).expect("an append");
    assert_eq!(seen(0, 1), (3, vec![2, 3]));
    log.remove_up_to(1).expect("a removal");
    assert_eq!(seen(0, 1), (3, vec![2, 3]), "the first file holds commit 2 as well");
    log.remove_up_to(2).expect("a removal");
    assert_eq!(seen(2, 2), (3, vec![3]));
    let missing = replay(dir.path(), exact(0, 0), |_| Ok(()));
    assert!(matches!(missing, Err(Fault::Corrupt { .. })), "commits 1 and 2 are gone: {missing:?}");
}

proptest::proptest! {
    #[test]
    fn batches_read_back_as_they_were_and_damage_costs_what_it_hit(
        ops in proptest::collection::vec(
            (proptest::collection::vec(proptest::num::u8::ANY, 0..20),
             proptest::option::of(proptest::collection::vec(proptest::num::u8::ANY, 0..50))), 1..20),
        hit in proptest::num::usize::ANY,
    ) {
        let mut bytes = batch::encode(&ops);
        proptest::prop_assert_eq!(bytes.len(), batch::encoded_len(&ops));
        proptest::prop_assert_eq!(batch::decode(&bytes), Some(ops.clone()));
        proptest::prop_assert_eq!(batch::decode(&bytes[..bytes.len() - 1]), None);
        let hit = hit % bytes.len();
        bytes[hit] ^= 0x5a;
        let ends = ops.iter().scan(0, |end, op| { *end += batch::encoded_len(std::slice::from_ref(op)); Some(*end) });
        let lost = ends.filter(|&end| end <= hit).count();
        let kept: Vec<Op> = ops.iter().enumerate().filter(|(at, _)| *at != lost).map(|(_, op)| op.clone()).collect();
        proptest::prop_assert_eq!(batch::salvage(&bytes), kept);
    }
}
