# `make` shows what there is. Options go on the command line, as in `make install PREFIX=$HOME/.local`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo tools build workers model test chaos lint fmt bench-compare bench-overhead bench-busy bench-turns bench-death bench-serving install uninstall clean

PREFIX ?= /usr/local
DESTDIR ?=
# A CPU with these parts of AVX-512 (Zen 4, Zen 5, Sapphire Rapids) gets a worker that uses them, beside the portable one.
WORKERS ?= cpu $(shell grep -qs 'avx512vbmi.*avx512_bf16\|avx512_bf16.*avx512vbmi' /proc/cpuinfo && echo cpu-v4)
# Which models `bench-compare` measures; the small test model unless given.
MODELS ?=
# How many workers `chaos` kills of each model.
KILLS ?= 50
# A llama-server for `bench-serving` to measure beside Aluco, and more options for it.
LLAMA_SERVER ?=
SERVING ?=

export CARGO_TARGET_DIR := $(shell scripts/target-dir.sh)
built := $(CARGO_TARGET_DIR)/release
locked := $(if $(CI),--locked)
# A worker of an older build beside a new `aluco` would be taken for the better one.
present = $(patsubst $(built)/aluco-worker-%,%,$(filter-out %.new %.d,$(wildcard $(built)/aluco-worker-*)))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: tools build ## Set everything up and ask a small model a question
	@model=$$(scripts/fetch-test-model.sh); \
	"$(built)/aluco" run "$$model" "What is gravity?" --temperature 0 --max-tokens 120 --stats

tools: ## Install the build tools that are missing (C++ compiler, cmake, libclang, pip)
	@scripts/install-build-tools.sh $(WORKERS)

build: ## Build aluco and the portable worker, and renew the workers that were built before
	cargo build --release $(locked) -p aluco
	for worker in cpu $(filter-out cpu,$(present)); do scripts/build-worker.sh "$$worker"; done

workers: ## Build the workers that suit this machine, or WORKERS="cpu vulkan"
	for worker in $(WORKERS); do scripts/build-worker.sh "$$worker"; done

model: ## Fetch the small test model and print its path
	@scripts/fetch-test-model.sh

test: ## Check formatting, lints and scripts, then run all tests
	@scripts/test.sh

chaos: build ## Kill the worker of eight streams KILLS times (50), and say how long they waited
	ALUCO_CHAOS_KILLS="$(KILLS)" ALUCO_TEST_WORKER="$(built)/aluco-worker-cpu" ALUCO_TEST_MODEL="$$(scripts/fetch-test-model.sh)" \
	cargo test $(locked) -p aluco --test real -- --ignored --nocapture --test-threads 1 chaos::

lint: ## Check formatting, lints and scripts
	@scripts/test.sh lint

fmt: ## Format the Rust code
	cargo fmt --all

bench-compare: build ## Measure MODELS="FILE..." with aluco bench and llama-bench, side by side
	benches/compare-llama-bench.sh $(or $(MODELS),"$$(scripts/fetch-test-model.sh)")

bench-overhead: build ## Measure what HTTP adds to a generation
	ALUCO_BENCH_WORKER="$(built)/aluco-worker-cpu" ALUCO_BENCH_MODEL="$$(scripts/fetch-test-model.sh)" \
	cargo bench $(locked) -p aluco-server --bench overhead

bench-busy: build ## Measure decoding while other programs keep cores busy
	benches/busy-neighbour.py "$(built)/aluco" "$(built)/aluco-worker-cpu" "$$(scripts/fetch-test-model.sh)"

bench-turns: build ## Measure the turns of a conversation, with stored prompts and without
	for cache in auto 0; do benches/next-turn.py "$(built)/aluco" "$(built)/aluco-worker-cpu" "$$(scripts/fetch-test-model.sh)" --cache-ram "$$cache"; done

bench-death: build ## Measure how long a stream stands still when its worker is killed early in a reply
	benches/death-in-reply.py "$(built)/aluco" "$(built)/aluco-worker-cpu" "$$(scripts/fetch-test-model.sh)"

bench-serving: build ## Replay workloads of agents, and with LLAMA_SERVER=FILE on llama-server too
	python3 benches/serving --aluco "$(built)/aluco" --worker "$(built)/aluco-worker-cpu" --model "$$(scripts/fetch-test-model.sh)" \
	$(if $(LLAMA_SERVER),--llama-server "$(LLAMA_SERVER)",--servers aluco) $(SERVING)

install: ## Install what was built under PREFIX (/usr/local), DESTDIR in front
	DESTDIR="$(DESTDIR)" scripts/install.sh "$(PREFIX)"

uninstall: ## Remove what `make install` put under PREFIX
	DESTDIR="$(DESTDIR)" scripts/install.sh --remove "$(PREFIX)"

clean: ## Delete everything that was built, llama.cpp too (minutes to build again)
	cargo clean
