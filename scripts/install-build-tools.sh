#!/usr/bin/env bash
# Installs what building Aluco needs and this machine lacks; says nothing and changes nothing if all is there.
#
#   scripts/install-build-tools.sh [--check] [WORKER...]     WORKER as for scripts/build-worker.sh; cpu unless given
#
#   --check   only say what is missing; exit status 1 if anything is
#
# It works with apt-get, dnf, pacman and zypper, shows the command before it runs it, and asks for rights by sudo, visibly, where it
# is not root. Without a terminal there is nobody to ask: then it prints the command and fails. Rust is left to rustup.
#
# ALUCO_SYSROOT=DIR looks for headers and libraries below DIR; the tests use it.
set -euo pipefail

root=$(realpath -- "${BASH_SOURCE[0]%/*}/..")
sysroot=${ALUCO_SYSROOT:-}

say() { printf '%s\n' "$*" >&2; }
die() { say "install-build-tools: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

check_only=
vulkan=
rocm=
for argument; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --check) check_only=yes ;;
        vulkan*) vulkan=yes ;;
        rocm*) rocm=yes ;;
        cpu* | native) ;;
        *) die "unknown argument '$argument'; see --help" ;;
    esac
done

# What is needed, one test each.

file_in() {
    local name=$1 folder
    shift
    for folder; do
        compgen -G "$folder/$name" >/dev/null && return
    done
    return 1
}
has_compiler() {
    local cxx=${CXX:-c++} cc=${CC:-cc}
    have "${cxx%% *}" && have "${cc%% *}"
}
# The library where the clang-sys crate looks for it, and clang's own stddef.h, which some distributions package apart.
has_libclang() {
    local lib=$sysroot/usr/lib llvm
    llvm=$(llvm-config --libdir 2>/dev/null) || llvm=$sysroot/usr/lib/llvm
    [[ -z ${LIBCLANG_PATH:-} ]] || { file_in 'libclang[.-][s0-9]*' "$LIBCLANG_PATH"; return; }
    file_in 'libclang[.-][s0-9]*' "$llvm" "$lib" "$lib"/*-linux-gnu "${lib}64" "$lib/llvm*/lib*" "${lib}64/llvm*/lib*" \
        "$sysroot/usr/local/lib" "$sysroot/usr/local/llvm*/lib" \
        && file_in 'clang/*/include/stddef.h' "$llvm" "$lib" "${lib}64" "$lib/llvm*/lib" "${lib}64/llvm*/lib" \
            "$sysroot/usr/local/lib" "$sysroot/usr/local/llvm*/lib"
}
has_header() {
    file_in "$1" "$sysroot/usr/include" "$sysroot/usr/local/include" ${VULKAN_SDK:+"$VULKAN_SDK/include"}
}
has_vulkan() {
    has_header vulkan/vulkan.h && file_in libvulkan.so "$sysroot/usr/lib" "$sysroot/usr/lib64" "$sysroot"/usr/lib/*-linux-gnu \
        "$sysroot/usr/local/lib" ${VULKAN_SDK:+"$VULKAN_SDK/lib"}
}
has_pip() { python3 -m pip --version >/dev/null 2>&1; }

missing=()
packages=
manager=
for candidate in apt-get dnf pacman zypper; do
    if have "$candidate"; then
        manager=$candidate
        break
    fi
done
# need WHAT PACKAGES_OF_APT_GET PACKAGES_OF_DNF PACKAGES_OF_PACMAN PACKAGES_OF_ZYPPER
need() {
    missing+=("$1")
    case $manager in
        apt-get) packages+=" $2" ;;
        dnf) packages+=" $3" ;;
        pacman) packages+=" $4" ;;
        zypper) packages+=" $5" ;;
    esac
}

has_compiler || need 'a C++ compiler' 'g++' 'gcc-c++' 'gcc' 'gcc-c++'
have make || need make make make make make
have cmake || need cmake cmake cmake cmake cmake
has_libclang || need libclang libclang-dev clang-devel clang clang-devel
has_pip || need 'pip for python3' 'python3 python3-pip' python3-pip python-pip python3-pip
if [[ $vulkan ]]; then
    have glslc || need glslc glslc glslc shaderc shaderc
    has_vulkan || need 'Vulkan headers and loader' libvulkan-dev 'vulkan-headers vulkan-loader-devel' \
        'vulkan-headers vulkan-icd-loader' vulkan-devel
    has_header spirv/unified1/spirv.hpp || need 'SPIR-V headers' spirv-headers spirv-headers-devel spirv-headers spirv-headers
fi

# Things that no package manager is asked for.
failed=
rust_required=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
if ! have cargo; then
    say "Rust is missing. Install it with  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh  (https://rustup.rs), then open a new shell."
    failed=yes
else
    rust=$(cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$rust_required" "$rust" | sort -V | head -n 1) != "$rust_required" ]]; then
        say "Rust $rust is too old: Aluco needs $rust_required. Get it with  rustup update stable  (https://rustup.rs)."
        failed=yes
    fi
fi
if [[ $rocm ]] && ! have hipcc && [[ ! -x ${ROCM_PATH:-$sysroot/opt/rocm}/bin/hipcc ]]; then
    say "ROCm is missing. AMD says how to install it: https://rocm.docs.amd.com"
    failed=yes
fi

if ((${#missing[@]} == 0)); then
    [[ ! $failed ]] || exit 1
    exit 0
fi

printf -v list '%s, ' "${missing[@]}"
say "Missing for the build: ${list%, }"
case $manager in
    apt-get) commands=("apt-get update" "env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends$packages") ;;
    dnf) commands=("dnf install -y$packages") ;;
    # Without a package database, as in a new container, it is fetched; one that is there is used as it is, because packages newer
    # than the rest of the system may not run on it.
    pacman) commands=("pacman -S$(file_in '*.db' "$sysroot/var/lib/pacman/sync" || printf y) --needed --noconfirm$packages") ;;
    zypper) commands=("zypper --non-interactive install$packages") ;;
    *) die "none of apt-get, dnf, pacman and zypper is here; please install the above in your system's way" ;;
esac

rights=
[[ $(id -u) == 0 ]] || rights='sudo '
if [[ $check_only || ($rights && ! -t 0) ]]; then
    say 'Install it with:'
    printf "    $rights%s\n" "${commands[@]}" >&2
    exit 1
fi
[[ ! $rights ]] || have sudo || die "that needs root and there is no sudo; run as root:  $(printf '%s; ' "${commands[@]}")"
for command in "${commands[@]}"; do
    say "Running: $rights$command"
    # shellcheck disable=SC2086 # a command of plain words
    $rights$command || die "failed: $rights$command"
done
[[ ! $failed ]] || exit 1
