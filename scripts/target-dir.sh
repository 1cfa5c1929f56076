#!/usr/bin/env bash
# Prints the folder that cargo builds into: CARGO_TARGET_DIR if set; in CI a cache folder, so that a fresh clone reuses what an
# earlier one compiled; else target/ in the checkout.
set -euo pipefail

if [[ -n ${CARGO_TARGET_DIR:-} ]]; then
    realpath -m -- "$CARGO_TARGET_DIR"
elif [[ -n ${CI:-} ]]; then
    printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/aluco/target"
else
    printf '%s\n' "$(realpath -- "${BASH_SOURCE[0]%/*}/..")/target"
fi
