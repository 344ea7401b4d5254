"""The command line: each command is a few lines over the public interface."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

import distcalib
from distcalib.cli.compare import compare
from distcalib.cli.config import config
from distcalib.cli.dashboard import dashboard
from distcalib.cli.data import data
from distcalib.cli.doctor import doctor
from distcalib.cli.fit import fit_of_run, fit_tune
from distcalib.cli.matrix import matrix
from distcalib.cli.publication import promote, publications, publish, rollback
from distcalib.cli.replicates import replicates
from distcalib.cli.report import report
from distcalib.cli.running import INTERRUPTED, plan, run, verify
from distcalib.cli.stack import stack
from distcalib.cli.status import status
from distcalib.cli.targets import targets
from distcalib.errors import DistcalibError


class _Explained(click.Group):
    """Print errors that explain themselves without a traceback, with their exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except DistcalibError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does.

    Batch systems and containers send the one before they kill, a terminal that is lost the other; under
    ``nohup`` that one stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hears signals in its main thread alone
        return
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.group("distcalib", cls=_Explained, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(distcalib.__version__, package_name="distcalib")
def main() -> None:
    """Calibrated microdata for every US congressional district.

    \b
    Exit codes: 0 done; 1 failed; 2 bad input, nothing was written; 3 verified, but with warnings, where
    --strict was given; 130 interrupted, and the same command goes on.
    """


for _command in (
    run, plan, status, verify, report, compare, publish, promote, rollback, publications, stack, fit_of_run,
    matrix, targets, data, doctor, config, replicates, dashboard,
):  # fmt: skip
    main.add_command(_command)
main.add_command(fit_tune, "tune")
