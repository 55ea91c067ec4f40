//! `engram models`

use clap::{Args, Subcommand};
use engram_models::catalog::ModelKind;
use engram_models::pull::{Listing, list, remove};
use serde_json::{Value, json};

use super::args::{ConfigArgs, FetchArgs, Flags};
use super::output;
use crate::config::human_size;
use crate::startup;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram models
  engram models list --json
  engram models remove smollm2-135m-instruct")]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: Option<ModelsCommand>,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// The catalog, and what is on disk
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Only what is on disk
        #[arg(long)]
        installed: bool,
    },
    /// Delete a model from the home directory
    Remove {
        /// Its id
        model: String,
    },
}

pub(super) fn run(config: &ConfigArgs, args: &ModelsArgs) -> anyhow::Result<()> {
    let mut flags = Flags::default();
    args.fetch.flags(&mut flags);
    let settings = config.resolve(flags)?.config;
    let options = startup::pull_options(&settings, false);
    match args.command.as_ref().unwrap_or(&ModelsCommand::List { json: false, installed: false }) {
        ModelsCommand::List { json, installed } => {
            let mut lines = list(&options);
            lines.retain(|line| line.installed.is_some() || !installed);
            if *json {
                let lines: Vec<Value> = lines.iter().map(line_json).collect();
                output::write(&format!("{}\n", serde_json::to_string_pretty(&lines)?))
            } else {
                output::write(&table(&lines))
            }
        }
        ModelsCommand::Remove { model } => {
            let removed = remove(model, &options)?;
            let mut text = format!("{model}: {} freed\n", human_size(removed.bytes));
            for path in removed.kept {
                text.push_str(&format!("  {} stays: the hub's cache belongs to other tools too\n", path.display()));
            }
            output::write(&text)
        }
    }
}

fn line_json(line: &Listing) -> Value {
    let catalog = line.catalog;
    json!({
        "id": catalog.map(|entry| entry.id.as_str()).or(line.installed.as_ref().map(|model| model.id.as_str())),
        "aliases": catalog.map(|entry| &entry.aliases),
        "kind": catalog.map(|entry| entry.kind),
        "dimensions": catalog.and_then(|entry| entry.dim),
        "title": catalog.map(|entry| &entry.title),
        "license": catalog.map(|entry| &entry.license),
        "license_note": catalog.and_then(|entry| entry.license_note.as_ref()),
        "context_len": catalog.map(|entry| entry.context_len),
        "fim": catalog.and_then(|entry| entry.fim).map(|fim| fim.name()),
        "parameters": catalog.map(|entry| entry.parameters),
        "bytes": catalog.map(|entry| entry.bytes()),
        "memory_bytes": catalog.map(|entry| entry.memory_bytes()),
        "installed": line.installed.as_ref().map(|model| json!({
            "paths": model.paths,
            "bytes": model.bytes,
            "verified": model.verified,
            "location": model.location,
        })),
    })
}

/// The listing for people: the models that generate, then the encoders.
fn table(lines: &[Listing]) -> String {
    let is_encoder = |line: &&Listing| line.catalog.is_some_and(|entry| entry.kind == ModelKind::Embed);
    let (encoders, models): (Vec<&Listing>, Vec<&Listing>) = lines.iter().partition(is_encoder);
    let mut text =
        columns(&["MODEL", "SIZE", "ON DISK", "CONTEXT", "MEMORY", "FIM", "LICENSE"], models.into_iter().map(cells));
    if !encoders.is_empty() {
        text.push('\n');
        let headings = ["ENCODER", "SIZE", "ON DISK", "CONTEXT", "DIMENSIONS", "LICENSE"];
        text.push_str(&columns(&headings, encoders.into_iter().map(encoder_cells)));
    }
    text
}

/// Rows below headings: columns as wide as their widest cell.
fn columns(headings: &[&str], cells: impl Iterator<Item = Vec<String>>) -> String {
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(cells).collect();
    let columns = rows[0].len();
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// An encoder's cells; of the dimensions the shortest too, where its vectors may be cut.
fn encoder_cells(line: &Listing) -> Vec<String> {
    let mut cells = cells(line);
    let license = cells.pop().unwrap_or_default();
    cells.truncate(4);
    let entry = line.catalog;
    cells.push(match (entry.and_then(|entry| entry.smallest_dim), entry.and_then(|entry| entry.dim)) {
        (Some(smallest), Some(dim)) => format!("{smallest}-{dim}"),
        (_, Some(dim)) => dim.to_string(),
        _ => "-".to_owned(),
    });
    cells.push(license);
    cells
}

fn cells(line: &Listing) -> Vec<String> {
    let dash = || "-".to_owned();
    let installed = line.installed.as_ref();
    let on_disk = installed.map_or_else(dash, |model| if model.verified { "yes".into() } else { "unchecked".into() });
    match line.catalog {
        Some(entry) => vec![
            entry.id.clone(),
            human_size(entry.bytes()),
            on_disk,
            if entry.context_len == 0 { dash() } else { entry.context_len.to_string() },
            human_size(entry.memory_bytes()),
            entry.fim.map_or_else(dash, |fim| fim.name().to_owned()),
            entry
                .license_note
                .as_ref()
                .map_or_else(|| entry.license.clone(), |note| format!("{} ({note})", entry.license)),
        ],
        None => vec![
            installed.map(|model| model.id.clone()).unwrap_or_default(),
            installed.map_or_else(dash, |model| human_size(model.bytes)),
            on_disk,
            dash(),
            dash(),
            dash(),
            dash(),
        ],
    }
}
