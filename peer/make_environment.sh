#!/bin/sh
# Make the peer's environment in FOLDER/env and its target database in FOLDER/policy_data.db; what is there stays.
# Usage: peer/make_environment.sh FOLDER [PYTHON3.12]
set -eu
folder=$1
here=$(dirname "$0")
mkdir -p "$folder"
if [ ! -e "$folder/env/.installed" ]; then
  python=${2:-}
  for found in python3.12 "$(uv python find 3.12 2>/dev/null || true)"; do
    if [ -z "$python" ] && [ -n "$found" ] && "$found" -c '' 2>/dev/null; then python=$found; fi
  done
  if [ -z "$python" ]; then
    echo "policyengine_us_data needs Python 3.12: put python3.12 on PATH, or say make peer PEER_PYTHON312=/path" >&2
    exit 2
  fi
  "$python" -m venv "$folder/env"
  pip="$folder/env/bin/python -m pip install --disable-pip-version-check --quiet"
  $pip --requirement "$here/requirements.txt"
  $pip --no-deps policyengine-us-data==1.115.4
  touch "$folder/env/.installed"
fi
if [ ! -e "$folder/policy_data.db" ]; then
  "$folder/env/bin/python" "$here/make_database.py" "$folder/policy_data.db"
fi
