#!/usr/bin/env bash
# A study over an array of jobs, one shard each:
#
#   sbatch --array=0-99 deploy/slurm.sh circuits --pairs pairs.json --model weights/gpt2
#
# Each job keeps a journal in $PATCHLENS_JOURNALS (journals/ by default). A job that runs out of
# time is started again by Slurm and goes on where it ended. When all are done:
#
#   patchlens merge --into all.journal journals/*.journal
#   patchlens circuits --pairs pairs.json --model weights/gpt2 --journal all.journal --out study
#
# If some are missing, merge names them. Start them again with the whole array told, which Slurm
# does not say for a part of one:
#
#   PATCHLENS_ARRAY=0-99 sbatch --array=3,7 deploy/slurm.sh circuits ...
#
#SBATCH --job-name=patchlens
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

journals="${PATCHLENS_JOURNALS:-journals}"
shard="auto${PATCHLENS_ARRAY:+:$PATCHLENS_ARRAY}"
mkdir -p "$journals"

patchlens "$@" --threads "${SLURM_CPUS_PER_TASK:-1}" \
    --journal "$journals/${SLURM_ARRAY_TASK_ID:?started without --array}.journal" \
    --shard "$shard" &
child=$!
# Slurm tells the shell, two minutes before the time is up; the program finishes its step.
trap 'kill -USR1 "$child"' USR1
status=0
wait "$child" || status=$?
# A signal ends the first wait, not the program.
while kill -0 "$child" 2>/dev/null; do
    wait "$child" && status=0 || status=$?
done
if [ "$status" -eq 75 ]; then
    scontrol requeue "${SLURM_JOB_ID:?}"
fi
exit "$status"
