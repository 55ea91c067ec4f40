"""Makes the vectors that the index is measured on: real source, embedded by static token embeddings.

Every `.rs` file of the cargo registry's sources is cut into chunks of whole lines, copies are dropped, a
seeded sample is embedded by WordLlama (256 values, length 1), and written as .npy: `base.npy` [n, 256],
`queries.npy` [q, 256] (chunks that are not in the base) and `truth.npy` [q, 100], the exact nearest by inner product.
"""

import argparse
import pathlib
import random

import numpy as np
import wordllama

import chunks as source

# Chunks embedded at once, and rows of the base that queries are compared with at once: a million fits into 4 GB so.
EMBEDDED, COMPARED = 20_000, 100_000


def embed(texts):
    """A vector of length 1 for each text."""
    # Weights and tokenizer lie in the wheel; named as a cache, nothing is fetched.
    home = pathlib.Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(dim=256, cache_dir=home, disable_download=True)
    vectors = np.empty((len(texts), 256), dtype=np.float32)
    for start in range(0, len(texts), EMBEDDED):
        part = texts[start : start + EMBEDDED]
        vectors[start : start + len(part)] = model.embed(part, norm=True)
    return vectors


def exact(base, queries, k):
    """Ids of the `k` nearest by inner product, best first: the truth that recall is counted against."""
    truth = np.empty((len(queries), k), dtype=np.int32)
    for start in range(0, len(queries), 250):
        asked = queries[start : start + 250]
        ids, scores = np.empty((len(asked), 0), dtype=np.int32), np.empty((len(asked), 0), dtype=np.float32)
        for first in range(0, len(base), COMPARED):
            found = asked @ base[first : first + COMPARED].T
            near = np.argpartition(-found, min(k, found.shape[1] - 1), axis=1)[:, :k]
            ids = np.hstack([ids, (near + first).astype(np.int32)])
            scores = np.hstack([scores, np.take_along_axis(found, near, 1)])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            ids, scores = np.take_along_axis(ids, best, 1), np.take_along_axis(scores, best, 1)
        truth[start : start + len(asked)] = ids
    return truth


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out", type=pathlib.Path, help="directory for the .npy files, outside the repository or in target/")
    args.add_argument("--sources", nargs="+", default=source.SOURCES, help="where source files are")
    args.add_argument("--suffixes", nargs="+", default=[".rs"], help="endings of source files")
    args.add_argument("--count", type=int, default=100_000, help="vectors in the base")
    args.add_argument("--queries", type=int, default=2_000)
    args.add_argument("--lines", type=int, default=12, help="lines a chunk")
    args.add_argument("--seed", type=int, default=7)
    args = args.parse_args()

    chunks = source.collect(args.sources, args.suffixes, args.lines)
    distinct, wanted = len(chunks), args.count + args.queries
    if distinct < wanted:
        raise SystemExit(f"{distinct} distinct chunks, {wanted} are needed: name more --sources and --suffixes, or lower --count")
    random.Random(args.seed).shuffle(chunks)
    del chunks[wanted:]
    vectors = embed(chunks)
    base, queries = vectors[: args.count], vectors[args.count :]
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "base.npy", base)
    np.save(args.out / "queries.npy", queries)
    np.save(args.out / "truth.npy", exact(base, queries, 100))
    print(f"{distinct} distinct chunks; base {base.shape}, queries {queries.shape} in {args.out}")


if __name__ == "__main__":
    main()
