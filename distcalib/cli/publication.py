"""Commands that publish runs, and move the pointer of a publication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from distcalib.cli.options import examples

if TYPE_CHECKING:
    from distcalib.publication.publishing import Outcome

_to = click.argument("to", metavar="TO")
_verify = click.option(
    "--verify",
    type=click.Choice(["checksums", "full"]),
    default="checksums",
    show_default=True,
    help="Trust a store's own checksums, or read every file back and compare its sha256.",
)


@click.command(
    epilog=examples(
        "distcalib publish runs/demo s3://bucket/prefix",
        "distcalib publish runs/demo /data/public --stage-only",
    )
)
@click.argument("run", metavar="RUN")
@_to
@click.option("--stage-only", is_flag=True, help="Put and verify; leave the pointer for `promote`.")
@_verify
def publish(run: str, to: str, stage_only: bool, verify: str) -> None:
    """Put a finished run at TO, verify it there, and point at it.

    TO is a folder or s3://bucket/prefix. TO/latest.json is the pointer; it always names a complete version.
    """
    from distcalib.publication.publishing import publish as publish_run
    from distcalib.report.console import in_progress

    with in_progress("comparing the run with its manifest", "files") as progress:
        outcome = publish_run(run, to, stage_only=stage_only, full=verify == "full", progress=progress)
    if missing := outcome.targets - outcome.proven:
        said = f"{missing:,} of {outcome.targets:,} targets are not proven: no file here holds their area"
        click.echo(f"warning: {said}", err=True)
    if outcome.sent:
        click.echo(f"{outcome.version}: {outcome.sent:,} files put ({outcome.bytes / 1e6:,.1f} MB)")
        if outcome.kept:
            click.echo(f"{outcome.version}: {outcome.kept:,} files were there")
    if stage_only and outcome.latest != outcome.version:
        click.echo(f"staged and verified; `distcalib promote {to} {outcome.version}` points at it")
    else:
        _say(outcome)


@click.command(epilog=examples("distcalib promote /data/public demo-cfa36fa7-1b2c3d4e-5f607182"))
@_to
@click.argument("version")
@_verify
def promote(to: str, version: str, verify: str) -> None:
    """Point at VERSION, which is complete at TO, after comparing its files with its manifest."""
    from distcalib.publication.publishing import promote as point_at
    from distcalib.report.console import in_progress

    with in_progress("comparing the files with their manifest"):
        outcome = point_at(to, version, full=verify == "full")
    _say(outcome)


@click.command(epilog=examples("distcalib rollback s3://bucket/prefix"))
@_to
@_verify
def rollback(to: str, verify: str) -> None:
    """Point at the version before the latest; said twice, at the one before that."""
    from distcalib.publication.publishing import rollback as roll_back
    from distcalib.report.console import in_progress

    with in_progress("comparing the files with their manifest"):
        outcome = roll_back(to, full=verify == "full")
    _say(outcome)


@click.command(epilog=examples("distcalib publications /data/public"))
@_to
def publications(to: str) -> None:
    """Print what is at TO: the pointer, the versions, and who pointed where and when. Writes nothing."""
    from distcalib.publication.publishing import publications as what_is_at

    found = what_is_at(to)
    latest = found.latest.version if found.latest else None
    click.echo(f"latest: {found.latest or 'none'}")
    pointed = {entry.version for entry in found.history}
    click.echo("versions:")
    for name, manifest in found.versions.items():
        files = manifest["files"].values() if manifest else ()
        held = f"{len(files):,} files, {sum(f['bytes'] for f in files) / 1e6:,.1f} MB"
        held += "" if name in pointed else ", staged"
        state = held if manifest else "incomplete; its publication was interrupted or is under way"
        click.echo(f"{'->' if name == latest else '  '} {name}  {state}")
    click.echo("history:")
    for entry in found.history:
        click.echo(f"   {entry.time}  {entry.act:8}  {entry.version}  {entry.by}")


def _say(outcome: Outcome) -> None:
    if outcome.moved:
        click.echo(f"latest is now {outcome.version}")
    elif outcome.sent:
        click.echo(f"latest is {outcome.version} already")
    else:
        click.echo(f"latest is {outcome.version} already; there was nothing to do")
