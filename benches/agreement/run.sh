#!/usr/bin/env bash
# Same model, same answers: Engram and llama.cpp against the exact model, on the same files and text.
#
#   benches/agreement/run.sh [MODEL ...]            both, default models (the first run builds llama.cpp: ~10 minutes)
#   benches/agreement/run.sh --without-llama        Engram alone
#   LLAMA_PYTHON=/path/to/python benches/agreement/run.sh     a Python that has llama_cpp already
#   TEACHER_FORCED=/path/to/binary benches/agreement/run.sh   that binary, and no build
#   KV_DTYPES=f16,int8 benches/agreement/run.sh     Engram with each of these KV caches
#
# A MODEL is a name of the catalog or a path to a .gguf.
#
# Needs cargo, python3 with venv, and a C++ compiler for llama.cpp. About 4 GB of memory; some minutes a model.
# Prints a Markdown table a model; exit code 1 if a promise is not kept. Numbers go to $OUT (default: target/agreement).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
with_llama=yes
models=()
for argument in "$@"; do
  case "$argument" in
    --without-llama) with_llama=no ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $argument; --help tells" >&2; exit 2 ;;
    *.gguf) models+=("$(realpath "$argument")") ;;
    *) models+=("$argument") ;;
  esac
done
cd "$here/../.."
[ ${#models[@]} -gt 0 ] || models=(smollm2-135m-instruct qwen2.5-coder-0.5b-instruct)

target=${CARGO_TARGET_DIR:-target}
out=${OUT:-$target/agreement}
chunk=${CHUNK:-512}
limit=${LIMIT:-1000000}
kv=${KV_DTYPES:-f16}
mkdir -p "$out"
tool=${TEACHER_FORCED:-}
if [ -z "$tool" ]; then
  # Without -p: the same features, and so the same compiled crates, as `make build`.
  cargo build --release --quiet --bin teacher_forced
  tool=$target/release/teacher_forced
fi

python=${LLAMA_PYTHON:-}
if [ "$with_llama" = yes ] && [ -z "$python" ]; then
  exports=$(benches/vs_llama_cpp/build_peer.sh)
  eval "$exports"
  python=$LLAMA_PYTHON
fi

status=0
for model in "${models[@]}"; do
  name=$(basename "$model")
  file=$("$tool" path --model "$model")
  "$tool" tokenize --model "$model" --text "$here/corpus/code.txt" --out "$out/$name.ids" >&2
  compare=("$tool" compare --model "$model" --tokens "$out/$name.ids" --chunk "$chunk" --limit "$limit" --kv-dtype "$kv" --json "$out/$name.json")
  if [ "$with_llama" = yes ]; then
    version=$("$python" -c 'import llama_cpp; print(llama_cpp.__version__)')
    "$python" "$here/llama_logits.py" "$file" "$out/$name.ids" "$chunk" "$limit" \
      | "${compare[@]}" --peer - --peer-name "llama.cpp (llama-cpp-python $version)" \
      || { codes=("${PIPESTATUS[@]}"); status=1; [ "${codes[0]}" = 0 ] || echo "llama_logits.py ended with status ${codes[0]}" >&2; }
  else
    "${compare[@]}" || status=1
  fi
  echo
done
exit $status
