//! Servers for tests, run by `tests/servers/serve.py`; `make servers` installs them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// The password in every URL; it must be found in no error and no `Debug`.
pub const PASSWORD: &str = "correct-horse-battery";

/// A server that ends with this process, however it ends: its keeper waits for the end of our pipe.
pub struct Server {
    /// Where it is reached, with its password.
    pub url: String,
    keeper: Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

impl Server {
    /// Starts `postgres`, `redis`, or the stand-in for `qdrant`.
    pub fn start(kind: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../.venv/bin/python");
        assert!(python.exists(), "{} is missing: `make servers` makes it", python.display());
        let mut keeper = Command::new(python)
            .arg(root.join("tests/servers/serve.py"))
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run python");
        let input = keeper.stdin.take().expect("piped");
        let mut output = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut url = String::new();
        output.read_line(&mut url).expect("read the URL");
        assert!(!url.is_empty(), "{kind} did not start, see above; `make servers` installs it");
        Self { url: url.trim().to_owned(), keeper: Mutex::new((keeper, input, output)) }
    }

    /// Stops it at once, as a crash would; its data stays.
    pub fn stop(&self) {
        self.tell("stop");
    }

    /// Starts it again, at the same place.
    pub fn start_again(&self) {
        self.tell("start");
    }

    fn tell(&self, word: &str) {
        let mut keeper = self.keeper.lock().unwrap();
        writeln!(keeper.1, "{word}").unwrap();
        let mut answer = String::new();
        keeper.2.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }
}
