//! What may be typed, and what becomes of it.

use clap::Parser;

use super::*;
use crate::cli::args::Flags;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn serve_flags(line: &str) -> Flags {
    match parse(line).expect(line).command {
        Command::Serve(args) => args.flags(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_scripts_rely_on_parses() {
    for line in [
        "engram serve",
        "engram serve --model smollm2-135m-instruct --host 127.0.0.1 --port 8080 --data-dir /tmp/x",
        "engram serve --kv-memory 64MiB --max-num-seqs 8 --queue-limit 64 --drain-deadline 1",
        "engram serve --device cuda:1 --offline --insecure-no-auth --no-prefix-cache --threads 2",
        "engram serve --config a.toml --config b.toml",
        "engram --config a.toml serve",
        "engram pull smollm2-135m-instruct --offline",
        "engram models",
        "engram models list --json --installed",
        "engram models remove smollm2-135m-instruct",
        "engram chat hello --url http://127.0.0.1:1 --temperature 0",
        "engram complete --fim src/a.rs:3:4 --context b.rs",
        "engram complete x --suffix y",
        "engram memory remember note --project p --kind workflow --pin --ttl 60",
        "engram memory search retry -k 3 --kind code --project p --json --url http://127.0.0.1:1",
        "engram memory show 0d6081e5adeec8acd201fc89c67e6a81 --as-of 1 --domain business",
        "engram memory forget --project p --kind conversation",
        "engram memory forget --all --yes --data-dir /tmp/x --tenant ada",
        "engram memory stats --json",
        "engram memory snapshot before",
        "engram bench engine --model smollm2-135m-instruct --pp 512 --tg 128 --parallel 1,8,32 --json",
        "engram bench placement --nodes 16 --rate 30 --seconds 60 --instructions 100 --seed 2 --json",
        "engram config show --json --port 1",
        "engram config check a.toml b.toml",
        "engram completions bash",
        "engram version --json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).err().map(|e| e.to_string()).unwrap_or_default());
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in [
        "engram",
        "engram serv",
        "engram serve --prot 80",
        "engram complete x --fim a.rs:1",
        "engram complete --fim a.rs",
        "engram complete --fim a.rs:1 --suffix y",
        "engram chat --url x --in-process",
        "engram memory",
        "engram memory search",
        "engram memory forget 1 --all",
        "engram config check",
        "engram bench engine --parallel many",
        "engram completions tcsh",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn every_flag_of_serve_sets_a_key_that_exists() {
    let flags = serve_flags(
        "engram serve --host h --port 1 --data-dir d --api-keys-file f --insecure-no-auth --cors-origins o \
         --request-timeout 1 --drain-deadline 1 --model m --device cpu --kv-memory 1GiB --kv-dtype f32 \
         --max-num-seqs 1 --max-batch-tokens 1 --max-itl-ms 50 --block-size 16 --queue-limit 1 --max-model-len 64 \
         --no-prefix-cache --threads 1 --home h --offline --revision r --log-level info --log-format json",
    );
    assert_eq!(flags.0.len(), 25);
    for flag in &flags.0 {
        let key = crate::config::keys::find(flag.key).unwrap_or_else(|| panic!("{}", flag.key));
        let from = Origin::Flag(flag.flag);
        let raw = crate::config::Raw::Text(flag.text.clone());
        assert!(key.parse(&raw, &from).is_ok(), "{} = {:?}", flag.key, flag.text);
    }
    assert!(serve_flags("engram serve").0.is_empty());
}

#[test]
fn every_command_has_help_with_an_example() {
    fn visit(command: &clap::Command, path: &str) {
        let name = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{name} has no help");
        let leaf = command.get_subcommands().next().is_none();
        if leaf {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // What is shown under `models` covers its parts.
            assert!(help.contains("engram") || name.contains("models"), "{name} has no example");
        }
        for sub in command.get_subcommands() {
            visit(sub, &name);
        }
    }
    visit(&Cli::command(), "");
}

#[test]
fn a_bad_flag_is_usage_and_a_bad_file_is_not() {
    let resolve = |text: &str, flag: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        std::fs::write(&file, text).unwrap();
        let mut flags = Flags::default();
        flags.value("server.port", "--port", flag.map(str::to_owned).as_ref());
        ConfigArgs { config: vec![file] }.resolve(flags).expect_err("broken")
    };
    assert!(is_usage(&resolve("", Some("eighty"))));
    assert!(!is_usage(&resolve("[server]\nport = \"eighty\"", None)));
}
