#!/usr/bin/env bash
# Compares patchlens with TransformerLens and Hugging Face transformers on the same random GPT-2
# small weights, and writes ../RESULTS.md. Arguments go to compare.py (see its --help).
# TransformerLens 4's bridge is one more column; PATCHLENS_BRIDGE=no leaves it out.
# PATCHLENS_VENV and PATCHLENS_BRIDGE_VENV name virtual environments to use instead of setting up
# .venv and .venv-bridge.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here"

# Sets up a virtual environment from a list of packages, once.
environment() {
    local directory="$1" packages="$2"
    if [[ ! -e "$directory/ready" ]]; then
        python3 -m venv "$directory"
        "$directory/bin/pip" install --quiet -r "$packages"
        touch "$directory/ready"
    fi
}

venv="${PATCHLENS_VENV:-$here/.venv}"
[[ -n "${PATCHLENS_VENV:-}" ]] || environment "$venv" requirements.txt
bridge=()
if [[ "${PATCHLENS_BRIDGE:-yes}" != no ]]; then
    bridge_venv="${PATCHLENS_BRIDGE_VENV:-$here/.venv-bridge}"
    [[ -n "${PATCHLENS_BRIDGE_VENV:-}" ]] || environment "$bridge_venv" requirements-bridge.txt
    bridge=(--bridge "$bridge_venv/bin/python")
fi

# The path of a bench binary, from cargo's messages on standard input.
executable() {
    "$venv/bin/python" -c '
import json, sys
found = [m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")]
print(found[-1])'
}

(cd "$here/../.." && cargo bench --bench peer_worker --no-run)
worker="$(cd "$here/../.." && cargo bench --bench peer_worker --no-run --message-format=json 2>/dev/null | executable)"
bare="$("$venv/bin/python" without_hooks.py "$here/../..")"
without_hooks="$(cd "$bare" && cargo bench --bench peer_worker --no-run --message-format=json | executable)"

exec "$venv/bin/python" compare.py --ours "$worker" --without-hooks "$without_hooks" "${bridge[@]}" "$@"
