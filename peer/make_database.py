"""Make the peer's target database with its own steps, from the source files that its package caches.

python make_database.py FILE

Runs in the peer's environment, without network. Its steps write into the package's own folder; the finished
file is moved from there.
"""

import importlib
import shutil
import sys
from pathlib import Path

YEAR = "2024"
STEPS = ("create_initial_strata", "etl_national_targets", "etl_age", "etl_medicaid", "etl_snap")


def main():
    """Run the steps in order and move the database to its place once all are done."""
    from policyengine_us_data.db.create_database_tables import create_database
    from policyengine_us_data.storage import STORAGE_FOLDER

    made, wanted = STORAGE_FOLDER / "calibration" / "policy_data.db", Path(sys.argv[1]).resolve()
    made.parent.mkdir(exist_ok=True)
    made.unlink(missing_ok=True)
    create_database()
    for step in STEPS:
        sys.argv = [step, "--year", YEAR]
        importlib.import_module(f"policyengine_us_data.db.{step}").main()
    shutil.move(made, wanted)


if __name__ == "__main__":
    main()
