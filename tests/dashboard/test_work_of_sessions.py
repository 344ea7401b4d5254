"""What workers do for a session, and the queue that it waits in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from distcalib import fit_weights
from distcalib.cli import main
from distcalib.config import RunConfig
from distcalib.config.yaml_text import parse_yaml
from distcalib.dashboard.checking import checks
from distcalib.dashboard.problem import Problem, build
from distcalib.dashboard.results import by_group, supporters, weights_table
from distcalib.dashboard.server import check_address, find_runs, origins
from distcalib.dashboard.work import SOLVERS, Settings, calibrate, tune, why, yaml_of
from distcalib.errors import InputError
from distcalib.fit import FitSpec
from distcalib.fit.dense import METHODS, calibrate_dense
from distcalib.runs.jobs import CANCELLED, DONE, FAILED, WAITING, Jobs, open_jobs


@pytest.fixture(scope="module")
def problem() -> Problem:
    rng = np.random.default_rng(5)
    n = 400
    survey = pd.DataFrame(
        {"hh_id": np.arange(n) + 7, "weight": 100.0, "region": rng.choice(["N", "S", "W"], n),
         "persons": rng.integers(1, 6, n), "income": rng.gamma(2, 20_000, n).round()}
    )  # fmt: skip
    truth = 100 * rng.gamma(4, 0.25, n)
    rows = [
        {"variable": v, "region": r, "group": g,
         "value": float(np.sum(truth * (1 if v == "count" else survey[v]) * (survey["region"] == r)))}
        for v, g in (("count", "households"), ("persons", "persons"), ("income", "income")) for r in "NSW"
    ]  # fmt: skip
    return build(survey, pd.DataFrame(rows), "weight", "s.csv", "t.csv")


@pytest.fixture(scope="module")
def folder(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problem") / "p"
    problem.save(path)
    return path


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_every_solver_says_its_steps_and_comes_closer(solver, folder, problem, tmp_path):
    said: list[dict] = []
    settings = Settings(solver=solver, records=150, epochs=200, lower=0.05, upper=20)
    outcome = calibrate(folder, settings, said.append)
    steps = [row["step"] for row in said]
    assert len(said) >= 2
    assert steps == sorted(steps)
    assert all(np.isfinite(row["loss"]) for row in said)
    errors = outcome.targets
    assert errors["error"].abs().median() < 0.3 * errors["error_before"].abs().median()
    np.testing.assert_allclose(problem.X @ outcome.weights, errors["after"], rtol=1e-12)
    if solver == "reweighted":
        assert np.count_nonzero(outcome.weights) == 150
    section, settings_again = next(iter(parse_yaml(outcome.yaml, "settings.yaml").items()))
    if solver in METHODS:
        assert section == "calibrate_dense"
        dense = calibrate_dense(problem.X, problem.targets["value"], problem.weights, **settings_again)
        assert dense.weights.tolist() == outcome.weights.tolist()
    else:
        again = fit_weights(problem.X, problem.targets["value"], initial_weights=problem.weights,
                            **settings_again)  # fmt: skip
        assert again.weights.tolist() == outcome.weights.tolist()
        assert FitSpec.of(**settings_again) == again.spec
        (tmp_path / "run.yaml").write_text(outcome.yaml)
        assert RunConfig.load(tmp_path / "run.yaml").fit.selector == again.spec.selector


@pytest.mark.parametrize("solver", ["gates", "raking"])
def test_what_is_said_changes_nothing(solver, folder, problem):
    outcome = calibrate(folder, Settings(solver=solver, epochs=120), [].append)
    if solver == "gates":
        silent = problem.calibration(l0_lambda=0.01, selector="gates").calibrate(120)
        assert silent.tolist() == outcome.weights.tolist()
    loud = calibrate(folder, Settings(solver=solver, epochs=120), lambda row: time.sleep(0.001))
    assert loud.weights.tolist() == outcome.weights.tolist()


def test_held_out_targets_are_not_fitted(folder):
    for solver in ("all", "raking"):
        outcome = calibrate(folder, Settings(solver=solver, holdout=0.3), [].append)
        status = outcome.targets["status"]
        assert (status == "held out").sum() == 3
        assert "held-out targets" in outcome.facts
    assert (outcome.targets["error"].abs()[status == "fitted"] < 1e-6).all()
    assert (outcome.targets["error"].abs()[status == "held out"] > 1e-4).any()


def test_figures_of_a_group_are_those_of_its_fitted_targets(folder):
    targets = pd.DataFrame(
        {"group": ["a", "a", "a", "a", "b"],
         "status": ["fitted", "fitted", "held out", "unreachable", "held out"],
         "error_before": [0.5, -0.3, 0.9, 1.0, 0.2], "error": [0.02, -0.08, 0.6, -1.0, -0.3]}
    )  # fmt: skip
    groups = by_group(targets).set_index("group")
    assert groups.loc["a"].to_dict() == pytest.approx(
        {"targets": 4, "fitted": 2, "median_before": 0.4, "median": 0.05, "largest": 0.08,
         "within_5_percent": 0.5, "held_out": 1, "held_out_median": 0.6}
    )  # fmt: skip
    assert groups.loc["b", ["targets", "fitted", "held_out", "held_out_median"]].tolist() == [1, 0, 1, 0.3]
    assert groups.loc["b", ["median", "largest", "within_5_percent"]].isna().all()
    assert "held_out" not in by_group(targets[targets["status"] == "fitted"])
    outcome = calibrate(folder, Settings(solver="raking", holdout=0.3), [].append)
    fitted = outcome.targets[outcome.targets["status"] == "fitted"]
    assert by_group(outcome.targets)["fitted"].sum() == len(fitted) == 6
    assert by_group(outcome.targets)["largest"].max() == fitted["error"].abs().max()


def test_bad_settings_say_what_would_be_right(folder):
    for settings, words in (
        (Settings(solver="rakin"), "did you mean 'raking'"),
        (Settings(solver="logit", lower=1.5), "lower < 1 < upper"),
        (Settings(solver="reweighted", records=4000), "records"),
        (Settings(solver="gates", l0_lambda=1e6), "penalty is too high"),
        (Settings(holdout=1.0), "holdout"),
    ):
        with pytest.raises(InputError, match=words):
            calibrate(folder, settings, [].append)


def test_tuning_says_each_fit_and_chooses(folder):
    said: list[dict] = []
    best, table = tune(folder, (1e-4, 1e-1), 3, 2, 60, Settings(), said.append)
    assert 1e-4 <= best <= 1e-1
    assert len(table) == 3
    assert [row["step"] for row in said] == list(range(1, len(said) + 1))
    assert 3 <= len(said) <= 6


def test_the_checks_name_what_cannot_be_met(problem):
    survey = problem.survey.assign(note=["x", None] * 200)
    ids = 100.0 * survey["hh_id"].sum()
    targets = pd.DataFrame(
        {
            "variable": ["persons", "income", "count", "hh_id"],
            "value": [1e9, -5.0, 40_000.0, ids],
            "group": "g",
        }
    )
    told, missing, table = checks(build(survey, targets, "weight", "s", "t"))
    findings = dict(zip(table["target_name"], table["findings"], strict=True))
    assert "beyond bounds" in findings["persons"]
    assert findings["income"].startswith("unreachable")
    assert findings["count"] == ""
    assert table["target_name"].tolist() == ["persons", "income", "count", "hh_id"]
    assert missing["column"].tolist() == ["note"]
    assert missing["missing_values"].tolist() == [200]
    assert told["targets with a finding"] == "2"
    assert told["targets that exclude each other"] == "0"


def test_targets_that_exclude_each_other_are_told_before_and_after(problem, tmp_path):
    parts = problem.targets[problem.targets["variable"] == "count"].drop(columns="name")
    assert len(parts) > 1
    whole = pd.DataFrame({"variable": ["count"], "value": [1.5 * parts["value"].sum()], "group": "g"})
    twice = build(problem.survey, pd.concat([parts, whole], ignore_index=True), "weight", "s", "t")
    told, _, table = checks(twice)
    assert told["targets that exclude each other"] == f"{len(parts) + 1}"
    assert table["findings"].str.startswith("not together with").all()
    twice.save(tmp_path / "twice")
    targets = calibrate(tmp_path / "twice", Settings(epochs=100), [].append).targets
    assert (targets["error"].abs() > 0.05).any()
    assert targets["why"].str.startswith("not together with count").any()


def test_a_miss_without_a_finding_is_a_compromise():
    analysis = pd.DataFrame({"findings": ["", "", "few households"]})
    assert why(analysis, pd.Series([-0.06, 0.05, 1.0])).tolist() == ["compromise", "", "few households"]


def test_the_records_behind_a_target_are_those_that_give_most(problem, folder):
    outcome = calibrate(folder, Settings(solver="raking"), [].append)
    row = problem.names.index("income region=S")
    table = supporters(problem, outcome, row, most=10)
    gives = problem.survey["income"] * outcome.weights * (problem.survey["region"] == "S")
    assert table["gives"].tolist() == sorted(gives, reverse=True)[:10]
    assert table["share"].sum() == pytest.approx(table["gives"].sum() / gives.sum())
    assert (table["region"] == "S").all()
    assert table["hh_id"].tolist() == (table["record"] + 7).tolist()
    groups = by_group(outcome.targets)
    assert groups["group"].tolist() == ["households", "persons", "income"]
    assert groups["targets"].tolist() == [3, 3, 3]
    assert weights_table(problem, outcome).columns.tolist() == ["record", "hh_id", "weight_before", "weight"]
    named = replace(problem, survey=problem.survey.rename(columns={"income": "share"}), weight=None)
    table = supporters(named, outcome, row, most=10)
    assert {"weight", "weight (survey)", "share", "share (survey)"} <= set(table.columns)
    assert table.columns.is_unique


def test_yaml_says_numbers_that_yaml_reads_as_numbers():
    given = {"a": 1e-05, "b": 1.5e-7, "c": 3, "d": 0.25, "e": None, "f": True, "g": [0, 1e22], "h": "raking"}
    assert parse_yaml(yaml_of("fit", given), "x") == {"fit": given}
    assert parse_yaml(yaml_of("fit", {}), "x") == {"fit": {}}


def counting(number: int, say) -> int:
    for i in range(number):
        say({"step": i})
        time.sleep(0.05)
    return os.getpid()


def failing(words: str, say) -> None:
    raise InputError(words) if words else ValueError("not foreseen\nat all")


def until(look, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_jobs_take_turns_say_how_far_they_are_and_end_at_once():
    with open_jobs(1, "1GiB") as jobs:
        first, second, third = (jobs.submit(counting, n) for n in (5, 10_000, 3))
        assert (jobs.ahead(second), jobs.ahead(third)) == (1, 2)
        until(lambda: first.state == DONE)
        assert [row["step"] for row in first.said] == list(range(5))
        assert first.result != os.getpid()
        until(lambda: len(second.said) > 2)
        assert (jobs.ahead(second), jobs.ahead(third), third.state) == (0, 1, WAITING)
        jobs.cancel(second)
        assert second.state == CANCELLED
        with pytest.raises(ProcessLookupError):
            until(lambda: os.kill(second.process, 0), 5)
        until(lambda: third.state == DONE)
        assert third.result != first.result
        waiting = [jobs.submit(counting, 100), jobs.submit(counting, 1)]
        jobs.cancel(waiting[1])
        jobs.cancel(waiting[0])
        assert [job.state for job in waiting] == [CANCELLED] * 2
        bad, worse = jobs.submit(failing, "said so"), jobs.submit(failing, "")
        until(lambda: worse.state == FAILED)
        assert str(bad.error) == "said so"
        assert str(worse.error) == "not foreseen"


@pytest.mark.slow
def test_a_cancel_takes_no_job_of_others_along():
    with open_jobs(2, "1GiB") as jobs:
        first, second = jobs.submit(counting, 10_000), jobs.submit(counting, 10_000)
        until(lambda: first.said and second.said)
        third, fourth = jobs.submit(counting, 40), jobs.submit(counting, 1)
        jobs.cancel(first)
        time.sleep(0.3)  # the third could only run where the second does
        jobs.cancel(second)
        until(lambda: third.ended and fourth.ended)
        assert (third.state, fourth.state) == (DONE, DONE)


def test_addresses_that_others_reach_are_refused_unless_that_was_said():
    for address in ("127.0.0.1", "localhost", "::1"):
        check_address(address, False)
    for address in ("0.0.0.0", "::", "192.0.2.7"):
        with pytest.raises(InputError, match=r"neither passwords nor encryption.*--allow-unencrypted"):
            check_address(address, False)
        check_address(address, True)
    with pytest.raises(InputError, match="is no address"):
        check_address("no such host", False)


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "panel", None)
    said = CliRunner().invoke(main, ["dashboard", "--port", "0"])
    assert said.exit_code == 2
    assert "pip install 'distcalib[dashboard]'" in said.stderr


def test_browsers_know_a_machine_by_its_names_alone():
    assert origins("127.0.0.1", 80) == ["127.0.0.1:80", "localhost:80"]
    assert origins("::1", 80) == ["[::1]:80", "localhost:80"]
    everyone = origins("0.0.0.0", 80)
    assert f"{socket.gethostname()}:80" in everyone
    assert "*:80" not in everyone


def test_runs_are_those_named(tmp_path):
    for name in ("a/demo", "b/demo", "b/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "plan.json").write_text("{}")
    (tmp_path / "b" / "notes").mkdir()
    assert find_runs([tmp_path / "a" / "demo"], []) == {"demo": tmp_path / "a" / "demo"}
    found = find_runs([tmp_path / "a" / "demo"], [tmp_path / "b"])
    assert set(found) == {str(tmp_path / "a" / "demo"), str(tmp_path / "b" / "demo"), "other"}
    with pytest.raises(InputError, match="is no run folder"):
        find_runs([tmp_path / "b" / "notes"], [])
    with pytest.raises(InputError, match="holds no run folders"):
        find_runs([], [tmp_path / "b" / "notes"])


def test_a_job_whose_worker_is_gone_already_can_be_cancelled():
    gone = subprocess.Popen(["true"])
    gone.wait()
    jobs = Jobs(SimpleNamespace(subscribe_topic=lambda *_: None), workers=0)
    job = jobs.submit(counting, 1)
    job.process = gone.pid
    jobs._running[job.id] = job
    jobs.cancel(job)
    assert job.state == CANCELLED
