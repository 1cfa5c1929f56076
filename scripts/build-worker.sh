#!/usr/bin/env bash
# Builds a worker and prints the path of the binary.
#
#   scripts/build-worker.sh [BACKEND[-LEVEL]]      BACKEND: cpu, vulkan, rocm    LEVEL: v4, native
#
#   cpu         the default: any x86-64 CPU with AVX2, FMA, F16C and BMI2 (x86-64-v3), or any 64-bit Arm CPU
#   cpu-v4      x86-64 with AVX-512, VNNI, BF16 and VBMI (Zen 4, Zen 5, Sapphire Rapids), without AMX
#   cpu-native  the CPU of this machine, without AMX
#   vulkan, rocm, vulkan-v4, rocm-native, ...      likewise, with the GPU backend in it
#
# The binary lands beside `aluco` as TARGET/release/aluco-worker-BACKEND[-LEVEL], TARGET being what scripts/target-dir.sh prints.
#
# Environment:
#   ALUCO_LLAMA_CPP=DIR        compile this llama.cpp instead of the pinned one (a tuned fork, say). llama-cpp-sys-4 has patches and
#                              C++ shims of its own, so the fork must be near the pinned version; if it is not, the build says so.
#   ALUCO_REQUIRE_COOPMAT=1    fail if the Vulkan shaders lack cooperative matrices, which cost a Strix Halo most of its prefill speed
#   CMAKE_HIP_ARCHITECTURES    GPUs for rocm; gfx1151 (Strix Halo) unless set
#   CC, CXX                    another compiler
#
# Every set of flags has a target folder of its own: the build script of llama-cpp-sys-4 keeps one cmake folder per target folder,
# and neither notices that flags changed nor configures it twice.
set -euo pipefail

here=$(realpath -- "${BASH_SOURCE[0]%/*}")
root=${here%/*}

say() { printf 'build-worker: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

[[ $# -le 1 ]] || die 'one worker at a time; usage: build-worker.sh [BACKEND[-LEVEL]]'
name=${1:-cpu}
case $name in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    native) name=cpu-native ;;
esac
IFS=- read -r backend level <<<"$name"

options=(--release -p aluco-worker)
[[ -z ${CI:-} ]] || options+=(--locked)
case $backend in
    cpu) ;;
    vulkan) options+=(--no-default-features --features vulkan) ;;
    rocm)
        options+=(--no-default-features --features rocm)
        # CMake takes the architectures from this variable when it enables HIP; its own guess is the GPU of the build machine.
        export HIPARCHS=${CMAKE_HIP_ARCHITECTURES:-gfx1151}
        ;;
    *) die "unknown backend '$backend': expected cpu, vulkan or rocm" ;;
esac

machine=$(uname -m)
case $machine:$level in
    x86_64:) flags='-march=x86-64-v3' ;;
    x86_64:v4) flags='-march=x86-64-v4 -mavx512vnni -mavx512bf16 -mavx512vbmi' ;;
    # gcc 12 miscompiles the set-up of AMX tiles, and the program dies at the first product.
    x86_64:native) flags='-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16' ;;
    *:) flags= ;;
    *:native) flags='-mcpu=native' ;;
    *:v4) die "level v4 is AVX-512 and this machine is $machine" ;;
    *) die "unknown level '$level': expected v4 or native" ;;
esac
if [[ -n $flags ]]; then
    export "CFLAGS_${machine}_unknown_linux_gnu=$flags" "CXXFLAGS_${machine}_unknown_linux_gnu=$flags"
fi

target=$("$here/target-dir.sh")
build=$target
[[ $name == cpu ]] || build=$target/worker-$name

fork=${ALUCO_LLAMA_CPP:-}
if [[ -n $fork ]]; then
    build=$target/worker-$name-fork-$(realpath -m -- "$fork" | sha256sum | head -c 12)
    crate=$("$here/stage-llama-cpp.sh" "$fork" "$build")
    # A path override leaves Cargo.lock alone, which [patch] would not.
    options+=(--config "paths=[\"$crate\"]")
    if git -C "$fork" rev-parse --git-dir >/dev/null 2>&1; then
        LLAMA_BUILD_NUMBER=$(git -C "$fork" rev-list --count HEAD)
        LLAMA_BUILD_COMMIT=$(git -C "$fork" rev-parse --short HEAD)
        export LLAMA_BUILD_NUMBER LLAMA_BUILD_COMMIT
    fi
fi

# Else llama.cpp, compiled inside a checkout of Aluco, would report Aluco's commit as its own.
export GIT_CEILING_DIRECTORIES=$build${GIT_CEILING_DIRECTORIES:+:$GIT_CEILING_DIRECTORIES}

say "$name${flags:+ ($flags)} in $build"
[[ -d $build/llama-cmake-cache ]] || say 'llama.cpp is compiled first; on two cores that takes about five minutes (vulkan: twice that)'

mkdir -p -- "$build" "$target/release" "$target/native"
messages=$(mktemp)
trap 'rm -f -- "$messages"' EXIT
# The worker alone: together with other crates cargo would unify features otherwise, and compile llama.cpp once more.
compile() {
    (cd "$root" && CARGO_TARGET_DIR=$build cargo build "${options[@]}" --message-format=json-render-diagnostics) >"$messages" && return
    if [[ -n $fork ]]; then
        say "note that $fork must accept the patches of llama-cpp-sys-4 and offer the functions that its shims call."
        say 'If the messages above are about patches, shims or bindings, bring the fork nearer to the pinned llama.cpp; the patches:'
        printf '  %s\n' "$crate"/patches/*.patch >&2
    fi
    die 'cargo build failed'
}

# Sets where llama.cpp was compiled and what is linked, from cargo's message about the crate's build script; fails if that is gone.
locate() {
    local ran
    ran=$(grep '"reason":"build-script-executed"' "$messages" | grep -F 'llama-cpp-sys-4' | tail -n 1) || true
    out_dir=$(grep -o '"out_dir":"[^"]*"' <<<"$ran" | cut -d '"' -f 4) || true
    lib_dir=$(grep -o '"linked_paths":\["[^"]*"' <<<"$ran" | cut -d '"' -f 4) || true
    linked=$(grep -o '"linked_libs":\[[^]]*\]' <<<"$ran" | cut -d '[' -f 2 | tr -d '"]' | tr ',' ' ') || true
    [[ -d $out_dir/llama.cpp && -d $lib_dir ]]
}

compile
if ! locate; then
    # A target folder that was moved or copied: cargo goes on naming the old place, and cmake refuses the new one.
    say "what was compiled in $build names folders that are gone; llama.cpp is compiled again"
    (cd "$root" && CARGO_TARGET_DIR=$build cargo clean --quiet --release -p llama-cpp-sys-4)
    rm -rf -- "$build/llama-cmake-cache"
    compile
    locate || die 'cargo did not say where llama-cpp-sys-4 was built'
fi

if [[ $backend == vulkan ]]; then
    compiled=$(find "${lib_dir%/lib}" -path '*ggml-vulkan*' -name flags.make -exec cat {} +)
    while read -r feature define; do
        if grep -qF -- "-D$define" <<<"$compiled"; then
            say "shaders with $feature"
            continue
        fi
        say "shaders WITHOUT $feature: $(glslc --version 2>/dev/null | head -n 1) does not know it"
        if [[ $feature == cooperative-matrix && ${ALUCO_REQUIRE_COOPMAT:-} == 1 ]]; then
            die "ALUCO_REQUIRE_COOPMAT=1: install glslc 2025.2 or newer, remove $build and build again"
        fi
    done <<'FEATURES'
cooperative-matrix GGML_VULKAN_COOPMAT_GLSLC_SUPPORT
integer-dot-product GGML_VULKAN_INTEGER_DOT_GLSLC_SUPPORT
bfloat16 GGML_VULKAN_BFLOAT16_GLSLC_SUPPORT
FEATURES
fi

# What scripts/build-llama-bench.sh links against.
printf '%s=%q\n' out_dir "$out_dir" lib_dir "$lib_dir" linked "$linked" flags "$flags" >"$target/native/$name"

# By way of a new file: the old one may be running.
installed=$target/release/aluco-worker-$name
if ! cmp -s -- "$build/release/aluco-worker" "$installed"; then
    cp -- "$build/release/aluco-worker" "$installed.new"
    mv -- "$installed.new" "$installed"
fi
printf '%s\n' "$installed"
