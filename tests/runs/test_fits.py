"""The fits of a run: what a further one inherits, and settings that are refused by the plan."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distcalib import RunConfig
from distcalib.config import FitConfig
from distcalib.config.settings import starting_text
from distcalib.errors import InputError
from distcalib.runs.fits import check_fits, with_numbers
from distcalib.runs.fitting import fit_arguments, held_out
from distcalib.runs.plan import make_plan, read_run_targets


def with_fits(settings: Path, text: str) -> RunConfig:
    lines = [line for line in settings.read_text().splitlines() if not line.startswith(("fit:", "fits:"))]
    settings.write_text("\n".join([*lines, text]))
    return RunConfig.load(settings)


def test_a_further_fit_is_as_the_first_but_for_what_it_names(settings):
    config = with_fits(settings, "fit: {epochs: 33, ridge: 0.5}\nfits: {a: {records: 9}, b: null}")
    assert config.fits["a"].epochs == config.fits["b"].epochs == 33
    assert config.fits["a"].records == 9
    assert config.fits["b"] == config.fit
    prepared = make_plan(config)
    assert prepared.plan.engines == {"": "cpu", "a": "cpu", "b": "cpu"}
    assert prepared.plan.facts["tasks"]["fit"] == 3
    # Room for the weights of each, and for six arrays of its checkpoint while that is written anew.
    alone = make_plan(with_fits(settings, "fit: {epochs: 33}")).plan.facts
    assert prepared.plan.facts["bytes"] - alone["bytes"] == 2 * (8 + 96) * alone["columns"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fits: [a]", ["run.yaml: fits", "table of sections"]),
        ("fits: {../a: {records: 9}}", ["run.yaml: fits", "'../a'", "US-50k"]),
        ("fits: {a: {record: 9}}", ["run.yaml: fits.a", "did you mean 'records'"]),
        ("fits: {a: {records: 0}}", ["run.yaml: fits.a.records", "at least 1"]),
        ("fit: {multipliers: [snap]}", ["run.yaml: fit.multipliers", "NAME: number"]),
        ("fit: {multipliers: {snap: -1}}", ["run.yaml: fit.multipliers.snap", "at least 0"]),
        ("fit: {selector: gate}", ["run.yaml: fit.selector", "did you mean 'gates'"]),
    ],
)
def test_wrong_fits_are_refused_when_read(settings, text: str, words: list[str]):
    with pytest.raises(InputError) as error:
        with_fits(settings, text)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fits: {a: {records: 99999999}}", ["run.yaml: fits.a.records", "at most"]),
        ("fits: {a: {records: 9, epochs: 0}}", ["run.yaml: fits.a.epochs", "more than 0"]),
        ("fits: {a: {selector: reweighted}}", ["run.yaml: fits.a.records", "selector gates"]),
        ("fits: {a: {records: 9, selector: reweighted, loss: huber}}", ["run.yaml: fits.a.selector"]),
        (
            "fits: {a: {records: 9, selector: reweighted, lambda_l0: 1.0e-6}}",
            ["run.yaml: fits.a.lambda_l0", "null"],
        ),
        (
            "fit: {records: 9, selector: reweighted, engine: torch}",
            ["run.yaml: fit.engine", "selector gates"],
        ),
        ("fit: {engine: l0, records: 9}", ["run.yaml: fit.engine", "engine auto"]),
        ("fit: {weight_ratio: 0.5}", ["run.yaml: fit.weight_ratio", "1 or more"]),
        ("fits: {a: {records: 1.0e-4}}", ["run.yaml: fits.a.records", "0.0001", "of 300 columns", "0.0033"]),
        (
            "fit: {multipliers: {person_cout: 2}}",
            ["fit.multipliers", "did you mean 'person_count'"],
        ),
        ("fit: {multipliers: {person_count@county: 2}}", ["run.yaml: fit.multipliers", "person_count@"]),
    ],
)
def test_fits_that_cannot_be_are_refused_by_the_plan(settings, text: str, words: list[str]):
    config = with_fits(settings, text)
    with pytest.raises(InputError) as error:
        make_plan(config)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_records_that_are_a_share_are_the_plan_of_their_number(settings):
    share = make_plan(with_fits(settings, "fit: {records: 0.5}\nfits: {a: null, b: {records: 0.2}}")).plan
    number = make_plan(with_fits(settings, "fit: {records: 150}\nfits: {a: null, b: {records: 60}}")).plan
    assert share.digest() == number.digest()
    assert share.to_json()["run"] == number.to_json()["run"]


def test_a_share_is_of_the_columns_that_can_have_a_weight():
    weights = np.array([0.0, 2.0, 0.0, 1.0, 3.0, 2.0])
    counts = [with_numbers(RunConfig(fit=FitConfig(records=r)), weights).fit.records for r in (0.5, 3, None)]
    assert counts == [2, 3, None]


def test_the_settings_that_config_new_writes_do_for_few_households_and_for_many(settings, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(starting_text("demo"))
    assert make_plan(RunConfig.load(mine, {"households": 300})).plan.run.fit.records == 450
    config = RunConfig.load(mine)
    weights = np.ones(3 * 60_001)
    targets = read_run_targets(config)
    check_fits(with_numbers(config, weights), targets, weights)
    few = RunConfig.load(mine, {"fit.records": 18_000})
    with pytest.raises(
        InputError, match=r"18,000 records stand for 99% .*more than 10\.0002.*more than 18,001"
    ):
        check_fits(few, targets, weights)


def test_a_limit_of_weights_that_is_too_low_says_how_many_records_would_do(settings):
    config = with_fits(settings, "fits: {a: {records: 3, weight_ratio: 2}}")
    with pytest.raises(InputError) as error:
        make_plan(config)
    (least,) = re.findall(
        r"or fits\.a\.records of more than (\d+), or a share of the columns", str(error.value)
    )
    assert "run.yaml: fits.a.weight_ratio: lets 3 records stand for" in str(error.value)
    with pytest.raises(InputError, match=r"fits\.a\.weight_ratio"):
        make_plan(with_fits(settings, f"fits: {{a: {{records: {int(least) - 1}, weight_ratio: 2}}}}"))
    make_plan(with_fits(settings, f"fits: {{a: {{records: {int(least) + 1}, weight_ratio: 2}}}}"))


def test_a_plan_warns_where_the_limit_of_weights_leaves_little_room(settings):
    def of(text: str) -> list[str]:
        return [w for w in make_plan(with_fits(settings, text)).plan.warnings if "weight_ratio" in w]

    assert of("fits: {a: {records: 60, weight_ratio: 20}, b: {records: 60}}") == []
    (said,) = of("fit: {records: 250, weight_ratio: 20}\nfits: {a: {records: 60, weight_ratio: 6}}")
    assert said.startswith("fits.a.weight_ratio: 60 of 300 columns")
    assert "more fits.a.records" in said


def targets() -> pd.DataFrame:
    places = [
        ("state", "56"),
        ("state", "33"),
        ("district", "5600"),
        ("district", "3301"),
        ("district", "3302"),
    ]
    rows = [(v, level, area) for v in ("snap", "person_count", "tanf") for level, area in places]
    frame = pd.DataFrame(rows, columns=["variable", "geo_level", "geographic_id"])
    frame["group_id"] = frame.groupby(["variable", "geo_level"]).ngroup()
    return frame.assign(value=1.0, tolerance=0.07, domain_variable="", constraints="", reform_id=0)


def settings_of(**changes) -> dict:
    from dataclasses import asdict

    from distcalib.config import FitConfig

    return {**asdict(FitConfig()), **changes}


def test_multipliers_of_a_level_go_before_those_of_a_variable():
    told = settings_of(group_power=1.0, multipliers={"snap": 3.0, "snap@district": 5.0})
    frame = targets()
    weights = fit_arguments(frame, told, 0)["target_weights"]
    snap, district = frame["variable"] == "snap", frame["geo_level"] == "district"
    np.testing.assert_array_equal(weights, np.select([snap & district, snap], [5.0, 3.0], 1.0))


def test_tolerance_bands_are_those_of_the_targets_and_off_by_default():
    assert "tolerance" not in fit_arguments(targets(), settings_of(), 0)
    np.testing.assert_array_equal(
        fit_arguments(targets(), settings_of(tolerance_bands=True), 0)["tolerance"], 0.07
    )


def test_a_blocked_holdout_takes_a_variable_of_a_state_with_its_districts():
    frame = targets()
    held = fit_arguments(frame, settings_of(holdout=0.34), 0)["holdout"]
    assert held.dtype == bool
    assert 0 < held.sum() < len(frame)
    state = frame["geographic_id"].str[:2]
    whole = pd.Series(held).groupby([frame["variable"], state]).nunique()
    assert (whole == 1).all()
    assert fit_arguments(frame, settings_of(holdout=0.34, holdout_by="target"), 0)["holdout"] == 0.34


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.6])
def test_a_blocked_holdout_has_the_share_that_was_asked_for(share):
    states = np.repeat(np.arange(1, 41), 12)
    frame = pd.DataFrame(
        {
            "variable": np.tile([f"v{i}" for i in range(12)], 40),
            "geo_level": "state",
            "geographic_id": states.astype(str),
            "reform_id": 0,
            "domain_variable": "",
            "constraints": "",
            "group_id": 0,
            "tolerance": 0.05,
            "value": 1.0,
        }
    )
    held = held_out(frame, share, "place", 0)
    assert held.mean() == pytest.approx(share, abs=0.026)
    blocks = frame.assign(held=held).groupby(["variable", "geographic_id"])["held"]
    assert (blocks.min() == blocks.max()).all()
    with pytest.raises(InputError, match=r"fit\.holdout"):
        held_out(frame[:1], share, "place", 0)
