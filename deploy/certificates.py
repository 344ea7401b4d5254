"""Make the certificate of a cluster: python deploy/certificates.py FOLDER writes three PEM files."""

from __future__ import annotations

import sys
from pathlib import Path

from distcalib.cluster.security import make_certificates

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say where: python deploy/certificates.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        make_certificates(folder)
    except FileExistsError as there:
        sys.exit(f"{there.filename} is there: remove the three files first, and start the cluster anew")
