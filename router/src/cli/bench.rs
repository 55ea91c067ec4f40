//! `engram bench engine`, `engram bench placement`

use clap::{Args, Subcommand};
use engram_benches::engine::{self, EngineBench};
use engram_benches::placement::{self, PlacementBench};

use super::args::{ConfigArgs, FetchArgs, Flags};
use super::{output, target};
use crate::placement::PlacementSettings;
use crate::placement::simulated::Simulated;
use crate::{logging, startup};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Tokens per second of the engine itself, without HTTP
    Engine(Box<EngineBenchArgs>),
    /// How conversations are spread over nodes, simulated, beside what others do
    Placement(PlacementBenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram bench engine
  engram bench engine --model smollm2-135m-instruct --pp 512 --tg 128 --parallel 1,8,32
  engram bench engine --parallel 1 --repeat 5 --json

ppN: N prompt tokens a sequence, one token generated; tokens/s over all prompts.
tgN: N tokens generated a sequence, all running at once; tokens/s over all sequences.
Prompts differ and the prefix cache is off: every token is computed. Medians over the repeats.")]
struct EngineBenchArgs {
    /// Catalog id, owner/repo[:QUANT] or a path [default: the configured model]
    #[arg(long, short, value_name = "NAME")]
    model: Option<String>,
    /// Tokens of a prompt; 0 leaves the test out
    #[arg(long, default_value_t = 512, value_name = "N")]
    pp: usize,
    /// Tokens to generate; 0 leaves the test out
    #[arg(long, default_value_t = 128, value_name = "N")]
    tg: usize,
    /// Sequences at once, a test each
    #[arg(long, default_value = "1,8,32", value_delimiter = ',', value_name = "N,..")]
    parallel: Vec<usize>,
    /// Runs of each test; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    repeat: usize,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Tokens of one step [default: 512]
    #[arg(long, value_name = "N")]
    max_batch_tokens: Option<String>,
    /// Tokens of a KV block [default: 16]
    #[arg(long, value_name = "N")]
    block_size: Option<String>,
    /// What the KV cache holds: f16, f32 or int8 [default: f16]
    #[arg(long, value_name = "TYPE")]
    kv_dtype: Option<String>,
    /// Worker threads of a step
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram bench placement
  engram bench placement --nodes 16 --rate 30 --json

Nothing is served: time is simulated, and the same seed gives the same figures. `benches/placement` says what the nodes can do.")]
struct PlacementBenchArgs {
    /// Nodes
    #[arg(long, default_value_t = 64, value_name = "N")]
    nodes: usize,
    /// Requests a second, over all nodes
    #[arg(long, default_value_t = 120.0, value_name = "N")]
    rate: f64,
    /// Simulated seconds of traffic; the first fifth is not counted
    #[arg(long, default_value_t = 300.0, value_name = "S")]
    seconds: f64,
    /// Different instructions that conversations begin with
    #[arg(long, default_value_t = 1000, value_name = "N")]
    instructions: usize,
    /// Where the numbers come from
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(config: &ConfigArgs, args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        BenchCommand::Engine(args) => run_engine(config, args),
        BenchCommand::Placement(args) => run_placement(args),
    }
}

fn run_placement(args: &PlacementBenchArgs) -> anyhow::Result<()> {
    let bench = PlacementBench {
        nodes: args.nodes,
        rate: args.rate,
        seconds: args.seconds,
        instructions: args.instructions,
        seed: args.seed,
    };
    bench.check().map_err(output::usage)?;
    let ours = || Box::new(Simulated::new(PlacementSettings::default())) as Box<_>;
    let report = placement::run(&bench, ours, |day| {
        if !args.json {
            eprintln!("{day}");
        }
    });
    if args.json {
        output::write(&format!("{}\n", serde_json::to_string_pretty(&report.to_json())?))
    } else {
        output::write(&report.to_text())
    }
}

fn run_engine(config: &ConfigArgs, args: &EngineBenchArgs) -> anyhow::Result<()> {
    let mut flags = Flags::default();
    flags.value("model.name", "--model", args.model.as_ref());
    flags.value("model.device", "--device", args.device.as_ref());
    flags.value("engine.max_batch_tokens", "--max-batch-tokens", args.max_batch_tokens.as_ref());
    flags.value("engine.block_size", "--block-size", args.block_size.as_ref());
    flags.value("engine.kv_dtype", "--kv-dtype", args.kv_dtype.as_ref());
    flags.value("engine.threads", "--threads", args.threads.as_ref());
    args.fetch.flags(&mut flags);
    let settings = target::quiet(config.resolve(flags)?);
    startup::use_threads(&settings)?;
    logging::init(&settings.log)?;

    let bench = EngineBench { pp: args.pp, tg: args.tg, parallel: args.parallel.clone(), repeat: args.repeat };
    bench.check().map_err(output::usage)?;
    let loaded = startup::load_weights(&settings, !args.json)?;
    let engine = startup::engine_config(&settings);
    let report = engine::run(loaded.model, &loaded.files.id, &engine, &bench, |line| {
        // Progress for people; scripts read standard output.
        if !args.json {
            eprintln!("{line}");
        }
    })?;
    if args.json {
        output::write(&format!("{}\n", serde_json::to_string_pretty(&report.to_json())?))
    } else {
        output::write(&report.to_text())
    }
}
