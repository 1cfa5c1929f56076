#!/usr/bin/env bash
# Installs what `make build` and `make workers` built, or removes it again.
#
#   [DESTDIR=DIR] scripts/install.sh [--remove] PREFIX
#
#   PREFIX/bin/aluco               the program
#   PREFIX/libexec/aluco/          the workers
#   PREFIX/share/                  manual pages; completions for bash, zsh and fish
#   PREFIX/share/aluco/            prompt rules to name in the configuration or to copy
#   PREFIX/lib/systemd/user/       units for a user (share/systemd/user in a home folder, where systemd looks for them)
#   PREFIX/lib/systemd/system/     units for the machine, unless PREFIX is in a home folder
#
# It builds nothing, so that it can run as root without a Rust toolchain.
set -euo pipefail

here=$(realpath -- "${BASH_SOURCE[0]%/*}")
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

remove=
if [[ ${1:-} == --remove ]]; then
    remove=yes
    shift
fi
[[ $# == 1 && $1 == /* ]] || die 'usage: install.sh [--remove] PREFIX, an absolute path'
prefix=${1%/}
to=${DESTDIR:-}$prefix
units=lib/systemd/user
machine_units=lib/systemd/system
if [[ $prefix/ == "${HOME:-/nonexistent}"/* ]]; then
    units=share/systemd/user
    machine_units=
fi

if [[ $remove ]]; then
    rm -f -- "$to/bin/aluco" "$to"/libexec/aluco/aluco-worker-* "$to"/share/man/man1/aluco{,-*}.1 \
        "$to/share/bash-completion/completions/aluco" "$to/share/zsh/site-functions/_aluco" \
        "$to/share/fish/vendor_completions.d/aluco.fish" "$to/$units"/aluco.{service,socket} "$to/share/aluco/prompt-rules.toml"
    [[ ! $machine_units ]] || rm -f -- "$to/$machine_units"/aluco.{service,socket}
    for folder in "$to/libexec/aluco" "$to/share/aluco"; do
        [[ ! -d $folder ]] || rmdir -- "$folder"
    done
    exit 0
fi

built=$("$here/target-dir.sh")/release
[[ -x $built/aluco ]] || die "$built/aluco is missing; run \`make build\` first"
workers=()
for worker in "$built"/aluco-worker-*; do
    # The names that scripts/build-worker.sh gives; cargo's own files have a dot in them.
    [[ ${worker##*/} == *.* || ! -x $worker ]] || workers+=("$worker")
done
((${#workers[@]} > 0)) || die "no aluco-worker-* in $built; run \`make build\` first"

made=$(mktemp -d)
trap 'rm -rf -- "$made"' EXIT
mkdir -- "$made/man"
"$built/aluco" man "$made/man" >/dev/null
for shell in bash zsh fish; do
    "$built/aluco" completions "$shell" >"$made/$shell"
done
mkdir -- "$made/user" "$made/system"
sed "s|@BINDIR@|$prefix/bin|" "$here/../packaging/aluco.service" >"$made/user/aluco.service"
sed "s|@BINDIR@|$prefix/bin|" "$here/../packaging/system/aluco.service" >"$made/system/aluco.service"
cp -- "$here/../packaging/aluco.socket" "$made/user"
cp -- "$here/../packaging/aluco.socket" "$made/system"

# Workers of an older build would be taken for good ones.
rm -f -- "$to"/libexec/aluco/aluco-worker-*
install -D -m 755 -- "$built/aluco" "$to/bin/aluco"
install -D -m 755 -t "$to/libexec/aluco" -- "${workers[@]}"
install -D -m 644 -t "$to/share/man/man1" -- "$made"/man/*.1
install -D -m 644 -- "$made/bash" "$to/share/bash-completion/completions/aluco"
install -D -m 644 -- "$made/zsh" "$to/share/zsh/site-functions/_aluco"
install -D -m 644 -- "$made/fish" "$to/share/fish/vendor_completions.d/aluco.fish"
install -D -m 644 -t "$to/$units" -- "$made"/user/*
[[ ! $machine_units ]] || install -D -m 644 -t "$to/$machine_units" -- "$made"/system/*
install -D -m 644 -- "$here/../packaging/prompt-rules.toml" "$to/share/aluco/prompt-rules.toml"

printf 'Installed aluco and %s worker(s) under %s.\n' "${#workers[@]}" "$to"
case ":$PATH:" in
    *":$prefix/bin:"*) ;;
    *) printf 'Note: %s/bin is not in PATH.\n' "$prefix" ;;
esac
