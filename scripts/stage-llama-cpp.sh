#!/usr/bin/env bash
# Makes a copy of the llama-cpp-sys-4 crate with another llama.cpp in it, and prints its path. For scripts/build-worker.sh.
#
#   scripts/stage-llama-cpp.sh LLAMA_CPP BUILD     the crate lands in BUILD, the target folder it will be compiled into
#
# Neither cargo nor the crate's build script watches the sources. So if they changed, all that was compiled from them goes.
set -euo pipefail

root=$(realpath -- "${BASH_SOURCE[0]%/*}/..")
die() { printf 'stage-llama-cpp: %s\n' "$*" >&2; exit 1; }

[[ $# == 2 ]] || die 'usage: stage-llama-cpp.sh LLAMA_CPP BUILD'
source=$(realpath -e -- "$1" 2>/dev/null) || die "$1: no such folder"
build=$2
for file in CMakeLists.txt include/llama.h ggml/CMakeLists.txt common/common.h; do
    [[ -e $source/$file ]] || die "$source is not a llama.cpp source tree: $file is missing"
done

manifest=$(cd "$root" && cargo metadata --format-version 1 ${CI:+--locked} \
    | grep -o '"manifest_path":"[^"]*/llama-cpp-sys-4-[^"/]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)
[[ -n $manifest ]] || die 'cargo metadata does not name the sources of llama-cpp-sys-4'
original=${manifest%/*}

crate=$build/llama-cpp-sys-4
stamp=$build/llama-cpp.stamp
state="$original $(cd "$source" && find . -path ./.git -prune -o -type f -printf '%p %s %T@\n' | sort | sha256sum)"
if [[ $(cat "$stamp" 2>/dev/null) != "$state" ]]; then
    printf 'stage-llama-cpp: taking llama.cpp from %s\n' "$source" >&2
    rm -rf -- "$stamp" "$crate" "$build/llama-cmake-cache" "$build"/release/{build,.fingerprint}/llama-cpp-sys-4-*
    mkdir -p -- "$crate/llama.cpp"
    tar -C "$original" --exclude=./llama.cpp -cf - . | tar -C "$crate" -xf -
    tar -C "$source" --exclude=./.git --exclude=./build --exclude='./build-*' --exclude=./models -cf - . | tar -C "$crate/llama.cpp" -xf -
    printf '%s\n' "$state" >"$stamp"
fi
printf '%s\n' "$crate"
