#!/usr/bin/env python3
"""The servers of Engram and llama.cpp under the same load over real HTTP, in interleaved rounds.

  eval "$(benches/vs_llama_cpp/build_peer.sh)"      # builds llama-server, once, and says where it is
  $LLAMA_PYTHON benches/vs_llama_cpp/server.py [--model NAME|FILE.gguf] [--clients 1,8,32] [--rounds 3] [--json FILE]

Streaming chat, about 210 tokens in, 64 out, closed loop (load.py). A round starts one server, warms it, measures every
number of clients, stops it, and does the same with the other; rounds take turns in who is first. Both run on the
same threads with flash attention and f16 KV; llama-server has 8 slots with 1024 tokens each, Engram its defaults.
Percentiles are of a round, the table has their medians over the rounds. Only 127.0.0.1 is spoken to.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import load
import report
from run import file_of

START_SECONDS, STOP_SECONDS = 120, 40
SLOTS = 8


def commands(args, path, port):
    """How each server is started on that port."""
    threads = str(args.threads)
    ours = [args.engram, "serve", "--model", path, "--threads", threads, "--kv-dtype", "f16", "--log-level", "warn"]
    theirs = [args.llama_server, "--model", path, "--threads", threads, "--threads-batch", threads, "--flash-attn", "on"]
    theirs += ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * 1024), "--cache-type-k", "f16", "--cache-type-v", "f16"]
    theirs += ["--cache-ram", "0", "--no-webui", "--offline"]  # no copies of finished prompts: nobody asks them again
    return {side: [*command, "--host", "127.0.0.1", "--port", str(port)] for side, command in (("engram", ours), ("llama_cpp", theirs))}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def resident_mib(pid):
    """Resident memory now and at most, in MiB; nothing where there is no procfs."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    lines = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(value.split()[0]) // 1024 for name, value in lines.items()}


@contextlib.contextmanager
def served(command, port):
    """The server, from the moment it is healthy; it is stopped whatever happens inside."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        try:
            begun = time.monotonic()
            while not healthy(port):
                if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                    log.seek(0)
                    raise SystemExit(f"{command[0]} does not start:\n{log.read()[-3000:]}")
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(args, command, port, seed):
    """One server's part of a round: a row a number of clients, and its memory."""
    with served(command, port) as process:
        load.run(port, 2, 1, 16, f"warm {seed}")
        loaded = resident_mib(process.pid).get("VmRSS")
        rows = [load.run(port, clients, args.each(clients), args.max_tokens, seed) for clients in args.clients]
        return {"rows": rows, "resident_mib": loaded, "resident_peak_mib": resident_mib(process.pid).get("VmHWM")}


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engram", default="target/release/engram")
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER"))
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct", help="catalog id or path of a GGUF")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=3, help="of each client; eight in all at least [default: 3]")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path, help="keep every round's numbers")
    parser.add_argument("--markdown", type=pathlib.Path, help="keep the table")
    args = parser.parse_args()
    args.each = lambda clients: max(args.requests, -(-8 // clients))
    if not args.llama_server:
        parser.error("LLAMA_SERVER is not set: build_peer.sh builds it and tells where it is")
    if args.rounds < 1:
        parser.error("--rounds is at least 1")
    if not all(0 < n <= load.MAX_CLIENTS and 0 < args.each(n) <= load.MAX_REQUESTS for n in args.clients):
        parser.error(f"--clients go to {load.MAX_CLIENTS}, --requests to {load.MAX_REQUESTS}")
    if not 2 <= args.max_tokens <= 512:
        parser.error("--max-tokens goes from 2 to 512")
    return args


def main():
    args = parsed()
    path = file_of(args, args.model)
    rounds = {"engram": [], "llama_cpp": []}
    for number in range(args.rounds):
        for side in ("engram", "llama_cpp") if number % 2 == 0 else ("llama_cpp", "engram"):
            port = free_port()
            rounds[side].append(measure(args, commands(args, path, port)[side], port, number))
            for row in rounds[side][-1]["rows"]:
                told = f"{row['clients']} clients, TTFT {row['ttft_p50_ms']:.0f} ms, {row['tokens_per_second']:.0f} tokens/s"
                print(f"round {number + 1} of {args.rounds}, {side}: {told}", file=sys.stderr)
        if args.json:
            kept = {
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "command": " ".join(sys.argv),
                "servers": {side: " ".join(map(str, command)) for side, command in commands(args, path, "PORT").items()},
                "model": pathlib.Path(args.model).name,
                "max_tokens": args.max_tokens,
                "rounds": rounds,
            }
            args.json.write_text(json.dumps(kept, indent=1) + "\n")
    text = report.serving(pathlib.Path(args.model).name, rounds)
    print(f"\n{text}")
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
