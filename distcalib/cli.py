"""The command line: each command is a few lines over the public interface."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

import distcalib
from distcalib.errors import DistcalibError, InputError
from distcalib.storage import writable


class _Explained(click.Group):
    """Print errors that explain themselves without a traceback, with their exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DistcalibError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=_Explained, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(distcalib.__version__, package_name="distcalib")
def main() -> None:
    """Calibrated microdata for every US congressional district."""


def _run_options(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.argument("settings", metavar="PRESET_OR_YAML"),
        click.option("--output", type=click.Path(path_type=Path), required=True, help="The run folder."),
        click.option(
            "--cluster", type=click.Path(path_type=Path), help="Cluster file; default: this machine."
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Worker processes; overrides the cluster file."
        ),
        click.option("--accept-code", is_flag=True, help="Go on with a folder that other code began."),
    ):
        function = option(function)
    return function


_force = click.option("--force", is_flag=True, help="Replace a file that exists.")


def _need_new(files: list[Path], force: bool, expected: str = "a new file, or --force") -> None:
    """Raise `InputError` unless files can be written, and are new or may be replaced; before any work."""
    for file in files:
        writable(file)
        if file.exists() and not force:
            raise InputError("exists", place=file, expected=expected)


@main.command()
@_run_options
@click.option(
    "--until", metavar="STAGE", help="Stop after simulate, assemble, fit or areas; run again to go on."
)
def run(
    settings: str,
    output: Path,
    cluster: Path | None,
    workers: int | None,
    accept_code: bool,
    until: str | None,
) -> None:
    """Build, fit, write and verify; continue what an earlier attempt left.

    PRESET_OR_YAML is a preset of the package (demo) or a settings file.
    """
    from distcalib.report.console import Progressing, make_console, print_plan, print_summary

    console = make_console()
    work = _open_run(settings, output, cluster, workers, accept_code)
    work.subscribers = [Progressing(console)]
    prepared = work.prepare()
    print_plan(prepared.plan, console, work.workers)
    summary = work.execute(prepared, until)
    if "until" not in summary:
        print_summary(output, summary, console)


@main.command()
@_run_options
def plan(settings: str, output: Path, cluster: Path | None, workers: int | None, accept_code: bool) -> None:
    """Print what `run` would do, after checking every input. Writes nothing."""
    from distcalib.report.console import make_console, print_plan

    work = _open_run(settings, output, cluster, workers, accept_code)
    print_plan(work.prepare().plan, make_console(), work.workers)


def _open_run(
    settings: str, output: Path, cluster: Path | None, workers: int | None, accept_code: bool
) -> distcalib.Run:
    from distcalib import ClusterConfig, Run, RunConfig

    where = ClusterConfig.load(cluster)
    if workers is not None:
        where = where.changed(workers=workers)
    return Run(RunConfig.load(settings), output, where, accept_code=accept_code)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--number", type=click.IntRange(2), default=40, show_default=True, help="How many replicates.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write in.")
@click.option("--no-refit", is_flag=True, help="Scale the run's weights; do not fit each replicate.")
@click.option(
    "--certain",
    type=click.Path(path_type=Path),
    help="CSV of household_id, certain; default: beside the data.",
)
def replicates(
    folder: Path, number: int, seed: int, output: Path, no_refit: bool, certain: Path | None
) -> None:
    """Write bootstrap replicate weights of a finished run: the variance of the sampling of donors."""
    from distcalib.runs.replicates import write_replicates

    with ExitStack() as shown:
        bar = click.progressbar(length=number, label="replicates")

        def progress(replicate: int) -> None:
            if replicate == 0:  # all input is checked: errors come without a bar
                shown.enter_context(bar)
            else:
                bar.update(1)

        facts = write_replicates(
            folder,
            output,
            number=number,
            seed=seed,
            calibrate=not no_refit,
            certain=certain,
            progress=progress,
        )
    click.echo(
        f"{output / 'replicates.parquet'}: {number} replicates of {facts['donors']:,} donors, "
        f"{facts['donors_certain']:,} of them certain and fixed, perturbation {facts['perturbation']:g}"
    )
    click.echo(facts["note"])


@main.group("fit")
def fit_of_run() -> None:
    """Judge the fit of a run, and search better settings; RUN is a folder whose matrix is assembled."""


def _judge_options(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.argument("folder", metavar="RUN", type=click.Path(path_type=Path)),
        click.option("--fit", "name", default="", help="Name of one of the run's further fits."),
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="A setting of the fit."),
        click.option("--by", type=click.Choice(["place", "family"]), default="place", show_default=True,
                     help="Hold out a variable in some states with their districts, or everywhere."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the folds."),
        click.option("--workers", type=click.IntRange(1), help="Processes; default: this one."),
        click.option("--output", type=click.Path(path_type=Path), required=True, help="CSV file to write."),
        _force,
    ):  # fmt: skip
        function = option(function)
    return function


def _changes(sets: tuple[str, ...]) -> dict[str, object]:
    from distcalib.config.yaml_text import parse_yaml

    changes: dict[str, object] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not (key and equals) or key in changes:
            raise InputError(
                "is not a setting", place="--set", value=text, expected="KEY=VALUE, each key once"
            )
        changes[key] = parse_yaml(value, f"--set {key}")
    return changes


def _write_csv(output: Path, table: Any) -> None:
    from distcalib.storage import publish

    publish(output, lambda path: table.to_csv(path, index=False, lineterminator="\n"))
    click.echo(f"{output}: {len(table):,} rows")


@fit_of_run.command("frontier")
@_judge_options
@click.option("--records", multiple=True, default=["0.05,0.1,0.25,0.5"], show_default=True,
              help="Whole numbers, or shares of the columns; by commas, or repeated.")  # fmt: skip
@click.option("--holdout-folds", type=click.IntRange(0), default=5, show_default=True, help="0: none.")
@click.option("--plot", type=click.Path(path_type=Path), help="SVG file to draw.")
def fit_frontier(
    folder: Path, name: str, sets: tuple[str, ...], by: str, seed: int, workers: int | None,
    output: Path, force: bool, records: tuple[str, ...], holdout_folds: int, plot: Path | None,
) -> None:  # fmt: skip
    """Fit with several numbers of records: loss, effective sample size and held-out error of each.

    Each number is fitted once with all targets and once without each fold of them.
    """
    if plot is not None and plot.suffix != ".svg":
        raise InputError(
            "is no name for a picture of this kind", place="--plot", value=str(plot), expected="*.svg"
        )
    _need_new([output] + [file for file in [plot] if file is not None], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.fit_plots import frontier_svg, print_frontier
    from distcalib.runs.judge import judge_frontier
    from distcalib.storage import write_text

    console = make_console()
    table = judge_frontier(
        folder, [one for text in records for one in text.split(",")], folds=holdout_folds, by=by, seed=seed,
        name=name, changes=_changes(sets), workers=workers, report=Progressing(console),
    )  # fmt: skip
    print_frontier(table, console)
    _write_csv(output, table)
    if plot is not None:
        write_text(plot, frontier_svg(table, f"{folder.name}: what a number of records costs"))
        click.echo(f"{plot}: the picture")


@fit_of_run.command("robustness")
@_judge_options
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="How many.")
@click.option("--targets", type=click.Path(path_type=Path), help="CSV file of every target, too.")
def fit_robustness(
    folder: Path, name: str, sets: tuple[str, ...], by: str, seed: int, workers: int | None,
    output: Path, force: bool, folds: int, targets: Path | None,
) -> None:  # fmt: skip
    """Fit without each fold of targets in turn, and judge on it; beside that, no calibration."""
    _need_new([output] + [file for file in [targets] if file is not None], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.fit_plots import print_robustness
    from distcalib.runs.judge import judge_robustness

    console = make_console()
    found = judge_robustness(
        folder, folds=folds, by=by, seed=seed, name=name, changes=_changes(sets), workers=workers,
        report=Progressing(console),
    )  # fmt: skip
    print_robustness(found, console)
    _write_csv(output, found.folds)
    if targets is not None:
        _write_csv(targets, found.targets)


@fit_of_run.command("tune")
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
    folder: Path, name: str, sets: tuple[str, ...], by: str, seed: int, workers: int | None,
    output: Path, force: bool, trials: int, storage: str | None, folds: int, search: tuple[str, ...],
    batch: int,
) -> None:  # fmt: skip
    """Search the settings with the lowest error on held-out targets, and print their YAML lines.

    With --storage the same command goes on with a study that was stopped, or with more trials.
    """
    _need_new([output], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.fit_plots import print_tuning
    from distcalib.runs.judge import judge_tuning, search_space

    console = make_console()
    found = judge_tuning(
        folder, trials=trials, storage=storage, space=search_space(search), folds=folds, by=by, seed=seed,
        batch=batch, name=name, changes=_changes(sets), workers=workers, report=Progressing(console),
    )  # fmt: skip
    print_tuning(found, console)
    _write_csv(output, found.trials)


@main.group()
def data() -> None:
    """Rebuild the bundled inputs from their sources."""


@data.command()
@click.option(
    "--households", type=click.IntRange(1), help="Households, at least 4,000; default: all 200,576."
)
@click.option("--year", type=int, default=2024, show_default=True, help="Year that money is aged to.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--without", multiple=True, help="An imputation to leave out, or 'all'; may be repeated.")
@click.option(
    "--no-raking", is_flag=True, help="Keep the survey's weights, scaled to the states' population."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
@click.option("--force", is_flag=True, help="Replace the file, and the tables beside it, if they exist.")
def cps(
    households: int | None,
    year: int,
    seed: int,
    without: tuple[str, ...],
    no_raking: bool,
    output: Path,
    force: bool,
) -> None:
    """Build a PolicyEngine dataset from the public-use CPS that taxcalc ships."""
    from distcalib.microdata.bundled_data import SIDE_TABLES

    _need_new([output, *(output.with_name(f"{output.stem}_{ending}") for ending in SIDE_TABLES)], force)
    from distcalib.microdata.cps import build_cps, imputations_without, write_cps

    build = build_cps(households, year, seed, imputations_without(without), raked=not no_raking)
    write_cps(build, output)
    count = build.microdata.count
    click.echo(f"{output}: {count():,} households, {count('person'):,} persons")


@data.command("take-up")
@click.option(
    "--dataset", help="PolicyEngine HDF5 file, or hf:// address; default: the whole public-use CPS."
)
@click.option("--period", type=int, default=2024, show_default=True, help="Year of --dataset.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
@_force
def take_up_rates(dataset: str | None, period: int, seed: int, output: Path, force: bool) -> None:
    """Solve the take-up rates of SNAP, Medicaid and the ACA to enrolment.

    A run takes the table as simulation.take_up_rates.
    """
    _need_new([output], force)
    from distcalib.microdata import Microdata
    from distcalib.microdata.cps import build_cps
    from distcalib.microdata.remote import local_file
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.rates import solve_rates
    from distcalib.storage import write_text

    if dataset is None:
        microdata = build_cps(None, seed=seed).microdata
    else:
        microdata = Microdata.read(local_file(dataset), period)
    table = solve_rates(microdata, seed, Progressing(make_console()))
    write_text(output, table.to_csv(index=False, lineterminator="\n"))
    click.echo(f"{output}: {len(table)} rates")


@data.command()
@click.argument("run", default="demo")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
@_force
def costs(run: str, output: Path, force: bool) -> None:
    """Measure what simulations of RUN (a preset or a YAML file) cost on this machine.

    A run takes the file as simulation.costs: its tasks are cut by it, and `plan` says how long they take.
    About five minutes of one core; Linux.
    """
    _need_new([output], force)
    from distcalib import RunConfig
    from distcalib.microdata.remote import local_file
    from distcalib.runs import make_plan
    from distcalib.runs.asked import asked_variables
    from distcalib.runs.costs import measure_costs, write_costs
    from distcalib.runs.plan import read_source

    config = RunConfig.load(run)
    config = config.changed(microdata=str(local_file(config.microdata)))
    prepared = make_plan(config)
    source = read_source(config)
    asked = asked_variables(prepared.targets)
    found = measure_costs(source, prepared.assignment, asked, click.echo)
    write_costs(found, output)
    click.echo(f"{output}: tasks of up to {found.largest(len(asked)):,} households")


@data.command()
@click.option("--database", help="Write the bundled targets as a new SQLite file or to a PostgreSQL URL.")
@click.option("--raw", type=click.Path(path_type=Path), help="Folder of raw public files to rebuild from.")
@click.option("--download", is_flag=True, help="Rebuild from the raw public files, fetched once with pip.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the rebuilt table.")
def targets(database: str | None, raw: Path | None, download: bool, output: Path | None) -> None:
    """Write the bundled targets as a database, or rebuild their table from the public files.

    A database behind a URL has to be empty; all of it is written, or nothing. The raw files of --download are
    kept in the user's cache ($XDG_CACHE_HOME/distcalib or ~/.cache/distcalib).
    """
    given = [database is not None, raw is not None, download]
    if sum(given) != 1 or (database is None) != (output is not None):
        raise click.UsageError(
            "give --database FILE_OR_URL, or --output FOLDER with --raw FOLDER or --download"
        )
    if database is not None:
        from distcalib.targets.database import without_password, write_database_at
        from distcalib.targets.sources import bundled_targets

        write_database_at(bundled_targets(), database)
        click.echo(f"{without_password(database)}: {len(bundled_targets()):,} targets")
    if output is not None:
        writable(output / "sources.csv")
        from distcalib.geography.sources import write_bundled as write_geography
        from distcalib.targets.download import public_statistics
        from distcalib.targets.margins import write_bundled as write_margins
        from distcalib.targets.sources import write_bundled

        folder = public_statistics() if raw is None else raw
        write_bundled(folder, output)
        write_margins(folder, output)
        write_geography(folder, output)
        click.echo(f"{output}: rebuilt")


@data.command()
@click.option(
    "--database", default="bundled", show_default=True, help="SQLite file or SQLAlchemy URL with targets."
)
@click.option("--output", type=click.Path(path_type=Path), help="CSV file for every finding and area.")
@_force
def contradictions(database: str, output: Path | None, force: bool) -> None:
    """Find targets that contradict each other or the bundled register; exit 1 when a fitted one does."""
    if output is not None:
        _need_new([output], force)
    from distcalib.report.console import make_console
    from distcalib.report.findings import print_findings
    from distcalib.storage import publish
    from distcalib.targets.contradictions import find_contradictions
    from distcalib.targets.database import read_targets, read_tree

    findings = find_contradictions(read_targets(database), read_tree(database))
    print_findings(findings, make_console())
    if output is not None:
        publish(output, lambda path: findings.to_csv(path, index=False, lineterminator="\n"))
    sys.exit(int((findings["severity"] == "error").any()))


@data.command()
@click.option("--dataset", help="PolicyEngine HDF5 file, or hf:// address; default: the bundled one.")
@click.option("--before", help="The same before raking and imputation.")
@click.option("--take-up/--no-take-up", default=True, help="Draw take-up, or leave the flags as stored.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for table and page.")
@click.option("--starting-totals", type=click.Path(path_type=Path), help="CSV of national totals to write.")
@click.option("--against", type=click.Path(path_type=Path), help="check.csv of an earlier check.")
@click.option("--force", is_flag=True, help="Replace the CSV of --starting-totals if it exists.")
def check(
    dataset: str | None,
    before: str | None,
    take_up: bool,
    seed: int,
    output: Path,
    starting_totals: Path | None,
    against: Path | None,
    force: bool,
) -> None:
    """Hold microdata, as they are, against official figures: check.csv and check.html.

    Every household is simulated in its own state. The table is compared with that of --against, and for the
    bundled microdata (take-up drawn, seed 0) with the one that the package ships: exit code 1 where a figure
    differs by more than a millionth, or a text does. An earlier check in the folder is replaced.
    """
    _need_new([output / "check.csv", output / "check.html"], force=True)
    if starting_totals is not None:
        _need_new([starting_totals], force)
    from distcalib.report.console import Progressing, make_console
    from distcalib.report.data_check import check_data, read_check, shipped_path
    from distcalib.report.data_page import print_check, print_drift
    from distcalib.report.data_tables import drift
    from distcalib.storage import publish

    as_shipped = dataset is None and take_up and seed == 0
    reference = against or (shipped_path() if as_shipped else None)
    # The shipped table itself comes from a first check that has nothing to compare with.
    first = against is None and as_shipped and not shipped_path().is_file()
    earlier = None if reference is None or first else read_check(reference)
    console = make_console()
    found = check_data(
        dataset,
        before=before,
        take_up="drawn" if take_up else "stored",
        seed=seed,
        earlier=earlier,
        report=Progressing(console),
    )
    found.write(output)
    if starting_totals is not None:
        publish(starting_totals, lambda path: found.starting_totals().to_csv(path, index=False))
    print_check(found.table, output, console)
    if first:
        raise DistcalibError(f"the package ships no check: copy {output / 'check.csv'} to {shipped_path()}")
    if earlier is not None:
        changed = drift(found.table, earlier)
        print_drift(changed, str(reference), output, console)
        sys.exit(1 if len(changed) else 0)


if __name__ == "__main__":
    main()
