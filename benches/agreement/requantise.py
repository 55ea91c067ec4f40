"""A GGUF in another type, by llama.cpp's own quantiser: requantise.py IN.gguf OUT.gguf TYPE.

Every matrix gets the type (`--pure` of llama-quantize); where rows hold no whole blocks of it, what llama.cpp falls back to.
"""

import os
import pathlib
import sys

import llama_cpp

FILE_TYPES = {
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q5_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_1,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
    "Q3_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}


def main():
    source, out, kind = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    if kind not in FILE_TYPES:
        raise SystemExit(f"unknown type {kind}, known: {' '.join(FILE_TYPES)}")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[kind], os.cpu_count()
    params.allow_requantize = params.pure = True
    unfinished = out.with_name(out.name + ".unfinished")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(unfinished).encode(), params)
    if status != 0:
        unfinished.unlink(missing_ok=True)
        raise SystemExit(f"llama.cpp cannot make {kind} of {source}: {status}")
    unfinished.rename(out)


if __name__ == "__main__":
    main()
