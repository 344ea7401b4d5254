"""Cost of the stages that are ours, on the bundled data: placement, take-up, measures, assembly, districts.

Run with ``make bench``. Not part of the tests: times are for reading, never for passing.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from distcalib.catalogue import catalogue
from distcalib.geography import assign_geography
from distcalib.geography.assign import draw_districts
from distcalib.geography.sources import county_shares, districts
from distcalib.matrix.blocks import assemble, write_block
from distcalib.matrix.measures import Rows, evaluate
from distcalib.microdata import bundled_microdata
from distcalib.random import uniform
from distcalib.simulation.place import place
from distcalib.targets.sources import bundled_targets


@pytest.fixture(scope="module")
def bundled():
    return bundled_microdata()


def test_counter_based_draws_one_million(benchmark):
    ids = np.arange(1_000_000)
    benchmark(uniform, 0, "takes_up_snap_if_eligible", ids, 3)


def test_draw_districts_12000_households_3_clones(benchmark, bundled):
    shares = districts()["population"].to_numpy(float)
    benchmark(draw_districts, bundled.ids["household"], 3, shares / shares.sum(), 0)


def test_place_700_households_with_take_up(benchmark, bundled):
    assignment = assign_geography(bundled.ids["household"], 3, districts(), county_shares(), 0)
    columns = np.flatnonzero(assignment.state_fips == 37)[:700]
    place(bundled, assignment, columns)
    benchmark(place, bundled, assignment, columns)


def test_evaluate_500_measures_for_12000_households(benchmark, bundled):
    """The bundled targets' measures, over random values in place of the rules engine's."""
    targets = bundled_targets()
    measures = Rows.of(targets[(targets["status"] != "excluded") & (targets["reform_id"] == 0)]).measures
    held = bundled.variables()
    values = {}
    for variable in sorted(set().union(*(measure.needs for measure in measures))):
        known = catalogue().get(variable)
        draws = uniform(0, variable, bundled.ids[known.entity])
        if variable in held:
            values[variable] = bundled.column(variable)
        elif known.value_type == "Enum":
            names = np.array(known.possible_values)
            values[variable] = names[(draws * len(names)).astype(int)]
        else:
            values[variable] = draws < 0.3 if known.value_type == "bool" else (draws * 1e5).astype(np.float32)
    benchmark(evaluate, measures, bundled, values.__getitem__)


def test_write_an_area_file_of_700_households(benchmark, bundled, tmp_path):
    assignment = assign_geography(bundled.ids["household"], 3, districts(), county_shares(), 0)
    data = place(bundled, assignment, np.flatnonzero(assignment.state_fips == 37)[:700])
    benchmark(data.write, tmp_path / "NC.h5")


def test_assemble_50_blocks_of_5_million_cells(benchmark, tmp_path):
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 50, 36_000)
    paths = []
    for block in range(50):
        columns = np.flatnonzero(owner == block)
        per_row = 9
        indices = np.sort(rng.choice(columns, (11_000, per_row)), axis=1).astype(np.int32)
        matrix = sparse.csr_array(
            (np.ones(indices.size, np.float32), indices.ravel(), np.arange(11_001, dtype=np.int64) * per_row),
            shape=(11_000, 36_000),
        )
        matrix.sum_duplicates()
        paths.append(tmp_path / str(block))
        write_block(paths[-1], matrix)
    benchmark.pedantic(assemble, args=(paths,), rounds=3)
