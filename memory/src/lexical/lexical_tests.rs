use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn words(content: &str) -> Words<'_> {
    Words { content, symbol: None, path: None }
}

fn index(texts: &[&str]) -> LexicalIndex {
    let mut index = LexicalIndex::default();
    for (i, text) in texts.iter().enumerate() {
        index.insert(RecordId(i as u128), words(text));
    }
    index
}

fn ids(found: &[Candidate]) -> Vec<u128> {
    found.iter().map(|candidate| candidate.id.0).collect()
}

/// BM25 by its formula, over all records.
fn plain(texts: &HashMap<u128, String>, query: &str, k: usize) -> Vec<(u128, f64)> {
    let counts: HashMap<u128, Vec<(String, u32)>> =
        texts.iter().map(|(&id, text)| (id, distinct_tokens(text))).collect();
    let len = |id: u128| counts[&id].iter().map(|(_, n)| f64::from(*n)).sum::<f64>();
    let n = texts.len() as f64;
    let average = (texts.keys().map(|&id| len(id)).sum::<f64>() / n.max(1.0)).max(1.0);
    let tf = |id: u128, term: &str| counts[&id].iter().find(|(t, _)| t == term).map_or(0.0, |(_, n)| f64::from(*n));
    let mut scored: Vec<(u128, f64)> = Vec::new();
    for &id in texts.keys() {
        let mut score = 0.0;
        for (term, count) in distinct_tokens(query) {
            let df = texts.keys().filter(|&&id| tf(id, &term) > 0.0).count() as f64;
            let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
            let tf = tf(id, &term);
            score += f64::from(count) * idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(id) / average));
        }
        if score > 0.0 {
            scored.push((id, score));
        }
    }
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(k);
    scored
}

#[test]
fn which_records_a_query_finds() {
    let texts = [
        "fn load_config(path: &Path) -> Config",
        "fn save_config(path: &Path, config: &Config)",
        "struct HttpServer { config: Config }",
        "Reads the configuration file from disk",
        "日本語のテキスト",
    ];
    let index = index(&texts);
    let check =
        |query: &str, expected: &[u128]| assert_eq!(ids(&index.search(query, 3, &|_| true)), expected, "{query}");
    check("load_config", &[0, 1, 2]);
    check("loadConfig", &[0, 1, 2]);
    check("http servers", &[2]);
    check("reading files", &[3]);
    check("テキスト", &[4]);
    check("nothing here matches", &[]);
    check("", &[]);
    let odd = index.search("config", 3, &|id| id.0 % 2 == 1);
    assert_eq!(ids(&odd), [1]);
    assert_eq!(ids(&index.search_all("path config save", 3, &|_| true)), [1]);
    assert_eq!(ids(&index.search_all("path absent", 3, &|_| true)), [0u128; 0]);
}

#[test]
fn a_symbol_counts_more_than_the_text_and_a_path_counts() {
    let mut index = LexicalIndex::default();
    let calls = Words { content: "schedule(); schedule();", symbol: Some("run"), path: Some("a.rs") };
    index.insert(RecordId(1), calls);
    let defines = Words { content: "fn f() { work(); }", symbol: Some("Queue::schedule"), path: Some("queue/b.rs") };
    index.insert(RecordId(2), defines);
    assert_eq!(ids(&index.search("schedule", 2, &|_| true)), [2, 1]);
    assert_eq!(ids(&index.search("queue b.rs", 1, &|_| true)), [2]);
}

#[test]
fn churn_leaves_neither_records_nor_words_behind() {
    let mut index = LexicalIndex::default();
    for round in 0..40u128 {
        for i in 0..100 {
            index.insert(RecordId(i), words(&format!("common word{round}x{i} text")));
        }
        assert!(index.tombstones() <= LexicalIndex::MIN_DEAD + 1, "round {round}: {} dead", index.tombstones());
    }
    assert_eq!(index.len(), 100);
    assert!(index.search("word38x7", 1, &|_| true)[0].score < index.search("word39x7", 1, &|_| true)[0].score);
    index.compact();
    let fresh = LexicalIndex::build(
        LexicalParams::default(),
        &(0..100).map(|i| (RecordId(i), words("common word39x1 text"))).collect::<Vec<_>>(),
    );
    assert_eq!(index.postings.len(), index.terms.len());
    assert!(index.terms.keys().all(|term| !term.contains("word38")));
    assert!(index.len() == fresh.len() && index.tombstones() == 0);
}

fn operations() -> impl Strategy<Value = Vec<(u128, Option<String>)>> {
    let word = prop::sample::select(vec!["alpha", "beta", "gamma_delta", "delta", "readFile", "x1", "the"]);
    let text = prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "));
    prop::collection::vec((0..30u128, prop::option::weighted(0.75, text)), 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_as_the_formula_whatever_was_written_and_removed(
        operations in operations(), query in "(alpha|beta|gamma_delta|the|file| ){0,5}", k in 1..12usize
    ) {
        let mut index = LexicalIndex::default();
        let mut texts = HashMap::new();
        for (id, text) in operations {
            match text {
                Some(text) => { index.insert(RecordId(id), words(&text)); texts.insert(id, text); }
                None => { prop_assert_eq!(index.remove(RecordId(id)), texts.remove(&id).is_some()); }
            }
        }
        let records: Vec<_> = texts.iter().map(|(&id, text)| (RecordId(id), words(text))).collect();
        let built = LexicalIndex::build(LexicalParams::default(), &records);
        let expected = plain(&texts, &query, k);
        let compacted = { let mut copy = index.clone(); copy.compact(); copy };
        for index in [&index, &built, &compacted] {
            let found = index.search(&query, k, &|_| true);
            prop_assert_eq!(found.len(), expected.len());
            for (found, (_, score)) in found.iter().zip(&expected) {
                prop_assert!((f64::from(found.score) - score).abs() < 1e-3, "{:?} for {}", found, score);
            }
        }
    }
}
