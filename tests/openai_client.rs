//! The official `openai` Python package against the default model, streamed and not.

use std::path::PathBuf;
use std::process::Command;

use crate::support::QWEN;
use crate::support::server::Server;

#[test]
fn python_client_gets_chat_completion_and_fim() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.venv/bin/python");
    assert!(python.exists(), "{} is missing: `make test` makes it", python.display());
    let server = Server::start(QWEN, &[]);
    let output = Command::new(python)
        .arg(root.join("python/openai_client.py"))
        .args([server.url("").as_str(), QWEN])
        .output()
        .expect("run python");
    assert!(
        output.status.success(),
        "{}{}\nserver:\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        server.log()
    );
}
