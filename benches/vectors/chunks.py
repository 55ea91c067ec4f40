"""Real source for measurements: chunks of whole lines, each text once."""

import hashlib
import pathlib

SOURCES = ["~/.cargo/registry/src"]


def chunks_of(text, lines):
    """Pieces of `lines` lines; a piece of less than 80 characters says too little to be looked for."""
    rows = text.split("\n")
    for start in range(0, len(rows), lines):
        piece = "\n".join(rows[start : start + lines]).strip()
        if len(piece) >= 80:
            yield piece[:4000]


def texts(roots, suffixes):
    """The files with these endings below `roots`, in the order of their paths."""
    for root in roots:
        for path in sorted(pathlib.Path(root).expanduser().rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path.read_text(errors="ignore")


def collect(roots, suffixes, lines):
    """All distinct chunks below `roots`."""
    seen, chunks = set(), []
    for text in texts(roots, suffixes):
        for piece in chunks_of(text, lines):
            digest = hashlib.blake2b(piece.encode(), digest_size=8).digest()
            if digest not in seen:
                seen.add(digest)
                chunks.append(piece)
    return chunks
