use super::*;
use proptest::prelude::*;

fn charge(key: &str, day: u32, nanos: u64) -> Charge {
    Charge { key: key.into(), day: Day(day), amount: Usd::from_nanos(nanos) }
}

/// Where the snapshot, or a frame, ends.
struct End {
    len: usize,
    /// Charges until there.
    charges: usize,
    /// What was durable before it was written.
    durable: usize,
}

/// A file as the writer makes one, and its ends: a snapshot, then a frame for each list, with a sync where it says so.
fn file(base: &[Charge], frames: &[(Vec<Charge>, bool)]) -> (Vec<u8>, Vec<End>) {
    let mut bytes = snapshot(base);
    let mut durable = bytes.len();
    let mut ends = vec![End { len: bytes.len(), charges: base.len(), durable }];
    for (charges, sync) in frames {
        put_frame(&mut bytes, charges, durable as u64);
        ends.push(End { len: bytes.len(), charges: ends[ends.len() - 1].charges + charges.len(), durable });
        if *sync {
            durable = bytes.len();
        }
    }
    (bytes, ends)
}

fn sample() -> (Vec<u8>, Vec<End>, Vec<Charge>) {
    let base = vec![charge("alpha", 20_000, 5), charge("beta", 20_001, 7)];
    let frames = vec![
        (vec![charge("alpha", 20_001, 1)], true),
        (vec![charge("ключ", 20_001, 2), charge("alpha", 20_001, u64::MAX)], false),
        (vec![charge("", 20_002, 3)], false),
        (vec![charge("SPNDSPND", 20_002, 4)], true),
    ];
    let all = base.iter().chain(frames.iter().flat_map(|(charges, _)| charges)).cloned().collect();
    let (bytes, ends) = file(&base, &frames);
    (bytes, ends, all)
}

#[test]
fn cut_at_every_byte_it_keeps_all_whole_frames_or_says_where_it_is_cut() {
    let (bytes, ends, all) = sample();
    assert_eq!(replay(&bytes), Ok(Replay { charges: all.clone(), torn: 0 }));
    for cut in 0..bytes.len() {
        let (whole, count) = ends.iter().rfind(|end| end.len <= cut).map_or((0, 0), |end| (end.len, end.charges));
        let expected = match whole {
            0 if cut < FILE_HEAD => Err(0),
            0 => Err(FILE_HEAD as u64), // the snapshot's only frame
            _ => Ok(Replay { charges: all[..count].to_vec(), torn: (cut - whole) as u64 }),
        };
        assert_eq!(replay(&bytes[..cut]), expected, "cut at {cut}");
    }
}

#[test]
fn a_wrong_byte_is_damage_where_it_was_durable_and_a_gap_where_it_was_not() {
    let (bytes, ends, all) = sample();
    let durable = ends[ends.len() - 1].durable;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            let found = replay(&bytes);
            if at < durable {
                let error = found.expect_err("durable");
                assert!(error as usize <= at, "{at}: {error}");
                continue;
            }
            // Only the frame that it is in is gone.
            let hit = ends.iter().position(|end| at < end.len).expect("in a frame");
            let kept = [&all[..ends[hit - 1].charges], &all[ends[hit].charges..]].concat();
            let torn = (ends[hit].len - ends[hit - 1].len) as u64;
            assert_eq!(found, Ok(Replay { charges: kept, torn }), "{at}");
        }
    }
}

#[test]
fn foreign_files_are_damage_at_byte_zero() {
    for bytes in [&b""[..], b"ENGRSPD1", b"ENGRLOG1............", &[0; 4096], b"hello, this is no log of ours"] {
        assert_eq!(replay(bytes), Err(0));
    }
}

#[test]
fn a_large_snapshot_is_many_frames() {
    let long = "k".repeat(100_000);
    let charges: Vec<Charge> =
        (0..5000).map(|number| charge(&format!("key-{number}"), 20_000, number)).chain([charge(&long, 1, 1)]).collect();
    let bytes = snapshot(&charges);
    assert_eq!(replay(&bytes), Ok(Replay { charges, torn: 0 }));
    // Damage in any of them is found, the last one too.
    for at in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        assert!(replay(&bytes).is_err(), "{at}");
    }
    assert!(replay(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn it_is_appended_to_and_begun_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(read(dir.path()).expect("no log is an empty one"), Replay::default());
    let mut log = Log::begin(dir.path(), &[charge("a", 1, 1)]).expect("begun");
    log.append(&[charge("a", 1, 2)]).expect("appended");
    log.sync().expect("synced");
    log.append(&[charge("b", 1, 3)]).expect("appended");
    let all = vec![charge("a", 1, 1), charge("a", 1, 2), charge("b", 1, 3)];
    assert_eq!(read(dir.path()).expect("whole").charges, all);
    assert_eq!(log.len, std::fs::metadata(path_in(dir.path())).expect("there").len());
    assert_eq!((log.base, log.len), (57, 131));
    assert!(!log.is_outgrown(0), "not four times what it began with");
    for _ in 0..3 {
        log.append(&[charge("b", 1, 0)]).expect("appended");
    }
    assert!(log.is_outgrown(0) && log.is_outgrown(241) && !log.is_outgrown(242));
    Log::begin(dir.path(), &all[2..]).expect("begun anew");
    assert_eq!(read(dir.path()).expect("whole").charges, all[2..]);
    assert!(!dir.path().join("spend.log.new").exists());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), good_head: bool) {
        if good_head {
            let mut head = snapshot(&[]);
            head.append(&mut bytes);
            bytes = head;
        }
        let _ = replay(&bytes);
    }

    #[test]
    fn what_is_written_is_read(
        frames in prop::collection::vec(
            (prop::collection::vec(("\\PC{0,12}", any::<u32>(), any::<u64>()), 1..6), any::<bool>()), 0..12),
    ) {
        let frames: Vec<(Vec<Charge>, bool)> = frames.into_iter()
            .map(|(charges, sync)| (charges.into_iter().map(|(key, day, nanos)| charge(&key, day, nanos)).collect(), sync))
            .collect();
        let (bytes, _) = file(&[], &frames);
        let all: Vec<Charge> = frames.into_iter().flat_map(|(charges, _)| charges).collect();
        prop_assert_eq!(replay(&bytes), Ok(Replay { charges: all, torn: 0 }));
    }
}
