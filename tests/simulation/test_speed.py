"""What is kept between calculations of the rules engine changes no bit of what it gives."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest

from distcalib.geography import assign_geography
from distcalib.geography.sources import county_shares, districts
from distcalib.geography.states import STATE_FIPS
from distcalib.matrix import measures
from distcalib.matrix.cells import household_values
from distcalib.matrix.measures import Rows
from distcalib.microdata import bundled_microdata
from distcalib.simulation import engine, speed
from distcalib.simulation.missing import refuse_empty_scales
from distcalib.simulation.speed import repeats_spared
from distcalib.targets.choose import load_targets


@pytest.fixture(scope="module")
def rows():
    """All measures of the bundled targets."""
    table = districts()
    return Rows.of(load_targets("bundled", 2024, set(table["cd_geoid"])).rows)


def spared(state, households, rows):
    """Return the measures of households of the whole source, all in one state, as tasks compute them."""
    source = bundled_microdata()
    table = districts()
    here = table[table["state"] == state]
    records = np.linspace(0, source.count() - 1, households).astype(int)
    assignment = assign_geography(source.ids["household"], 1, here, county_shares(), 1)
    return household_values(source, assignment, records, rows, seed=3, take_up=True)


def both_ways(state, households, rows, monkeypatch):
    """Return the measures as tasks compute them and as the rules engine does by itself, in another order."""
    ours = spared(state, households, rows)
    with monkeypatch.context() as without:
        without.setattr(engine, "repeats_spared", nullcontext)
        without.setattr(measures, "FIRST", ())
        return ours, spared(state, households, rows)


@pytest.mark.slow
def test_the_tax_system_of_an_earlier_year_is_cloned_once_and_gives_the_same(rows, monkeypatch):
    from policyengine_core.taxbenefitsystems import TaxBenefitSystem

    first, plain = both_ways("NY", 60, rows, monkeypatch)
    assert first.tobytes() == plain.tobytes()
    # The clone holds nobody's arrays.
    assert speed._pins
    assert all("simulation" not in vars(system) for _, system in speed._pins.values())
    clones, clone = [], TaxBenefitSystem.clone
    monkeypatch.setattr(TaxBenefitSystem, "clone", lambda self: clones.append(self) or clone(self))
    again = spared("NY", 60, rows)
    assert again.tobytes() == plain.tobytes()
    assert clones == []


def test_what_is_spared_changes_no_bit(rows, monkeypatch):
    for state in ("NC", "NY"):
        ours, plain = both_ways(state, 150, rows, monkeypatch)
        assert ours.shape == (150, len(rows.within(STATE_FIPS[state])))
        assert ours.tobytes() == plain.tobytes()
        assert (ours != 0).any(axis=0).mean() > 0.5


@pytest.mark.slow
def test_what_is_spared_changes_no_bit_of_any_measure_in_any_state(rows, monkeypatch):
    seen = np.zeros(len(rows.measures), dtype=bool)
    for state in sorted(districts()["state"].unique()):
        ours, plain = both_ways(state, 120, rows, monkeypatch)
        assert ours.tobytes() == plain.tobytes(), state
        seen[list(rows.within(STATE_FIPS[state]))] |= (ours != 0).any(axis=0)
    # Nearly every measure was put to the test with something to count.
    assert seen.mean() > 0.95


def test_a_lookup_is_that_of_the_engine_for_every_kind_of_key_and_its_errors_stay(monkeypatch):
    from policyengine_core.errors import ParameterNotFoundError
    from policyengine_core.parameters import VectorialParameterNodeAtInstant as Node
    from policyengine_us.system import system
    from policyengine_us.variables.household.demographic.tax_unit.filing_status import FilingStatus

    parameters = system.parameters("2024-01-01")
    single_level = parameters.gov.irs.deductions.standard.amount
    two_levels = parameters.gov.hhs.fpg
    names = np.array(["JOINT", "SINGLE", "JOINT", "SEPARATE"])
    keys = [names, names.astype(object), FilingStatus.encode(names), names[:1], names[:0]]
    groups = np.array(["CONTIGUOUS_US", "HI", "AK"], dtype=object)
    sizes = np.array([1, 2, 1, 3])

    def looked_up():
        yield from (single_level[key] for key in keys)
        yield two_levels.first_person[groups]
        yield two_levels[np.array(["first_person", "additional_person"])][groups[:2]]
        yield parameters.gov.irs.credits.eitc.phase_out.rate.calc(sizes)

    plain = [np.asarray(found) for found in looked_up()]
    asked = []

    def counted(self, key, look_up=Node.__getitem__):
        asked.append(key)
        return look_up(self, key)

    monkeypatch.setattr(Node, "__getitem__", counted)
    with repeats_spared():
        for _ in range(2):
            asked.clear()
            kept = [np.asarray(found) for found in looked_up()]
            assert [k.tobytes() for k in kept] == [p.tobytes() for p in plain]
            assert [k.dtype for k in kept] == [p.dtype for p in plain]
        # The second time the engine looks up but what has no table: one key, none, and the second level.
        assert [len(key) for key in asked] == [1, 0, 2]
        with pytest.raises(ParameterNotFoundError, match="NOBODY"):
            single_level[np.array(["JOINT", "NOBODY"])]
    assert Node.__getitem__ is counted


def test_tables_stay_until_the_last_of_several_simulations_ends():
    from policyengine_core.parameters import VectorialParameterNodeAtInstant as Node

    look_up = Node.__getitem__
    first, second = repeats_spared(), repeats_spared()
    first.__enter__()
    patched = Node.__getitem__
    second.__enter__()
    first.__exit__(None, None, None)
    assert Node.__getitem__ is patched is not look_up
    second.__exit__(None, None, None)
    assert Node.__getitem__ is look_up


def test_the_menu_of_areas_is_that_of_the_calculator_and_is_read_once(monkeypatch):
    from policyengine_us.system import system
    from spm_calculator.rolling_forecast import SPMForecast

    forecast, read = system.spm_forecast_provider.forecast, []
    original = SPMForecast.areas_for_year
    plain = forecast.areas_for_year(2024)

    def counted(self, *args, **named):
        read.append(args)
        return original(self, *args, **named)

    monkeypatch.setattr(SPMForecast, "areas_for_year", counted)
    monkeypatch.setattr(speed, "_menus", {})
    with repeats_spared():
        kept = forecast.areas_for_year(2024)
        assert len(kept) > 300
        assert kept == plain
        kept.clear()
        assert forecast.areas_for_year(2024) == plain
        assert len(read) == 1
        with pytest.raises(ValueError, match="1990"):
            forecast.areas_for_year(1990)


def put_in() -> set[str]:
    """Return what the rules engine and its packages have of ours: functions with code of distcalib."""
    packages, home = ("policyengine_core", "policyengine_us", "spm_calculator", "microdf"), engine.__file__
    found = set()
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] in packages]:
        for owner in (module, *(c for c in vars(module).values() if isinstance(c, type))):
            found |= {
                f"{owner.__name__}.{name}"
                for name, value in vars(owner).items()
                if isinstance(value, FunctionType)
                and value.__code__.co_filename.startswith(str(Path(home).parent))
            }
    return found


def test_a_file_opened_with_nothing_spared_has_the_engine_as_it_is_installed(tmp_path):
    bundled_microdata().take(np.arange(2)).write(tmp_path / "two.h5")
    with engine.open_slice(tmp_path / "two.h5", 2024) as opened:
        opened.calculate("snap")
        # Which gives no value, but an error; see the next test.
        assert put_in() == {"ParameterScale._get_at_instant"}
    with engine.open_slice(tmp_path / "two.h5", 2024, spared=True):
        assert {"SPMForecast.areas_for_year", "PolicyEngineSPMProvider._amounts"} < put_in()
        assert {"VectorialParameterNodeAtInstant.__getitem__", "MicroSeries.set_weights"} < put_in()
    assert put_in() == {"ParameterScale._get_at_instant"}


def test_a_scale_without_a_value_is_missing_and_all_others_are_the_engines():
    """On parameters as they are packaged: the engine carries first values back, and has no such scale."""
    from policyengine_core.parameters import ParameterNode, ParameterScale

    refuse_empty_scales()
    original = ParameterScale._get_at_instant.__wrapped__
    folder = Path(find_spec("policyengine_us").origin).parent / "parameters/gov/irs"
    scales = [
        one
        for one in ParameterNode("irs", directory_path=str(folder)).get_descendants()
        if isinstance(one, ParameterScale)
    ]
    missing = 0
    for scale in scales:
        ours, theirs = scale._get_at_instant("2024-01-01"), original(scale, "2024-01-01")
        if ours is None:
            missing += 1
            assert vars(theirs)["thresholds"] == []
        else:
            assert type(ours) is type(theirs)
            assert repr(vars(ours)) == repr(vars(theirs))
    assert 0 < missing < len(scales) / 2
