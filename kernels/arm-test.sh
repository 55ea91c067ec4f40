#!/usr/bin/env bash
# The kernels' tests on 64-bit ARM, from an x86-64 machine: a Rust target, a linker and an emulator (qemu-user).
#
#   kernels/arm-test.sh              every lib test as NEON with i8mm; those that differ with dotprod alone and forced scalar
#   kernels/arm-test.sh FILTER ..    only the tests whose names contain a filter
#
# About two minutes of CPU once built; the first build compiles candle, some minutes more.
#
# Needs cargo and, once, Debian's archive: packages are unpacked under target/arm-test, nothing is installed, no root.
# Where rustup has the target (`rustup target add aarch64-unknown-linux-gnu`) the pinned toolchain compiles; elsewhere
# Debian's rustc-web does, which comes with its ARM twin's library. On an ARM machine, run `cargo test` instead.
set -euo pipefail

cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
work=$(mkdir -p "${CARGO_TARGET_DIR:-target}/arm-test" && cd "${CARGO_TARGET_DIR:-target}/arm-test" && pwd)
root=$work/root

# A private apt that knows both architectures, over the system's own sources; its lists and packages stay as they are.
private_apt() {
  mkdir -p "$work"/apt/{lists,archives}/partial
  cat > "$work/apt/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
Dir::State::Lists "$work/apt/lists";
Dir::Cache "$work/apt";
CONF
  export APT_CONFIG=$work/apt/apt.conf
  apt-get -qq update
}

# What `package` depends on whose name matches.
dependency() { apt-cache depends "$1" | sed -nE "s/.*Depends: ($2)\$/\1/p"; }

# Unpacks packages into $root: their files, or only those that match the pattern.
unpack() {
  local files=$1 package
  shift
  mkdir -p "$work/deb"
  for package in "$@"; do
    (cd "$work/deb" && rm -f -- *.deb && apt-get -qq download "$package")
    dpkg --fsys-tarfile "$work"/deb/*.deb | tar -x -C "$root" --wildcards "$files"
  done
  rm -rf "$work/deb"
}

fetch() {
  if ! [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || ! command -v apt-get >/dev/null; then
    echo "needs Debian's apt and debian-archive-keyring, on x86-64" >&2
    exit 1
  fi
  echo "fetching an ARM toolchain from Debian into $root (about 220 MB, once)" >&2
  rm -rf "$root"
  mkdir -p "$root"
  private_apt
  unpack './usr/*' binutils-aarch64-linux-gnu gcc-12-aarch64-linux-gnu libgcc-12-dev-arm64-cross \
    libgcc-s1-arm64-cross libc6-arm64-cross libc6-dev-arm64-cross
  unpack './usr/bin/qemu-aarch64-static' qemu-user-static
  if ! has_rustup_target; then
    local std llvm
    std=$(dependency libstd-rust-web-dev 'libstd-rust-web-[0-9.]+')
    llvm=$(dependency "$std" 'libllvm[0-9]+')
    unpack './usr/*' rustc-web "$std" libstd-rust-web-dev "$llvm"
    unpack "./usr/lib/rustlib/$target/*" libstd-rust-web-dev:arm64
  fi
  wrap
  touch "$work/fetched"
}

# Written once: cargo builds all anew when its compiler's file changes.
wrap() {
  cat > "$work/linker" <<WRAPPER
#!/bin/sh
exec "$root/usr/bin/aarch64-linux-gnu-gcc-12" --sysroot="$root" -B"$root/usr/bin/aarch64-linux-gnu-" "\$@"
WRAPPER
  cat > "$work/rustc" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu" exec "$root/usr/bin/rustc" "\$@"
WRAPPER
  chmod +x "$work/linker" "$work/rustc"
}

has_rustup_target() { [ -d "$(rustc --print target-libdir --target $target)" ]; }

[ -e "$work/fetched" ] || fetch

if ! has_rustup_target; then
  "$work/rustc" --version || { echo "install what it lacks: apt-get install libedit2 libxml2 libz3-4" >&2; exit 1; }
  export RUSTC=$work/rustc
fi
export CARGO_TARGET_DIR=$work/build
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$work/linker

# A processor for each path: `max` has dotprod and i8mm, `neoverse-n1` dotprod alone, `cortex-a57` neither.
tests() {
  local cpu=$1 isa=$2
  shift 2
  echo "== $cpu${isa:+, ENGRAM_ISA=$isa}" >&2
  ENGRAM_ISA=$isa CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$root/usr/bin/qemu-aarch64-static -cpu $cpu -L $root/usr/aarch64-linux-gnu" \
    cargo test --release --target $target -p engram-kernels --lib -- "$@"
}

tests max "" "$@"
[ $# -gt 0 ] || set -- matmul lanes dispatch
tests neoverse-n1 "" "$@"
tests max scalar "$@"
tests cortex-a57 "" dispatch
