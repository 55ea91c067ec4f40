//! `engram keys`: API keys made, listed, rotated and revoked in the file that servers read.
//!
//! The commands need no server and ask none: whoever may write the data directory may make keys. A server that runs
//! takes a change over within a second.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::{ConfigArgs, Flags};
use super::memory::table::table;
use super::output;
use crate::api::admin::keys::{issued_json, record_json};
use crate::auth::store::{Issued, unix_now};
use crate::auth::{KeyLimits, KeyRecord, KeyStore, NewKey, Scope};
use crate::config::parse_seconds;

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key; it is shown once
    #[command(after_help = "\
Examples:
  engram keys create ci                                    inference and memory, no limits
  engram keys create team-a --rpm 600 --tpm 100000 --concurrency 8 --expires 90d
  engram keys create bot --tenant team-a --domain coding --models qwen2.5-coder-0.5b-instruct
  engram keys create ops --scope admin                     for /v1/admin
  engram keys create prometheus --scope metrics            for /metrics alone

Once there is a key, every request but those to /health, /ready and /openapi.json needs one.")]
    Create(Box<CreateArgs>),
    /// All keys, by their first characters
    #[command(after_help = "\
Examples:
  engram keys list
  engram keys list --json | jq '.data[] | select(.expired) | .name'")]
    List(StoreArgs),
    /// Make a new key in place of one
    #[command(after_help = "\
Examples:
  engram keys rotate ci                 the old key ends now, and so do its streams
  engram keys rotate ci --grace 1h      both open for an hour")]
    Rotate {
        /// Name or id
        key: String,
        /// The old key opens for so long yet: 30m, 1h, 2d [default: not at all]
        #[arg(long, value_name = "TIME", value_parser = time)]
        grace: Option<Duration>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// End a key, and the streams that run by it
    #[command(after_help = "\
Examples:
  engram keys revoke ci
  engram keys revoke 1581db062a4519de      by its id")]
    Revoke {
        /// Name or id
        key: String,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Where the keys are, and how to answer.
#[derive(Debug, Clone, Default, Args)]
struct StoreArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Where the server keeps what must outlive it [default: the home of the models]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Home of all downloads [env: ENGRAM_HOME] [default: ~/.local/share/engram]
    #[arg(long, value_name = "DIR")]
    home: Option<String>,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What people call it
    name: String,
    /// Whose memory it opens; keys of one tenant share it [default: NAME]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The only domain of the memory that it sees [default: whichever a request names]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// What it is for: inference, memory, coding, admin, metrics [default: inference,memory]
    #[arg(long = "scope", value_name = "SCOPES", value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// The only models that it sees [default: all]
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    models: Vec<String>,
    /// Requests a minute
    #[arg(long, value_name = "N")]
    rpm: Option<u64>,
    /// Tokens a minute, read and written
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,
    /// Requests at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// US dollars a day
    #[arg(long, value_name = "USD")]
    day_usd: Option<f64>,
    /// US dollars a month
    #[arg(long, value_name = "USD")]
    month_usd: Option<f64>,
    /// It opens for so long: 12h, 30d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Duration>,
    #[command(flatten)]
    store: StoreArgs,
}

impl CreateArgs {
    fn new_key(&self) -> NewKey {
        let all = NewKey::named(&self.name);
        NewKey {
            tenant: self.tenant.clone(),
            domain: self.domain.clone(),
            scopes: if self.scopes.is_empty() { all.scopes } else { self.scopes.iter().copied().collect() },
            models: (!self.models.is_empty()).then(|| self.models.clone()),
            limits: KeyLimits {
                rpm: self.rpm,
                tpm: self.tpm,
                concurrency: self.concurrency,
                day_usd: self.day_usd,
                month_usd: self.month_usd,
            },
            expires_in: self.expires,
            ..all
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let seconds = parse_seconds(text).filter(|seconds| (0.0..=3.2e9).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write a time, such as 90s, 30m, 12h or 30d".into())
}

pub(super) fn run(config: &ConfigArgs, args: &KeysArgs) -> anyhow::Result<()> {
    match &args.command {
        KeysCommand::Create(args) => {
            let store = args.store.open(config)?;
            let issued = store.create(args.new_key())?;
            args.store.print(&issued_json(&issued), || issued_text(&issued, store.path()))
        }
        KeysCommand::List(args) => {
            let store = args.open(config)?;
            let keys = store.read()?.unwrap_or_default();
            let list = json!({"object": "list", "data": keys.iter().map(record_json).collect::<Vec<_>>()});
            args.print(&list, || list_text(&keys, unix_now()))
        }
        KeysCommand::Rotate { key, grace, store: args } => {
            let store = args.open(config)?;
            let issued = store.rotate(key, grace.unwrap_or_default())?;
            args.print(&issued_json(&issued), || issued_text(&issued, store.path()))
        }
        KeysCommand::Revoke { key, store: args } => {
            let gone = args.open(config)?.revoke(key)?;
            let answer = json!({"id": gone.id, "object": "api_key", "name": gone.name, "deleted": true});
            args.print(&answer, || format!("revoked {} ({}...)\n", gone.name, gone.prefix))
        }
    }
}

impl StoreArgs {
    fn open(&self, config: &ConfigArgs) -> anyhow::Result<KeyStore> {
        let mut flags = Flags::default();
        flags.value("server.data_dir", "--data-dir", self.data_dir.as_ref());
        flags.value("models.home", "--home", self.home.as_ref());
        let dir = config.resolve(flags)?.config.server.data_dir;
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("`server.data_dir`: {} cannot be used", dir.display()))?;
        Ok(KeyStore::in_dir(&dir))
    }

    fn print(&self, answer: &Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self.json {
            true => output::write(&format!("{}\n", serde_json::to_string_pretty(answer)?)),
            false => output::write(&text()),
        }
    }
}

/// The key alone on its line, so that it can be marked with one click.
fn issued_text(issued: &Issued, path: &Path) -> String {
    let Issued { record, key } = issued;
    format!(
        "{key}\n\nThis is the only time that it is shown: {} keeps its hash.\n\n{}",
        path.display(),
        list_text(std::slice::from_ref(record), unix_now())
    )
}

fn list_text(keys: &[KeyRecord], now: u64) -> String {
    if keys.is_empty() {
        return "no keys; make one with `engram keys create NAME`\n".into();
    }
    let heads = ["NAME", "KEY", "TENANT", "DOMAIN", "SCOPES", "MODELS", "LIMITS", "ENDS", "ID"];
    let rows = std::iter::once(heads.map(str::to_owned).to_vec()).chain(keys.iter().map(|key| row(key, now)));
    table(&rows.collect::<Vec<_>>())
}

fn row(key: &KeyRecord, now: u64) -> Vec<String> {
    let or_all = |text: Option<String>| text.unwrap_or_else(|| "all".into());
    vec![
        key.name.clone(),
        format!("{}...", key.prefix),
        key.tenant.clone(),
        or_all(key.domain.clone()),
        key.scopes.to_string(),
        or_all(key.models.as_ref().map(|models| models.join(","))),
        limits_text(&key.limits),
        ends(key, now),
        key.id.clone(),
    ]
}

fn limits_text(limits: &KeyLimits) -> String {
    let parts = [
        limits.rpm.map(|rpm| format!("{rpm} req/min")),
        limits.tpm.map(|tpm| format!("{tpm} tok/min")),
        limits.concurrency.map(|count| format!("{count} at once")),
        limits.day_usd.map(|dollars| format!("{dollars} USD/day")),
        limits.month_usd.map(|dollars| format!("{dollars} USD/month")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

/// When it ends, from now; the keys before it that still open are told too.
fn ends(key: &KeyRecord, now: u64) -> String {
    let end = match key.expires {
        _ if key.expired(now) => "expired".into(),
        Some(at) => format!("in {}", span(at.saturating_sub(now))),
        None => "never".to_owned(),
    };
    match key.retiring.iter().map(|old| old.until.saturating_sub(now)).max().filter(|left| *left > 0) {
        Some(left) => format!("{end}, the key before it in {}", span(left)),
        None => end,
    }
}

/// A time in its largest unit, rounded down.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        keys: KeysArgs,
    }

    fn create(words: &str) -> NewKey {
        let line = Line::try_parse_from(["engram", "create"].into_iter().chain(words.split(' '))).expect(words);
        match line.keys.command {
            KeysCommand::Create(args) => args.new_key(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_a_key() {
        assert_eq!(create("ci"), NewKey::named("ci"));
        let made = create(
            "ci --tenant a --domain d --scope inference,admin --models m,n --rpm 1 --tpm 2 --concurrency 3 --day-usd 4 \
             --month-usd 5.5 --expires 30d",
        );
        let limits =
            KeyLimits { rpm: Some(1), tpm: Some(2), concurrency: Some(3), day_usd: Some(4.0), month_usd: Some(5.5) };
        let expected = NewKey {
            tenant: Some("a".into()),
            domain: Some("d".into()),
            scopes: [Scope::Inference, Scope::Admin].into_iter().collect(),
            models: Some(vec!["m".into(), "n".into()]),
            limits,
            expires_in: Some(Duration::from_secs(30 * 86400)),
            ..NewKey::named("ci")
        };
        assert_eq!(made, expected);
        for wrong in ["ci --scope root", "ci --expires soon", "ci --expires -1d", "ci --rpm -1", ""] {
            let line = ["engram", "create"].into_iter().chain(wrong.split(' ').filter(|word| !word.is_empty()));
            assert!(Line::try_parse_from(line).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_shows_all_but_the_keys() {
        let (mut record, key) = create("ci --rpm 60 --expires 3d").issue(1000).expect("good");
        let second = record.rotate(Duration::from_secs(3600), 1000);
        let text = list_text(std::slice::from_ref(&record), 1000);
        assert!(!text.contains(&key) && !text.contains(&second) && !text.contains(&record.sha256.to_string()));
        for part in [&record.id, &record.prefix, "60 req/min", "in 3d, the key before it in 60m"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let late = list_text(&[record], 1000 + 3 * 86400);
        assert!(late.contains("expired") && !late.contains("before it"), "{late}");
    }
}
