"""The commands that judge the fit of a run folder: right by other counts, repeatable, refused in words."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from click.testing import CliRunner
from judged_run import COLUMNS, DISTRICTS, FIT, write_run

from distcalib import RunConfig
from distcalib.cli import main
from distcalib.digest import digest_arrays
from distcalib.errors import InputError
from distcalib.fit import fit_weights
from distcalib.report.fit_plots import frontier_svg
from distcalib.runs.fitting import FitTask, fit, fit_arguments
from distcalib.runs.judge import Fitting, judge_tuning
from distcalib.runs.run_fit import RunFit
from distcalib.runs.tasks import Inputs
from distcalib.storage import sha256_file

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def test_errors_of_a_runs_fit_name_the_target_and_its_group(run, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "run")
    settings = {**asdict(FIT), "selector": "gates", "lambda_l0": 1e9, "epochs": 90}
    inputs = Inputs(str(tmp_path / "run"), "", "", "", "", 2024, 3, True)
    named = r"closed all 240 gates at epoch \d+ \(without any record row \d+ \((\w+)/\S+/(\w+)/\S*\), group "
    with pytest.raises(InputError) as error:
        fit(FitTask(inputs, "0", "cpu", settings, "few"))
    found = re.search(named + r"'\d+: \1 \2( by \w+)?' is furthest off\)", str(error.value))
    assert found, str(error.value)
    folds = pd.factorize(pd.read_parquet(run / "targets.parquet")["geo_level"])[0][
        : len(RunFit.read(run).values)
    ]
    answer = Fitting(RunFit.read(run, changes={"lambda_l0": 1e9, "epochs": 90}), folds % 2)
    with pytest.raises(InputError) as error:
        answer((0, {}))
    assert re.search(named, str(error.value)), str(error.value)


class Known:
    """The same run in dense arrays, for counts of our own."""

    def __init__(self, run: Path) -> None:
        from distcalib.matrix.blocks import read_block

        table = pd.read_parquet(run / "targets.parquet")
        self.rows = table[table["status"] == "fit"].reset_index(drop=True)
        self.sparse = read_block(run / "matrix.zarr" / "X")[np.flatnonzero(table["status"] == "fit")]
        self.X = self.sparse.toarray().astype(np.float64)
        self.value = self.rows["value"].to_numpy()
        self.initial = pd.read_parquet(run / "columns.parquet")["initial_weight"].to_numpy()
        size = self.rows.groupby("group_id")["value"].transform("size").to_numpy()
        self.share = size**-0.5

    def error(self, weights: np.ndarray, rows: np.ndarray) -> float:
        return float(np.mean(np.minimum(np.abs(self.X @ weights / self.value - 1), 1)[rows]))

    def fit(self, fitted: np.ndarray, **settings) -> np.ndarray:
        asked = {"epochs": 30, "refit_epochs": 60, "ridge": 0.02, "seed": 3, "engine": "cpu", **settings}
        return fit_weights(
            self.sparse[np.flatnonzero(fitted)], self.value[fitted], initial_weights=self.initial,
            target_weights=self.share[fitted], **asked,
        ).weights  # fmt: skip


@pytest.fixture(scope="module")
def known(run) -> Known:
    return Known(run)


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["fit", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_robustness_is_what_fits_without_each_fold_say_of_it(run, known, tmp_path):
    before = sha256_file(run)
    said = call(
        "robustness", run, "--folds", 3, "--output", tmp_path / "r.csv", "--targets", tmp_path / "t.csv"
    )
    table = pd.read_csv(tmp_path / "r.csv").set_index("fold")
    assert table.index.tolist() == ["0", "1", "2", "mean", "std_error"]
    each = pd.read_csv(tmp_path / "t.csv")
    assert each["name"].tolist() == known.rows["name"].tolist()
    state = each["geographic_id"].str[:2]
    blocks = each.assign(state=state)[["variable", "state", "fold"]].drop_duplicates()
    assert len(blocks) == len(blocks[["variable", "state"]].drop_duplicates())
    for fold in range(3):
        held = (each["fold"] == fold).to_numpy()
        weights = known.fit(~held)
        np.testing.assert_allclose(each.loc[held, "estimate"], (known.X @ weights)[held], rtol=1e-9)
        row = table.loc[str(fold)]
        assert row["error"] == pytest.approx(known.error(weights, held), rel=1e-9)
        assert row["error_uncalibrated"] == pytest.approx(known.error(known.initial, held), rel=1e-9)
        met = np.abs(known.X @ known.initial / known.value - 1)[held] <= 0.05
        assert row["within_uncalibrated"] == pytest.approx(met.mean())
    folds = table.loc[["0", "1", "2"]]
    difference = folds["error"] - folds["error_uncalibrated"]
    assert table.loc["mean", "difference"] == pytest.approx(difference.mean())
    assert table.loc["std_error", "difference"] == pytest.approx(difference.std() / np.sqrt(3))
    verdict = {True: "better", False: "worse"}[difference.mean() < 0]
    if abs(difference.mean()) < difference.std() / np.sqrt(3):
        verdict = "no telling apart"
    assert verdict in " ".join(said.split())
    assert sha256_file(run) == before


def test_by_family_no_row_of_a_variable_is_left_in_the_training(run, tmp_path):
    call(
        "robustness", run, "--by", "family", "--folds", 2, "--output", tmp_path / "r.csv", "--targets",
        tmp_path / "t.csv",
    )  # fmt: skip
    each = pd.read_csv(tmp_path / "t.csv")
    assert (each["fold"] >= 0).all()
    assert len(each[["variable", "fold"]].drop_duplicates()) == each["variable"].nunique()


def test_the_frontier_holds_what_independent_counts_give(run, known, tmp_path):
    said = call(
        "frontier", run, "--records", "60,0.5", "--holdout-folds", 2, "--output", tmp_path / "f.csv",
        "--plot", tmp_path / "f.svg",
    )  # fmt: skip
    call("robustness", run, "--folds", 2, "--output", tmp_path / "r.csv", "--targets", tmp_path / "t.csv")
    fold_of = pd.read_csv(tmp_path / "t.csv")["fold"].to_numpy()
    table = pd.read_csv(tmp_path / "f.csv")
    assert table["records"].tolist() == [60, 120]
    scale = np.maximum(np.abs(known.value), 0.1 * (np.abs(known.X) @ known.initial))
    share = known.share * len(known.share) / known.share.sum()
    everything = np.ones(len(known.value), dtype=bool)
    for row in table.itertuples():
        weights = known.fit(everything, records=row.records)
        estimate = known.X @ weights
        assert row.loss == pytest.approx(np.sum(share * ((estimate - known.value) / scale) ** 2), rel=1e-9)
        assert row.within_tolerance == pytest.approx(np.mean(np.abs(estimate / known.value - 1) <= 0.05))
        assert row.largest_ratio == pytest.approx((weights / known.initial).max())
        assert row.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
        districts = np.array(DISTRICTS)[np.arange(COLUMNS) % 4]
        of = [weights[(districts == d) & (weights > 0)] for d in DISTRICTS]
        least = min(w.sum() ** 2 / (w**2).sum() / len(w) for w in of)
        assert row.least_effective_share == pytest.approx(least)
        errors = [
            known.error(known.fit(fold_of != fold, records=row.records), fold_of == fold) for fold in (0, 1)
        ]
        assert row.held_out_error == pytest.approx(np.mean(errors), rel=1e-9)
        assert row.held_out_std_error == pytest.approx(abs(errors[0] - errors[1]) / 2, rel=1e-6)
    # The best of all weights within 0 and 50 design weights, by another solver.
    root = np.sqrt(share) / scale
    solved = scipy.optimize.lsq_linear(
        root[:, None] * known.X * known.initial, root * known.value, (0, 50), tol=1e-14
    )
    least = 2 * solved.cost
    assert (table["attainable_bound"] <= least * (1 + 1e-6)).all()
    assert (table["attainable_loss"] >= least * (1 - 1e-6)).all()
    assert (table["attainable_loss"] <= table["loss"]).all()
    assert table["attainable_within_tolerance"].iloc[0] >= table["within_tolerance"].max()
    assert f"{table['attainable_within_tolerance'].iloc[0]:.1%} of the fitted targets" in " ".join(
        said.split()
    )
    assert ET.parse(tmp_path / "f.svg").getroot().tag == f"{SVG}svg"


def test_without_folds_the_held_out_error_is_empty_and_bands_have_no_attainable_loss(run, tmp_path):
    asked = ["--records", "60", "--holdout-folds", 0, "--set", "tolerance_bands=true"]
    said = call("frontier", run, *asked, "--output", tmp_path / "f.csv")
    table = pd.read_csv(tmp_path / "f.csv")
    empty = ["held_out_error", "held_out_std_error", "attainable_loss", "attainable_within_tolerance"]
    assert table[empty].isna().all(axis=None)
    assert table["loss"].notna().all()
    assert "squared loss without tolerance bands" in " ".join(said.split())


def test_a_number_of_records_that_the_limits_do_not_allow_is_a_row_with_a_note(run, tmp_path):
    asked = ["--holdout-folds", 2, "--set", "weight_ratio=2.0"]
    said = call(
        "frontier", run, "--records", "24,0.9", *asked, "--output", tmp_path / "f.csv", "--plot",
        tmp_path / "f.svg",
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "f.csv")
    assert table["budget"].tolist() == [24, 216]
    figures = ["records", "loss", "held_out_error", "within_tolerance", "largest_ratio"]
    assert table.loc[0, figures].isna().all()
    assert table.loc[1, figures].notna().all()
    assert "fit.weight_ratio" in table.loc[0, "note"]
    assert pd.isna(table.loc[1, "note"])
    assert "24 records: fit.weight_ratio" in " ".join(said.split())
    alone = ["--records", "24", *asked, "--output", str(tmp_path / "g.csv")]
    refused = CliRunner().invoke(main, ["fit", "frontier", str(run), *map(str, alone)])
    assert refused.exit_code == 2
    assert "fit.weight_ratio" in refused.output
    assert not (tmp_path / "g.csv").exists()


def test_a_further_fit_is_judged_with_its_own_settings_and_changes_go_before_them(run, tmp_path):
    records = {}
    for name, asked in (
        ("own", []),
        ("few", ["--fit", "few"]),
        ("set", ["--fit", "few", "--set", "records=50"]),
        ("share", ["--set", "records=0.375"]),
    ):
        call("robustness", run, "--folds", 2, *asked, "--output", tmp_path / f"{name}.csv")
        records[name] = pd.read_csv(tmp_path / f"{name}.csv")["records"].iloc[0]
    assert records == {"own": 240, "few": 60, "set": 50, "share": 90}


def test_tuning_prints_lines_that_a_settings_file_takes(run, known, tmp_path):
    asked = ["tune", run, "--folds", 2, "--trials", 4, "--batch", 2, "--storage", tmp_path / "study.db"]
    said = call(*asked, "--output", tmp_path / "t.csv")
    trials = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert trials["trial"].tolist() == [-1, 0, 1, 2, 3]
    lines = said[said.index("fit:\n") :].splitlines()
    settings = tmp_path / "run.yaml"
    settings.write_text("\n".join(line for line in lines if line.startswith(("fit:", "  "))) + "\n")
    chosen = trials[trials["chosen"].astype(str) == "True"].iloc[0]
    found = asdict(RunConfig.load(settings).fit)
    searched = ["lambda_l0", "initial_keep", "beta", "learning_rate", "ridge"]
    assert {name: found[name] for name in searched} == {name: chosen[name] for name in searched}
    # What is in the table is what the settings do, as a fit of the run with them would be.
    told = [item for name in searched for item in ("--set", f"{name}={float(chosen[name]):.17e}")]
    call("robustness", run, "--folds", 2, *told, "--output", tmp_path / "c.csv")
    call("robustness", run, "--folds", 2, "--output", tmp_path / "o.csv")
    for file, row in (("c.csv", chosen), ("o.csv", trials.iloc[0])):
        error = pd.read_csv(tmp_path / file).set_index("fold").loc["mean", "error"]
        assert row["error"] == pytest.approx(error, rel=1e-12)
    # The same call goes on: no trial again, two more.
    call(*asked, "--trials", 6, "--output", tmp_path / "t.csv", "--force")
    more = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(more.iloc[:5, :8], trials.iloc[:, :8])
    assert len(more) == 7


def test_what_a_fit_does_not_use_is_not_searched(run):
    assert list(judge_tuning(run, trials=1, folds=2, name="few").tuning.chosen) == ["ridge"]
    budget = judge_tuning(run, trials=1, folds=2, name="few", changes={"selector": "gates"})
    assert "lambda_l0" not in budget.tuning.chosen
    assert budget.yaml.startswith("fits:\n  few:\n    initial_keep: ")
    none = judge_tuning(run, trials=1, folds=2, changes={"epochs": 0})
    assert list(none.tuning.chosen) == ["ridge"]
    ranged = judge_tuning(run, trials=1, folds=2, space={"beta": (0.3, 0.31)})
    assert 0.3 <= ranged.tuning.chosen["beta"] <= 0.31


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(run, tmp_path):
    for workers in (["--workers", 2], []):
        end = f"{len(workers)}.csv"
        asked = ["--records", "60,120", "--holdout-folds", 2, *workers]
        call("frontier", run, *asked, "--output", tmp_path / f"f{end}", "--plot", tmp_path / f"f{end}.svg")
        asked = ["--folds", 2, "--trials", 3, *workers, "--storage", tmp_path / f"{end}.log"]
        call("tune", run, *asked, "--output", tmp_path / f"t{end}")
    for name in ("f{}.csv", "f{}.csv.svg", "t{}.csv"):
        assert (tmp_path / name.format(2)).read_bytes() == (tmp_path / name.format(0)).read_bytes()
    # What goes wrong in a process is said as here, and of which fit.
    asked = [
        "--set",
        "lambda_l0=1e9",
        "--set",
        "learning_rate=0.9",
        "--workers",
        2,
        "--output",
        tmp_path / "r.csv",
    ]
    said = call("robustness", run, "--folds", 2, *asked, code=2)
    assert "without fold" in said
    assert "fit.lambda_l0: the penalty closed all" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["robustness", "nowhere"], ["nowhere", "plan.json"]),
        (["robustness", "no-matrix"], ["no-matrix", "has no matrix yet"]),
        (["robustness", "no-column"], ["columns.parquet", "cd_geoid"]),
        (["robustness", "no-value"], ["targets.parquet: value, row 0", "nan"]),
        (["robustness", "no-weight"], ["columns.parquet: initial_weight, row 7", "-1"]),
        (["robustness", "no-target"], ["targets.parquet: status", "no target is fitted"]),
        (["robustness", "run", "--fit", "fw"], ["plan.json", "'fw'", "did you mean 'few'"]),
        (["robustness", "run", "--set", "ridgee=1"], ["--set", "did you mean 'ridge'"]),
        (["robustness", "run", "--set", "ridge=-1"], ["--set: ridge", "-1"]),
        (["robustness", "run", "--set", "ridge"], ["--set", "KEY=VALUE"]),
        (["robustness", "run", "--set", "holdout=0.2"], ["run.fit.holdout", "--set holdout=null"]),
        (["robustness", "run", "--folds", "9"], ["folds", "got 9", "2 to 5"]),
        (["robustness", "run", "--targets", "taken.csv"], ["taken.csv", "--force"]),
        (["frontier", "run", "--records", "0"], ["--records", "'0'", "1 to 240"]),
        (["frontier", "run", "--records", "1.5"], ["--records", "'1.5'"]),
        (["frontier", "run", "--records", "241"], ["--records", "'241'"]),
        (["frontier", "run", "--records", "nan"], ["--records", "'nan'"]),
        (["frontier", "run", "--set", "epochs=0"], ["fit.epochs"]),
        (["frontier", "run", "--holdout-folds", "1"], ["--holdout-folds"]),
        (["frontier", "run", "--plot", "picture.png"], ["--plot", "*.svg"]),
        (["tune", "run", "--search", "lambda=1:2"], ["lambda", "lambda_l0"]),
        (["tune", "run", "--search", "ridge=1"], ["--search ridge", "LEAST:MOST"]),
        (["tune", "run", "--search", "ridge=1:0.1"], ["space.ridge", "bad range"]),
        (["tune", "run", "--storage", "taken.db"], ["taken.db", "SQLite"]),
        (["tune", "run", "--storage", "taken.csv"], ["taken.csv", "journal"]),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in {"run", "no-matrix", "no-column", "no-value", "no-weight", "no-target"} & set(arguments):
        shutil.copytree(run, tmp_path / name)
        targets, columns = (pd.read_parquet(f"{name}/{table}.parquet") for table in ("targets", "columns"))
        if name == "no-matrix":
            shutil.rmtree("no-matrix/matrix.zarr")
        elif name == "no-column":
            columns = columns.drop(columns="cd_geoid")
        elif name == "no-value":
            targets.loc[0, "value"] = np.nan
        elif name == "no-weight":
            columns.loc[7, "initial_weight"] = -1.0
        elif name == "no-target":
            targets["status"] = "check"
        targets.to_parquet(f"{name}/targets.parquet")
        columns.to_parquet(f"{name}/columns.parquet")
    Path("taken.csv").write_text("taken\n")
    Path("taken.db").write_text("taken\n")
    before = {file: sha256_file(file) for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    said = call(*arguments, "--output", "out.csv", code=2)
    for word in words:
        assert word in said
    assert {file: sha256_file(file) for file in sorted(tmp_path.rglob("*")) if file.is_file()} == before


def test_a_file_that_exists_is_replaced_only_by_force(run, tmp_path):
    output = tmp_path / "r.csv"
    output.write_text("mine\n")
    assert "--force" in call("robustness", run, "--folds", 2, "--output", output, code=2)
    assert output.read_text() == "mine\n"
    call("robustness", run, "--folds", 2, "--output", output, "--force")
    assert output.read_text().startswith("fold,")


def test_a_study_of_another_fit_is_refused(run, tmp_path):
    asked = ["tune", run, "--folds", 2, "--trials", 1, "--storage", tmp_path / "study.db"]
    call(*asked, "--output", tmp_path / "a.csv")
    said = call(*asked, "--set", "upper_bound=7", "--output", tmp_path / "b.csv", code=2)
    assert "of another matrix" in said
    assert not (tmp_path / "b.csv").exists()


def test_the_picture_shows_the_figures():
    table = pd.DataFrame(
        {
            "records": [400, 100, 200],
            "loss": [1.0, 100.0, 10.0],
            "attainable_loss": 1.0,
            "effective_sample_size": [300.0, 90.0, 150.0],
            "effective_sample_size_by_donor": [200.0, 80.0, 120.0],
            "held_out_error": [0.3, 0.5, 0.4],
            "held_out_std_error": [0.01, 0.05, 0.02],
        }
    )
    text = frontier_svg(table, "A & B")
    assert text == frontier_svg(table.copy(), "A & B")
    root = ET.fromstring(text)
    assert "A & B" in [node.text for node in root.iter(f"{SVG}text")]
    panels = root.findall(f"{SVG}g")
    assert len(panels) == 3
    dots = [[(float(c.get("cx")), float(c.get("cy"))) for c in p.iter(f"{SVG}circle")] for p in panels]
    assert [len(d) for d in dots] == [3, 6, 3]
    # Equal steps on both logarithmic axes: a straight line down, as far again each time.
    (x0, y0), (x1, y1), (x2, y2) = dots[0]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y0 < y1
    dashed = [p.get("d") for p in panels[0].iter(f"{SVG}path") if p.get("stroke-dasharray")]
    assert [float(d.split(",")[1].split("H")[0]) for d in dashed] == [pytest.approx(y2, abs=0.1)]
    bars = [p.get("d") for p in panels[2].iter(f"{SVG}path") if "V" in p.get("d")]
    lengths = [float(d.split(",")[1].split("V")[0]) - float(d.split("V")[1]) for d in bars]
    assert lengths[0] / lengths[1] == pytest.approx(2.5, rel=0.05)
    assert len(ET.fromstring(frontier_svg(table.assign(held_out_error=np.nan), "C")).findall(f"{SVG}g")) == 2


def test_the_fit_of_a_run_is_called_as_the_run_calls_it(run, known):
    """The weights of the run's own settings on all targets are those that `fit_arguments` lead to."""
    from distcalib.runs.run_fit import RunFit

    fit = RunFit.read(run)
    direct = known.fit(np.ones(len(known.value), dtype=bool))
    assert digest_arrays({"w": fit_weights(fit.X, fit.values, **fit.how).weights}) == digest_arrays(
        {"w": direct}
    )
    told = fit_arguments(fit.fitted, asdict(FIT), 3)
    np.testing.assert_array_equal(told["target_weights"], fit.how["target_weights"])
