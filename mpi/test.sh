#!/usr/bin/env bash
# Runs studies on 1, 2 and 4 ranks, with a rank killed on the way, and over two network namespaces
# where the machine allows it; what they find must be what `patchlens` finds, to the bit.
#
#   mpi/test.sh target/release
set -euo pipefail
bin=$(cd "${1:?the folder of patchlens and patchlens-mpi}" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Containers run as root, on fewer cores than ranks, and without ptrace.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none

same() { # same WHAT FILE: as the file of one process
    if cmp "$out/whole.json" "$2"; then
        echo "$1: same bits"
    else
        echo "$1: other results than one process has" >&2
        exit 1
    fi
}

studies=("circuits --prompts 3" "trace --prompts 6" "ablate --prompts 9" "paths --prompts 4")
for study in "${studies[@]}"; do
    # shellcheck disable=SC2206 # it is a list of words
    words=($study)
    "$bin/patchlens" "${words[@]}" --quiet --json "$out/whole.json" >/dev/null
    for ranks in 1 2 4; do
        mpirun -n "$ranks" "$bin/patchlens-mpi" "${words[@]}" --quiet --json "$out/ranks.json" >/dev/null
        same "$study, $ranks ranks" "$out/ranks.json"
    done
done

# The last study once more with a model of files, which rank 0 reads and hands on.
model=$(cd "$(dirname "$0")/.." && pwd)/assets/mini
"$bin/patchlens" trace --clean "Ada Brown plays the sport of" --subject "Ada Brown" \
    --answer " boxing" --model "$model" --quiet --json "$out/whole.json" >/dev/null
mpirun -n 3 "$bin/patchlens-mpi" trace --clean "Ada Brown plays the sport of" \
    --subject "Ada Brown" --answer " boxing" --model "$model" --quiet --json "$out/ranks.json" >/dev/null
same "a model of files, 3 ranks" "$out/ranks.json"

# A rank that dies ends the job; what was gathered is not lost.
killed=(circuits --prompts 12 --carries 0.5)
"$bin/patchlens" "${killed[@]}" --quiet --json "$out/whole.json" >/dev/null
mpirun -n 3 "$bin/patchlens-mpi" "${killed[@]}" --quiet --journal "$out/journal" \
    --json "$out/killed.json" >"$out/killed.txt" 2>&1 &
job=$!
for _ in $(seq 200); do
    lines=$(grep -c "" "$out/journal" 2>/dev/null || true)
    [ "${lines:-0}" -gt 3 ] && break
    sleep 0.1
done
pkill -9 -n -f "patchlens-mpi ${killed[*]}" || true
if wait "$job"; then
    echo "the job was done before a rank was killed: nothing is shown by that" >&2
else
    echo "killed with $(grep -c '^results' "$out/journal") lines of results"
fi
mpirun -n 2 "$bin/patchlens-mpi" "${killed[@]}" --quiet --journal "$out/journal" \
    --json "$out/ranks.json" >/dev/null
same "after a rank was killed" "$out/ranks.json"

# Two hosts on one machine: each its own network, joined by a cable.
if [ "$(id -u)" != 0 ] || ! ip netns add patchlens-a 2>/dev/null; then
    echo "no network namespaces here: not run over two hosts" >&2
    exit 0
fi
down() {
    ip netns del patchlens-a || true
    ip netns del patchlens-b || true
    rm -rf "$out"
}
trap down EXIT
ip netns add patchlens-b
ip link add pl-a netns patchlens-a type veth peer name pl-b netns patchlens-b
for host in a b; do
    ip -n "patchlens-$host" link set lo up
    ip -n "patchlens-$host" link set "pl-$host" up
done
ip -n patchlens-a addr add 10.77.0.1/24 dev pl-a
ip -n patchlens-b addr add 10.77.0.2/24 dev pl-b
# In the place of ssh: HOST COMMAND.. there.
cat >"$out/agent" <<'AGENT'
#!/usr/bin/env bash
shift
exec ip netns exec patchlens-b unshare --uts bash -c 'hostname host-b; exec bash -c "$*"' - "$@"
AGENT
chmod +x "$out/agent"
"$bin/patchlens" trace --prompts 6 --quiet --json "$out/whole.json" >/dev/null
ip netns exec patchlens-a unshare --uts bash -c 'hostname host-a; exec "$@"' - \
    mpirun -n 4 --host 10.77.0.1:2,10.77.0.2:2 --mca plm_rsh_agent "$out/agent" \
    --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
    "$bin/patchlens-mpi" trace --prompts 6 --quiet --json "$out/ranks.json" >/dev/null
same "two hosts of 2 ranks" "$out/ranks.json"
