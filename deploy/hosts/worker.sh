#!/usr/bin/env bash
# Workers of one host. Options are those of `dask worker`: --nworkers 8 --memory-limit 4GiB --resources FIT=1
# Without a shared folder, DISTCALIB_SCHEDULER=tls://HOST:PORT says where the scheduler is.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [ -n "${DISTCALIB_SCHEDULER:-}" ]; then
  joined=("$DISTCALIB_SCHEDULER")
else
  joined=(--scheduler-file "$DISTCALIB_CLUSTER/scheduler.json")
fi
# DISTCALIB_COLD=1: each worker reads the rules engine for itself.
[ -n "${DISTCALIB_COLD:-}" ] || joined+=(--preload-nanny "$deploy/warm.py")
exec dask worker "${joined[@]}" "${tls[@]}" --nthreads 1 "$@"
