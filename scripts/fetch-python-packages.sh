#!/usr/bin/env bash
# Installs the Python packages that the tests use into a folder of their own and prints it. What is there already is not fetched again.
set -euo pipefail

requirements=$(realpath -- "${BASH_SOURCE[0]%/*}/../tests/python/requirements.txt")
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
name=$(cat -- "$requirements" <(printf '%s' "$python") | sha256sum | head -c 16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/aluco/python/$name

if [[ ! -d $folder ]]; then
    mkdir -p -- "${folder%/*}"
    incoming=$(mktemp -d -- "$folder.XXXXXX")
    trap 'rm -rf -- "$incoming"' EXIT
    printf 'fetching the Python packages of %s\n' "${requirements##*/}" >&2
    python3 -m pip install --quiet --disable-pip-version-check --target "$incoming" --requirement "$requirements" >&2
    chmod 755 -- "$incoming"
    # Another run may have been faster; then its folder is as good.
    mv -T -- "$incoming" "$folder" 2>/dev/null || [[ -d $folder ]]
fi
printf '%s\n' "$folder"
