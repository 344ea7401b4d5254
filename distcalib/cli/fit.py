"""Commands on the fit of a run folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from distcalib.cli.files import force_option, need_new
from distcalib.cli.options import RUN_FOLDER, changes_of, cluster_of, examples
from distcalib.errors import InputError


@click.group("fit")
def fit_of_run() -> None:
    """Judge the fit of a run, and search better settings; RUN is a folder whose matrix is assembled."""


def _judge_options(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def function(cluster: Path | None, workers: int | None, **options: Any) -> None:
        command(workers=workers if cluster is None else cluster_of(cluster, workers), **options)

    for option in (
        click.argument("folder", metavar="RUN", type=RUN_FOLDER),
        click.option("--fit", "name", default="", help="Name of one of the run's further fits."),
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="A setting of the fit."),
        click.option("--by", type=click.Choice(["place", "family"]), default="place", show_default=True,
                     help="Hold out a variable in some states with their districts, or everywhere."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the folds."),
        click.option("--cluster", type=click.Path(path_type=Path),
                     help="Cluster file: its workers share the fits."),
        click.option("--workers", type=click.IntRange(1),
                     help="Worker processes; without --cluster of this machine. Default: this process."),
        click.option("--output", type=click.Path(path_type=Path), required=True, help="CSV file to write."),
        force_option,
    ):  # fmt: skip
        function = option(function)
    return function


def _write_csv(output: Path, table: Any) -> None:
    from distcalib.storage import publish

    publish(output, lambda path: table.to_csv(path, index=False, lineterminator="\n"))
    click.echo(f"{output}: {len(table):,} rows")


@fit_of_run.command(
    "frontier",
    epilog=examples(
        "distcalib fit frontier runs/demo --records 0.1,0.25,0.5 --output frontier.csv --plot frontier.svg"
    ),
)
@_judge_options
@click.option("--records", multiple=True, default=["0.05,0.1,0.25,0.5"], show_default=True,
              help="Whole numbers, or shares of the columns; by commas, or repeated.")  # fmt: skip
@click.option("--holdout-folds", type=click.IntRange(0), default=5, show_default=True, help="0: none.")
@click.option("--plot", type=click.Path(path_type=Path), help="SVG file to draw.")
def fit_frontier(
    folder: Path, name: str, sets: tuple[str, ...], by: str, seed: int, workers: Any,
    output: Path, force: bool, records: tuple[str, ...], holdout_folds: int, plot: Path | None,
) -> None:  # fmt: skip
    """Fit with several numbers of records: loss, effective sample size and held-out error of each.

    Each number is fitted once with all targets and once without each fold of them.
    """
    if plot is not None and plot.suffix != ".svg":
        raise InputError(
            "is no name for a picture of this kind", place="--plot", value=str(plot), expected="*.svg"
        )
    need_new([output] + [file for file in [plot] if file is not None], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.fit_plots import frontier_svg, print_frontier
    from distcalib.runs.judge import judge_frontier
    from distcalib.storage import write_text

    console = make_console()
    table = judge_frontier(
        folder, [one for text in records for one in text.split(",")], folds=holdout_folds, by=by, seed=seed,
        name=name, changes=changes_of(sets), workers=workers, report=Progressing(console),
    )  # fmt: skip
    print_frontier(table, console)
    _write_csv(output, table)
    if plot is not None:
        write_text(plot, frontier_svg(table, f"{folder.name}: what a number of records costs"))
        click.echo(f"{plot}: the picture")


@fit_of_run.command(
    "robustness", epilog=examples("distcalib fit robustness runs/demo --folds 5 --output folds.csv")
)
@_judge_options
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="How many.")
@click.option("--targets", type=click.Path(path_type=Path), help="CSV file of every target, too.")
def fit_robustness(
    folder: Path, name: str, sets: tuple[str, ...], by: str, seed: int, workers: Any,
    output: Path, force: bool, folds: int, targets: Path | None,
) -> None:  # fmt: skip
    """Fit without each fold of targets in turn, and judge on it; beside that, no calibration."""
    need_new([output] + [file for file in [targets] if file is not None], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.fit_plots import print_robustness
    from distcalib.runs.judge import judge_robustness

    console = make_console()
    found = judge_robustness(
        folder, folds=folds, by=by, seed=seed, name=name, changes=changes_of(sets), workers=workers,
        report=Progressing(console),
    )  # fmt: skip
    print_robustness(found, console)
    _write_csv(output, found.folds)
    if targets is not None:
        _write_csv(targets, found.targets)


@fit_of_run.command(
    "tune",
    epilog=examples(
        "distcalib fit tune runs/demo --trials 40 --storage study.db --output trials.csv",
        "distcalib tune runs/demo --search ridge=1e-4:1 --output trials.csv",
        "distcalib fit tune runs/demo --cluster cluster.yaml --batch 16 --output trials.csv",
    ),
)
@_judge_options
@click.option(
    "--trials", type=click.IntRange(1), default=40, show_default=True, help="In all, with a study's."
)
@click.option("--storage", help="Where the study is kept: FILE.db (SQLite), a journal file, or a URL.")
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="How many.")
@click.option(
    "--search",
    multiple=True,
    metavar="KEY[=LEAST:MOST]",
    help="A setting to search; default: lambda_l0, initial_keep, beta, learning_rate and ridge.",
)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True,
              help="Trials asked for at once; it decides which they are, the workers do not.")  # fmt: skip
def fit_tune(
    folder: Path, name: str, sets: tuple[str, ...], by: str, seed: int, workers: Any,
    output: Path, force: bool, trials: int, storage: str | None, folds: int, search: tuple[str, ...],
    batch: int,
) -> None:  # fmt: skip
    """Search the settings with the lowest error on held-out targets, and print their YAML lines.

    With --storage the same command goes on with a study that was stopped, or with more trials.
    """
    need_new([output], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.fit_plots import print_tuning
    from distcalib.runs.judge import judge_tuning, search_space

    console = make_console()
    found = judge_tuning(
        folder, trials=trials, storage=storage, space=search_space(search), folds=folds, by=by, seed=seed,
        batch=batch, name=name, changes=changes_of(sets), workers=workers, report=Progressing(console),
    )  # fmt: skip
    print_tuning(found, console)
    _write_csv(output, found.trials)
