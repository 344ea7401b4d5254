"""Commands on what runs take, bundled or own: microdata, take-up, costs, targets, checks."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from distcalib.cli.files import force_option, need_new
from distcalib.cli.options import Settings, examples
from distcalib.errors import DistcalibError
from distcalib.storage import writable


@click.group()
def data() -> None:
    """Check and prepare what runs take: microdata, targets, take-up rates, costs."""


@data.command(
    epilog=examples(
        "distcalib data cps --households 12000 --output cps_2024.h5",
        "distcalib data cps --without rent --output plain.h5",
    )
)
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

    need_new([output, *(output.with_name(f"{output.stem}_{ending}") for ending in SIDE_TABLES)], force)
    from distcalib.microdata.cps import build_cps, imputations_without, write_cps

    build = build_cps(households, year, seed, imputations_without(without), raked=not no_raking)
    write_cps(build, output)
    count = build.microdata.count
    click.echo(f"{output}: {count():,} households, {count('person'):,} persons")


@data.command("take-up", epilog=examples("distcalib data take-up --dataset mine.h5 --output rates.csv"))
@click.option(
    "--dataset", help="PolicyEngine HDF5 file, or hf:// address; default: the whole public-use CPS."
)
@click.option("--period", type=int, default=2024, show_default=True, help="Year of --dataset.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
@force_option
def take_up_rates(dataset: str | None, period: int, seed: int, output: Path, force: bool) -> None:
    """Solve the take-up rates of SNAP, Medicaid, the ACA, WIC and filing to official counts.

    A run takes the table as simulation.take_up_rates.
    """
    need_new([output], force)
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


@data.command(epilog=examples("distcalib data costs national --output costs.json"))
@click.argument("settings", metavar="[PRESET_OR_YAML]", default="demo", type=Settings())
@click.option("--by-state", is_flag=True, help="Measure each state too, by which slices are cut and ordered.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
@force_option
def costs(settings: str, by_state: bool, output: Path, force: bool) -> None:
    """Measure what simulations of a run with these settings cost on this machine.

    PRESET_OR_YAML is a preset of the package (default: demo) or a settings file. A run takes the measured
    file as simulation.costs: its tasks are cut by it, and `plan` says how long they take. About five minutes
    of one core, by state ten; Linux.
    """
    need_new([output], force)
    from distcalib import RunConfig
    from distcalib.microdata.remote import local_file
    from distcalib.runs import make_plan
    from distcalib.runs.asked import asked_variables
    from distcalib.runs.costs import measure_costs, write_costs
    from distcalib.runs.plan import read_source

    config = RunConfig.load(settings)
    config = config.changed(microdata=str(local_file(config.microdata)))
    prepared = make_plan(config)
    source = read_source(config)
    asked = asked_variables(prepared.targets)
    found = measure_costs(source, prepared.assignment, asked, click.echo, by_state)
    write_costs(found, output)
    click.echo(f"{output}: tasks of up to {found.largest(len(asked)):,} households")


@data.command(
    epilog=examples(
        "distcalib data targets --database policy_data.db",
        "distcalib data targets --download --output rebuilt",
    )
)
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


@data.command(
    epilog=examples("distcalib data contradictions --database policy_data.db --output findings.csv")
)
@click.option(
    "--database", default="bundled", show_default=True, help="SQLite file or SQLAlchemy URL with targets."
)
@click.option("--output", type=click.Path(path_type=Path), help="CSV file for every finding and area.")
@force_option
def contradictions(database: str, output: Path | None, force: bool) -> None:
    """Find targets that contradict each other or the bundled register; exit 1 when a fitted one does."""
    if output is not None:
        need_new([output], force)
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


@data.command(
    epilog=examples(
        "distcalib data check --output check", "distcalib data check --dataset mine.h5 --output check"
    )
)
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
    need_new([output / "check.csv", output / "check.html"], force=True)
    if starting_totals is not None:
        need_new([starting_totals], force)
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
