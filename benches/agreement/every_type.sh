#!/usr/bin/env bash
# Same model, same answers, in every block type of GGUF: SmolLM2-135M requantised by llama.cpp, one file a type.
#
#   benches/agreement/every_type.sh                   every type Engram reads
#   benches/agreement/every_type.sh Q2_K Q5_1         only these
#   LIMIT=512 benches/agreement/every_type.sh         fewer tokens a type (default: 1024)
#
# Each file is its own truth (its weights dequantised to f32), so it does not matter that they come from a Q4_1 file.
# Rows of 576 columns hold no blocks of 256: of a K type's file only ffn_down (1536 columns) is in that type, and the
# rest is in what llama.cpp falls back to; "weights in it" says how much that is. Prints a Markdown table; exit code 1 if a
# type has no result or Engram's mean KL is more than 1.2 times llama.cpp's. The other promises of run.sh are for whole
# texts. Files and numbers are kept in $OUT (default: target/agreement/types).
set -euo pipefail

case "${1:-}" in -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
target=${CARGO_TARGET_DIR:-target}
export OUT=${OUT:-$target/agreement/types} LIMIT=${LIMIT:-1024}
mkdir -p "$OUT"

types=("$@")
[ ${#types[@]} -gt 0 ] || types=(F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K)

if [ -z "${LLAMA_PYTHON:-}" ]; then
  exports=$(benches/vs_llama_cpp/build_peer.sh)
  eval "$exports"
fi
export LLAMA_PYTHON
if [ -z "${TEACHER_FORCED:-}" ]; then
  cargo build --release --quiet --bin teacher_forced
  export TEACHER_FORCED=$target/release/teacher_forced
fi
source=$("$TEACHER_FORCED" path --model smollm2-135m-instruct)

for type in "${types[@]}"; do
  file=$OUT/$type.gguf
  if [ ! -e "$file" ]; then
    "$LLAMA_PYTHON" "$here/requantise.py" "$source" "$file" "$type" >"$OUT/$type.log" 2>&1 || { tail -5 "$OUT/$type.log" >&2; exit 1; }
  fi
  echo "$type" >&2
  rm -f "$file.json"
  benches/agreement/run.sh "$file" >"$OUT/$type.txt" || true # its verdicts are in the text; the table gives ours
done
"$LLAMA_PYTHON" "$here/every_type.py" "$OUT" "${types[@]}"
