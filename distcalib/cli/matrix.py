"""Commands that look into the matrix of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distcalib.cli.options import examples, run_argument


@click.group()
def matrix() -> None:
    """Look into the matrix of a run: rows are targets, columns are households in their places.

    RUN is a run folder whose matrix is assembled, or a folder that CalibrationMatrix.save wrote. ROW is the
    number of a row, or the name of a target (state_6/snap).
    """


@matrix.command(
    epilog=examples("distcalib matrix info runs/demo", "distcalib matrix info runs/demo --hardest 20")
)
@run_argument
@click.option("--hardest", type=click.IntRange(0), default=5, show_default=True, help="How many to list.")
def info(run: Path, hardest: int) -> None:
    """Print shape, sparsity, the hardest targets and the impossible ones.

    The hardest have the smallest row sum for their value; to an impossible one no column contributes.
    """
    held = _load(run)
    n_rows, n_columns = held.X.shape
    share = held.X.nnz / max(n_rows * n_columns, 1)
    click.echo(f"{n_rows:,} targets x {n_columns:,} columns, {held.X.nnz:,} nonzeros ({share:.4%})")
    click.echo(f"digest {held.digest()}")
    click.echo(_text(held.sparsity().reset_index()))
    impossible = held.impossible()
    if hardest:
        table = held.hardest(hardest).reset_index()[["row", *_name(held), "value", "row_sum", "ratio"]]
        click.echo(f"\nhardest:\n{_text(table)}")
    click.echo(f"\n{len(impossible):,} impossible targets")
    if len(impossible):
        click.echo(_text(impossible.reset_index()[["row", *_name(held), "value"]].head(20)))
        if len(impossible) > 20:
            click.echo(f"... and {len(impossible) - 20:,} more")


@matrix.command(
    "row",
    epilog=examples("distcalib matrix row runs/demo 12", "distcalib matrix row runs/demo state_6/snap"),
)
@run_argument
@click.argument("row")
def show_row(run: Path, row: str) -> None:
    """Print what a row is: its target, and how many columns, donors and districts contribute."""
    from distcalib.matrix.inspect import find_row, row_facts

    held = _load(run)
    _print_facts(row_facts(held, find_row(held, row)))


@matrix.command("column", epilog=examples("distcalib matrix column runs/demo 4711"))
@run_argument
@click.argument("column", type=int)
@click.option("--most", type=click.IntRange(1), default=40, show_default=True, help="Cells to list.")
def show_column(run: Path, column: int, most: int) -> None:
    """Print what a column is: donor, clone and place, its weight, and its nonzero cells."""
    from distcalib.matrix.inspect import column_cells
    from distcalib.runs.reading import read_weights

    held = _load(run)
    cells = column_cells(held, column)
    # A row by itself would be of floats; a table of one row keeps ids whole.
    facts = {"column": column, **held.columns.iloc[[column]].to_dict("records")[0]}
    weights = run / "fit" / "weights.npy"
    if weights.is_file():
        facts["weight"] = float(read_weights(weights, held.X.shape[1])[column])
    _print_facts(facts)
    click.echo(f"\n{len(cells):,} nonzero cells")
    click.echo(_text(cells.head(most)))


@matrix.command(epilog=examples("distcalib matrix why runs/demo state_6/snap 4711"))
@run_argument
@click.argument("row")
@click.argument("column", type=int)
def why(run: Path, row: str, column: int) -> None:
    """Say why a cell is what it is: simulate its household again and follow every step (about a minute)."""
    from distcalib.matrix.inspect import find_row
    from distcalib.report.console import in_progress

    held = _load(run)
    number = find_row(held, row)
    with in_progress("simulating the household again"):
        told = held.why(number, column)
    click.echo(str(told))


@matrix.command(
    epilog=examples(
        "distcalib matrix export runs/demo --output X.npz",
        "distcalib matrix export runs/demo --output X.zarr",
    )
)
@run_argument
@click.option("--output", type=click.Path(path_type=Path), required=True, help="X.npz or X.zarr.")
def export(run: Path, output: Path) -> None:
    """Write the matrix for other programs.

    .npz is SciPy's, with the tables of targets and columns as Parquet beside it; .zarr is AnnData's, targets
    as observations and columns as variables.
    """
    from distcalib.matrix.export import export_matrix

    for path in export_matrix(_load(run), output):
        click.echo(f"{path}: written")


def _load(run: Path) -> Any:
    from distcalib.runs.reading import read_matrix

    return read_matrix(run)


def _name(held: Any) -> list[str]:
    return ["name"] if "name" in held.targets else ["variable", "geographic_id"]


def _text(table: Any) -> str:
    return str(table.to_string(index=False, float_format=lambda number: f"{number:,.4g}"))


def _print_facts(facts: dict[str, object]) -> None:
    for name, value in facts.items():
        click.echo(f"{name:20} {value:,}" if isinstance(value, float) else f"{name:20} {value}")
