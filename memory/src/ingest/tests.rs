use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::error::MemoryError;
use crate::record::content_hash;

/// A store that keeps records as the memory's contract says: the same content in the same scope is one record.
struct Shelf {
    records: BTreeMap<RecordId, NewRecord>,
    manifests: ManifestStore,
    written: usize,
    /// Writes that succeed before one fails.
    healthy: usize,
}

impl Sink for Shelf {
    fn write(&mut self, records: Vec<NewRecord>) -> Result<Vec<RecordId>> {
        if self.healthy == 0 {
            return Err(MemoryError::Closed);
        }
        self.healthy -= 1;
        self.written += records.len();
        let place = |record: NewRecord| {
            let id = RecordId::of(&record.scope, record.kind, &record.content, 0);
            self.records.entry(id).or_insert(record);
            id
        };
        Ok(records.into_iter().map(place).collect())
    }

    fn forget(&mut self, _: &Scope, ids: Vec<RecordId>) -> Result<()> {
        self.records.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn relocate(&mut self, _: &Scope, moved: Vec<(RecordId, Provenance)>) -> Result<()> {
        for (id, provenance) in moved {
            self.records.get_mut(&id).expect("only what is there is moved").provenance = provenance;
        }
        Ok(())
    }

    fn indexed(&mut self, _: &Scope) -> Result<Vec<(RecordId, Provenance)>> {
        Ok(self.records.iter().map(|(id, record)| (*id, record.provenance.clone())).collect())
    }

    fn load_manifest(&mut self, scope: &Scope) -> Result<Option<Manifest>> {
        self.manifests.load(scope)
    }

    fn save_manifest(&mut self, scope: &Scope, manifest: &Manifest) -> Result<()> {
        self.manifests.save(scope, manifest)
    }
}

struct Bench {
    _dir: TempDir,
    root: PathBuf,
    shelf: Shelf,
    options: IndexOptions,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("tree");
        let manifests = ManifestStore::new(dir.path().join("manifests"));
        let shelf = Shelf { records: BTreeMap::new(), manifests, written: 0, healthy: usize::MAX };
        let scope = Scope::of("acme", "coding").unwrap().project("shop").unwrap();
        let bench = Self { _dir: dir, root, shelf, options: IndexOptions::new(scope) };
        fs::create_dir_all(&bench.root).unwrap();
        for (path, text) in files {
            bench.put(path, text);
        }
        bench
    }

    /// Writes a file, with a time of change long past and other than before, as if it had been there for a while.
    fn put(&self, path: &str, text: &str) {
        static AGE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(100_000);
        let full = self.root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, text).unwrap();
        let age = Duration::from_secs(AGE.fetch_sub(1, Ordering::Relaxed));
        fs::File::options().write(true).open(&full).unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
    }

    fn run(&mut self) -> Result<IndexReport> {
        let cancel = AtomicBool::new(false);
        index_tree(&self.root, &self.options, &mut self.shelf, Control { cancel: &cancel, progress: &mut |_| {} })
    }

    /// `path:first-last symbol` of each record, in that order.
    fn places(&self) -> Vec<String> {
        let place = |p: &Provenance| {
            let (first, last) = p.lines.unwrap();
            format!("{}:{first}-{last} {}", p.path.as_ref().unwrap(), p.symbol.as_deref().unwrap_or("-"))
        };
        let mut all: Vec<String> = self.shelf.records.values().map(|record| place(&record.provenance)).collect();
        all.sort();
        all
    }
}

/// A function of a few lines that is a chunk of its own.
fn function(name: &str) -> String {
    format!("/// {}\nfn {name}() {{\n    step();\n}}\n", "What it does is told here at some length. ".repeat(5))
}

#[test]
fn only_what_changed_is_written() {
    let mut bench = Bench::new(&[
        ("src/a.rs", &(function("one") + &function("two"))),
        ("src/b.rs", &function("three")),
        ("README.md", "# Shop\n\nSells.\n"),
    ]);
    // the change, then: unchanged files, records written, relocated, forgotten
    type Change = fn(&Bench);
    let cases: &[(&str, Change, [usize; 4])] = &[
        ("first run", |_| {}, [0, 4, 0, 0]),
        ("nothing", |_| {}, [3, 0, 0, 0]),
        ("touched", |bench| bench.put("src/b.rs", &function("three")), [2, 0, 0, 0]),
        ("nothing after that", |_| {}, [3, 0, 0, 0]),
        (
            "one more before, one other",
            |bench| bench.put("src/a.rs", &(function("zero") + &function("one") + &function("second"))),
            [2, 2, 1, 1],
        ),
        (
            "renamed",
            |bench| fs::rename(bench.root.join("src/a.rs"), bench.root.join("src/z.rs")).unwrap(),
            [2, 0, 3, 0],
        ),
        ("deleted", |bench| fs::remove_file(bench.root.join("src/z.rs")).unwrap(), [2, 0, 0, 3]),
    ];
    for (what, change, expected) in cases {
        change(&bench);
        let report = bench.run().unwrap();
        let seen = [report.unchanged, report.progress.records, report.relocated, report.forgotten];
        assert_eq!(seen, *expected, "{what}: {report:?}");
        assert_eq!(report.progress.files, report.progress.total, "{what}");
    }
    assert_eq!(bench.places(), ["README.md:1-3 Shop", "src/b.rs:1-4 three"]);
}

#[test]
fn the_same_chunk_in_two_files_lives_as_long_as_one_of_them() {
    let mut bench = Bench::new(&[("a.rs", &function("one")), ("b.rs", &(function("two") + &function("one")))]);
    bench.run().unwrap();
    assert_eq!(bench.places(), ["a.rs:1-4 one", "b.rs:1-4 two"]);
    fs::remove_file(bench.root.join("a.rs")).unwrap();
    bench.run().unwrap();
    assert_eq!(bench.places(), ["b.rs:1-4 two", "b.rs:5-8 one"]);
    fs::remove_file(bench.root.join("b.rs")).unwrap();
    bench.run().unwrap();
    assert_eq!(bench.places(), [""; 0]);
}

#[test]
fn a_run_that_was_cut_short_is_caught_up() {
    let mut bench = Bench::new(&[("a.rs", &function("one")), ("b.rs", &function("two")), ("c.rs", &function("three"))]);
    bench.options.batch = 1;
    bench.options.threads = 1;
    bench.shelf.healthy = 2;
    assert!(matches!(bench.run(), Err(MemoryError::Closed)));
    assert_eq!(bench.places().len(), 2);
    // what was written and in no manifest goes with its file all the same
    fs::remove_file(bench.root.join("a.rs")).unwrap();
    bench.shelf.healthy = usize::MAX;
    let report = bench.run().unwrap();
    assert_eq!((report.progress.records, report.kept, report.forgotten), (1, 1, 1));
    assert_eq!(bench.places(), ["b.rs:1-4 two", "c.rs:1-4 three"]);

    // records that were deleted by other means come back when told to reconcile
    bench.shelf.records.clear();
    assert_eq!(bench.run().unwrap().progress.records, 0);
    bench.options.reconcile = true;
    assert_eq!(bench.run().unwrap().progress.records, 2);
    assert_eq!(bench.places(), ["b.rs:1-4 two", "c.rs:1-4 three"]);
}

#[test]
fn a_cancelled_run_stops_and_the_next_goes_on() {
    let files: Vec<(String, String)> = (0..50).map(|i| (format!("f{i:02}.rs"), function(&format!("f{i}")))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let mut bench = Bench::new(&files);
    let cancel = AtomicBool::new(false);
    let mut progress = |progress: &Progress| cancel.store(progress.files >= 10, Ordering::Relaxed);
    let control = Control { cancel: &cancel, progress: &mut progress };
    let report = index_tree(&bench.root, &bench.options, &mut bench.shelf, control).unwrap();
    assert!(report.cancelled && report.progress.files == 10, "{report:?}");
    let report = bench.run().unwrap();
    assert!(!report.cancelled);
    assert_eq!((bench.places().len(), bench.shelf.written), (50, 50));
}

#[test]
fn what_is_taken_and_what_is_not() {
    let large = "x".repeat(2 << 20);
    let key = format!("const KEY: &str = \"gh{}{}\";\n", "p_", "q8Zr2LmXw5Tb9VnKc3Hd7Yp4Gj6Fs1AeRuQo");
    let mut bench = Bench::new(&[
        (".gitignore", "target/\n"),
        (".engramignore", "private.md\n"),
        ("private.md", "# Private\n"),
        ("target/out.rs", "fn out() {}\n"),
        (".hidden.rs", "fn hidden() {}\n"),
        ("Cargo.lock", "[[package]]\n"),
        ("large.txt", &large),
        ("image.bin", "a\0b"),
        ("key.rs", &key),
        ("deep/er/tool", "#!/usr/bin/env python3\ndef run():\n    pass\n"),
    ]);
    fs::write(bench.root.join("latin.txt"), b"caf\xe9\n").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/", bench.root.join("up")).unwrap();
        std::os::unix::fs::symlink("key.rs", bench.root.join("link.rs")).unwrap();
    }
    let report = bench.run().unwrap();
    assert_eq!(bench.places(), ["deep/er/tool:1-3 run", "key.rs:1-1 -", "latin.txt:1-1 -"]);
    assert_eq!(report.secrets, [("key.rs".to_owned(), Finding { rule: "github-token", line: 1 })]);
    let contents: Vec<&str> = bench.shelf.records.values().map(|record| record.content.as_str()).collect();
    assert!(contents.contains(&"const KEY: &str = \"[redacted:github-token]\";"), "{contents:?}");
    assert!(contents.contains(&"caf\u{fffd}"), "{contents:?}");

    let gone = bench.root.join("nowhere");
    let options = bench.options.clone();
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, progress: &mut |_| {} };
    let error = index_tree(&gone, &options, &mut bench.shelf, control).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_eq!(bench.places().len(), 3, "a tree that is not there forgets nothing");
}

#[test]
fn a_fresh_file_is_read_again_even_if_size_and_time_are_the_same() {
    let mut bench = Bench::new(&[]);
    let file = bench.root.join("a.txt");
    fs::write(&file, "one").unwrap();
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    bench.run().unwrap();
    fs::write(&file, "two").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    bench.run().unwrap();
    let contents: Vec<&str> = bench.shelf.records.values().map(|record| record.content.as_str()).collect();
    assert_eq!(contents, ["two"]);
}

#[test]
fn the_commit_is_read_from_the_repository() {
    let commit = "4ea3e44000000000000000000000000000000001";
    // the files of a repository, and the commit that they say
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
    let cases: &[Case<'_>] = &[
        (&[(".git/HEAD", commit)], Some(commit)),
        (&[(".git/HEAD", "ref: refs/heads/main\n"), (".git/refs/heads/main", commit)], Some(commit)),
        (
            &[
                (".git/HEAD", "ref: refs/heads/main\n"),
                (".git/packed-refs", &format!("# pack-refs with: peeled\n{commit} refs/heads/main\n^{commit}\n")),
            ],
            Some(commit),
        ),
        (
            &[
                (".git", "gitdir: meta/worktrees/w\n"),
                ("meta/worktrees/w/HEAD", "ref: refs/heads/w\n"),
                ("meta/worktrees/w/commondir", "../..\n"),
                ("meta/refs/heads/w", commit),
            ],
            Some(commit),
        ),
        (&[(".git/HEAD", "ref: refs/heads/unborn\n")], None),
        (&[(".git/HEAD", "ref: ../../secret\n"), ("secret", commit)], None),
        (&[(".git/HEAD", "nonsense")], None),
    ];
    for (files, expected) in cases {
        let bench = Bench::new(files);
        fs::create_dir_all(bench.root.join("src")).unwrap();
        assert_eq!(head_commit(&bench.root.join("src")).as_deref(), *expected, "{files:?}");
    }
}

#[test]
fn a_manifest_that_is_damaged_is_asked_of_the_store_and_a_newer_one_refused() {
    let mut bench = Bench::new(&[("a.rs", &function("one"))]);
    bench.run().unwrap();
    let mut file = bench.root.with_file_name("manifests");
    while file.is_dir() {
        file = fs::read_dir(&file).unwrap().next().unwrap().unwrap().path();
    }
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    let report = bench.run().unwrap();
    assert_eq!((report.progress.records, report.kept, bench.places().len()), (0, 1, 1));
    fs::write(&file, text.replace("\"format\":1", "\"format\":2")).unwrap();
    assert!(matches!(bench.run(), Err(MemoryError::Format { found: 2, known: 1, .. })));
}

#[test]
fn manifests_go_with_what_is_forgotten() {
    let scope = |tenant: &str, domain: &str, project: &str| {
        let scope = Scope::of(tenant, domain).unwrap();
        if project.is_empty() { scope } else { scope.project(project).unwrap() }
    };
    let kept =
        [("acme", "coding", "shop"), ("acme", "coding", "api"), ("acme", "docs", "shop"), ("bolt", "coding", "shop")];
    let check = |forget: &dyn Fn(&ManifestStore) -> crate::Result<()>, expected: [bool; 4]| {
        let dir = TempDir::new().unwrap();
        let store = ManifestStore::new(dir.path());
        for (tenant, domain, project) in kept {
            store.save(&scope(tenant, domain, project), &Manifest { format: 1, ..Manifest::default() }).unwrap();
        }
        forget(&store).unwrap();
        let there =
            kept.map(|(tenant, domain, project)| store.load(&scope(tenant, domain, project)).unwrap().is_some());
        assert_eq!(there, expected);
    };
    check(&|store| store.remove(&scope("acme", "coding", "shop")), [false, true, true, true]);
    check(&|store| store.remove(&scope("acme", "coding", "shop").session("s")?), [true, true, true, true]);
    check(&|store| store.remove(&scope("acme", "coding", "")), [false, false, true, true]);
    check(&|store| store.remove(&scope("none", "coding", "")), [true, true, true, true]);
    check(&|store| store.remove_tenant(&scope("acme", "x", "").partition.tenant), [false, false, false, true]);
    check(&|store| store.clear(), [false; 4]);
    check(&|store| store.remove_tenant(&scope("none", "x", "").partition.tenant), [true, true, true, true]);
}

#[test]
fn a_manifest_in_parts_is_the_whole_and_until_then_the_old_one() {
    let dir = TempDir::new().unwrap();
    let store = ManifestStore::new(dir.path());
    let scope = Scope::of("acme", "coding").unwrap().project("shop").unwrap();
    let entry = |n: u64| FileEntry {
        size: n,
        modified: n,
        hash: content_hash(&n.to_string()),
        language: "rust".to_owned(),
        chunks: (0..n % 4)
            .map(|i| Place { key: RecordId(u128::from(n * 4 + i)), lines: (1, 9), symbol: None })
            .collect(),
    };
    let files = (0..500).map(|n| (format!("src/file{n}.rs"), entry(n))).collect();
    let salted = (0..40).map(|n| (RecordId(n), RecordId(n + 1))).collect();
    let whole = Manifest { format: 1, chunker: "c".to_owned(), complete: true, files, salted };
    let parts = whole.clone().into_parts(8 << 10);
    assert!(parts.len() > 8, "{}", parts.len());
    let size = |part: &Manifest| serde_json::to_vec(part).unwrap().len();
    assert!(parts.iter().all(|part| size(part) < 9 << 10), "{:?}", parts.iter().map(size).collect::<Vec<_>>());
    assert_eq!(whole.clone().into_parts(1 << 20), std::slice::from_ref(&whole));
    assert_eq!(Manifest::default().into_parts(1), [Manifest::default()]);
    let old = Manifest { format: 1, chunker: "old".to_owned(), ..Manifest::default() };
    store.save(&scope, &old).unwrap();
    let send = |upload: &str, number: usize| {
        let last = number + 1 == parts.len();
        let part = Part { upload: upload.to_owned(), number: number as u32, last };
        store.save_part(&scope, &part, &parts[number])
    };
    let refused =
        |outcome: Result<()>| assert!(matches!(outcome, Err(MemoryError::Invalid { field, .. }) if field == "part"));
    refused(send("a", 1));
    send("a", 0).unwrap();
    refused(send("b", 1));
    refused(send("a", 2));
    assert_eq!(store.load(&scope).unwrap(), Some(old));
    // A later sending takes the earlier one's place.
    (0..3).for_each(|number| send("a", number).unwrap());
    (0..2).for_each(|number| send("b", number).unwrap());
    refused(send("a", 3));
    (2..parts.len()).for_each(|number| send("b", number).unwrap());
    assert_eq!(store.load(&scope).unwrap(), Some(whole));
    refused(send("b", 1));
    // What is forgotten meanwhile is not written down after all.
    (0..3).for_each(|number| send("c", number).unwrap());
    store.remove(&scope).unwrap();
    refused(send("c", 3));
    assert_eq!(store.load(&scope).unwrap(), None);
}

#[test]
fn a_watched_tree_follows_its_files() {
    let mut bench = Bench::new(&[("src/a.rs", &function("one"))]);
    let stop = AtomicBool::new(false);
    let how = WatchOptions { quiet: Duration::from_millis(30), ..WatchOptions::default() };
    let (root, options) = (bench.root.clone(), bench.options.clone());
    let save = |path: &str, text: &str| {
        // as editors do: another file takes the name
        let fresh = root.join("src/.swap");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, root.join(path)).unwrap();
    };
    let (mut step, mut records) = (0, 0);
    let mut on_run = |report: &IndexReport| {
        // Each step waits for the sum that says its change was seen, in however many runs.
        records = records + report.progress.records - report.forgotten;
        let reached = [1, 1, 2, 0];
        if records != reached[step] || step == 1 && report.forgotten == 0 {
            return;
        }
        step += 1;
        match step {
            1 => save("src/a.rs", &function("other")),
            2 => {
                fs::create_dir_all(root.join("new/er")).unwrap();
                fs::write(root.join("new/er/b.rs"), function("two")).unwrap();
            }
            3 => {
                fs::remove_dir_all(root.join("new")).unwrap();
                fs::remove_file(root.join("src/a.rs")).unwrap();
            }
            _ => stop.store(true, Ordering::Relaxed),
        }
    };
    let control = Control { cancel: &stop, progress: &mut |_| {} };
    watch_tree(&root, &options, how, &mut bench.shelf, control, &mut on_run).unwrap();
    assert_eq!((step, bench.places()), (4, Vec::new()));
}
