"""Logits of llama.cpp for given token ids, to standard output: llama_logits.py MODEL.gguf IDS [CHUNK] [LIMIT].

Each chunk is read from an empty cache. Format: b"ENGRLOGT", the size of the vocabulary as u32, then rows
of f32, everything little-endian; `teacher_forced compare --peer -` reads it.
"""

import os
import struct
import sys

import llama_cpp
import numpy

path, ids_path = sys.argv[1], sys.argv[2]
chunk = int(sys.argv[3]) if len(sys.argv) > 3 else 512
ids = numpy.fromfile(ids_path, dtype="<u4").astype(int).tolist()
if len(sys.argv) > 4:
    ids = ids[: int(sys.argv[4])]

model = llama_cpp.Llama(
    model_path=path,
    n_ctx=chunk,
    n_batch=chunk,
    n_ubatch=chunk,
    n_threads=os.cpu_count(),
    n_threads_batch=os.cpu_count(),
    n_gpu_layers=0,
    logits_all=True,
    verbose=False,
)
out = sys.stdout.buffer
out.write(b"ENGRLOGT" + struct.pack("<I", model.n_vocab()))
for start in range(0, len(ids), chunk):
    piece = ids[start : start + chunk]
    model.reset()
    model.eval(piece)
    rows = numpy.ascontiguousarray(model.scores[: len(piece)], dtype="<f4")
    out.write(memoryview(rows).cast("B"))
    out.flush()
