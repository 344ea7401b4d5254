#!/usr/bin/env bash
# deploy/slurm/submit.sh COMMAND...: one job with a scheduler and the command, which submits its workers itself.
# Prints the id of the job. What it starts and how large it is: README.md, and the environment variables below.
set -euo pipefail
[ $# -gt 0 ] || { echo "say the command: $0 distcalib run national --output RUN --cluster .distcalib/cluster.yaml" >&2; exit 2; }
DISTCALIB_DEPLOY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export DISTCALIB_DEPLOY
export DISTCALIB_CLUSTER="${DISTCALIB_CLUSTER:-$PWD/.distcalib}"       # certificates, cluster.yaml, logs
export DISTCALIB_SIM_JOBS="${DISTCALIB_SIM_JOBS:-4}"                   # jobs of the array of sim workers
export DISTCALIB_SIM_OPTIONS="${DISTCALIB_SIM_OPTIONS:-}"              # sbatch options of each, over sim.sbatch's
export DISTCALIB_FIT_RESOURCES="${DISTCALIB_FIT_RESOURCES-FIT=1,GPU=1}" # without a GPU: FIT=1; empty: no such job
export DISTCALIB_FIT_OPTIONS="${DISTCALIB_FIT_OPTIONS---gres=gpu:1}"   # sbatch options of the fit worker
export DISTCALIB_JOBS_AT_MOST="${DISTCALIB_JOBS_AT_MOST:-200}"         # submissions of workers in one job's life
export DISTCALIB_RESTARTS="${DISTCALIB_RESTARTS:-10}"                  # how often a walltime may end before the run
mkdir -p -m 700 "$DISTCALIB_CLUSTER/logs"
chmod 700 "$DISTCALIB_CLUSTER"
[ -e "$DISTCALIB_CLUSTER/key.pem" ] || python "$DISTCALIB_DEPLOY/certificates.py" "$DISTCALIB_CLUSTER"
[ -e "$DISTCALIB_CLUSTER/cluster.yaml" ] || cp "$DISTCALIB_DEPLOY/slurm/cluster.yaml" "$DISTCALIB_CLUSTER"
# shellcheck disable=SC2086
exec sbatch --parsable --output "$DISTCALIB_CLUSTER/logs/run-%j.log" ${DISTCALIB_RUN_OPTIONS:-} \
  "$DISTCALIB_DEPLOY/slurm/run.sbatch" "$@"
