//! One file over a bad line.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;

use super::{Home, bytes};
use crate::pull::disk::ensure_room;
use crate::pull::error::PullError;
use crate::pull::http::{Http, Transfer};
use crate::pull::test_server::{Reply, Server};

fn fetch(home: &Home, address: &str, expected: Option<u64>, part: &Path) -> Result<u64, PullError> {
    let http = Http::new(home.options.timeouts)?;
    let url = Url::parse(&format!("{address}/file")).expect("address");
    let transfer = Transfer { name: "file", url: &url, token: None, bytes: expected };
    http.fetch(&transfer, part, home.options.progress.as_ref())
}

#[test]
fn a_line_that_breaks_is_picked_up_where_it_broke() {
    let data = bytes(200_000, 1);
    let served = Arc::clone(&data);
    let server = Server::start(move |_, _| Reply::Cut(Arc::clone(&served), 65_536));
    let home = Home::new();
    for expected in [Some(200_000), None] {
        let part = home.folder.path().join(format!("{expected:?}.part"));
        assert_eq!(fetch(&home, &server.address, expected, &part).expect("whole"), 200_000);
        assert!(fs::read(&part).expect("part") == *data, "the pieces join");
    }
    let ranges = server.ranges("/file");
    assert!(ranges.contains(&65_536) && ranges.contains(&131_072), "{ranges:?}");
}

#[test]
fn bytes_left_by_an_earlier_run_are_not_fetched_again() {
    let data = bytes(100_000, 2);
    let served = Arc::clone(&data);
    let server = Server::start(move |_, _| Reply::File(Arc::clone(&served)));
    let home = Home::new();
    let part = home.folder.path().join("part");
    fs::write(&part, &data[..70_001]).expect("left over");
    assert_eq!(fetch(&home, &server.address, Some(100_000), &part).expect("whole"), 100_000);
    assert_eq!(server.ranges("/file"), [70_001]);
    assert!(fs::read(&part).expect("part") == *data);
    // All there: nothing is asked; without a known size the server says so (416).
    fetch(&home, &server.address, Some(100_000), &part).expect("whole");
    assert_eq!(server.ranges("/file").len(), 1);
    assert_eq!(fetch(&home, &server.address, None, &part).expect("whole"), 100_000);
    // More than there should be: from the start.
    fs::write(&part, bytes(100_001, 3).as_slice()).expect("too long");
    assert_eq!(fetch(&home, &server.address, Some(100_000), &part).expect("whole"), 100_000);
    assert!(fs::read(&part).expect("part") == *data);
}

#[test]
fn a_server_without_ranges_sends_all_of_it() {
    let data = bytes(50_000, 4);
    let served = Arc::clone(&data);
    let server = Server::start(move |_, _| Reply::Rangeless(Arc::clone(&served)));
    let home = Home::new();
    let part = home.folder.path().join("part");
    fs::write(&part, &data[..100]).expect("left over");
    assert_eq!(fetch(&home, &server.address, Some(50_000), &part).expect("whole"), 50_000);
    assert!(fs::read(&part).expect("part") == *data);
}

#[test]
fn what_cannot_work_is_given_up_in_time() {
    let check = |reply: fn() -> Reply, expected: Option<u64>, requests: usize, told: &str| {
        let server = Server::start(move |_, _| reply());
        let home = Home::new();
        let started = Instant::now();
        let error = fetch(&home, &server.address, expected, &home.folder.path().join("part")).expect_err(told);
        let text = error.chain();
        assert!(text.contains(told), "{text}");
        assert_eq!(server.requests().len(), requests, "{told}");
        assert!(started.elapsed() < Duration::from_secs(5), "{told}: {:?}", started.elapsed());
    };
    check(|| Reply::Status(404), None, 1, "HTTP 404 (not there)");
    check(|| Reply::Status(403), None, 1, "HTTP 403 (refused: set HF_TOKEN");
    check(|| Reply::Status(503), None, 3, "HTTP 503");
    check(|| Reply::Hang, None, 3, "timed out");
    check(|| Reply::Rangeless(bytes(20, 5)), Some(10), 1, "10 bytes were announced, 20 came");
    check(|| Reply::Rangeless(bytes(20, 5)), Some(30), 4, "30 bytes were announced, 20 came");
    check(|| Reply::Cut(bytes(20, 5), 0), None, 3, "/file");
}

#[test]
fn a_server_that_falters_is_asked_again() {
    let data = bytes(30_000, 6);
    let served = Arc::clone(&data);
    let server = Server::start(move |_, before| match before {
        0 => Reply::Status(503),
        1 => Reply::Cut(Arc::clone(&served), 10_000),
        2 => Reply::Hang,
        _ => Reply::File(Arc::clone(&served)),
    });
    let home = Home::new();
    let part = home.folder.path().join("part");
    assert_eq!(fetch(&home, &server.address, Some(30_000), &part).expect("whole"), 30_000);
    assert!(fs::read(&part).expect("part") == *data);
}

const CHILD: &str = "ENGRAM_TEST_FETCH";

/// The process that the next test kills.
#[test]
#[ignore = "run by another test"]
fn fetch_until_killed() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let (address, part) = task.split_once(' ').expect("address and path");
    let _ = fetch(&Home::new(), address, None, Path::new(part));
}

#[test]
fn a_killed_download_goes_on() {
    let data = bytes(400_000, 7);
    let served = Arc::clone(&data);
    let server = Server::start(move |_, before| match before {
        0 => Reply::Slow(Arc::clone(&served), Duration::from_millis(20)),
        _ => Reply::File(Arc::clone(&served)),
    });
    let home = Home::new();
    let part = home.folder.path().join("part");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "pull::tests::transfer::fetch_until_killed"])
        .env(CHILD, format!("{} {}", server.address, part.display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("child");
    let here = || part.metadata().map_or(0, |metadata| metadata.len());
    let deadline = Instant::now() + Duration::from_secs(20);
    while here() < 50_000 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    let kept = here();
    assert!((50_000..400_000).contains(&kept), "{kept} bytes when killed");
    assert_eq!(fetch(&home, &server.address, Some(400_000), &part).expect("whole"), 400_000);
    assert_eq!(server.ranges("/file"), [0, usize::try_from(kept).expect("small")]);
    assert!(fs::read(&part).expect("part") == *data);
}

#[test]
fn a_full_disk_is_seen_before_the_download() {
    let home = Home::new();
    let error = ensure_room(home.folder.path(), u64::MAX / 2).expect_err("no disk is so large");
    assert!(matches!(error, PullError::NoSpace { .. }), "{error}");
    ensure_room(home.folder.path(), 1).expect("room for a byte");
}
