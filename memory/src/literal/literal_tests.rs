use super::*;

const RECORDS: [(&str, &str, &str); 8] = [
    ("graph::Graph::search", "src/graph.rs", "pub fn search(&self) -> Hits { todo }"),
    ("store::Store::search", "src/store.rs", "pub fn search(&self, k: usize)"),
    ("load_config", "src/config.rs", "fn load_config(path: &Path) {}"),
    ("LoadConfig", "src/config/mod.rs", "struct LoadConfig;"),
    ("main", "src/main.rs", "let config = load_config(\"engram.toml\"); // connection reset by peer"),
    ("reload", "src/reload.rs", "fn reload() { reload_config(); preload_configs(); Connection reset, by peer }"),
    ("", "", "notes on load_config and on src/config.rs, by Graph.search"),
    ("", "docs/config.rs", ""),
];

struct Fixture {
    words: LexicalIndex,
    literals: LiteralIndex,
}

impl Fixture {
    fn new() -> Self {
        let mut fixture = Self { words: LexicalIndex::default(), literals: LiteralIndex::default() };
        for (id, (symbol, path, content)) in RECORDS.iter().enumerate() {
            let words = Words { content, symbol: Some(symbol), path: Some(path) };
            fixture.words.insert(RecordId(id as u128), words);
            fixture.literals.insert(RecordId(id as u128), words);
        }
        fixture
    }

    fn search(&self, query: &str, accept: &dyn Fn(RecordId) -> bool) -> Vec<(u128, f32)> {
        let content = |id: RecordId| RECORDS.get(id.0 as usize).map(|(_, _, content)| (*content).to_owned());
        let found = self.literals.search(&self.words, query, 10, accept, &content);
        found.into_iter().map(|candidate| (candidate.id.0, candidate.score)).collect()
    }
}

#[test]
fn exact_matches_come_by_strength() {
    let fixture = Fixture::new();
    let check =
        |query: &str, expected: &[(u128, f32)]| assert_eq!(fixture.search(query, &|_| true), expected, "{query}");
    check("load_config", &[(2, 1.0), (4, 0.5), (6, 0.5)]);
    check("LoadConfig", &[(3, 1.0)]);
    check("loadconfig", &[(3, 0.7)]);
    check("search", &[(0, 0.9), (1, 0.9), (6, 0.5)]);
    check("Graph::search", &[(0, 0.9)]);
    check("Graph.search", &[(0, 0.9), (6, 0.5)]);
    check("graph::search", &[(0, 0.6)]);
    check("graph::Graph::search", &[(0, 1.0)]);
    check("config.rs", &[(2, 0.8), (7, 0.8), (6, 0.5)]);
    check("src/config.rs", &[(2, 0.8), (6, 0.5)]);
    check("says \"connection reset by peer\"", &[(4, 0.5)]);
    check("\"load_config(\"", &[(2, 1.0), (4, 0.5)]);
    check("how to search things", &[]);
    check("`->` `Hits` ", &[(0, 0.5)]);
    check("load_config and Graph.search", &[(2, 1.0), (6, 1.0), (0, 0.9), (4, 0.5)]);
    assert_eq!(fixture.search("search", &|id| id.0 == 1), [(1, 0.9)]);
}

#[test]
fn what_is_removed_or_replaced_is_gone() {
    let mut fixture = Fixture::new();
    assert!(fixture.literals.remove(RecordId(0)) && !fixture.literals.remove(RecordId(0)));
    let moved = Words { content: "", symbol: Some("Store::find"), path: None };
    fixture.literals.insert(RecordId(1), moved);
    assert_eq!(fixture.search("search", &|_| true).iter().filter(|(_, score)| *score > 0.5).count(), 0);
    assert_eq!(fixture.search("find", &|_| true)[0].0, 1);
    for id in 0..RECORDS.len() {
        fixture.literals.remove(RecordId(id as u128));
    }
    assert!(
        fixture.literals.by_symbol.is_empty() && fixture.literals.by_file.is_empty() && fixture.literals.is_empty()
    );
}
