//! `engram memory import`

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use engram_memory::backend::embedded::Embedded;
use engram_memory::{content_hash, secrets};
use serde_json::{Value, json};

use super::target::DirectoryArgs;
use crate::cli::args::ConfigArgs;
use crate::startup;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory import memory.jsonl
  zcat memory.jsonl.gz | engram memory import

Ids, times and versions stay as they were; what is there already is left as it is. Secrets are taken out.")]
pub(super) struct ImportArgs {
    /// What `engram memory export` wrote [default: standard input]
    file: Option<PathBuf>,
    #[command(flatten)]
    directory: DirectoryArgs,
}

pub(super) fn run(config: &ConfigArgs, args: &ImportArgs) -> anyhow::Result<()> {
    let settings = args.directory.embedded(config)?;
    let input: Box<dyn Read> = match &args.file {
        Some(path) => Box::new(File::open(path).with_context(|| format!("{} cannot be read", path.display()))?),
        None => Box::new(io::stdin()),
    };
    let (embedder, id) = startup::encoder(&settings)?;
    let memory = Embedded::open(&settings.memory.dir, Some(&id), startup::embedded_config(&settings.memory))?;
    let mut lines = Cleared { input: BufReader::new(input), line: Vec::new(), at: 0 };
    let imported = memory.import(&mut lines, &embedder)?;
    args.directory.print(&json!(imported), |_| {
        format!("{} records imported, {} were there already\n", imported.written, imported.there)
    })
}

/// Lines without the secrets in their records. A record that held one is embedded anew, since its vector knew it.
struct Cleared<R> {
    input: R,
    line: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Read for Cleared<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Cleared<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.line.len() {
            (self.line, self.at) = (Vec::new(), 0);
            self.input.read_until(b'\n', &mut self.line)?;
            // What is no JSON goes on as it is: the import says so, with the line's number.
            if let Ok(value) = serde_json::from_slice(&self.line)
                && let Some(clear) = cleared(value)
            {
                self.line = format!("{clear}\n").into_bytes();
            }
        }
        Ok(&self.line[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.line.len());
    }
}

/// The line without secrets; `None` if it has none.
fn cleared(mut line: Value) -> Option<Value> {
    // What is no record is left to the import, which says so with the line's number.
    let now = line.get_mut("record").is_some_and(clear_record);
    let history = line.get_mut("history").and_then(Value::as_array_mut);
    let before = history.into_iter().flatten().filter_map(|old| clear_record(old).then_some(())).count() > 0;
    if now {
        line.as_object_mut()?.remove("vector");
    }
    (now || before).then_some(line)
}

/// Whether there were secrets in a record.
fn clear_record(record: &mut Value) -> bool {
    let Some(record) = record.as_object_mut() else { return false };
    let mut found = false;
    if let Some(text) = record.get("content").and_then(Value::as_str) {
        let clear = secrets::redact(text);
        if !clear.found.is_empty() {
            found = true;
            let (hash, text) = (json!(content_hash(&clear.text)), json!(clear.text));
            record.insert("content_hash".to_owned(), hash);
            record.insert("content".to_owned(), text);
        }
    }
    record.get_mut("metadata").is_some_and(clear_strings) || found
}

fn clear_strings(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            let clear = secrets::redact(text);
            let found = !clear.found.is_empty();
            if found {
                *text = clear.text.into_owned();
            }
            found
        }
        Value::Array(items) => items.iter_mut().filter_map(|item| clear_strings(item).then_some(())).count() > 0,
        Value::Object(fields) => fields.values_mut().filter_map(|field| clear_strings(field).then_some(())).count() > 0,
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AKIAZ7QH3DNM5KXW2RTC";

    #[test]
    fn secrets_do_not_come_in_with_an_import() {
        let line = |content: &str, note: &str| {
            let record = json!({"content": content, "content_hash": content_hash(content), "metadata": {"a": [note]}});
            json!({"record": record, "history": [record], "vector": [1.0]}).to_string()
        };
        let check = |text: &str, expected: &dyn Fn(&str)| {
            let mut out = String::new();
            let mut lines = Cleared { input: text.as_bytes(), line: Vec::new(), at: 0 };
            lines.read_to_string(&mut out).expect("text");
            expected(&out);
        };
        let odd = r#"7 [] null {} {"record": 1} {"record": {"content": 2}, "history": 3} {"history": [4]}"#;
        let plain = format!("{}\n\nnot JSON\n{}\n", line("a", "b"), odd.replace("} ", "}\n").replace(' ', "\n"));
        check(&plain, &|out| assert_eq!(out, plain));
        for (content, note) in [(SECRET, "b"), ("a", SECRET)] {
            check(&format!("{}\n{}", line(content, note), line("c", "d")), &|out| {
                assert!(!out.contains(SECRET) && out.contains("[redacted:"), "{out}");
                let first: Value = serde_json::from_str(out.lines().next().unwrap_or_default()).expect("JSON");
                assert!(first.get("vector").is_none(), "{out}");
                let text = first["record"]["content"].as_str().unwrap_or_default();
                assert_eq!(first["record"]["content_hash"], json!(content_hash(text)));
                assert_eq!(out.lines().nth(1), Some(line("c", "d").as_str()));
            });
        }
    }
}
