"""Commands that write area files outside of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distcalib.cli.files import force_option, need_new, read_numbers
from distcalib.cli.options import examples, run_argument, together
from distcalib.errors import InputError

_areas = together(
    click.option("--only", metavar="AREAS", help="MN,CA-12,NYC,US; a state with its districts."),
    click.option(
        "--area", "areas", multiple=True, metavar="NAME=FILTER",
        help="One more area: 'Cook=county_fips == 17031'; may be repeated.",
    ),
    click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for areas/."),
)  # fmt: skip


@click.group()
def stack() -> None:
    """Write area files: of a run's weights, or of weights that were fitted elsewhere."""


@stack.command(
    "run",
    epilog=examples(
        "distcalib stack run runs/demo --only CA-12,MN --output files",
        "distcalib stack run runs/demo --area 'Cook=county_fips == 17031' --only Cook --output files",
    ),
)
@run_argument
@_areas
@click.option("--fit", default="", help="Name of one of the run's further fits.")
def stack_of_run(run: Path, only: str | None, areas: tuple[str, ...], output: Path, fit: str) -> None:
    """Write area files from the weights of a run into another folder; the run stays as it is."""
    from distcalib.runs.stacking import stack_run

    n = stack_run(run, output, **_asked(only, areas), fit=fit, written=_say)
    click.echo(f"{output}: {n:,} datasets")


@stack.command(
    "weights",
    epilog=examples(
        "distcalib stack weights calibration_weights.npy --dataset cps.h5 "
        "--geography geography_assignment.npz --only NC-01 --output files",
        "distcalib stack weights w.npy --dataset cps.h5 --districts NC-01,NC-02 --file two.h5",
    ),
)
@click.argument("weights", metavar="WEIGHTS", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="PolicyEngine HDF5 file, or hf:// address, of the households.")
@click.option("--geography", type=click.Path(path_type=Path), help="geography_assignment.npz of the columns.")
@click.option("--only", metavar="AREAS", help="With --geography: MN,CA-12,NYC,US; default: all.")
@click.option(
    "--area", "areas", multiple=True, metavar="NAME=FILTER", help="With --geography: one more area."
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="With --geography: folder to write areas/ in."
)
@click.option(
    "--districts", metavar="LIST", help="Columns are every household in each of these, in this order."
)
@click.option("--subset", metavar="LIST", help="With --districts: write these of them.")
@click.option("--file", type=click.Path(path_type=Path), help="With --districts: the one dataset to write.")
@click.option("--period", type=int, help="Year of the dataset; default: the latest it has weights of.")
@click.option("--draw-take-up", is_flag=True, help="Draw take-up of programs; default: flags as stored.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every draw.")
@force_option
def stack_of_weights(
    weights: Path, dataset: str, geography: Path | None, only: str | None, areas: tuple[str, ...],
    output: Path | None, districts: str | None, subset: str | None, file: Path | None, period: int | None,
    draw_take_up: bool, seed: int, force: bool,
) -> None:  # fmt: skip
    """Write area files of WEIGHTS (.npy, one a column) over the households of a dataset.

    Where the columns are clones that --geography places, areas/ is written in --output, as runs write it.
    Where they are every household in every district (--districts), one dataset of several districts is
    written to --file.
    """
    values = read_numbers(weights)
    if geography is not None and output is not None and not (districts or subset or file or force):
        from distcalib.runs.stacking import stack_weights

        n = stack_weights(
            values, dataset, geography, output, **_asked(only, areas), period=period, take_up=draw_take_up,
            seed=seed, written=_say,
        )  # fmt: skip
        click.echo(f"{output}: {n:,} datasets")
    elif districts is not None and file is not None and not (geography or only or areas or output):
        from distcalib import create_sparse_cd_stacked_dataset
        from distcalib.microdata.remote import local_file

        need_new([file], force)
        create_sparse_cd_stacked_dataset(
            values, _listed(districts), _listed(subset) if subset else None, file, local_file(dataset),
            period=period, rerandomize_takeup=draw_take_up, seed=seed,
        )  # fmt: skip
    else:
        raise click.UsageError(
            "give --geography NPZ with --output FOLDER (and --only, --area), or --districts LIST with "
            "--file FILE (and --subset, --force)"
        )


def _asked(only: str | None, areas: tuple[str, ...]) -> dict[str, Any]:
    from distcalib.runs.area_stage import parse_only

    others: dict[str, str | None] = {}
    for text in areas:
        name, equals, where = text.partition("=")
        if not (name.strip() and equals and where.strip()) or name.strip() in others:
            raise InputError(
                "is not an area",
                place="--area",
                value=text,
                expected="NAME=FILTER: Cook=county_fips == 17031",
            )
        others[name.strip()] = where.strip()
    return {"only": None if only is None else parse_only(only), "others": others}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _say(area: Any, facts: dict[str, float]) -> None:
    click.echo(f"{area.file}: {facts['households']:,} households, weight {facts['weight']:,.0f}")
