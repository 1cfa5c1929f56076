#!/usr/bin/env bash
# All checks, cheapest first; the first that fails ends the run.
#
#   scripts/test.sh         formatting, scripts, clippy, then every test, also those that need the worker and a real model
#   scripts/test.sh lint    formatting, scripts and clippy
#
# ALUCO_TEST_MODEL=FILE takes another model than the one that scripts/fetch-test-model.sh fetches.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
what=${1:-all}
[[ $# -le 1 && ($what == all || $what == lint) ]] || { printf 'usage: test.sh [lint]\n' >&2; exit 2; }

CARGO_TARGET_DIR=$(scripts/target-dir.sh)
export CARGO_TARGET_DIR
# Else llama.cpp, compiled inside a checkout of Aluco, would report Aluco's commit as its own.
export GIT_CEILING_DIRECTORIES=$CARGO_TARGET_DIR${GIT_CEILING_DIRECTORIES:+:$GIT_CEILING_DIRECTORIES}
locked=(${CI:+--locked})

step() { printf '\n==> %s\n' "$*" >&2; }

step 'Build tools'
scripts/install-build-tools.sh --check

step 'Formatting'
cargo fmt --all --check

step 'Scripts'
scripts=(.ci/run scripts/*.sh scripts/tests/*.sh benches/*.sh)
for script in "${scripts[@]}"; do
    bash -n "$script"
done
if command -v shellcheck >/dev/null; then
    shellcheck "${scripts[@]}"
fi
scripts/tests/install-build-tools.sh

step 'Benchmarks that count'
python3 -m unittest discover --quiet benches/serving

step 'Clippy'
cargo clippy "${locked[@]}" --all-targets -- -D warnings

step 'Clippy for the worker'
cargo clippy "${locked[@]}" -p aluco-worker --release --all-targets -- -D warnings

[[ $what == all ]] || exit 0

step 'Worker'
ALUCO_TEST_WORKER=$(scripts/build-worker.sh cpu)
export ALUCO_TEST_WORKER

step 'Model'
ALUCO_TEST_MODEL=$(realpath -e -- "${ALUCO_TEST_MODEL:-$(scripts/fetch-test-model.sh)}")
export ALUCO_TEST_MODEL

step 'Python packages'
ALUCO_TEST_PYTHON_PACKAGES=$(scripts/fetch-python-packages.sh)
export ALUCO_TEST_PYTHON_PACKAGES

# Else the first tests that need it would compile it, and those beside them would wait.
step 'Fake worker'
cargo build "${locked[@]}" --quiet -p aluco-fake-worker

# Tests marked as ignored are those that need the worker and the model, which are there now.
if cargo nextest --version >/dev/null 2>&1; then
    step 'Examples in the documentation'
    cargo test "${locked[@]}" --quiet --doc
    run=(cargo nextest run "${locked[@]}" --no-fail-fast --run-ignored all) after=()
else
    run=(cargo test "${locked[@]}" --no-fail-fast) after=(-- --include-ignored)
fi

step 'Tests of all but the worker'
"${run[@]}" "${after[@]}"

step 'Tests of the worker'
"${run[@]}" -p aluco-worker --release "${after[@]}"
