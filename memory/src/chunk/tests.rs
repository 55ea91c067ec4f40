use proptest::prelude::*;

use super::*;

/// First line, last line, symbols (`-`: what lies between).
type Piece = (u32, u32, &'static str);

/// A sample and its chunks.
const GOLDEN: &[(&str, &str, &[Piece])] = &[
    (
        "store.rs",
        include_str!("samples/store.rs"),
        &[
            (1, 11, "Queue"),
            (13, 22, "Queue::push"),
            (24, 31, "Queue::len Queue::is_empty"),
            (33, 39, "wire wire::Encode wire::Encode::encode"),
        ],
    ),
    (
        "client.py",
        include_str!("samples/client.py"),
        &[(1, 5, "-"), (8, 12, "Client Client.__init__"), (14, 25, "Client.part"), (28, 34, "count")],
    ),
    (
        "cart.ts",
        include_str!("samples/cart.ts"),
        &[
            (1, 4, "Rate"),
            (6, 11, "Cart Cart.constructor"),
            (13, 20, "Cart.total"),
            (22, 29, "merge"),
            (31, 37, "money money.format"),
        ],
    ),
    (
        "events.js",
        include_str!("samples/events.js"),
        &[(1, 14, "emit"), (16, 23, "exports.once"), (25, 33, "Bus Bus.publish")],
    ),
    (
        "pool.go",
        include_str!("samples/pool.go"),
        &[(1, 13, "Pool Dialer"), (14, 16, "Closer"), (18, 30, "Pool.Get"), (32, 32, "New")],
    ),
    (
        "Ledger.java",
        include_str!("samples/Ledger.java"),
        &[
            (1, 10, "Ledger Ledger.Ledger"),
            (12, 25, "Ledger.transfer"),
            (27, 27, "Ledger.Side"),
            (29, 32, "Ledger.Auditor Ledger.Auditor.seen"),
        ],
    ),
    ("ring.c", include_str!("samples/ring.c"), &[(1, 13, "ring_t"), (14, 20, "ring_percent"), (22, 31, "ring_read")]),
    (
        "shape.cpp",
        include_str!("samples/shape.cpp"),
        &[
            (1, 4, "geo"),
            (6, 9, "geo::Shape geo::Shape::~Shape"),
            (11, 16, "geo::Shape::area"),
            (18, 27, "geo::largest"),
            (29, 33, "geo::Circle::area"),
        ],
    ),
    (
        "guide.md",
        include_str!("samples/guide.md"),
        &[(1, 13, "Guide Guide > Before you order"), (15, 23, "Guide > Ordering Guide > Returns")],
    ),
];

fn outline(path: &str, text: &str, limits: &ChunkLimits) -> Vec<(u32, u32, String)> {
    let named = |chunk: &Chunk| match (&chunk.symbol, &chunk.symbols[..]) {
        (None, _) => "-".to_owned(),
        (Some(symbol), []) => symbol.clone(),
        (Some(_), symbols) => symbols.join(" "),
    };
    let chunks = chunk_source(path, text, limits);
    chunks.iter().map(|chunk| (chunk.lines.0, chunk.lines.1, named(chunk))).collect()
}

#[test]
fn definitions_are_found_in_each_language() {
    for (path, text, expected) in GOLDEN {
        let expected: Vec<_> = expected.iter().map(|(first, last, name)| (*first, *last, (*name).to_owned())).collect();
        assert_eq!(outline(path, text, &ChunkLimits::default()), expected, "{path}");
        let dos = text.replace('\n', "\r\n");
        assert_eq!(outline(path, &format!("\u{feff}{dos}"), &ChunkLimits::default()), expected, "{path}, CRLF");
    }
}

#[test]
fn docs_lose_their_marks() {
    let cases = [
        ("a.rs", "/// Adds.\n///\n/// Both.\n#[inline]\nfn add() {\n}\n", "Adds.\n\nBoth."),
        ("a.py", "def add(a):\n    \"\"\"Adds.\n\n    Both.\n    \"\"\"\n    return a\n", "Adds.\n\nBoth."),
        ("a.py", "# Adds.\ndef add(a):\n    return a\n", "Adds."),
        ("a.ts", "/**\n * Adds.\n * Both.\n */\nexport const add = (a) => {\n  return a;\n};\n", "Adds.\nBoth."),
        ("a.c", "/* Adds. */\nint add(int a)\n{\n}\n", "Adds."),
    ];
    for (path, text, expected) in cases {
        let chunks = chunk_source(path, text, &ChunkLimits::default());
        assert_eq!(chunks.len(), 1, "{path}: {chunks:?}");
        assert_eq!(chunks[0].symbol.as_deref(), Some("add"), "{path}");
        assert_eq!(chunks[0].doc.as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn hard_files_are_split_all_the_same() {
    let fine =
        "    /// Sums.\n    fn sum(&self) -> u64 {\n        self.parts.iter().map(|part| part.count).sum()\n    }\n";
    let broken = format!("impl Shelf {{\n{fine}    fn broken(&self -> {{{{ (\n\n{fine}}}\n");
    let deep = format!("fn f() {{\n{}{}}}\n", "{\n".repeat(20_000), "}\n".repeat(20_000));
    let minified = "function a(){return 1};var b=a();".repeat(3_000);
    let long = format!("fn long() {{\n{}}}\n", "    step(1);\n\n    step(2);\n".repeat(400));
    // path, text, a symbol that must be there, the least number of chunks
    let cases = [
        ("broken.rs", broken.as_str(), Some("sum"), 1),
        ("deep.rs", &deep, Some("f"), 20),
        ("lib.min.js", &minified, None, 45),
        ("long.rs", &long, Some("long"), 5),
        ("unknown.xyz", "one\n\ntwo\n", None, 1),
        ("empty.rs", " \n\n\t\n", None, 0),
        ("nothing.rs", "", None, 0),
    ];
    for (path, text, symbol, least) in cases {
        let chunks = chunk_source(path, text, &ChunkLimits::default());
        assert!(chunks.len() >= least, "{path}: {} chunks", chunks.len());
        assert_eq!(chunks.is_empty(), least == 0, "{path}");
        let has = |symbol: &str| {
            let mut all = chunks.iter().flat_map(|chunk| chunk.symbol.iter().chain(&chunk.symbols));
            all.any(|other| other == symbol)
        };
        assert!(symbol.is_none_or(has), "{path}: {symbol:?} not among {chunks:?}");
        covers(path, text, &ChunkLimits::default());
    }
}

#[test]
fn a_parse_that_takes_too_long_is_given_up() {
    let text = GOLDEN[0].1.repeat(50);
    let limits = ChunkLimits { max_parse: Duration::ZERO, ..ChunkLimits::default() };
    let chunks = chunk_source("store.rs", &text, &limits);
    assert!(chunks.len() > 10 && chunks.iter().all(|chunk| chunk.symbol.is_none()), "{chunks:?}");
}

/// Every line that is not blank stands in one chunk, in order, under its own number.
fn covers(path: &str, text: &str, limits: &ChunkLimits) {
    let text = normalised(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let chunks = chunk_source(path, &text, limits);
    let solid = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let all: String = chunks.iter().map(|chunk| solid(&chunk.text)).collect();
    assert_eq!(all, solid(&text), "{path}: something is lost or twice");
    let mut before = (0, 0);
    for chunk in &chunks {
        let (first, last) = chunk.lines;
        assert!(chunk.text.len() <= limits.sane().max_bytes, "{path}: {} bytes", chunk.text.len());
        let source = lines[first as usize - 1..last as usize].join("\n");
        let piece = first == last && source.len() > limits.sane().max_bytes;
        assert!(source == chunk.text || piece && source.contains(&chunk.text), "{path} {:?}", chunk.lines);
        assert!(first > before.1 || piece && (first, last) == before, "{path}: {before:?} then {:?}", chunk.lines);
        before = chunk.lines;
    }
}

/// Lines of the samples and noise, shuffled: broken source in every language.
fn shuffled() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = GOLDEN.iter().flat_map(|(_, text, _)| text.lines()).collect();
    let line = prop_oneof![
        6 => proptest::sample::select(lines).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[{}()\\[\\]<>\"'`/*# \t;]{0,12}",
        1 => "(é|x|;| ){90,200}",
    ];
    let end = proptest::sample::select(vec!["\n", "\r\n", "\r", ""]);
    proptest::collection::vec((line, end), 0..60).prop_map(|lines| {
        lines.into_iter().map(|(line, end)| line + end).collect() // some lines run together
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_and_nothing_is_twice(
        text in shuffled(),
        path in proptest::sample::select(GOLDEN.iter().map(|golden| golden.0).chain(["a.tsx", "a.txt"]).collect::<Vec<_>>()),
        max_bytes in 0_usize..600,
        min_bytes in 0_usize..300,
    ) {
        covers(path, &text, &ChunkLimits { max_bytes, min_bytes, ..ChunkLimits::default() });
    }
}
