#!/usr/bin/env python3
"""Engram and llama.cpp on the same file, in interleaved rounds: medians and their ratio.

  python benches/vs_llama_cpp/run.py --engram target/release/engram [--model NAME ...] [--rounds 5] [--json FILE]

Needs `cargo build --release --bin engram --bin teacher_forced`, and a Python with `llama-cpp-python` (benches/agreement/requirements.txt). Each round runs Engram once and llama.cpp
once for every test, so that a slow minute of the machine hits both; only the ratio is worth quoting. Both decode real
logits with flash attention and an f16 KV cache, on all cores; neither samples more than an argmax.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

TESTS = [("pp512", 1), ("tg64", 1), ("tg64", 8), ("tg64", 32)]


def llama_round(path):
    """Tokens/s of every test, measured in this process."""
    import llama_cpp
    import numpy

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    params = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    draw = numpy.random.default_rng(7)
    results = {}
    for test, parallel in TESTS:
        length = int(test[2:])
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = parallel * (length + 64) + 512
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = parallel
        params.n_threads = params.n_threads_batch = os.cpu_count()
        params.flash_attn_type = 1
        params.kv_unified = True
        context = llama_cpp.llama_init_from_model(model, params)
        batch = llama_cpp.llama_batch_init(512, 0, parallel)

        def decode(tokens, sequences, positions, wanted):
            batch.n_tokens = len(tokens)
            for i, (token, sequence, position) in enumerate(zip(tokens, sequences, positions)):
                batch.token[i], batch.pos[i] = int(token), position
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = i in wanted
            if llama_cpp.llama_decode(context, batch) != 0:
                raise SystemExit("llama_decode failed")

        def argmax(row):
            logits = llama_cpp.llama_get_logits_ith(context, row)
            return int(numpy.ctypeslib.as_array(logits, (vocabulary,)).argmax())

        if test.startswith("pp"):
            decode([1, 2, 3, 4], [0] * 4, range(4), {3})  # warm
            memory = llama_cpp.llama_get_memory(context)
            llama_cpp.llama_memory_clear(memory, True)
            tokens = draw.integers(100, vocabulary - 300, length)
            begun = time.perf_counter()
            decode(tokens, [0] * length, range(length), {length - 1})
            argmax(length - 1)
            results[(test, parallel)] = length / (time.perf_counter() - begun)
        else:
            prompt = draw.integers(100, vocabulary - 300, 8)
            for sequence in range(parallel):
                decode(prompt, [sequence] * 8, range(8), {7})
            tokens = [int(prompt[-1])] * parallel
            everyone = range(parallel)
            begun = time.perf_counter()
            for step in range(length):
                decode(tokens, everyone, [8 + step] * parallel, set(everyone))
                tokens = [argmax(row) for row in everyone]
            results[(test, parallel)] = parallel * length / (time.perf_counter() - begun)
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return results


def engram_round(binary, model):
    results = {}
    for test in (["--pp", "512", "--tg", "0", "--parallel", "1"], ["--pp", "0", "--tg", "64", "--parallel", "1,8,32"]):
        command = [binary, "bench", "engine", "--model", model, "--repeat", "1", "--json", *test]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.update({(row["test"], row["parallel"]): row["tokens_per_second"] for row in json.loads(out)["rows"]})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engram", default="target/release/engram")
    parser.add_argument("--model", action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--llama-round", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama_round:  # a process of its own a round, as Engram has
        json.dump([[*key, value] for key, value in llama_round(args.llama_round).items()], sys.stdout)
        return
    import llama_cpp

    kept = {"llama_cpp_python": llama_cpp.__version__, "rounds": args.rounds, "models": {}}
    for model in args.model or ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"]:
        teacher = pathlib.Path(args.engram).with_name("teacher_forced")
        path = subprocess.run([teacher, "path", "--model", model], check=True, capture_output=True, text=True).stdout.strip()
        ours, theirs = [], []
        for n in range(args.rounds):
            ours.append(engram_round(args.engram, model))
            out = subprocess.run([sys.executable, __file__, "--llama-round", path], check=True, capture_output=True, text=True)
            theirs.append({(test, parallel): value for test, parallel, value in json.loads(out.stdout)})
            print(f"{model}: round {n + 1} of {args.rounds}", file=sys.stderr)
        print(f"\n{model}\n\n| test | streams | Engram tok/s | llama.cpp tok/s | ratio |\n|---|---|---|---|---|")
        rows = []
        for key in TESTS:
            a, b = (statistics.median(r[key] for r in side) for side in (ours, theirs))
            rows.append({"test": key[0], "parallel": key[1], "engram": [r[key] for r in ours], "llama_cpp": [r[key] for r in theirs]})
            print(f"| {key[0]} | {key[1]} | {a:.1f} | {b:.1f} | {a / b:.2f} |")
        kept["models"][model] = rows
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
