//! The binary `engram`: everything it does is in the library, where tests reach it.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    engram_router::cli::run()
}
