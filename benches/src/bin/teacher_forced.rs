//! `teacher_forced`: the tool behind `benches/agreement/run.sh`.
//!
//! `tokenize` makes ids of a text with the model's own tokenizer; `compare` reads them through the exact
//! model and through the normal path, and against logits that another program sends.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use engram_benches::agreement::{self, Cut, Engram, Piped, Teacher};
use engram_inference::KvType;
use engram_models::gguf::Gguf;
use engram_models::layers::WeightForm;
use engram_models::pull::{PullOptions, WeightsFiles, progress, resolve};
use engram_models::tokenizer::{Specials, Tokenizer, TokenizerParts};
use engram_models::{LoadOptions, Model};

#[derive(Parser)]
#[command(about = "Compare next-token distributions with the exact model's")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the path of a model's GGUF file, pulled if it is not on disk
    Path {
        /// Catalog id or path
        #[arg(long)]
        model: String,
    },
    /// Write the token ids of a text, as little-endian u32
    Tokenize {
        /// Catalog id or path of a GGUF model
        #[arg(long)]
        model: String,
        /// The text
        #[arg(long)]
        text: PathBuf,
        /// Where the ids go
        #[arg(long)]
        out: PathBuf,
    },
    /// Compare the normal path, and perhaps another program, with the exact model
    Compare {
        /// Catalog id or path of a GGUF model
        #[arg(long)]
        model: String,
        /// Token ids, as written by `tokenize`
        #[arg(long)]
        tokens: PathBuf,
        /// Tokens read from an empty cache: the longest context
        #[arg(long, default_value_t = 512)]
        chunk: usize,
        /// Tokens whose logits are held at once
        #[arg(long, default_value_t = 128)]
        piece: usize,
        /// Use only the first tokens
        #[arg(long)]
        limit: Option<usize>,
        /// Logits of another program: a file, or - for standard input
        #[arg(long)]
        peer: Option<PathBuf>,
        /// What that program is called
        #[arg(long, default_value = "llama.cpp")]
        peer_name: String,
        /// What the normal path's KV cache holds, one run each: f16, bf16, f32, int8; promises are judged by the first
        #[arg(long, value_delimiter = ',', default_value = "f16")]
        kv_dtype: Vec<String>,
        /// Write the numbers here, as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Path { model } => {
            println!("{}", gguf_path(&model)?.display());
            Ok(())
        }
        Command::Tokenize { model, text, out } => tokenize(&model, &text, &out),
        Command::Compare { model, tokens, chunk, piece, limit, peer, peer_name, kv_dtype, json } => {
            if chunk < 2 || piece == 0 {
                bail!("--chunk must be at least 2 and --piece at least 1");
            }
            let mut ids = read_ids(&tokens)?;
            ids.truncate(limit.unwrap_or(usize::MAX));
            let caches = kv_dtype
                .iter()
                .map(|name| {
                    KvType::from_name(name).with_context(|| format!("--kv-dtype {name} is no type of a KV cache"))
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            let peer = peer.map(|path| (path, peer_name));
            compare(&model, &ids, Cut { chunk, piece }, &caches, peer, json.as_deref())
        }
    }
}

fn gguf_path(model: &str) -> anyhow::Result<PathBuf> {
    let options = PullOptions { progress: progress::for_terminal(), ..PullOptions::from_env() };
    match resolve(model, &options)?.weights {
        WeightsFiles::Gguf(path) => Ok(path),
        WeightsFiles::Safetensors(_) => bail!("{model} is no GGUF file: there is nothing quantised to compare"),
    }
}

fn tokenize(model: &str, text: &Path, out: &Path) -> anyhow::Result<()> {
    let gguf = Gguf::open(&gguf_path(model)?)?;
    let tokenizer = Tokenizer::from_parts(TokenizerParts::from_metadata(gguf.metadata())?)?;
    let text = std::fs::read_to_string(text).with_context(|| format!("cannot read {}", text.display()))?;
    let ids = tokenizer.encode(&text, Specials::AsText);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    std::fs::write(out, bytes).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{} tokens of {} bytes", ids.len(), text.len());
    Ok(())
}

fn read_ids(path: &Path) -> anyhow::Result<Vec<u32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.is_empty() || bytes.len() % 4 != 0 {
        bail!("{} is no list of token ids: {} bytes", path.display(), bytes.len());
    }
    Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

fn compare(
    model: &str,
    ids: &[u32],
    cut: Cut,
    caches: &[KvType],
    peer: Option<(PathBuf, String)>,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    let path = gguf_path(model)?;
    let load = |form| Model::load_path(&path, &LoadOptions { form: Some(form), ..LoadOptions::default() });
    let exact = load(WeightForm::Dense)?;
    let vocab = exact.config().vocab_size;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        bail!("token {id} is not in the model's vocabulary of {vocab}: were the ids made for another model?");
    }
    let mut truth = Engram::new("truth (f32 weights and arithmetic)", exact, cut.chunk, KvType::F32)?;
    let mut engines: Vec<Box<dyn Teacher>> = Vec::new();
    for &kind in caches {
        let name = match kind {
            KvType::F16 => "Engram".to_owned(),
            _ => format!("Engram, {} KV cache", kind.name()),
        };
        engines.push(Box::new(Engram::new(&name, load(WeightForm::Packed)?, cut.chunk, kind)?));
    }
    let peer_name = peer.as_ref().map_or(String::new(), |(_, name)| name.clone());
    if let Some((path, name)) = peer {
        let source: Box<dyn Read> = if path == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(File::open(&path).with_context(|| format!("cannot open {}", path.display()))?)
        };
        engines.push(Box::new(Piped::new(&name, BufReader::with_capacity(1 << 20, source), vocab)?));
    }
    let result =
        agreement::run(ids, cut, &mut truth, &mut engines, |done| eprintln!("{done} of {} tokens", ids.len()))?;

    println!("{model}: {} tokens in chunks of {}\n\n{}", ids.len(), cut.chunk, result.to_table());
    let verdicts = result.verdicts(&peer_name);
    for (good, text) in &verdicts {
        println!("{} {text}", if *good { "ok:  " } else { "FAIL:" });
    }
    if let Some(path) = json {
        let mut object = result.to_json();
        object["model"] = model.into();
        object["tokens"] = ids.len().into();
        object["chunk"] = cut.chunk.into();
        std::fs::write(path, format!("{object:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if verdicts.iter().any(|(good, _)| !good) {
        bail!("not within what is promised");
    }
    Ok(())
}
