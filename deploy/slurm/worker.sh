#!/usr/bin/env bash
# worker.sh PROCESSES OPTIONS...: inside a job, workers that share its memory and leave before its walltime.
set -euo pipefail
processes=$1
shift
if [ -n "${SLURM_MEM_PER_NODE:-}" ]; then
  # A tenth is for the fork server, which holds the rules engine for all.
  set -- --memory-limit "$((SLURM_MEM_PER_NODE * 9 / 10 / processes))MiB" "$@"
fi
# A worker that leaves by itself hands its tasks back; one that is ended counts as a death of its task.
ends=$(SLURM_TIME_FORMAT=standard squeue --noheader --job "$SLURM_JOB_ID" --format %e)
if seconds=$(date -d "$ends" +%s 2>/dev/null); then
  left=$((seconds - $(date +%s) - ${DISTCALIB_LEAVE_SECONDS:-60}))
  set -- --lifetime "$((left > 1 ? left : 1))s" "$@"
fi
exec "$DISTCALIB_DEPLOY/hosts/worker.sh" --nworkers "$processes" --name "$SLURM_JOB_NAME-$SLURM_JOB_ID" \
  --local-directory "${TMPDIR:-/tmp}" "$@"
