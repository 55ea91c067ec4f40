//! Fetches a model by name and says where it is: `cargo run --release -p engram-models --example pull -- smollm2`.

use engram_models::pull::{PullOptions, progress, resolve};

fn main() {
    let mut options = PullOptions::from_env();
    options.progress = progress::for_terminal();
    let mut failed = false;
    for spec in std::env::args().skip(1) {
        match resolve(&spec, &options) {
            Ok(files) => {
                for path in files.weights.paths() {
                    println!("{}\t{}\t{}", files.id, files.source, path.display());
                }
            }
            Err(error) => {
                eprintln!("{error}");
                failed = true;
            }
        }
    }
    std::process::exit(i32::from(failed));
}
