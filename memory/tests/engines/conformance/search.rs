//! Finding: by id, in order, by vector, by word, by name.

use std::collections::BTreeMap;

use engram_memory::backend::{Backend, Candidate, Change, Forget, Selection, Stored};
use engram_memory::{Kind, RecordId, Scope};

use super::{between, put, record, scope, stored, vector};

fn ids(found: &[Candidate]) -> Vec<RecordId> {
    assert!(found.is_sorted_by(|a, b| a.score >= b.score), "best first: {found:?}");
    found.iter().map(|candidate| candidate.id).collect()
}

pub fn gets_many_in_order(backend: &dyn Backend) {
    let scope = scope();
    let [a, b, c] = ["a", "b", "c"].map(|content| put(backend, stored(&scope, content)).id);
    let get = |ids: &[RecordId]| -> Vec<RecordId> {
        let many = backend.get_many(&scope.partition, ids).unwrap();
        many.into_iter().map(|stored| stored.record.id).collect()
    };
    assert_eq!(get(&[c, a, RecordId(1), b]), [c, a, b]);
    assert_eq!(get(&[b]), [b]);
    assert_eq!(get(&[]), []);
}

pub fn scans_in_pages(backend: &dyn Backend) {
    let scope = scope();
    let project = scope.clone().project("p").unwrap();
    let records: Vec<Stored> = (0..25).map(|i| stored(&project, &format!("record {i}"))).collect();
    let mut expected: Vec<RecordId> = records.iter().map(|stored| stored.record.id).collect();
    expected.sort();
    backend.put(records).unwrap();
    put(backend, stored(&scope, "of no project"));
    let selection = Selection::all(project);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = backend.scan(&selection, None, after, 10).unwrap();
        assert!(page.len() <= 10);
        seen.extend(page.iter().map(|stored| stored.record.id));
        match page.last() {
            Some(last) => after = Some(last.record.id),
            None => break,
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(backend.scan(&Selection::all(scope), None, None, 99).unwrap().len(), 26);
}

pub fn scans_the_past(backend: &dyn Backend) {
    let (scope, before) = (scope(), between());
    let changed = put(backend, stored(&scope, "first"));
    let unchanged = put(backend, stored(&scope, "steady"));
    let then = between();
    let change = Change { content: Some(("second".into(), vector(1, 0.0))), ..Change::default() };
    backend.change(&scope.partition, changed.id, change).unwrap();
    put(backend, stored(&scope, "new"));
    let contents = |as_of| {
        let stored = backend.scan(&Selection::all(scope.clone()), as_of, None, 99).unwrap();
        assert!(stored.is_sorted_by_key(|stored| stored.record.id));
        let mut contents: Vec<(String, Vec<f32>)> =
            stored.into_iter().map(|stored| (stored.record.content, stored.vector)).collect();
        contents.sort_by(|a, b| a.0.cmp(&b.0));
        contents
    };
    assert_eq!(contents(Some(before)), []);
    let zero = || vector(0, 0.0);
    assert_eq!(contents(Some(then)), [("first".into(), zero()), (unchanged.content, zero())]);
    let now = [("new".into(), zero()), ("second".into(), vector(1, 0.0)), ("steady".into(), zero())];
    assert_eq!(contents(None), now);
    assert_eq!(contents(Some(between())), now);
}

pub fn finds_the_nearest(backend: &dyn Backend) {
    let scope = scope();
    let leans = [0.0, 0.1, 0.2, 0.3, 0.5, 0.9];
    let expected: Vec<RecordId> = leans
        .iter()
        .map(|&lean| {
            let record = record(&scope, Kind::Code, &format!("leans {lean}"));
            put(backend, Stored { record, vector: vector(0, lean) }).id
        })
        .collect();
    let selection = Selection::all(scope);
    let found = backend.nearest(&selection, &vector(0, 0.0), 6).unwrap();
    assert_eq!(ids(&found), expected);
    for (candidate, lean) in found.iter().zip(leans) {
        let cosine = (1.0 - lean * lean).sqrt();
        assert!((candidate.score - cosine).abs() < 1e-2, "score {} for cosine {cosine}", candidate.score);
    }
    assert_eq!(ids(&backend.nearest(&selection, &vector(0, 0.0), 2).unwrap()), expected[..2]);
    assert_eq!(ids(&backend.nearest(&selection, &vector(0, 0.95), 1).unwrap()), expected[5..]);
    assert_eq!(backend.nearest(&selection, &vector(0, 0.0), 0).unwrap(), []);
    assert_eq!(backend.nearest(&selection, &vector(0, 0.0), 100).unwrap().len(), 6);
}

pub fn finds_the_nearest_that_are_selected(backend: &dyn Backend) {
    let scope = scope();
    let place = |i: usize| -> Scope {
        let project = scope.clone().project(["red", "green"][i % 2]).unwrap();
        if i.is_multiple_of(3) { project.session("s").unwrap() } else { project }
    };
    let kind = |i: usize| Kind::ALL[i % 5];
    let records: Vec<Stored> = (0..60)
        .map(|i| {
            let record = record(&place(i), kind(i), &format!("record {i}"));
            Stored { record, vector: vector(0, i as f32 / 100.0) }
        })
        .collect();
    backend.put(records.clone()).unwrap();
    let check = |selection: Selection, k: usize| {
        let compiled = selection.compile().unwrap();
        let expected: Vec<RecordId> = records
            .iter()
            .filter(|stored| compiled.matches(&stored.record))
            .map(|stored| stored.record.id)
            .take(k)
            .collect();
        let found = backend.nearest(&selection, &vector(0, 0.0), k).unwrap();
        assert_eq!(ids(&found), expected, "{selection:?}");
    };
    check(Selection::all(place(1)), 60);
    check(Selection::all(scope.clone().project("red").unwrap()), 5);
    check(Selection::all(scope.clone().session("s").unwrap()), 60);
    check(Selection::all(place(3)), 3);
    check(Selection { kinds: vec![Kind::Code, Kind::Workflow], ..Selection::all(scope.clone()) }, 60);
    check(Selection::all(scope.project("blue").unwrap()), 9);
}

pub fn finds_words(backend: &dyn Backend) {
    let scope = scope();
    let contents = [
        "fn parse_header(input: &str) -> Header",
        "The header of a request is parsed first, then the header's fields",
        "struct HttpRequest { body: Vec<u8> }",
        "Ein Gedächtnis für Größen",
    ];
    let ids: Vec<RecordId> = contents.iter().map(|content| put(backend, stored(&scope, content)).id).collect();
    let selection = Selection::all(scope.clone());
    let check = |text: &str, mut expected: Vec<usize>| {
        let found = backend.lexical(&selection, text, 10).unwrap();
        let mut found: Vec<usize> =
            self::ids(&found).iter().map(|id| ids.iter().position(|other| other == id).unwrap()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{text}");
    };
    check("header", vec![0, 1]);
    assert_eq!(self::ids(&backend.lexical(&selection, "PARSE_HEADER", 10).unwrap())[0], ids[0], "whole before parts");
    check("http body", vec![2]);
    check("größen", vec![3]);
    check("nothingofthekind", vec![]);
    check("", vec![]);
    check("!!! ??", vec![]);
    let documents = Selection { kinds: vec![Kind::Document], ..selection.clone() };
    assert_eq!(backend.lexical(&documents, "header", 10).unwrap(), []);
    assert_eq!(backend.lexical(&selection, "header", 1).unwrap().len(), 1);
}

pub fn ranks_rare_words_higher(backend: &dyn Backend) {
    let scope = scope();
    for i in 0..20 {
        put(backend, stored(&scope, &format!("the common thing number {i}")));
    }
    let rare = put(backend, stored(&scope, "an uncommon zebra here with some more")).id;
    let long = format!("a zebra {}", "and so many other things besides ".repeat(20));
    let long = put(backend, stored(&scope, &long)).id;
    let found = ids(&backend.lexical(&Selection::all(scope), "common zebra", 3).unwrap());
    assert_eq!(found[0], rare, "the rare word, in the short text");
    assert!(found.contains(&long) || found.len() == 3);
}

pub fn finds_symbols_first(backend: &dyn Backend) {
    let scope = scope();
    let with_symbol = |content: &str, symbol: &str| {
        let mut stored = stored(&scope, content);
        stored.record.provenance.symbol = Some(symbol.to_owned());
        put(backend, stored).id
    };
    let caller = put(backend, stored(&scope, "let hits = graph.search(query); // Graph::search is slow")).id;
    let other_case = with_symbol("class graph_search_in_another_language", "GRAPH::SEARCH");
    let definition = with_symbol("pub fn search(&self, query: &[f32]) {}", "Graph::search");
    with_symbol("pub fn insert(&mut self) {}", "Graph::insert");
    let selection = Selection::all(scope.clone());
    let find = |text: &str| ids(&backend.literal(&selection, text, 10).unwrap());
    let found = find("Graph::search");
    assert_eq!(found[0], definition, "the definition before those who call it");
    assert!(found.contains(&caller) && found.contains(&other_case) && found.len() == 3, "{found:?}");
    assert_eq!(find("where is `graph.search(query)` called?"), [caller]);
    assert_eq!(find("`graph.search(no)`"), []);
    assert_eq!(find("words that nobody quotes"), []);
    assert_eq!(backend.literal(&Selection::all(scope.project("p").unwrap()), "Graph::search", 9).unwrap(), []);
}

pub fn follows_changes(backend: &dyn Backend) {
    let scope = scope();
    let id = put(backend, stored(&scope, "alphabetical")).id;
    let near = Stored { record: record(&scope, Kind::Code, "something else"), vector: vector(0, 0.5) };
    let other = put(backend, near).id;
    let change = Change { content: Some(("betamax".into(), vector(4, 0.0))), ..Change::default() };
    backend.change(&scope.partition, id, change).unwrap();
    let selection = Selection::all(scope.clone());
    let found = |text: &str| {
        [ids(&backend.lexical(&selection, text, 9).unwrap()), ids(&backend.literal(&selection, text, 9).unwrap())]
    };
    assert_eq!(found("alphabetical"), [[], []]);
    assert_eq!(found("betamax"), [[id], [id]]);
    assert_eq!(ids(&backend.nearest(&selection, &vector(4, 0.0), 1).unwrap()), [id]);
    assert_eq!(ids(&backend.nearest(&selection, &vector(0, 0.0), 1).unwrap()), [other]);
    backend.forget(&Forget::Ids(scope.partition.clone(), vec![id])).unwrap();
    assert_eq!(found("betamax"), [[], []]);
    assert_eq!(ids(&backend.nearest(&selection, &vector(4, 0.0), 9).unwrap()), [other]);
}

pub fn tells_its_sizes(backend: &dyn Backend) {
    let scope = scope();
    backend.health().unwrap();
    for (i, kind) in [Kind::Code, Kind::Code, Kind::Workflow].into_iter().enumerate() {
        put(backend, Stored { record: record(&scope, kind, &format!("record {i}")), vector: vector(0, 0.0) });
    }
    let stats = backend.stats(Some(&scope.partition)).unwrap();
    assert_eq!(stats.records, BTreeMap::from([("code".to_owned(), 2), ("workflow".to_owned(), 1)]));
    assert!(backend.stats(None).unwrap().records.values().sum::<u64>() >= 3);
}
