"""Makes the vectors that the index is measured on: real source, embedded by static token embeddings.

Every `.rs` file of the cargo registry's sources is cut into chunks of whole lines, copies are dropped, a
seeded sample is embedded by WordLlama (256 values, length 1), and written as .npy: `base.npy` [n, 256],
`queries.npy` [q, 256] (chunks that are not in the base) and `truth.npy` [q, 100], the exact nearest by inner product.
"""

import argparse
import hashlib
import pathlib
import random

import numpy as np
import wordllama


def chunks_of(text, lines):
    """Pieces of `lines` lines; a piece of less than 80 characters says too little to be looked for."""
    rows = text.split("\n")
    for start in range(0, len(rows), lines):
        piece = "\n".join(rows[start : start + lines]).strip()
        if len(piece) >= 80:
            yield piece[:4000]


def collect(root, lines):
    """All distinct chunks below `root`, in the order of their paths."""
    seen, chunks = set(), []
    for path in sorted(pathlib.Path(root).expanduser().rglob("*.rs")):
        for piece in chunks_of(path.read_text(errors="ignore"), lines):
            digest = hashlib.blake2b(piece.encode(), digest_size=8).digest()
            if digest not in seen:
                seen.add(digest)
                chunks.append(piece)
    return chunks


def exact(base, queries, k):
    """Ids of the `k` nearest by inner product, best first: the truth that recall is counted against."""
    ids = np.empty((len(queries), k), dtype=np.int32)
    for start in range(0, len(queries), 250):
        scores = queries[start : start + 250] @ base.T
        part = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
        ids[start : start + 250] = np.take_along_axis(part, order, 1)
    return ids


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out", type=pathlib.Path, help="directory for the .npy files, outside the repository or in target/")
    args.add_argument("--sources", default="~/.cargo/registry/src", help="where .rs files are")
    args.add_argument("--count", type=int, default=100_000, help="vectors in the base")
    args.add_argument("--queries", type=int, default=2_000)
    args.add_argument("--lines", type=int, default=12, help="lines a chunk")
    args.add_argument("--seed", type=int, default=7)
    args = args.parse_args()

    chunks = collect(args.sources, args.lines)
    wanted = args.count + args.queries
    if len(chunks) < wanted:
        raise SystemExit(f"{len(chunks)} distinct chunks, {wanted} are needed: lower --count or --lines")
    random.Random(args.seed).shuffle(chunks)
    # Weights and tokenizer lie in the wheel; named as a cache, nothing is fetched.
    home = pathlib.Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(dim=256, cache_dir=home, disable_download=True)
    vectors = model.embed(chunks[:wanted], norm=True).astype(np.float32)
    base, queries = np.ascontiguousarray(vectors[: args.count]), np.ascontiguousarray(vectors[args.count :])
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "base.npy", base)
    np.save(args.out / "queries.npy", queries)
    np.save(args.out / "truth.npy", exact(base, queries, 100))
    print(f"{len(chunks)} distinct chunks; base {base.shape}, queries {queries.shape} in {args.out}")


if __name__ == "__main__":
    main()
