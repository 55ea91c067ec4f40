//! `engram config show`: every key, its value and who set it.

use serde_json::{Map, Value as Json, json};

use super::families::FAMILIES;
use super::keys::SECTIONS;
use super::{Device, Entry, Origin, Resolved, Value, format_size};

/// Lines that are valid TOML, with the origin as a comment. Secrets appear as `***`.
pub fn show_text(resolved: &Resolved) -> String {
    let mut text = String::new();
    for section in SECTIONS {
        open(&mut text, section);
        for entry in resolved.entries.iter().filter(|entry| entry.key.section() == section) {
            text.push_str(&entry_line(entry));
        }
    }
    for family in FAMILIES {
        let mut tables = resolved.tables.iter().filter(|table| table.family.name == family.name).peekable();
        if tables.peek().is_none() {
            text.push_str(&format!("\n# [{}.NAME]: none\n", family.name));
        }
        for table in tables {
            open(&mut text, &table.path());
            for entry in &table.entries {
                text.push_str(&entry_line(entry));
            }
        }
    }
    text
}

fn open(text: &mut String, table: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("[{table}]\n"));
}

fn entry_line(entry: &Entry) -> String {
    let short = entry.key.short();
    let line = match &entry.value {
        Value::Unset => format!("# {short} is unset"),
        value => format!("{short} = {}", toml_text(value)),
    };
    format!("{line:<48} # {}\n", entry.origin)
}

/// One object a key: `value`, `from` (`default`, `file`, `env`, `flag`), and which one.
pub fn show_json(resolved: &Resolved) -> Json {
    let mut keys = Map::new();
    for entry in &resolved.entries {
        keys.insert(entry.key.name.to_owned(), entry_json(entry));
    }
    for table in &resolved.tables {
        let path = table.path();
        for entry in &table.entries {
            keys.insert(format!("{path}.{}", entry.key.name), entry_json(entry));
        }
    }
    Json::Object(keys)
}

fn entry_json(entry: &Entry) -> Json {
    let mut object = json!({ "value": json_value(&entry.value), "from": entry.origin.kind() });
    match &entry.origin {
        Origin::Default => {}
        Origin::File { path, line } => {
            object["file"] = json!(path);
            object["line"] = json!(line);
        }
        Origin::Env(name) => object["variable"] = json!(name),
        Origin::Flag(flag) => object["flag"] = json!(flag),
    }
    object
}

fn toml_text(value: &Value) -> String {
    // JSON's strings, numbers, booleans and flat lists are TOML's too.
    json_value(value).to_string()
}

fn json_value(value: &Value) -> Json {
    match value {
        Value::Unset => Json::Null,
        Value::Text(text) => json!(text),
        Value::Number(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Size(bytes) => json!(format_size(*bytes)),
        Value::Flag(flag) => json!(flag),
        Value::Seconds(time) if time.subsec_nanos() == 0 => json!(time.as_secs()),
        Value::Seconds(time) => json!(time.as_secs_f64()),
        Value::Strings(strings) => json!(strings),
        Value::Secret(_) => json!("***"),
        Value::Secrets(secrets) => json!(vec!["***"; secrets.len()]),
        Value::Headers(headers) => json!(headers.iter().map(|(name, _)| format!("{name}: ***")).collect::<Vec<_>>()),
        Value::Path(path) => json!(path),
        Value::Device(Device::Auto) => json!("auto"),
        Value::Device(Device::Cpu) => json!("cpu"),
        Value::Device(Device::Cuda(number)) => json!(format!("cuda:{number}")),
    }
}
