# Sourced by scheduler.sh and worker.sh: where the certificates are, and how Dask behaves.
: "${DISTCALIB_CLUSTER:?is not set: the folder of ca.pem, cert.pem, key.pem and scheduler.json}"
deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export DASK_CONFIG="$deploy/dask.yaml"
# Workers are the parallelism, and a fork server must not have threads when it forks.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 BLOSC_NUM_THREADS=1 BLOSC_NTHREADS=1
export NUMEXPR_MAX_THREADS=1 JE_ARROW_MALLOC_CONF=background_thread:false
tls=(--protocol tls --tls-ca-file "$DISTCALIB_CLUSTER/ca.pem" --tls-cert "$DISTCALIB_CLUSTER/cert.pem"
  --tls-key "$DISTCALIB_CLUSTER/key.pem" --no-dashboard --dashboard-address 127.0.0.1:0)
