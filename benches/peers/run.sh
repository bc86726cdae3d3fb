#!/usr/bin/env bash
# Compares patchlens with TransformerLens and Hugging Face transformers on the same random GPT-2
# small weights, and writes ../RESULTS.md. Arguments go to compare.py (see its --help).
# PATCHLENS_VENV names a virtual environment to use instead of setting up .venv.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here"

venv="${PATCHLENS_VENV:-$here/.venv}"
if [[ -z "${PATCHLENS_VENV:-}" && ! -e "$venv/ready" ]]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r requirements.txt
    touch "$venv/ready"
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

exec "$venv/bin/python" compare.py --ours "$worker" --without-hooks "$without_hooks" "$@"
