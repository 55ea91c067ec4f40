#!/usr/bin/env python3
"""Engram and llama.cpp on the same file, in interleaved rounds: medians and their ratio.

  eval "$(benches/vs_llama_cpp/build_peer.sh)"      # llama.cpp, built for this CPU, once
  $LLAMA_PYTHON benches/vs_llama_cpp/run.py [--model NAME|FILE.gguf ...] [--rounds 5] [--tests pp512,tg64x8] [--json FILE]

Needs `make build` and, for a name of the catalog, `make models`. Each test is run by the one and at once by the other, in a
process of its own, and rounds take turns in who is first, so that a slow minute of the machine hits both; only the ratio
is worth quoting. Both compute real logits with flash attention and an f16 KV cache, on the same threads; neither samples
more than an argmax. Where Engram reports what the machine's memory and arithmetic would allow (`bound_tokens_per_second`), the table
says how much of it each reaches.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

import report

HERE = pathlib.Path(__file__).parent
TESTS = "pp512,pp2048,tg64,tg64x8,tg64x32"
MODELS = ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"]


def tests_of(text):
    """`tg64x8` to ("tg64", 8)."""
    tests = []
    for item in text.split(","):
        test, _, parallel = item.partition("x")
        if test[:2] not in ("pp", "tg") or not test[2:].isdigit() or not (parallel or "1").isdigit():
            raise argparse.ArgumentTypeError(f"{item}: tests look like pp512, tg64 or tg64x8")
        if test.startswith("pp") and parallel:
            raise argparse.ArgumentTypeError(f"{item}: prefill is measured with one prompt")
        tests.append((test, int(parallel or 1)))
    return tests


def answer(command):
    """The JSON object that the command prints; its errors are shown and end the run."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"exit status {done.returncode}: {' '.join(map(str, command))}")
    return json.loads(done.stdout)


def engram(args, model, test, parallel):
    """The row of one test, and what Engram says of the machine."""
    sizes = ["--pp", test[2:], "--tg", "0"] if test.startswith("pp") else ["--pp", "0", "--tg", test[2:]]
    command = [args.engram, "bench", "engine", "--model", model, *sizes, "--parallel", parallel]
    out = answer([*command, "--repeat", "1", "--threads", args.threads, "--json"])
    row = next(row for row in out["rows"] if (row["test"], row["parallel"]) == (test, parallel))
    return row, {"machine": out.get("machine"), "machine_peak": out.get("machine_peak")}


def file_of(args, model):
    """Where the model's file is: the argument itself, or what Engram has under that name."""
    if model.endswith(".gguf"):
        if not pathlib.Path(model).is_file():
            raise SystemExit(f"{model} is not there")
        return model
    pulled = subprocess.run([args.engram, "pull", model], stdout=subprocess.PIPE, text=True, check=True)
    return pulled.stdout.strip().splitlines()[-1].strip()


def measure(args, model):
    """{(test, parallel): {"engram": [row], "llama_cpp": [row]}}, and the machine."""
    path, machine = file_of(args, model), None
    rows = {key: {"engram": [], "llama_cpp": []} for key in args.tests}
    for number in range(args.rounds):
        for key in args.tests:
            for side in ("engram", "llama_cpp") if number % 2 == 0 else ("llama_cpp", "engram"):
                if side == "engram":
                    row, machine = engram(args, model, *key)
                else:
                    row = answer([sys.executable, HERE / "llama_round.py", path, *key, args.threads])
                rows[key][side].append(row)
            last = [rows[key][side][-1]["tokens_per_second"] for side in ("engram", "llama_cpp")]
            told = f"round {number + 1} of {args.rounds}, {key[0]} x {key[1]}: {last[0]:.1f} and {last[1]:.1f} tokens/s"
            print(f"{model}: {told}", file=sys.stderr)
    return rows, machine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engram", default="target/release/engram")
    parser.add_argument("--model", action="append", help="catalog id or path of a GGUF; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tests", type=tests_of, default=tests_of(TESTS), help=f"default: {TESTS}")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path, help="keep every run's number")
    parser.add_argument("--markdown", type=pathlib.Path, help="keep the tables")
    args = parser.parse_args()
    if args.rounds < 1:
        raise SystemExit("--rounds is at least 1")
    import llama_cpp

    kept = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "llama_cpp_python": llama_cpp.__version__,
        "llama_cpp_system": llama_cpp.llama_print_system_info().decode(),
        "rounds": args.rounds,
        "threads": args.threads,
        "models": {},
    }
    tables = []
    for model in args.model or MODELS:
        rows, machine = measure(args, model)
        kept.update(machine)
        name = pathlib.Path(model).name
        kept["models"][name] = [{"test": test, "parallel": n, **sides} for (test, n), sides in rows.items()]
        tables.append(report.throughput(name, rows))
        print(f"\n{tables[-1]}")
        if args.json:  # after every model: what is measured is kept
            args.json.write_text(json.dumps(kept, indent=1) + "\n")
        if args.markdown:
            args.markdown.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
