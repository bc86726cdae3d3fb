#!/usr/bin/env bash
# Two shards as processes of one thread each against one process of two threads: medians of
# alternating rounds. The same study, on the shipped model.
#
#   benches/shards.sh target/release/patchlens [ROUNDS]
set -euo pipefail
program=$(realpath "${1:?the program}")
rounds=${2:-5}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cd "$out"
study=(trace --prompts 240 --samples 20 --quiet)

seconds() { # seconds COMMAND..: its wall time
    local begun=$EPOCHREALTIME
    "$@"
    echo "$begun $EPOCHREALTIME" | awk '{ printf "%.3f\n", $2 - $1 }'
}
whole() { "$program" "${study[@]}" --threads 2 --journal whole >whole.txt; }
shards() {
    local i
    for i in 1 2; do
        "$program" "${study[@]}" --threads 1 --journal "$i" --shard "$i/2" &
    done
    wait
}
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

for _ in $(seq "$rounds"); do
    rm -f whole 1 2
    seconds whole >>whole.seconds
    seconds shards >>shards.seconds
done
"$program" merge --into merged 1 2 >/dev/null
"$program" "${study[@]}" --journal merged >merged.txt
cmp whole.txt merged.txt && echo "same text from both"
echo "one process of 2 threads     $(median whole.seconds) s"
echo "two processes of 1 thread    $(median shards.seconds) s"
echo "ratio                        $(echo "$(median shards.seconds) $(median whole.seconds)" | awk '{ printf "%.3f", $1 / $2 }')"
