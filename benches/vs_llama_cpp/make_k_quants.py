#!/usr/bin/env python3
"""A GGUF of Qwen2.5-Coder-1.5B's exact shape in pure K-quants, as Q4_K_M lays them out, with random weights.

  python benches/vs_llama_cpp/make_k_quants.py target/qwen2.5-coder-1.5b-shape-q4_k_m.gguf [--tokenizer-of FILE] [--seed 1]

For measuring speed where no file of pure K-quants can be fetched: the kernels do the work of the real file, the text is
noise. Weights have zero mean and the variance of a fresh network (1 / columns), so activations keep their size and logits
are finite. The tokenizer is copied from a Qwen GGUF with the same vocabulary (default: Engram's default model, as
`make models` leaves it). The same seed gives the same bytes. Needs numpy; writes 986 MB in some seconds.
"""

import argparse
import os
import pathlib
import struct
import sys

import numpy

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 28, 1536, 12, 2, 128, 8960, 151936
F32, Q4_K, Q6_K = 0, 12, 14  # ggml_type
BLOCK_BYTES = {F32: 4, Q4_K: 144, Q6_K: 210}
U32, F32_VALUE, STRING, ARRAY = 4, 6, 8, 9  # gguf_metadata_value_type
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32
DONOR = "models/qwen2.5-coder-0.5b-instruct/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def use_more_bits(layer):
    """Where Q4_K_M spends Q6_K on attn_v and ffn_down: llama.cpp's rule of the same name."""
    return layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2


def tensors():
    """(name, type, rows, columns) in the file's order; rows is None for a vector."""
    yield "token_embd.weight", Q6_K, VOCAB, HIDDEN  # the head too: the embeddings are tied
    for layer in range(LAYERS):
        more = Q6_K if use_more_bits(layer) else Q4_K
        for name, kind, rows, columns in [
            ("attn_norm.weight", F32, None, HIDDEN),
            ("attn_q.weight", Q4_K, HEADS * HEAD_DIM, HIDDEN),
            ("attn_q.bias", F32, None, HEADS * HEAD_DIM),
            ("attn_k.weight", Q4_K, KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_k.bias", F32, None, KV_HEADS * HEAD_DIM),
            ("attn_v.weight", more, KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v.bias", F32, None, KV_HEADS * HEAD_DIM),
            ("attn_output.weight", Q4_K, HIDDEN, HEADS * HEAD_DIM),
            ("ffn_norm.weight", F32, None, HIDDEN),
            ("ffn_gate.weight", Q4_K, FFN, HIDDEN),
            ("ffn_up.weight", Q4_K, FFN, HIDDEN),
            ("ffn_down.weight", more, HIDDEN, FFN),
        ]:
            yield f"blk.{layer}.{name}", kind, rows, columns
    yield "output_norm.weight", F32, None, HIDDEN


def q4_k(draw, blocks, deviation):
    """[blocks, 144]: d, dmin, eight 6-bit scales and mins, 256 nibbles. value = d scale q - dmin min."""
    scale = draw.integers(24, 64, (blocks, 8), dtype=numpy.uint8)
    low = numpy.clip(scale + draw.integers(-1, 2, (blocks, 8), dtype=numpy.int8), 0, 63).astype(numpy.uint8)
    d = deviation / (4.61 * 45) * draw.uniform(0.8, 1.2, (blocks, 1))  # nibbles deviate by 4.61, scales are near 45
    out = numpy.empty((blocks, 144), numpy.uint8)
    out[:, 0:4] = numpy.hstack([d, 7.5 * d]).astype("<f2").view(numpy.uint8)  # 7.5: the mean of a nibble
    out[:, 4:8] = scale[:, :4] | (scale[:, 4:] >> 4) << 6
    out[:, 8:12] = low[:, :4] | (low[:, 4:] >> 4) << 6
    out[:, 12:16] = (scale[:, 4:] & 15) | (low[:, 4:] & 15) << 4
    out[:, 16:] = numpy.frombuffer(draw.bytes(blocks * 128), numpy.uint8).reshape(blocks, 128)
    return out


def q6_k(draw, blocks, deviation):
    """[blocks, 210]: low four bits, high two bits, 16 signed scales, d. value = d scale (q - 32)."""
    scale = draw.integers(48, 128, (blocks, 16), dtype=numpy.int8) * draw.choice(numpy.int8([-1, 1]), (blocks, 16))
    d = deviation / (18.5 * 90) * draw.uniform(0.8, 1.2, (blocks, 1))  # 6-bit numbers deviate by 18.5, scales are near 90
    out = numpy.empty((blocks, 210), numpy.uint8)
    out[:, :192] = numpy.frombuffer(draw.bytes(blocks * 192), numpy.uint8).reshape(blocks, 192)
    out[:, 192:208] = scale.view(numpy.uint8)
    out[:, 208:] = d.astype("<f2").view(numpy.uint8)
    return out


def write_weights(file, draw, name, kind, rows, columns):
    if kind == F32:  # norms near 1, biases near 0
        middle = 1.0 if "norm" in name else 0.0
        file.write(draw.normal(middle, 0.05, columns).astype("<f4").tobytes())
        return
    block, left = {Q4_K: q4_k, Q6_K: q6_k}[kind], rows * columns // 256
    while left:
        blocks = min(left, 1 << 16)
        file.write(block(draw, blocks, columns**-0.5))
        left -= blocks


def tokenizer_of(path):
    """How many tokenizer.* keys the GGUF has, and these keys with their values as the bytes they are."""
    def number(layout):
        return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]

    def skip(kind):
        if kind == STRING:
            length = number("<Q")
            file.seek(length, os.SEEK_CUR)
        elif kind == ARRAY:
            item, length = number("<I"), number("<Q")
            if item in SCALAR_BYTES:
                file.seek(SCALAR_BYTES[item] * length, os.SEEK_CUR)
            else:
                for _ in range(length):
                    skip(item)
        else:
            file.seek(SCALAR_BYTES[kind], os.SEEK_CUR)

    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise SystemExit(f"{path} is no GGUF file")
        _version, _tensors, keys = struct.unpack("<IQQ", file.read(20))
        kept = []
        for _ in range(keys):
            begin = file.tell()
            name = file.read(number("<Q")).decode()
            skip(number("<I"))
            if name.startswith("tokenizer."):
                end = file.tell()
                file.seek(begin)
                kept.append(file.read(end - begin))
    return len(kept), b"".join(kept)


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def header(donor):
    """Everything before the weights, padded to the alignment."""
    keys = [("general.architecture", "qwen2"), ("general.name", "Qwen2.5-Coder-1.5B's shape, random weights")]
    keys += [("general.file_type", 15), ("general.quantization_version", 2)]  # 15: mostly Q4_K_M
    keys += [("qwen2.block_count", LAYERS), ("qwen2.context_length", 32768), ("qwen2.embedding_length", HIDDEN)]
    keys += [("qwen2.feed_forward_length", FFN), ("qwen2.attention.head_count", HEADS)]
    keys += [("qwen2.attention.head_count_kv", KV_HEADS), ("qwen2.attention.layer_norm_rms_epsilon", 1e-6)]
    keys += [("qwen2.rope.freq_base", 1e6)]
    copied, tokenizer = tokenizer_of(donor)
    infos = list(tensors())
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys) + copied))
    for key, value in keys:
        kind, packed = {
            str: lambda: (STRING, string(value)),
            int: lambda: (U32, struct.pack("<I", value)),
            float: lambda: (F32_VALUE, struct.pack("<f", value)),
        }[type(value)]()
        out += string(key) + struct.pack("<I", kind) + packed
    out += tokenizer
    offset = 0
    for name, kind, rows, columns in infos:
        shape = [columns] if rows is None else [columns, rows]  # GGUF has the innermost first
        out += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += padded(size_of(kind, rows, columns))
    return out + bytes(-len(out) % ALIGNMENT)


def size_of(kind, rows, columns):
    return (rows or 1) * columns * BLOCK_BYTES[kind] // (1 if kind == F32 else 256)


def padded(size):
    return size + -size % ALIGNMENT


def main():
    home = pathlib.Path(os.environ.get("ENGRAM_HOME", "~/.local/share/engram")).expanduser()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer-of", type=pathlib.Path, default=home / DONOR)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not args.tokenizer_of.exists():
        raise SystemExit(f"{args.tokenizer_of} is not there: `make models` fetches it, or give --tokenizer-of")
    draw = numpy.random.Generator(numpy.random.PCG64(args.seed))
    unfinished = args.out.with_name(args.out.name + ".unfinished")
    infos = list(tensors())
    total = sum(size_of(*info[1:]) for info in infos)
    with open(unfinished, "wb") as file:
        file.write(header(args.tokenizer_of))
        for name, kind, rows, columns in infos:
            write_weights(file, draw, name, kind, rows, columns)
            file.write(bytes(-file.tell() % ALIGNMENT))
            if name.endswith("ffn_down.weight"):
                print(f"\r{file.tell() / 1e6:.0f} of {total / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)
    unfinished.rename(args.out)
    print(f"\n{args.out}: {args.out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
