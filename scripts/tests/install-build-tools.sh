#!/usr/bin/env bash
# Tests of scripts/install-build-tools.sh on machines made of a few fake programs: nothing real is installed.
set -euo pipefail

script=$(realpath -- "${BASH_SOURCE[0]%/*}/../install-build-tools.sh")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python=$(python3 -c 'import sys; print(sys.executable)')
failures=0

fake() {
    printf '#!/bin/bash\n%s\n' "$2" >"$bin/$1"
    chmod +x "$bin/$1"
}
# A machine with this user id, these package managers and nothing to build with.
machine() {
    local user=$1 tool manager
    shift
    bin=$work/bin sysroot=$work/sysroot log=$work/log
    rm -rf -- "$bin" "$sysroot"
    mkdir -p -- "$bin" "$sysroot/usr/lib"
    : >"$log"
    for tool in bash chmod cut env head mkdir realpath sed sort touch; do
        ln -s -- "$(command -v "$tool")" "$bin/$tool"
    done
    fake id "echo $user"
    fake cargo 'echo "cargo 1.95.0 (abc 2026-01-01)"'
    for manager; do
        fake "$manager" "echo \"$manager \$*\" >>'$log'; [[ \$* == *cmake* ]] && bash '$work/equip'; true"
    done
}
# What installing the packages leaves on a machine.
cat >"$work/equip" <<EQUIP
for tool in c++ cc make cmake python3 glslc; do printf '#!/bin/bash\n' >'$work'/bin/\$tool; chmod +x '$work'/bin/\$tool; done
mkdir -p '$work'/sysroot/usr/lib/llvm-19/lib/clang/19/include
touch '$work'/sysroot/usr/lib/llvm-19/lib/{libclang.so,clang/19/include/stddef.h}
EQUIP
run() { status=0; output=$(env -i PATH="$bin" HOME="$work" ALUCO_SYSROOT="$sysroot" "$script" "$@" 2>&1 </dev/null) || status=$?; }
run_on_terminal() {
    status=0
    output=$(env -i PATH="$bin" HOME="$work" ALUCO_SYSROOT="$sysroot" "$python" -c \
        'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' "$script" 2>&1 </dev/null) || status=$?
}
expect() {
    local what=$1
    shift
    if ! "$@"; then
        printf 'FAILED: %s: not so: %s\n  status %s, output:\n%s\n  commands that ran:\n%s\n' \
            "$what" "$*" "$status" "$output" "$(cat "$log")" >&2
        failures=$((failures + 1))
    fi
}
status_is() { [[ $status == "$1" ]]; }
says() { [[ $output == *"$1"* ]]; }
ran() { [[ $(cat "$log") == "$1" ]]; }

name='a complete machine is left alone, in silence'
machine 0 apt-get
bash "$work/equip"
run
expect "$name" status_is 0
expect "$name" test -z "$output"
expect "$name" ran ''

apt_install='apt-get install -y --no-install-recommends g++ make cmake libclang-dev python3 python3-pip'
name='root installs with apt-get, once'
machine 0 apt-get
run
expect "$name" status_is 0
expect "$name" says 'Missing for the build: a C++ compiler, make, cmake, libclang, pip for python3'
expect "$name" says "Running: env DEBIAN_FRONTEND=noninteractive $apt_install"
expect "$name" ran "apt-get update"$'\n'"$apt_install"
run
expect "$name" status_is 0
expect "$name" ran "apt-get update"$'\n'"$apt_install"

while IFS='|' read -r manager expected; do
    name="root installs with $manager"
    machine 0 "$manager"
    run
    expect "$name" status_is 0
    expect "$name" ran "$manager $expected"
done <<'COMMANDS'
dnf|install -y gcc-c++ make cmake clang-devel python3-pip
pacman|-Sy --needed --noconfirm gcc make cmake clang python-pip
zypper|--non-interactive install gcc-c++ make cmake clang-devel python3-pip
COMMANDS

name='an existing package database of pacman is not refreshed'
machine 0 pacman
mkdir -p -- "$sysroot/var/lib/pacman/sync"
touch -- "$sysroot/var/lib/pacman/sync/core.db"
run
expect "$name" ran 'pacman -S --needed --noconfirm gcc make cmake clang python-pip'

name='only what is missing is installed'
machine 0 dnf
bash "$work/equip"
rm -- "$bin/cmake"
run
expect "$name" ran 'dnf install -y cmake'

name='a user without a terminal gets the command and a failure'
machine 1000 apt-get
fake sudo "echo sudo >>'$log'; exec \"\$@\""
run
expect "$name" status_is 1
expect "$name" says "    sudo env DEBIAN_FRONTEND=noninteractive $apt_install"
expect "$name" ran ''

name='a user at a terminal is shown the sudo command before it runs'
machine 1000 dnf
fake sudo "echo sudo >>'$log'; exec \"\$@\""
run_on_terminal
expect "$name" status_is 0
expect "$name" says 'Running: sudo dnf install -y gcc-c++'
expect "$name" ran $'sudo\ndnf install -y gcc-c++ make cmake clang-devel python3-pip'

name='a user at a terminal of a machine without sudo is told the command'
machine 1000 dnf
run_on_terminal
expect "$name" status_is 1
expect "$name" says 'run as root:  dnf install -y gcc-c++'
expect "$name" ran ''

name='--check installs nothing'
machine 0 zypper
run --check
expect "$name" status_is 1
expect "$name" says 'zypper --non-interactive install gcc-c++'
expect "$name" ran ''

name='a failing package manager fails the script'
machine 0 dnf
fake dnf "echo 'Error: no network'; exit 7"
run
expect "$name" status_is 1
expect "$name" says 'failed: dnf install -y'

name='an unknown system is told what to install'
machine 0
run
expect "$name" status_is 1
expect "$name" says 'a C++ compiler, make, cmake'

name='a worker for Vulkan needs more'
machine 0 apt-get
bash "$work/equip"
rm -- "$bin/glslc"
run cpu vulkan-v4 --check
expect "$name" status_is 1
expect "$name" says 'install -y --no-install-recommends glslc libvulkan-dev spirv-headers'

name='missing Rust is explained and not installed'
machine 0 apt-get
bash "$work/equip"
rm -- "$bin/cargo"
run
expect "$name" status_is 1
expect "$name" says 'https://rustup.rs'
expect "$name" ran ''

name='an old Rust is refused'
machine 0 apt-get
bash "$work/equip"
fake cargo 'echo "cargo 1.70.0 (abc 2023-01-01)"'
run
expect "$name" status_is 1
expect "$name" says 'Rust 1.70.0 is too old'

((failures == 0)) || { printf '%s expectations failed\n' "$failures" >&2; exit 1; }
