# One image for scheduler, workers and job: docker build --tag distcalib:0.1.0 .
FROM python:3.11-slim-bookworm

# Same versions as in the tests; the rules engine is compiled once, here.
COPY constraints.txt pyproject.toml README.md LICENSE /src/
COPY distcalib /src/distcalib
RUN pip install --no-cache-dir --constraint /src/constraints.txt '/src[s3,kubernetes]' && rm -rf /src

COPY deploy/dask.yaml deploy/warm.py deploy/certificates.py /opt/distcalib/deploy/
COPY deploy/hosts /opt/distcalib/deploy/hosts

# No root, and nothing is written but to /tmp, so that the file system of a container can be read-only.
RUN useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin distcalib
ENV HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    DASK_CONFIG=/opt/distcalib/deploy/dask.yaml \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    BLOSC_NUM_THREADS=1 \
    BLOSC_NTHREADS=1 \
    NUMEXPR_MAX_THREADS=1 \
    JE_ARROW_MALLOC_CONF=background_thread:false
WORKDIR /tmp
USER 1000:1000
CMD ["distcalib", "--help"]
