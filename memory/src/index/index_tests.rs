use std::collections::HashSet;
use std::sync::OnceLock;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::exact;

const DIM: usize = 40;
const K: usize = 10;
const EF: usize = 96;

/// Vectors around some hundred centres, as embeddings of source are, and not around nothing, where all are equally far.
fn clustered(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = move |scale: f32| (rng.random::<f32>() + rng.random::<f32>() - 1.0) * scale;
    let mut centre_rng = ChaCha8Rng::seed_from_u64(99);
    let centres: Vec<Vec<f32>> =
        (0..100).map(|_| (0..DIM).map(|_| centre_rng.random::<f32>() - 0.5).collect()).collect();
    (0..count).map(|i| centres[i * 31 % 100].iter().map(|value| value + noise(0.5)).collect()).collect()
}

/// What the index should hold, in the open.
type Model = std::collections::HashMap<u128, Vec<f32>>;

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = distance::dot(vector, vector).sqrt();
    vector.iter().map(|value| value / length).collect()
}

fn params() -> IndexParams {
    IndexParams { recent: 256, exact_below: 100, build_threads: 2, ..IndexParams::default() }
}

fn insert_all(index: &VectorIndex, model: &mut Model, first: u128, vectors: &[Vec<f32>]) {
    let rows: Vec<(u128, &[f32])> = (first..).zip(vectors.iter().map(Vec::as_slice)).collect();
    index.insert_many(&rows).expect("vectors of the index's kind");
    model.extend(rows.iter().map(|&(id, row)| (id, unit(row))));
}

/// Mean recall@10 of some searches; each hit must be there, accepted, once, in order, and at its exact score.
fn recall(index: &VectorIndex, model: &Model, seed: u64, accept: Option<&dyn Fn(u128) -> bool>) -> f64 {
    let queries = clustered(60, seed);
    let (mut found, mut wanted) = (0, 0);
    for query in &queries {
        let query_unit = unit(query);
        let rows = model.iter().filter(|&(&id, _)| accept.is_none_or(|accept| accept(id)));
        let truth = exact::nearest(&query_unit, rows.map(|(&id, row)| (id, row.as_slice())), K);
        let hits = index.search(query, K, EF, accept).expect("a query of the index's kind");
        let ids: HashSet<u128> = hits.iter().map(|hit| hit.0).collect();
        assert_eq!(ids.len(), hits.len(), "an id twice");
        assert!(hits.is_sorted_by(|a, b| a.1 >= b.1));
        for &(id, score) in &hits {
            assert!(accept.is_none_or(|accept| accept(id)), "{id} was refused");
            let row = model.get(&id).unwrap_or_else(|| panic!("{id} is not there"));
            assert!((score - distance::dot(&query_unit, row)).abs() < 1e-6);
        }
        found += truth.iter().filter(|(id, _)| ids.contains(id)).count();
        wanted += truth.len();
    }
    found as f64 / wanted as f64
}

fn assert_recall(index: &VectorIndex, model: &Model, least: f64, what: &str) {
    assert_eq!(index.len(), model.len(), "{what}");
    let recall = recall(index, model, 5, None);
    assert!(recall >= least, "{what}: recall {recall}");
}

/// 12,000 vectors in a graph, built once.
fn large() -> &'static (VectorIndex, Model) {
    static LARGE: OnceLock<(VectorIndex, Model)> = OnceLock::new();
    LARGE.get_or_init(|| {
        let index = VectorIndex::new(DIM, params()).expect("a dimension");
        let mut model = Model::new();
        insert_all(&index, &mut model, 0, &clustered(12_000, 1));
        (index, model)
    })
}

#[test]
fn recall_holds_whatever_a_filter_lets_through() {
    let (index, model) = large();
    assert_recall(index, model, 0.97, "all");
    for one_in in [1u128, 2, 10, 50, 100, 1000, 5000] {
        let spread = move |id: u128| id.is_multiple_of(one_in);
        let recall_of_spread = recall(index, model, 6, Some(&spread));
        assert!(recall_of_spread >= 0.97, "one in {one_in}: recall {recall_of_spread}");
        // All in few clusters, most queries far from them: the walk must go there.
        let apart = move |id: u128| (id * 31 % 100) * one_in < 100;
        let recall_of_apart = recall(index, model, 7, Some(&apart));
        assert!(recall_of_apart >= 0.97, "clusters, one in {one_in}: recall {recall_of_apart}");
    }
    assert!(index.search(&[1.0; DIM], K, EF, Some(&|_| false)).expect("no hits").is_empty());
    // Numbers as a client may send them.
    for (k, ef, hits) in [(0, 0, 0), (0, usize::MAX, 0), (3, 0, 3), (usize::MAX, 0, 12_000), (5, usize::MAX, 5)] {
        let found = index.search(&[1.0; DIM], k, ef, None).expect("hits").len();
        // A walk may miss a few of all there are.
        assert!(found <= hits && found * 100 >= hits * 99, "k {k}, ef {ef}: {found} hits");
    }
}

#[test]
fn few_are_searched_exactly() {
    let index = VectorIndex::new(DIM, params()).expect("a dimension");
    let mut model = Model::new();
    assert!(index.is_empty() && index.search(&[1.0; DIM], K, EF, None).expect("no hits").is_empty());
    for (id, vector) in (0..).zip(clustered(200, 2)) {
        index.insert(id, &vector).expect("a vector");
        model.insert(id, unit(&vector));
    }
    assert_recall(&index, &model, 1.0, "waiting");
    index.merge();
    assert_eq!(index.waiting(), 0);
    assert_recall(&index, &model, 1.0, "merged");
}

#[test]
fn removed_and_replaced_ones_are_gone_before_and_after_a_compaction() {
    let index = VectorIndex::new(DIM, params()).expect("a dimension");
    let mut model = Model::new();
    insert_all(&index, &mut model, 0, &clustered(4000, 3));
    // A whole neighbourhood, where a search that only dropped dead hits would have none left, and a third of the rest.
    for id in (0..4000u128).filter(|id| id * 31 % 100 < 10 || id % 3 == 0) {
        assert!(index.remove(id) && !index.remove(id));
        model.remove(&id);
    }
    assert_eq!(index.tombstones(), 4000 - model.len());
    assert_recall(&index, &model, 0.97, "after deletes");
    insert_all(&index, &mut model, 0, &clustered(2500, 4));
    assert_recall(&index, &model, 0.97, "after inserts in their place");
    for (id, vector) in (0..100).zip(clustered(100, 8)) {
        index.insert(id, &vector).expect("a vector");
        model.insert(id, unit(&vector));
    }
    assert!(index.tombstones() > 0);
    index.compact();
    assert_eq!((index.tombstones(), index.waiting()), (0, 0));
    assert_recall(&index, &model, 0.97, "after a compaction");
    let ids: Vec<u128> = (0..5000).step_by(7).collect();
    let among = index.search_among(&[1.0; DIM], 5, &ids).expect("hits");
    let rows = ids.iter().filter_map(|id| Some((*id, model.get(id)?.as_slice())));
    let truth = exact::nearest(&unit(&[1.0; DIM]), rows, 5);
    assert_eq!(among.iter().map(|hit| hit.0).collect::<Vec<_>>(), truth.iter().map(|hit| hit.0).collect::<Vec<_>>());
    let held = index.vector(1).expect("it was inserted");
    assert!(held.iter().zip(&model[&1]).all(|(a, b)| (a - b).abs() < 1e-6));
    model.keys().copied().collect::<Vec<_>>().iter().for_each(|id| assert!(index.remove(*id)));
    assert!(index.search(&[1.0; DIM], K, EF, None).expect("no hits").is_empty());
    index.compact();
    assert_eq!((index.len(), index.tombstones()), (0, 0));
}

#[test]
fn what_grows_by_and_by_is_found_as_what_was_built_at_once() {
    let index = VectorIndex::new(DIM, params()).expect("a dimension");
    let mut model = Model::new();
    for (part, vectors) in clustered(6000, 9).chunks(300).enumerate() {
        for (id, vector) in (part as u128 * 300..).zip(vectors) {
            index.insert(id, vector).expect("a vector");
            model.insert(id, unit(vector));
        }
    }
    index.merge();
    assert_eq!(index.waiting(), 0);
    assert_recall(&index, &model, 0.97, "grown");
}

#[test]
fn searches_and_writes_beside_builds_see_whole_states() {
    let index = VectorIndex::new(DIM, params()).expect("a dimension");
    let vectors = clustered(5000, 10);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searcher = scope.spawn(|| {
            let mut searches = 0u32;
            while !done.load(std::sync::atomic::Ordering::Acquire) || searches == 0 {
                let hits = index.search(&vectors[7], K, EF, None).expect("a query");
                // Ids 1,000,000 and up were removed before anybody searched.
                assert!(hits.iter().all(|hit| hit.0 < 1_000_000 && hit.1 <= 1.0 + 1e-5));
                searches += 1;
            }
        });
        let compactor = scope.spawn(|| (0..3).for_each(|_| index.compact()));
        for (id, vector) in (0..).zip(&vectors) {
            index.insert(id, vector).expect("a vector");
            // Found at once, wherever it is kept.
            if id % 97 == 0 {
                assert_eq!(index.search(vector, 1, EF, None).expect("a query")[0].0, id);
            }
            if id % 5 == 4 {
                assert!(index.remove(id - 4));
                let hits = index.search(&vectors[id as usize - 4], 3, EF, None).expect("a query");
                assert!(hits.iter().all(|hit| hit.0 != id - 4), "{id}");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        searcher.join().expect("searches");
        compactor.join().expect("compactions");
    });
    let live = (0..).zip(&vectors).filter(|(id, _)| id % 5 != 0);
    let model: Model = live.map(|(id, vector)| (id, unit(vector))).collect();
    assert_recall(&index, &model, 0.97, "afterwards");
    index.compact();
    assert_recall(&index, &model, 0.97, "compacted");
}

#[test]
fn a_file_gives_back_what_was_saved() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vectors.idx");
    for (count, waiting, removed) in [(0u128, 0u128, 0u128), (100, 0, 3), (3000, 50, 200)] {
        let index = VectorIndex::new(DIM, params()).expect("a dimension");
        let mut model = Model::new();
        insert_all(&index, &mut model, 0, &clustered(count as usize, 11));
        insert_all(&index, &mut model, count, &clustered(waiting as usize, 12));
        for id in 0..removed {
            assert!(index.remove(id * 7 % count));
            model.remove(&(id * 7 % count));
        }
        index.save(&path).expect("a file");
        let loaded = VectorIndex::load(&path, params()).expect("the file");
        assert_eq!((loaded.len(), loaded.dim(), loaded.tombstones()), (model.len(), DIM, index.tombstones()));
        for query in clustered(40, 13) {
            let search = |index: &VectorIndex| index.search(&query, K, EF, None).expect("a query");
            assert_eq!(search(&loaded), search(&index));
        }
        insert_all(&loaded, &mut model, 10_000, &clustered(300, 14));
        assert_recall(&loaded, &model, 0.97, "loaded and grown");
    }
}

#[test]
fn a_damaged_file_is_told_and_never_a_panic() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vectors.idx");
    let index = VectorIndex::new(DIM, params()).expect("a dimension");
    insert_all(&index, &mut Model::new(), 0, &clustered(400, 15));
    index.save(&path).expect("a file");
    let whole = std::fs::read(&path).expect("the file");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a file");
        VectorIndex::load(&path, params()).map(|_| ())
    };
    assert!(load(&whole).is_ok());
    for len in [0, 4, 8, 11, 12, 40, 43, 44, 100, whole.len() - 1] {
        assert!(matches!(load(&whole[..len]), Err(MemoryError::Corrupt { .. })), "{len}");
    }
    for at in (12..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(matches!(load(&bytes), Err(MemoryError::Corrupt { .. })), "{at}");
    }
    let mut newer = whole.clone();
    newer[8] = 9;
    assert!(matches!(load(&newer), Err(MemoryError::Format { found: 9, .. })));
    // Numbers that lie under a checksum that is right: sizes, and neighbours that are no points.
    for at in (12..52).chain((52..whole.len() - 32).rev().step_by(1501)) {
        let mut bytes = whole[..whole.len() - 32].to_vec();
        bytes[at] ^= 0x40;
        use sha2::Digest;
        let digest = sha2::Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        if let Ok(()) = load(&bytes) {
            let index = VectorIndex::load(&path, params()).expect("it was read just now");
            let query = vec![1.0; index.dim()];
            index.search(&query, K, EF, None).expect("whatever it holds is searched");
        }
    }
    assert!(matches!(VectorIndex::load(&dir.path().join("none"), params()), Err(MemoryError::Io { .. })));
    assert!(matches!(index.save(&dir.path().join("none/x.idx")), Err(MemoryError::Io { .. })));
}

#[test]
fn vectors_that_say_nothing_are_refused() {
    let index = VectorIndex::new(3, params()).expect("a dimension");
    for vector in [&[1.0, 2.0][..], &[1.0; 4], &[0.0; 3], &[f32::NAN, 1.0, 1.0], &[f32::INFINITY, 0.0, 0.0], &[3e38; 3]]
    {
        assert!(matches!(index.insert(1, vector), Err(MemoryError::Invalid { .. })), "{vector:?}");
        assert!(matches!(index.search(vector, 1, 1, None), Err(MemoryError::Invalid { .. })), "{vector:?}");
        assert!(index.insert_many(&[(1, &[1.0; 3]), (2, vector)]).is_err() && index.is_empty());
    }
    for dim in [0, 70_000] {
        assert!(matches!(VectorIndex::new(dim, params()), Err(MemoryError::Invalid { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_of_writes_ends_in_what_the_last_of_them_said(
        steps in prop::collection::vec((0u8..12, 0u128..400), 1..600),
        copies in 1usize..4,
    ) {
        let index = VectorIndex::new(DIM, IndexParams { recent: 64, ..params() }).expect("a dimension");
        let mut model = Model::new();
        for (at, (what, id)) in steps.into_iter().enumerate() {
            match what {
                0..8 => {
                    // Many of one vector: equal scores, and nothing lies apart from anything.
                    let vector = clustered(1 + at % (40 / copies), 20).pop().expect("at least one");
                    index.insert(id, &vector).expect("a vector");
                    model.insert(id, unit(&vector));
                }
                8..10 => prop_assert_eq!(index.remove(id), model.remove(&id).is_some()),
                10 => index.merge(),
                _ => if at % 10 == 0 { index.compact() },
            }
        }
        prop_assert_eq!(index.len(), model.len());
        for (&id, vector) in &model {
            prop_assert!(index.contains(id));
            let best = index.search(vector, 1, EF, Some(&|other| other == id)).expect("a query");
            prop_assert_eq!(best[0].0, id);
        }
    }
}
