#!/usr/bin/env bash
# A scheduler that speaks to nobody without the certificate. Options are those of `dask scheduler`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
rm -f "$DISTCALIB_CLUSTER/scheduler.json"
exec dask scheduler "${tls[@]}" --scheduler-file "$DISTCALIB_CLUSTER/scheduler.json" "$@"
