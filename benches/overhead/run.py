#!/usr/bin/env python3
"""What a gateway adds to an answer, and how many answers a second it passes: Engram, Portkey's gateway and LiteLLM's proxy.

  make bench-overhead [ARGS="--rounds 5 --json FILE --markdown FILE"]

All stand before the same server of one fixed answer, on the same cores, and are measured in rounds that take turns, so that
a slow minute of the machine hits all of them. Saturation: each of N connections asks as fast as it is answered. Latency:
at half of what each took at saturation, requests come at a fixed rate, and the same rate is measured without a gateway;
the difference of the percentiles is what the gateway adds. Engram has every door in use: an API key with limits on
requests, tokens and concurrency, a budget, prices, metrics, and a log line a request.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMES = ["direct", "engram", "portkey", "litellm"]
GATEWAYS = NAMES[1:]
GOALS = {"p50_ms": 0.3, "p99_ms": 2.0, "portkey": 8.0, "litellm": 80.0}

ENGRAM = """
[server]
host = "127.0.0.1"
port = {port}
data_dir = "{data}"
max_connections = 8192
[model]
name = "none"
[memory]
enabled = false
[log]
level = "info"
[backends.fixed]
kind = "openai_compatible"
url = "http://127.0.0.1:{upstream}/v1"
api_key = "a-providers-key"
models = ["fixed"]
max_in_flight = 8192
[catalog.fixed]
input = 2.5
output = 10.0
context = 128000
backends = ["fixed"]
[routing]
max_cost_usd = 1.0
key_day_usd = 1000000
key_month_usd = 1000000
"""

LITELLM = """
model_list:
  - model_name: fixed
    litellm_params:
      model: openai/fixed
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: a-providers-key
litellm_settings:
  telemetry: false
general_settings:
  master_key: sk-bench
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    """A process with a log of its own, and what a request to it needs."""

    def __init__(self, name, command, port, headers, folder, env=None):
        self.name, self.port, self.headers = name, port, headers
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=folder, env={**os.environ, **(env or {})}, start_new_session=True)

    def wait(self, path, seconds):
        """Until it answers a GET, whatever it says."""
        begun = time.monotonic()
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                if time.monotonic() - begun > seconds:
                    raise SystemExit(f"{self.name} does not answer after {seconds} s:\n{self.tail()}") from None
                time.sleep(0.1)

    def tail(self):
        return self.log.read_text(errors="replace")[-2000:]

    def resident_mib(self):
        """Of it and its children."""
        pages = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == self.process.pid:  # its session
                    pages += int(stat.with_name("statm").read_text().split()[1])
            except OSError:
                pass
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(args, folder, servers):
    """The fixed server and every gateway before it, each in `servers` before it is waited for: one that fails leaves none behind."""
    upstream = free_port()
    servers["direct"] = Server("direct", [args.examples / "fixed_upstream", f"127.0.0.1:{upstream}"], upstream, [], folder)
    servers["direct"].wait("/v1/models", 10)
    if "engram" in args.gateways:
        servers["engram"] = engram_before(args, upstream, folder)
        servers["engram"].wait("/ready", 30)
    if "portkey" in args.gateways:
        port = free_port()
        script = args.portkey / "@portkey-ai/gateway/build/start-server.js"
        headers = ["authorization: Bearer a-providers-key", "x-portkey-provider: openai",
                   f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1"]
        servers["portkey"] = Server("portkey", ["node", script, f"--port={port}", "--headless"], port, headers, folder,
                                    {"NODE_ENV": "production"})
        servers["portkey"].wait("/", 60)
    if "litellm" in args.gateways:
        port, config = free_port(), folder / "litellm.yaml"
        config.write_text(LITELLM.format(upstream=upstream))
        command = [args.litellm, "--config", config, "--host", "127.0.0.1", "--port", port,
                   "--num_workers", args.litellm_workers]
        env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        servers["litellm"] = Server("litellm", command, port, ["authorization: Bearer sk-bench"], folder, env)
        servers["litellm"].wait("/health/liveliness", 180)


def engram_before(args, upstream, folder):
    port, data = free_port(), folder / "engram-data"
    data.mkdir()
    config = folder / "engram.toml"
    config.write_text(ENGRAM.format(port=port, data=data, upstream=upstream))
    # Limits that are counted and never reached.
    limits = ["--rpm", "100000000", "--tpm", "100000000000", "--concurrency", "100000", "--day-usd", "1000000"]
    made = subprocess.run([args.engram, "keys", "create", "bench", *limits, "--data-dir", data, "--json"],
                          check=True, stdout=subprocess.PIPE, text=True)
    return Server("engram", [args.engram, "serve", "--config", config], port,
                    [f"authorization: Bearer {json.loads(made.stdout)['key']}"], folder)


def load(args, server, stream, connections, rate=None):
    """One run of the load generator."""
    command = [args.examples / "http_load", "--url", f"http://127.0.0.1:{server.port}", "--connections", connections,
               "--seconds", args.seconds, "--warm-up", args.warm_up]
    command += ["--stream"] if stream else []
    command += ["--rate", f"{rate:.1f}"] if rate else []
    command += [part for header in server.headers for part in ("--header", header)]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the load generator failed at {server.name}")
    seen = json.loads(done.stdout)
    if seen["errors"]:
        print(f"  {server.name}: {seen['errors']} errors, such as: {seen['error']}", file=sys.stderr)
    return seen


def median(runs, *path):
    """Of one number in each run; None where one run has none."""
    values = []
    for run in runs:
        for part in path:
            run = run[part]
        values.append(run)
    return None if None in values else statistics.median(values)


def saturate(args, servers):
    """{(stream, connections): {name: [run, ..]}}, the servers in another order each round."""
    rows = {(stream, connections): {name: [] for name in servers}
            for stream in args.modes for connections in args.connections}
    for turn in range(args.rounds):
        for (stream, connections), runs in rows.items():
            for name in rotated(list(servers), turn):
                seen = load(args, servers[name], stream, connections)
                runs[name].append(seen)
                print(f"round {turn + 1}, {shape(stream)}, {connections} connections, {name}: {seen['rps']:.0f}/s, "
                      f"P50 {seen['ms']['p50']} ms, P99 {seen['ms']['p99']} ms", file=sys.stderr)
    return rows


def at_half(args, servers, rows):
    """{(stream, name): {"rate", "gateway": [run, ..], "direct": [run, ..]}} at half of each one's saturation."""
    found = {}
    for stream in args.modes:
        for name in servers:
            if name == "direct":
                continue
            best = max(median(rows[stream, connections][name], "rps") for connections in args.connections)
            found[stream, name] = {"rate": best / 2, "gateway": [], "direct": []}
    for turn in range(args.rounds):
        for (stream, name), runs in found.items():
            for side in rotated(["direct", "gateway"], turn):
                server = servers["direct" if side == "direct" else name]
                runs[side].append(load(args, server, stream, args.half_connections, runs["rate"]))
            print(f"round {turn + 1}, {shape(stream)} at {runs['rate']:.0f}/s, {name}: P50 "
                  f"{runs['gateway'][-1]['ms']['p50']} ms, direct {runs['direct'][-1]['ms']['p50']} ms", file=sys.stderr)
    return found


def rotated(items, turn):
    turn %= len(items)
    return items[turn:] + items[:turn]


def shape(stream):
    return "streams" if stream else "whole answers"


def milliseconds(value):
    return "-" if value is None else f"{value:.2f}"


def added(runs, *path):
    here, there = median(runs["gateway"], *path), median(runs["direct"], *path)
    return None if here is None or there is None else here - there


def markdown(args, rows, half, memory):
    out = []
    for stream in args.modes:
        out += [f"### {shape(stream).capitalize()}", "", "Answers a second at saturation (P50 / P99 in ms, errors if any):", ""]
        names = list(next(iter(rows.values())))
        out += ["| connections | " + " | ".join(names) + " | engram to portkey | engram to litellm |"]
        out += ["|---" * (len(names) + 3) + "|"]
        for connections in args.connections:
            runs = rows[stream, connections]
            cells = [str(connections)]
            for name in names:
                errors = sum(run["errors"] for run in runs[name])
                cells.append(f"{median(runs[name], 'rps'):,.0f} ({milliseconds(median(runs[name], 'ms', 'p50'))} / "
                             f"{milliseconds(median(runs[name], 'ms', 'p99'))}{f', {errors} errors' if errors else ''})")
            cells += [times(runs, other) for other in ("portkey", "litellm")]
            out.append("| " + " | ".join(cells) + " |")
        out += ["", f"Added at half of its own saturation, {args.half_connections} connections:", ""]
        out += ["| | rate | P50 ms | P99 ms | P50 to the first byte, ms | P99 to it, ms |", "|---|---|---|---|---|---|"]
        for (mode, name), runs in half.items():
            if mode == stream:
                figures = [added(runs, part, share) for part in ("ms", "first_byte_ms") for share in ("p50", "p99")]
                out.append(f"| {name} | {runs['rate']:,.0f}/s | " + " | ".join(map(milliseconds, figures)) + " |")
        out.append("")
    out.append("Resident memory after it all: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items()) + ".")
    return "\n".join(out) + "\n"


def times(runs, other):
    """How many times the other's answers Engram gives; medians of the rounds' ratios."""
    if "engram" not in runs or other not in runs:
        return "-"
    pairs = [(ours["rps"], theirs["rps"]) for ours, theirs in zip(runs["engram"], runs[other]) if theirs["rps"]]
    return f"{statistics.median(ours / theirs for ours, theirs in pairs):.1f}" if pairs else "-"


def goals(args, rows, half):
    """What was wanted, and what there is."""
    told = []
    for stream in args.modes:
        runs = half.get((stream, "engram"))
        for share in ("p50", "p99") if runs else ():
            told.append((f"{shape(stream)}: added {share.upper()}, ms", added(runs, "ms", share), "<", GOALS[f"{share}_ms"]))
        for other in ("portkey", "litellm"):
            best = {name: max(median(rows[stream, connections][name], "rps") for connections in args.connections)
                    for name in ("engram", other) if name in args.gateways}
            if len(best) == 2 and best[other]:
                told.append((f"{shape(stream)}: most answers a second, to {other}'s", best["engram"] / best[other], ">=",
                             GOALS[other]))
    return [{"what": what, "is": value, "goal": f"{sign} {goal}", "met": value < goal if sign == "<" else value >= goal}
            for what, value, sign, goal in told]


def versions(args):
    def said(*command):
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "unknown"
    found = {"engram": said(args.engram, "--version"), "commit": said("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
             "node": said("node", "--version"), "python": platform.python_version()}
    package = args.portkey / "@portkey-ai/gateway/package.json"
    if "portkey" in args.gateways:
        found["portkey"] = json.loads(package.read_text())["version"]
    if "litellm" in args.gateways:
        python = pathlib.Path(args.litellm).with_name("python")
        found["litellm"] = said(python, "-c", "import importlib.metadata as m; print(m.version('litellm'))")
    return found


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": cpu, "cores": os.cpu_count(), "load_before": os.getloadavg()[0], "kernel": platform.release()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--engram", type=pathlib.Path, default=target / "release/engram")
    parser.add_argument("--examples", type=pathlib.Path, default=target / "release/examples")
    parser.add_argument("--portkey", type=pathlib.Path, default=ROOT / "tests/node/node_modules")
    parser.add_argument("--litellm", default=shutil.which("litellm") or target / "overhead-venv/bin/litellm")
    parser.add_argument("--litellm-workers", type=int, default=1)
    parser.add_argument("--gateways", type=lambda text: text.split(","), default=GATEWAYS)
    parser.add_argument("--connections", type=lambda text: [int(part) for part in text.split(",")], default=[1, 64, 512, 1000])
    parser.add_argument("--half-connections", type=int, default=64)
    parser.add_argument("--modes", type=lambda text: [part == "stream" for part in text.split(",")], default=[False, True],
                        help="whole,stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--markdown", type=pathlib.Path)
    args = parser.parse_args()
    for name in ("engram", "examples", "portkey", "litellm"):
        setattr(args, name, pathlib.Path(getattr(args, name)).absolute())
    report = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": sys.argv,
              "versions": versions(args), "machine": machine()}

    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        servers = {}
        try:
            start(args, pathlib.Path(folder), servers)
            rows = saturate(args, servers)
            half = at_half(args, servers, rows)
            memory = {name: server.resident_mib() for name, server in servers.items()}
        finally:
            for server in servers.values():
                server.stop()

    table = markdown(args, rows, half, memory)
    report["goals"] = goals(args, rows, half)
    report["saturation"] = [{"stream": stream, "connections": connections, "runs": runs}
                            for (stream, connections), runs in rows.items()]
    report["at_half"] = [{"stream": stream, "gateway": name, **runs} for (stream, name), runs in half.items()]
    report["resident_mib"] = memory
    print(table)
    for goal in report["goals"]:
        print(f"{'met   ' if goal['met'] else 'MISSED'} {goal['what']}: {goal['is']:.2f} (goal {goal['goal']})")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table)


if __name__ == "__main__":
    main()
