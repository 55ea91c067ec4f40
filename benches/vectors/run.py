"""Our vector index beside hnswlib, faiss and usearch, on the same vectors, in interleaved rounds.

Every engine builds a graph with M=16 and ef_construction=200 over `base.npy`; then, round by round, each answers
`queries.npy` for a second at each `ef` on all threads, so that what else the machine does meets all alike. The table
gives medians over the rounds; queries a second at a recall lie on the line between the two nearest `ef` measured. Bytes a vector
are what the process grew by during the build.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time

import faiss
import hnswlib
import numpy as np
import usearch
from usearch.index import Index

K, M, EF_CONSTRUCTION, SECONDS = 10, 16, 200, 1.0
TARGETS = (0.97, 0.99)


def resident():
    """Bytes of this process in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Peer:
    """A library in this process: `ask(ef)` gives ids [queries, K]."""

    def __init__(self, data, threads):
        self.data, self.threads = data, threads
        start, before = time.perf_counter(), resident()
        self.build()
        self.build_s = time.perf_counter() - start
        self.bytes_per_vector = (resident() - before) / len(data["base"])

    def measure(self, ef):
        found = self.ask(ef)
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), self.data["truth"].tolist())])
        count, start = 0, time.perf_counter()
        while (gone := time.perf_counter() - start) < SECONDS:
            self.ask(ef)
            count += len(self.data["queries"])
        return float(recall), count / gone


class Hnswlib(Peer):
    def build(self):
        base = self.data["base"]
        self.index = hnswlib.Index("ip", base.shape[1])
        self.index.init_index(len(base), M=M, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(base, num_threads=self.threads)

    def ask(self, ef):
        self.index.set_ef(ef)
        return self.index.knn_query(self.data["queries"], K, num_threads=self.threads)[0]


class Faiss(Peer):
    def build(self):
        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.IndexHNSWFlat(self.data["base"].shape[1], M, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.add(self.data["base"])

    def ask(self, ef):
        self.index.hnsw.efSearch = ef
        return self.index.search(self.data["queries"], K)[1]


class Usearch(Peer):
    dtype = "f32"

    def build(self):
        base = self.data["base"]
        self.index = Index(ndim=base.shape[1], metric="ip", dtype=self.dtype, connectivity=M, expansion_add=EF_CONSTRUCTION)
        self.index.add(np.arange(len(base)), base, threads=self.threads)

    def ask(self, ef):
        self.index.expansion_search = ef
        return self.index.search(self.data["queries"], K, threads=self.threads).keys.astype(np.int64)


class UsearchBf16(Usearch):
    dtype = "bf16"


class Engram:
    """The example `vectors` of the crate `engram-memory`, in a process of its own: a line in, a line out."""

    def __init__(self, program, directory, threads):
        self.process = subprocess.Popen(
            [program, directory, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.built = json.loads(self.process.stdout.readline())
        self.build_s, self.bytes_per_vector = self.built["build_s"], self.built["resident_per_vector"]

    def measure(self, ef):
        self.process.stdin.write(f"{ef}\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        return said["recall"], said["qps"]


def at_recall(points, target):
    """Queries a second at a recall, on the line between the nearest points; None where they do not reach around it."""
    points = sorted(points)
    for (low, fast), (high, slow) in zip(points, points[1:]):
        if low <= target <= high:
            part = (target - low) / (high - low) if high > low else 0.0
            return fast ** (1 - part) * slow**part
    return None


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("data", type=pathlib.Path, help="what make_vectors.py wrote")
    args.add_argument("--engram", default="target/release/examples/vectors")
    args.add_argument("--out", type=pathlib.Path, help="where the JSON goes; the table beside it as .md")
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--threads", type=int, default=os.cpu_count())
    args.add_argument("--ef", type=int, nargs="+", default=[32, 48, 64, 96, 160, 224, 320])
    args.add_argument("--peers", nargs="*", default=["hnswlib", "faiss", "usearch", "usearch bf16"])
    args = args.parse_args()

    data = {name: np.load(args.data / f"{name}.npy") for name in ("base", "queries", "truth")}
    data["truth"] = data["truth"][:, :K]
    known = {"hnswlib": Hnswlib, "faiss": Faiss, "usearch": Usearch, "usearch bf16": UsearchBf16}
    load_before = os.getloadavg()
    engines = {"engram": Engram(args.engram, str(args.data), args.threads)}
    for name in args.peers:
        engines[name] = known[name](data, args.threads)
        print(f"{name}: built in {engines[name].build_s:.1f} s", flush=True)

    measured = {name: {ef: [] for ef in args.ef} for name in engines}
    for _ in range(args.rounds):
        for ef in args.ef:
            for name, engine in engines.items():
                measured[name][ef].append(engine.measure(ef))

    rows = []
    for name, engine in engines.items():
        points = [
            (statistics.median(r for r, _ in runs), statistics.median(q for _, q in runs)) for runs in measured[name].values()
        ]
        rows.append({"engine": name, "build_s": engine.build_s, "bytes_per_vector": engine.bytes_per_vector, "points": list(zip(args.ef, points)),
                     "qps_at": {str(target): at_recall(points, target) for target in TARGETS}})

    lines = ["| | build s | bytes a vector | " + " | ".join(f"q/s at {t}" for t in TARGETS) + " | ef: recall@10 / q/s |", "|---|---|---|---|---|---|"]
    for row in rows:
        at = " | ".join(f"{q:,.0f}" if (q := row["qps_at"][str(t)]) else "not reached" for t in TARGETS)
        points = " · ".join(f"{ef}: {recall:.4f} / {qps:,.0f}" for ef, (recall, qps) in row["points"])
        lines.append(f"| {row['engine']} | {row['build_s']:.1f} | {row['bytes_per_vector']:,.0f} | {at} | {points} |")
    table = "\n".join(lines)
    print(table)
    if args.out:
        run = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "load_before_and_after": [load_before, os.getloadavg()],
            "versions": {"hnswlib": getattr(hnswlib, "__version__", "0.8.0"), "faiss": faiss.__version__, "usearch": usearch.__version__},
            "vectors": list(data["base"].shape), "queries": len(data["queries"]), "threads": args.threads,
            "m": M, "ef_construction": EF_CONSTRUCTION, "rounds": args.rounds,
            "engram_build": engines["engram"].built, "engines": rows,
            "raw": {name: {str(ef): runs for ef, runs in by_ef.items()} for name, by_ef in measured.items()},
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(run, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table + "\n")


if __name__ == "__main__":
    main()
