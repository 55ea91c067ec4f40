"""Tokens per second of llama.cpp, one test in a process of its own: llama_round.py MODEL.gguf TEST PARALLEL THREADS.

TEST is ppN (one prompt of N tokens, the last one's logits) or tgN (N tokens a stream after a prompt of 8), as Engram's
`bench engine` has them. Flash attention on, f16 KV, weights repacked for the CPU as llama.cpp does by itself; the KV cache
of several streams is split, which llama.h advises for streams that share no prefix. Prints one JSON object.
"""

import ctypes
import json
import sys
import time

import llama_cpp
import numpy

MAX_BATCH = 512  # tokens of a step, as Engram's default


class Peer:
    def __init__(self, path, parallel, longest, threads):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = parallel * (-(-longest // 256) * 256)
        params.n_batch = params.n_ubatch = MAX_BATCH
        params.n_seq_max = parallel
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1
        params.kv_unified = False
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp makes no context")
        self.batch = llama_cpp.llama_batch_init(MAX_BATCH, 0, 1)

    def decode(self, tokens, sequences, positions, wanted):
        """One step; `wanted` are the rows whose logits are computed."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, sequence, position) in enumerate(zip(tokens, sequences, positions)):
            batch.token[i], batch.pos[i] = int(token), position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = i in wanted
        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise SystemExit(f"llama_decode: {status}")

    def argmax(self, row):
        logits = ctypes.cast(llama_cpp.llama_get_logits_ith(self.context, row), ctypes.POINTER(ctypes.c_float))
        logits = numpy.ctypeslib.as_array(logits, (self.vocabulary,))
        best = int(logits.argmax())
        if not numpy.isfinite(logits[best]):  # argmax stops at a NaN
            raise SystemExit("llama.cpp gave logits that are not finite")
        return best

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)


def prefill(peer, draw, length):
    peer.decode(draw.integers(100, peer.vocabulary - 300, 32), [0] * 32, range(32), {31})  # warm
    peer.argmax(31)
    peer.clear()
    tokens = draw.integers(100, peer.vocabulary - 300, length)
    begun = time.perf_counter()
    for start in range(0, length, MAX_BATCH):
        piece = tokens[start : start + MAX_BATCH]
        last = {len(piece) - 1} if start + len(piece) == length else set()
        peer.decode(piece, [0] * len(piece), range(start, start + len(piece)), last)
    peer.argmax(len(piece) - 1)
    return length / (time.perf_counter() - begun)


def generate(peer, draw, length, parallel):
    streams = range(parallel)
    prompts = draw.integers(100, peer.vocabulary - 300, (parallel, 8))
    for stream in streams:
        peer.decode(prompts[stream], [stream] * 8, range(8), {7})
    tokens = [int(prompt[-1]) for prompt in prompts]
    begun = time.perf_counter()
    for step in range(length):
        peer.decode(tokens, streams, [8 + step] * parallel, set(streams))
        tokens = [peer.argmax(row) for row in streams]
    return parallel * length / (time.perf_counter() - begun)


def main():
    path, test, parallel, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    length = int(test[2:])
    peer = Peer(path, parallel, length + 64, threads)
    draw = numpy.random.default_rng(7)
    rate = prefill(peer, draw, length) if test.startswith("pp") else generate(peer, draw, length, parallel)
    print(json.dumps({"test": test, "parallel": parallel, "tokens_per_second": round(rate, 2)}))


if __name__ == "__main__":
    main()
