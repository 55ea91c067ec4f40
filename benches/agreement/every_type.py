"""The table of every_type.sh: every_type.py FOLDER TYPE ..., from FOLDER/TYPE.gguf and FOLDER/TYPE.gguf.json."""

import json
import pathlib
import sys

import gguf

ALLOWED = 1.2  # times llama.cpp's mean KL, as run.sh promises


def share(path, kind):
    """Which part of the file's weights is in that type."""
    sizes = [(tensor.tensor_type.name, int(tensor.n_elements)) for tensor in gguf.GGUFReader(path).tensors]
    return sum(size for name, size in sizes if name == kind) / sum(size for _, size in sizes)


def row(folder, kind):
    """The line of one type, and whether Engram is as near to the truth as promised."""
    path = folder / f"{kind}.gguf"
    result = path.with_name(f"{path.name}.json")
    cells = [kind, f"{share(path, kind):.0%}"]
    if not result.exists():
        return [*cells, *["no result"] * 6], False
    result = json.loads(result.read_text())
    truth, ours = result["truth"]["perplexity"], result["engines"].pop("Engram")
    (theirs,) = result["engines"].values()
    cells += [f"{side['mean_kl']:.2e}" for side in (ours, theirs)]
    cells += [f"{side['top1_agreement']:.2%}" for side in (ours, theirs)]
    cells += [f"{side['perplexity'] / truth - 1:+.3%}" for side in (ours, theirs)]
    return cells, ours["mean_kl"] <= ALLOWED * theirs["mean_kl"]


def main():
    folder, kinds = pathlib.Path(sys.argv[1]), sys.argv[2:]
    rows = {kind: row(folder, kind) for kind in kinds}
    head = ["type", "weights in it"]
    for measure in ("mean KL", "same likeliest", "perplexity off"):
        head += [f"{measure}, Engram", f"{measure}, llama.cpp"]
    for cells in [head, ["---"] * len(head), *(cells for cells, _ in rows.values())]:
        print("| " + " | ".join(cells) + " |")
    bad = [kind for kind, (_, good) in rows.items() if not good]
    if bad:
        raise SystemExit(f"not within {ALLOWED} times llama.cpp's mean KL, or without a result: {' '.join(bad)}")


if __name__ == "__main__":
    main()
