#!/usr/bin/env python3
"""Searches by text over real HTTP, the whole path, against a memory of real code.

  make bench-memory-path [ARGS="--count 100000 --rates 200 300 400"]

Fills an `engram serve` with chunks of the cargo registry's sources (kept in --dir for the next run), then asks it with the
first sentences of doc comments from the same sources: --clients open connections without a pause (closed), and at given
rates (open), with all caches off, with them on (queries repeat by Zipf's law), and with them on and a write a second that makes
every kept answer stale. Last the search alone: vectors of the queries are kept, answers are not.
"""

import argparse
import asyncio
import datetime
import itertools
import json
import os
import pathlib
import platform
import random
import resource
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "vectors"))
import chunks as source  # noqa: E402
import load  # noqa: E402
from server import Server  # noqa: E402

SEARCH = "/v1/memory/search"
# A question has this many words; longer first sentences are rare.
WORDS = range(4, 25)
# Most of the answer's time at the rate that is called sustained.
P95_MS = 50
COLUMNS = (
    "caches | workers | load | answers | errors | answers/s | P50 ms | P95 | P99 | encoding P50 / P95 ms | search P50 / P95 / P99 ms "
    "| kept answers | kept vectors | server's cores | generator's cores"
)


def questions(texts):
    """First sentences of doc comments, each once."""
    found = {}
    for text in texts:
        before = ""
        for line in text.splitlines():
            line = line.strip()
            said = line.removeprefix("///").strip() if line.startswith("///") else ""
            if said and not before and len(said.split()) in WORDS and said[0].isalpha():
                found[said] = None
            before = said
    return list(found)


def corpus(args):
    """Records and questions: read once, kept beside the memory."""
    kept = args.dir / f"texts-{args.lines}.json"
    if not kept.exists():
        chunks = source.collect(args.sources, [".rs"], args.lines)
        asked = questions(source.texts(args.sources, [".rs"]))
        for texts in (chunks, asked):
            random.Random(7).shuffle(texts)
        args.dir.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"records": chunks[: max(args.count, 100_000)], "questions": asked[:20_000]}))
    texts = json.loads(kept.read_text())
    if len(texts["records"]) < args.count:
        raise SystemExit(f"{len(texts['records'])} distinct chunks, {args.count} are wanted: name more --sources, remove {kept}")
    return texts["records"][: args.count], texts["questions"]


def by_zipf(questions, seed=3):
    """Questions without end, the one at place n with a share of 1/n."""
    draw = random.Random(seed)
    totals = list(itertools.accumulate(1 / place for place in range(1, len(questions) + 1)))
    while True:
        yield from draw.choices(questions, cum_weights=totals, k=1000)


async def writing(server, stop):
    """A record a second, as somebody who works writes."""
    for number in itertools.count():
        body = {"content": f"a note taken while others search, number {number} at {time.time()}", "kind": "knowledge"}
        status, answer = await asyncio.to_thread(server.ask, "POST", "/v1/memory/records", body)
        if status not in (200, 201):
            raise SystemExit(f"a record was refused, status {status}: {answer}")
        try:
            return await asyncio.wait_for(stop.wait(), 1)
        except TimeoutError:
            continue


async def measure(server, clients, bodies, work, writes=False):
    """One row: what a load saw, and what the server counted meanwhile."""
    requests = (load.request(server.port, SEARCH, body) for body in bodies)
    made = load.Load(server.port, clients, requests)
    caches, cpu, own = server.caches(), server.cpu_s(), time.process_time()
    stop, begun = asyncio.Event(), time.perf_counter()
    writer = asyncio.create_task(writing(server, stop)) if writes else None
    seconds = await work(made)
    whole = time.perf_counter() - begun
    own, cpu = (time.process_time() - own) / whole, (server.cpu_s() - cpu) / whole
    stop.set()
    if writer:
        await writer
    after = server.caches()
    counted = {key: after[key] - caches.get(key, 0) for key in after}

    def share(cache):
        hits, misses = counted.get((cache, "hits"), 0), counted.get((cache, "misses"), 0)
        return hits / (hits + misses) if hits + misses else 0.0

    good = [answer for answer in made.answers if not answer.fault]
    faults = [answer.fault for answer in made.answers if answer.fault]
    made_now = [answer for answer in good if not answer.cached]
    return {
        "answers": len(good), "errors": len(faults), "faults": sorted(set(faults))[:5], "rate": len(good) / seconds,
        "ms": load.percentiles([(answer.done - answer.due) * 1e3 for answer in good]),
        "embed_ms": load.percentiles([answer.embed_ms for answer in made_now if answer.embed_ms]),
        "search_ms": load.percentiles([answer.search_ms for answer in made_now]),
        "kept_answers": share("recall"), "kept_vectors": share("embedding"),
        "server_cores": cpu, "generator_cores": own, "late_ms": load.percentiles([late * 1e3 for late in made.late_s]),
    }


def body(text, **more):
    return {"query": text, "k": 10, **more}


def closed(seconds):
    return lambda made: made.closed(seconds)


def opened(rate, seconds):
    return lambda made: made.open(rate, seconds)


def line(row):
    """The row as it stands in the table."""
    def ms(values, count=3):
        return " / ".join(f"{value:.1f}" for value in values[:count]) if values else "-"

    p50, p95, p99 = (f"{value:.1f}" for value in row["ms"]) if row["ms"] else ("-",) * 3
    cells = [row["caches"], row["workers"], row["load"], row["answers"], row["errors"], f"{row['rate']:.0f}", p50, p95, p99]
    cells += [ms(row["embed_ms"], 2), ms(row["search_ms"]), f"{row['kept_answers']:.0%}", f"{row['kept_vectors']:.0%}"]
    cells += [f"{row['server_cores']:.2f}", f"{row['generator_cores']:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


class Bench:
    """All loads, one after the other, and what they gave."""

    def __init__(self, args, records, asked):
        self.args, self.records, self.asked, self.rows, self.filled = args, records, asked, [], None

    def server(self, **settings):
        return Server(self.args, {"encoder": self.args.encoder, "self_check_s": 0, **settings})

    def fill(self):
        with self.server() as server:
            seconds, there = server.fill(self.records)
            if there < len(self.records):
                raise SystemExit(f"{there:,} records are there of {len(self.records):,}: remove {self.args.dir} and run again")
            stats = server.ask("GET", "/v1/memory/stats")[1]
            self.filled = {"seconds": seconds, "records": there, "stats": stats}
            print(f"{there:,} records, filled in {seconds:.0f} s", flush=True)

    def row(self, server, caches, workers, said, bodies, work, clients=None, writes=False):
        row = asyncio.run(measure(server, clients or self.args.clients, bodies, work, writes))
        self.rows.append({"caches": caches, "workers": workers, "load": said, **row})
        print(line(self.rows[-1]), *self.rows[-1]["faults"], flush=True)

    def whole_path(self, workers):
        args = self.args
        once = (body(text) for text in itertools.cycle(self.asked))
        repeated = (body(text) for text in by_zipf(self.asked))
        crowd = f"{args.clients} clients"
        with self.server(workers=workers, cache_memory=0) as server:
            self.row(server, "off", workers, crowd, once, closed(args.seconds))
            for rate in args.rates:
                self.row(server, "off", workers, f"{rate}/s", once, opened(rate, args.seconds))
        with self.server(workers=workers) as server:
            self.row(server, "on", workers, crowd, repeated, closed(args.seconds))
            for rate in args.rates:
                self.row(server, "on", workers, f"{rate}/s", repeated, opened(rate, args.seconds))
            self.row(server, "on, a write a second", workers, f"{args.rates[0]}/s", repeated, opened(args.rates[0], args.seconds), writes=True)

    def search_alone(self, workers):
        """Each question's vector is kept from a first pass; a `min_score` of its own makes each a question not yet answered."""
        known = self.asked[:2000]
        with self.server(workers=workers) as server:
            first = (body(text) for text in known)
            asyncio.run(measure(server, 16, first, lambda made: made.closed(load.TIMEOUT_S, total=len(known))))
            again = (body(text, min_score=number * 1e-7) for number, text in enumerate(itertools.cycle(known), 1))
            rate = self.args.search_rate
            self.row(server, "vectors kept", workers, f"{rate}/s", again, opened(rate, self.args.seconds))
            self.most_resident_mib = server.most_resident_mib()

    def sustained(self):
        """Of each kind of load, the highest rate that was kept up with P95 under P95_MS, no error and nothing left behind."""
        best = {}
        for row in self.rows:
            if not row["load"].endswith("/s") or row["errors"] or not row["ms"]:
                continue
            rate = float(row["load"].removesuffix("/s"))
            if row["ms"][1] < P95_MS and row["rate"] >= 0.95 * rate:
                key = f"caches {row['caches']}, {row['workers']} workers"
                best[key] = max(best.get(key, 0.0), rate)
        return best


def arguments():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--engram", default="target/release/engram")
    args.add_argument("--model", default="smollm2-135m-instruct", help="`serve` wants one; it is not asked anything")
    args.add_argument("--encoder", default="all-minilm-l6-v2", help="memory.encoder; each has a memory of its own in --dir")
    args.add_argument("--dir", type=pathlib.Path, default="target/memory-path", help="memory and texts, kept from run to run")
    args.add_argument("--sources", nargs="+", default=source.SOURCES, help="where .rs files are")
    args.add_argument("--count", type=int, default=100_000, help="records")
    args.add_argument("--lines", type=int, default=12, help="of a record; fewer are encoded sooner")
    args.add_argument("--clients", type=int, default=1000, help="open connections")
    args.add_argument("--seconds", type=float, default=20, help="a load; a fifth of a closed one is its warm-up")
    args.add_argument("--rates", type=int, nargs="+", default=[100, 200, 300, 400, 500, 600], help="of open loads, a second")
    args.add_argument("--workers", type=int, nargs="+", default=[16], help="values of memory.workers to try")
    args.add_argument("--search-rate", type=int, default=500, help="of the search alone")
    args.add_argument("--out", type=pathlib.Path, help="where the JSON goes; the table beside it as .md")
    return args.parse_args()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped as well
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = os.getloadavg()
    bench = Bench(args, *corpus(args))
    bench.fill()
    print(f"| {COLUMNS} |\n|{'---|' * len(COLUMNS.split(' | '))}", flush=True)
    for workers in args.workers:
        bench.whole_path(workers)
    bench.search_alone(args.workers[0])
    sustained = bench.sustained()
    for kind, rate in sustained.items():
        print(f"P95 under {P95_MS} ms up to {rate:.0f}/s: {kind}")
    if args.out:
        run = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "load_before_and_after": [before, os.getloadavg()], "encoder": args.encoder, "records": args.count, "lines": args.lines, "questions": len(bench.asked),
            "clients": args.clients, "seconds": args.seconds, "filled": bench.filled, "sustained": sustained,
            "server_most_resident_mib": bench.most_resident_mib, "rows": bench.rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(run, indent=1) + "\n")
        table = [f"| {COLUMNS} |", "|" + "---|" * len(COLUMNS.split(" | ")), *map(line, bench.rows)]
        args.out.with_suffix(".md").write_text("\n".join(table) + "\n")
    errors = sum(row["errors"] for row in bench.rows)
    if errors:
        raise SystemExit(f"{errors} errors, the rows above say which")


if __name__ == "__main__":
    main()
