"""Quality of fits: how close, how even, how right on targets not seen, at what cost; beside l0-python.

    python benchmarks/quality.py --run runs/demo [--synthetic 10000] [--records 0.05 0.1 0.25 0.5] [--folds 5]
                                 [--tables shipped budgets ridges peer] [--setting ridge=0.001 ...]

On the matrix, fitted targets and design weights of a run folder, and on a problem of so many columns whose
nation, states and districts contradict one another. Every fit has a process of its own and one thread.
Columns: CPU seconds from X to weights; the run's loss; shares of the fitted targets within their tolerance, 5
and 10 percent; blocked holdout error (mean of min(|relative error|, 1)) over folds and its standard error;
Kish's effective number of donors in each district as a share of the records that it keeps (least, 5th
percentile, median, and the share of districts with half or more); largest weight over design weight.

`shipped`: the preset `demo` with half and a quarter of the columns, beside no calibration, what any weights
can do, a fit that hardly moves, both selectors without limits, and l0-python as it comes. `budgets`: no
calibration, dense fits, and both selectors at each record count. `ridges`: half of the columns, no weight
above 10 times its design weight, over the ridge; without and with an effective sample size of half of the
records in every district. `peer`: l0-python on the scaled problem, 500 epochs, at a penalty that leaves it as
many records or up to 2 percent more (the search for it does not count), with its own weights, gates times
weights; and l0-python as it comes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from distcalib import RunConfig
from distcalib.config.settings import FitConfig
from distcalib.fit import FitSpec, effective_sample_size, fit_weights
from distcalib.fit.diagnostics import achievable_rows, relative_error
from distcalib.fit.engines import cpu_engine, l0_engine
from distcalib.fit.folds import blocked_folds
from distcalib.fit.problem import FitProblem, build_problem

#: Settings of a run that `fit_weights` takes as they are.
NAMES = (
    "epochs", "ridge", "refit_epochs", "lower_bound", "upper_bound", "weight_ratio", "effective_share"
)  # fmt: skip
#: What a run gives `fit_weights` unless told otherwise.
RUN = {name: getattr(FitConfig(), name) for name in NAMES}
PEER_EPOCHS = 500
RIDGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
#: How many more records than asked l0-python may keep; logarithms of the penalties searched; how often their
#: interval is halved, and its end corrected.
SLACK, SEARCHED, HALVINGS, CORRECTIONS = 0.02, (-12.0, 5.0), 9, 8


@dataclass(frozen=True)
class Case:
    """Fitted targets of a run or a synthetic problem, one row of X each; one column of X a placement."""

    X: sp.csr_array
    targets: np.ndarray
    tolerance: np.ndarray
    target_weights: np.ndarray
    labels: pd.DataFrame
    initial: np.ndarray
    donors: np.ndarray
    districts: np.ndarray

    @property
    def fit(self) -> dict[str, Any]:
        """Arguments of a fit that are one a column or a target."""
        return {"target_weights": self.target_weights, "initial_weights": self.initial}


def of_run(folder: Path) -> Case:
    from distcalib.matrix.blocks import read_block
    from distcalib.runs.fitting import target_shares

    targets = pd.read_parquet(folder / "targets.parquet")
    columns = pd.read_parquet(folder / "columns.parquet")
    chosen = np.flatnonzero((targets["status"] == "fit").to_numpy())
    fitted = targets.iloc[chosen].reset_index(drop=True)
    return Case(
        read_block(folder / "matrix.zarr" / "X")[chosen],
        fitted["value"].to_numpy(float),
        fitted["tolerance"].to_numpy(float),
        target_shares(fitted, 0.5),
        fitted,
        columns["initial_weight"].to_numpy(float),
        columns["household_id"].to_numpy(),
        columns["cd_geoid"].to_numpy(),
    )


def synthetic(n: int) -> Case:
    """Return the tests' contradictory problem of n columns, two clones a donor."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fit"))
    from synthetic import contradictory_problem

    from distcalib.runs.fitting import target_shares

    made = contradictory_problem(n_donors=n // 2)
    rows = made.rows.assign(group_id=made.groups, value=made.targets)
    state_of = np.zeros(made.district.max() + 1, dtype=int)
    state_of[made.district] = made.state
    place = rows["place"].to_numpy()
    rows["variable"] = "measure " + rows["group"].str.split().str[1]
    area = np.where(rows["level"] == "state", 1 + place, 0)
    is_district = (rows["level"] == "district").to_numpy()
    within = pd.Series(state_of).groupby(state_of).cumcount().to_numpy()
    area[is_district] = 100 * (1 + state_of[place[is_district]]) + within[place[is_district]]
    rows["geographic_id"] = np.where(rows["level"] == "nation", "US", area.astype(str))
    return Case(
        made.X,
        made.targets,
        np.full(len(rows), 0.05),
        target_shares(rows, 0.5),
        rows,
        made.initial,
        made.donors,
        made.district,
    )


def case_of(name: str) -> Case:
    return synthetic(int(name)) if name.isdigit() else of_run(Path(name))


def judged(case: Case, weights: np.ndarray) -> dict[str, float]:
    """Return the figures of weights that need no second fit."""
    problem = build_problem(case.X, case.targets, FitSpec(), threads=1, **case.fit)
    estimate = case.X @ weights
    error = np.abs(relative_error(estimate, case.targets, abs(case.X) @ weights))
    kept = weights > 0
    even = evenness(case, weights)
    return {
        "records": int(kept.sum()),
        "loss": problem.loss_of(estimate),
        "within": float(np.mean(error <= case.tolerance)),
        "within_5": float(np.mean(error <= 0.05)),
        "within_10": float(np.mean(error <= 0.10)),
        **{name: float(np.quantile(even, q)) for name, q in (("least", 0.0), ("p5", 0.05), ("median", 0.5))},
        "half": float(np.mean(even >= 0.5)),
        "largest": float(np.max(weights[kept] / case.initial[kept])),
    }


def evenness(case: Case, weights: np.ndarray) -> np.ndarray:
    """Return of each district Kish's effective number of donors over the records that have weight."""
    frame = pd.DataFrame({"w": weights, "district": case.districts, "donor": case.donors})
    kept = frame[frame["w"] > 0]
    summed = kept.groupby(["district", "donor"])["w"].sum().groupby("district")
    return (summed.agg(effective_sample_size) / kept.groupby("district").size()).to_numpy()


def own(case: Case, rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Return the weights of `fit_weights` on some of the targets."""
    given = {**case.fit, "target_weights": case.target_weights[rows]}
    given |= {"donors": case.donors, "threads": 1, "log_every": PEER_EPOCHS}
    if settings.get("effective_share"):
        given["areas"] = case.districts
    return fit_weights(case.X[rows], case.targets[rows], **given, **settings).weights


def trained(engine: Any, problem: FitProblem, lambda_l0: float) -> np.ndarray:
    """Return gates times weights after the epochs of l0-python's way, by an engine; no refit."""
    spec = FitSpec(lambda_l0=lambda_l0, epochs=PEER_EPOCHS)
    state = engine(problem, spec, lambda _: None, PEER_EPOCHS)
    weights = np.zeros(problem.X.shape[1])
    weights[problem.columns] = problem.initial[problem.columns] * state.relative_weight(spec)
    return weights


def peers(case: Case, rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Return the weights of l0-python on some of the targets of the scaled problem."""
    given = {**case.fit, "target_weights": case.target_weights[rows]}
    problem = build_problem(case.X[rows], case.targets[rows], FitSpec(), threads=1, **given)
    # The loss is a sum over targets.
    return trained(l0_engine, problem, settings["lambda_l0"] * len(rows) / len(case.targets))


def defaults(case: Case, rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Return the weights of l0-python as it comes, but with relative loss and from the design weights on."""
    from l0.calibration import SparseCalibrationWeights

    model = SparseCalibrationWeights(case.X.shape[1], init_weights=case.initial, seed=0)
    model.fit(case.X[rows], case.targets[rows], loss_type="relative")
    return model.get_weights(deterministic=True).detach().numpy().astype(float)


def design(case: Case, rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    return case.initial


METHODS = {"own": own, "l0-python": peers, "l0-python defaults": defaults, "no calibration": design}


def penalty(case: Case, records: int) -> float:
    """Return a penalty with which l0-python keeps `records`, or up to 2 percent more.

    The kernel trains the same gates with other noise, so it does the search; Newton steps with its slope then
    correct l0-python's number.
    """
    problem = build_problem(case.X, case.targets, FitSpec(), threads=1, **case.fit)

    def kept(engine: Any, exponent: float) -> int:
        return int(np.count_nonzero(trained(engine, problem, math.exp(exponent))))

    wanted = (1 + SLACK / 2) * records
    low, high = SEARCHED
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(cpu_engine, middle) > wanted else (low, middle)
    slope = math.log(kept(cpu_engine, low - 0.1) / kept(cpu_engine, low + 0.1)) / 0.2
    found = low
    for _ in range(CORRECTIONS):
        has = kept(l0_engine, found)
        print(f"penalty {math.exp(found):.4g} leaves {has} of {records}", file=sys.stderr, flush=True)
        if records <= has <= (1 + SLACK) * records:
            return math.exp(found)
        found += math.log(has / wanted) / slope
    raise SystemExit(f"no penalty found that leaves l0-python {records} records")


def measure(case_name: str, method: str, settings: dict[str, Any], folds: int) -> dict[str, Any]:
    """Fit once with the clock on, judge, and fit again without each fold."""
    import torch

    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()  # undecided, it warns
    case = case_of(case_name)
    if method == "penalty":
        return {"lambda_l0": penalty(case, settings["records"])}
    if method == "own":  # compile, or read from the cache, before the clock starts
        small = {"records": 3, "selector": settings.get("selector", "gates"), "epochs": 20, "threads": 1}
        fit_weights(sp.csr_array(np.eye(6, dtype=np.float32)), np.ones(6), **small)
    began = time.process_time()
    weights = METHODS[method](case, np.arange(len(case.targets)), settings)
    out: dict[str, Any] = {"cpu": time.process_time() - began, **judged(case, weights)}
    reach = achievable_rows(sp.csr_array(case.X), case.targets)
    fold_of = np.where(reach, blocked_folds(case.labels, folds), -1)
    errors = []
    for fold in range(folds):
        held = np.flatnonzero(fold_of == fold)
        w = METHODS[method](case, np.flatnonzero(fold_of != fold), settings)
        error = relative_error(case.X[held] @ w, case.targets[held], abs(case.X[held]) @ w)
        errors.append(float(np.mean(np.minimum(np.abs(error), 1.0))))
    return {**out, "folds": errors, **over_folds(errors, "holdout")}


def over_folds(values: list[float], name: str) -> dict[str, float]:
    return {
        name: float(np.mean(values)),
        f"{name}_se": float(np.std(values, ddof=1) / math.sqrt(len(values))),
    }


def measured(case: str, method: str, settings: dict[str, Any], folds: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    one = json.dumps([case, method, settings, folds])
    command = [sys.executable, __file__, "--one", one]
    done = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


HEADER = (
    f"{'':>24} {'records':>8} {'CPU s':>7} {'loss':>9} {'within':>7} {'5 %':>6} {'10 %':>6} "
    f"{'holdout':>8} {'+-':>6} {'least':>6} {'p5':>6} {'median':>6} {'half':>6} {'largest':>8}"
)


def line(name: str, r: dict[str, Any]) -> None:
    shares = " ".join(f"{r[k]:6.3f}" for k in ("within_5", "within_10"))
    even = " ".join(f"{r[k]:6.3f}" for k in ("least", "p5", "median", "half"))
    print(
        f"{name:>24} {r['records']:8,} {r['cpu']:7.2f} {r['loss']:9.2f} {r['within']:7.4f} {shares} "
        f"{r['holdout']:8.4f} {r['holdout_se']:6.4f} {even} {r['largest']:8.1f}",
        flush=True,
    )


def shipped(case: str, n: int, asked: argparse.Namespace, settings: dict[str, Any]) -> None:
    preset = RunConfig.load("demo").fit
    demo = {name: getattr(preset, name) for name in NAMES} | {"selector": "reweighted"}
    free = {**RUN, "ridge": 1e-4, "records": n // 2}
    print(HEADER)
    line("no calibration", measured(case, "no calibration", {}, asked.folds))
    for name, how in {
        "every column, no ridge": {"epochs": 0, "refit_epochs": 20_000, "ridge": 0.0},
        "every column, ridge 0.3": {**RUN, "epochs": 0, "ridge": 0.3},
        "half, the demo's": {**demo, "records": n // 2},
        "half, reweighted": {**free, "selector": "reweighted"},
        "half, gates": {**free, "selector": "gates"},
        "a quarter, the demo's": {**demo, "records": n // 4},
    }.items():
        line(name, measured(case, "own", {**how, **settings}, asked.folds))
    line("l0-python defaults", measured(case, "l0-python defaults", {}, asked.folds))


def budgets(case: str, n: int, asked: argparse.Namespace, settings: dict[str, Any]) -> None:
    print(HEADER)
    line("no calibration", measured(case, "no calibration", {}, asked.folds))
    attainable = {"epochs": 0, "refit_epochs": 6000, "ridge": 0.0}
    line("dense, no ridge", measured(case, "own", attainable, asked.folds))
    line("dense", measured(case, "own", {**settings, "epochs": 0}, asked.folds))
    for share in asked.records:
        for selector in ("reweighted", "gates"):
            chosen = {**settings, "selector": selector, "records": round(share * n)}
            line(f"{selector} {share:.0%}", measured(case, "own", chosen, asked.folds))


def ridges(case: str, n: int, asked: argparse.Namespace, settings: dict[str, Any]) -> None:
    print(HEADER)
    common = {"selector": "reweighted", **settings, "records": n // 2, "weight_ratio": 10.0}
    for ridge in RIDGES:
        uneven = {**common, "ridge": ridge, "effective_share": None}
        line(f"ridge {ridge:g}", measured(case, "own", uneven, asked.folds))
    for ridge in RIDGES[:4]:
        even = {**common, "ridge": ridge, "effective_share": 0.5}
        line(f"{ridge:g}, half effective", measured(case, "own", even, asked.folds))


def peer(case: str, n: int, asked: argparse.Namespace, settings: dict[str, Any]) -> None:
    print(HEADER)
    for share in asked.records:
        records = round(share * n)
        found = measured(case, "penalty", {"records": records}, 0)
        theirs = measured(case, "l0-python", found, asked.folds)
        mine = measured(case, "own", {"selector": "reweighted", **settings, "records": records}, asked.folds)
        line(f"l0-python {share:.0%}", theirs)
        line(f"distcalib {share:.0%}", mine)
        more = over_folds(np.subtract(mine["folds"], theirs["folds"]).tolist(), "more")
        print(
            f"{'':>24} loss {mine['loss'] / theirs['loss']:.2f} of l0-python's, CPU 1/"
            f"{theirs['cpu'] / mine['cpu']:.0f}, holdout {more['more']:+.4f} +- {more['more_se']:.4f}; "
            f"penalty {found['lambda_l0']:.3g}",
            flush=True,
        )
    line("l0-python defaults", measured(case, "l0-python defaults", {}, asked.folds))


TABLES = {"shipped": shipped, "budgets": budgets, "ridges": ridges, "peer": peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--synthetic", type=int, help="columns")
    parser.add_argument("--records", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5], help="shares")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--setting", nargs="+", default=[], metavar="NAME=VALUE", help="of distcalib's fits")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(*json.loads(asked.one))))
        return
    given = {name: json.loads(value) for name, value in (each.split("=") for each in asked.setting)}
    for case in (asked.run, asked.synthetic):
        if case is None:
            continue
        shape = case_of(str(case)).X.shape
        for table in asked.tables:
            print(f"\n{case}: {shape[0]:,} targets x {shape[1]:,} columns, {table}", flush=True)
            TABLES[table](str(case), shape[1], asked, given if table == "shipped" else {**RUN, **given})


if __name__ == "__main__":
    main()
