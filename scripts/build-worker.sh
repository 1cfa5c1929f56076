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

say() { printf '%s\n' "$*" >&2; }
die() { say "build-worker: $*"; exit 1; }

name=${1:-cpu}
[[ $# -le 1 ]] || die "one worker at a time; usage: build-worker.sh [BACKEND[-LEVEL]]"
case $name in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    native) name=cpu-native ;;
esac
backend=${name%%-*}
level=
[[ $name == *-* ]] && level=${name#*-}

case $backend in
    cpu) features=() ;;
    vulkan | rocm) features=(--no-default-features --features "$backend") ;;
    *) die "unknown backend '$backend': expected cpu, vulkan or rocm" ;;
esac

machine=$(uname -m)
no_amx='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'
case $level:$machine in
    :x86_64) flags='-march=x86-64-v3' ;;
    :*) flags= ;;
    v4:x86_64) flags='-march=x86-64-v4 -mavx512vnni -mavx512bf16 -mavx512vbmi' ;;
    # gcc 12 miscompiles the set-up of AMX tiles, and the program dies at the first product.
    native:x86_64) flags="-march=native $no_amx" ;;
    native:*) flags='-mcpu=native' ;;
    v4:*) die "level v4 is AVX-512 and this machine is $machine" ;;
    *) die "unknown level '$level': expected v4 or native" ;;
esac

target=$("$here/target-dir.sh")
build=$target
[[ $name == cpu ]] || build=$target/worker-$name
cargo_options=()

# Puts a copy of llama-cpp-sys-4, its llama.cpp replaced, in front of the one from the registry. A path override leaves Cargo.lock
# alone, which [patch] would not.
use_fork() {
    local fork manifest crate signature stamp
    fork=$(realpath -e -- "$ALUCO_LLAMA_CPP") || die "ALUCO_LLAMA_CPP=$ALUCO_LLAMA_CPP: no such folder"
    for file in CMakeLists.txt include/llama.h ggml/CMakeLists.txt common/common.h; do
        [[ -e $fork/$file ]] || die "ALUCO_LLAMA_CPP=$fork is not a llama.cpp source tree: $file is missing"
    done
    build=$target/worker-$name-fork-$(printf '%s' "$fork" | sha256sum | head -c 12)
    manifest=$(cd "$root" && cargo metadata --format-version 1 ${CI:+--locked} \
        | grep -o '"manifest_path":"[^"]*/llama-cpp-sys-4-[^"/]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)
    [[ -n $manifest ]] || die "cargo metadata does not name the sources of llama-cpp-sys-4"
    crate=$build/llama-cpp-sys-4
    signature=$(cd "$fork" && find . -path ./.git -prune -o -type f -printf '%p %s %T@\n' | sort | sha256sum)
    stamp=$build/fork.signature
    if [[ $(cat "$stamp" 2>/dev/null) != "$signature ${manifest%/*}" ]]; then
        say "build-worker: taking llama.cpp from $fork"
        # Neither cargo nor the crate's build script watches the tree, so what was built from an older state goes.
        rm -rf -- "$crate" "$build/llama-cmake-cache" "$build"/release/build/llama-cpp-sys-4-* \
            "$build"/release/.fingerprint/llama-cpp-sys-4-* "$stamp"
        mkdir -p -- "$crate"
        tar -C "${manifest%/*}" --exclude=./llama.cpp -cf - . | tar -C "$crate" -xf -
        mkdir -- "$crate/llama.cpp"
        tar -C "$fork" --exclude=./.git --exclude=./build --exclude='./build-*' --exclude=./models -cf - . | tar -C "$crate/llama.cpp" -xf -
        printf '%s\n' "$signature ${manifest%/*}" >"$stamp"
    fi
    if git -C "$fork" rev-parse --git-dir >/dev/null 2>&1; then
        LLAMA_BUILD_NUMBER=$(git -C "$fork" rev-list --count HEAD)
        LLAMA_BUILD_COMMIT=$(git -C "$fork" rev-parse --short HEAD)
        export LLAMA_BUILD_NUMBER LLAMA_BUILD_COMMIT
    fi
    cargo_options+=(--config "paths=[\"$crate\"]")
}
[[ -z ${ALUCO_LLAMA_CPP:-} ]] || use_fork

if [[ -n $flags ]]; then
    variable=${machine}_unknown_linux_gnu
    export "CFLAGS_$variable=$flags" "CXXFLAGS_$variable=$flags"
fi
if [[ $backend == rocm ]]; then
    # CMake takes the architectures from this variable when it enables HIP; its own guess is the GPU of the build machine.
    export HIPARCHS=${CMAKE_HIP_ARCHITECTURES:-gfx1151}
fi
# Else llama.cpp, compiled inside a checkout of Aluco, would report Aluco's commit as its own.
export GIT_CEILING_DIRECTORIES=$build${GIT_CEILING_DIRECTORIES:+:$GIT_CEILING_DIRECTORIES}

say "build-worker: $name${flags:+ ($flags)} in $build"
[[ -d $build/llama-cmake-cache ]] || say "build-worker: llama.cpp is compiled first; on two cores that takes about five minutes (vulkan: twice that)"

mkdir -p -- "$build" "$target/release" "$target/native"
messages=$build/build-messages-$$.json
trap 'rm -f -- "$messages"' EXIT
# The worker alone: together with other crates cargo would unify features otherwise, and compile llama.cpp once more.
if ! (cd "$root" && CARGO_TARGET_DIR=$build cargo build --release ${CI:+--locked} -p aluco-worker "${features[@]}" \
    "${cargo_options[@]}" --message-format=json-render-diagnostics) >"$messages"; then
    if [[ -n ${ALUCO_LLAMA_CPP:-} ]]; then
        say "build-worker: note that ALUCO_LLAMA_CPP=$ALUCO_LLAMA_CPP must accept the patches of llama-cpp-sys-4 and offer the functions its shims call;"
        say "build-worker: if the messages above are about patches, shims or bindings, bring the fork nearer to the pinned llama.cpp:"
        (cd "$build/llama-cpp-sys-4/patches" && printf '  %s\n' "$PWD"/*.patch) >&2
    fi
    die "cargo build failed"
fi

field() { grep '"reason":"build-script-executed"' "$messages" | grep -F 'llama-cpp-sys-4' | tail -n 1 | grep -o "\"$1\":$2" | head -n 1; }
out_dir=$(field out_dir '"[^"]*"' | cut -d '"' -f 4)
lib_dir=$(field linked_paths '\["[^"]*"' | cut -d '"' -f 4)
linked=$(field linked_libs '\[[^]]*\]' | grep -o '"[^",]*"' | tr -d '"' | grep -v '^linked_libs$' | tr '\n' ' ')
[[ -d $out_dir/llama.cpp && -d $lib_dir ]] || die "cargo did not say where llama-cpp-sys-4 was built"

if [[ $backend == vulkan ]]; then
    compiled=$(find "${lib_dir%/lib}" -path '*ggml-vulkan*' -name flags.make -exec cat {} +)
    missing=()
    while read -r feature define; do
        if grep -qF -- "-D$define" <<<"$compiled"; then
            say "build-worker: shaders with $feature"
        else
            say "build-worker: shaders WITHOUT $feature: $(glslc --version 2>/dev/null | head -n 1) does not know it"
            missing+=("$feature")
        fi
    done <<'FEATURES'
cooperative-matrix GGML_VULKAN_COOPMAT_GLSLC_SUPPORT
integer-dot-product GGML_VULKAN_INTEGER_DOT_GLSLC_SUPPORT
bfloat16 GGML_VULKAN_BFLOAT16_GLSLC_SUPPORT
FEATURES
    if [[ ${ALUCO_REQUIRE_COOPMAT:-} == 1 && " ${missing[*]} " == *" cooperative-matrix "* ]]; then
        die "no cooperative matrices, and ALUCO_REQUIRE_COOPMAT=1: install glslc 2025.2 or newer, remove $build and build again"
    fi
fi

# What scripts/build-llama-bench.sh links against.
{
    printf 'out_dir=%q\n' "$out_dir"
    printf 'lib_dir=%q\n' "$lib_dir"
    printf 'linked=%q\n' "$linked"
    printf 'flags=%q\n' "$flags"
} >"$target/native/$name"

# By way of a new file: the old one may be running.
installed=$target/release/aluco-worker-$name
if ! cmp -s -- "$build/release/aluco-worker" "$installed"; then
    cp -- "$build/release/aluco-worker" "$installed.new"
    mv -- "$installed.new" "$installed"
fi
printf '%s\n' "$installed"
