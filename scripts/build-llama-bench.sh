#!/usr/bin/env bash
# Builds llama.cpp's own llama-bench for comparison with `aluco bench`, and prints the path of the binary.
#
#   scripts/build-llama-bench.sh [WORKER]     WORKER as for scripts/build-worker.sh; cpu unless given
#
# It is compiled from the sources, with the flags, and linked against the very libraries that the worker of that name has in it.
# What then differs between the two is how the engine is used, nothing else.
set -euo pipefail

here=$(realpath -- "${BASH_SOURCE[0]%/*}")
name=${1:-cpu}
[[ $name == native ]] && name=cpu-native
target=$("$here/target-dir.sh")

"$here/build-worker.sh" "$name" >/dev/null
out_dir='' lib_dir='' linked='' flags=''
# shellcheck source=/dev/null
. "$target/native/$name"

source=$out_dir/llama.cpp
build=${lib_dir%/lib}/build
binary=$target/llama-bench/$name/llama-bench
worker=$target/release/aluco-worker-$name
if [[ -x $binary && $binary -nt $lib_dir/libggml-cpu.a && $binary -nt $lib_dir/libllama.a ]]; then
    printf '%s\n' "$binary"
    exit 0
fi
[[ -x $worker ]] || { printf 'build-llama-bench: %s is missing\n' "$worker" >&2; exit 1; }

libraries=()
for library in $linked; do
    case $library in
        static=llama_shims) ;;
        *) libraries+=("-l${library#*=}") ;;
    esac
done
includes=()
for folder in common include ggml/include vendor; do
    includes+=("-I$source/$folder")
done
# llama-common uses it for downloads; the worker never does, so it is not among the worker's libraries.
http=$build/vendor/cpp-httplib/libcpp-httplib.a

mkdir -p -- "${binary%/*}"
# shellcheck disable=SC2086 # the flags are words
"${CXX:-c++}" -std=c++17 -O3 -DNDEBUG -w $flags "${includes[@]}" "$source"/tools/llama-bench/{llama-bench,main}.cpp \
    "-L$lib_dir" "-L$build/common" -Wl,--start-group "${libraries[@]}" "$http" -Wl,--end-group \
    -lpthread -ldl -lm -o "$binary.new"
mv -- "$binary.new" "$binary"
printf '%s\n' "$binary"
