"""Wrote calibration_package.pkl, as PolicyEngine's pipeline writes it, with pandas 2.3.3 and numpy 2.4.6.

``python make_package.py calibration_package.pkl`` in an environment of their own: pandas 3 writes others.
"""

import pickle
import sys

import numpy as np
import pandas as pd
from scipy import sparse

NAMES = ["national/snap", "state_6/snap", "cd_601/person_count/[age<5,age>=0]"]


def package() -> dict:
    """Return three targets of four columns."""
    targets = pd.DataFrame(
        {
            "target_id": [11, 12, 13],
            "stratum_id": [1, 2, 3],
            "variable": ["snap", "snap", "person_count"],
            "value": [1000.0, 400.0, 50.0],
            "period": [2024, 2024, 2022],
            "geo_level": ["national", "state", "district"],
            "geographic_id": ["US", "6", "601"],
            "domain_variable": [None, None, "age"],
            "reform_id": [0, 0, 0],
            "tolerance": [np.nan, 5.0, np.nan],
            "active": [True, True, True],
        }
    )
    cells = np.array([[10, 0, 5, 20], [10, 0, 5, 0], [1, 2, 0, 0]], dtype=np.float32)
    metadata = {"seed": 42, "n_clones": 2, "created_at": "2026-05-01T00:00:00"}
    return {
        "X_sparse": sparse.csr_matrix(cells),
        "targets_df": targets,
        "target_names": list(NAMES),
        "metadata": {**metadata, "chunks": {"size": np.int64(3)}, "base_n_records": np.int64(2)},
        "initial_weights": np.array([20.0, 20, 20, 20]),
        "cd_geoid": np.array(["601", "601", "602", "3701"]),
        "block_geoid": np.array(["060014001001005"] * 4, dtype=object),
    }


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        pickle.dump(package(), file, protocol=pickle.HIGHEST_PROTOCOL)
