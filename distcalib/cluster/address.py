"""A scheduler that somebody else started: joined by its address or by the file that it wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client
from distributed.security import Security

from distcalib.cluster.security import check_addresses, given_security
from distcalib.cluster.settings import dask_settings
from distcalib.config import ClusterConfig
from distcalib.errors import InputError, RunError
from distcalib.storage import parse_json


@contextmanager
def address_client(config: ClusterConfig) -> Iterator[Client]:
    """Join a running scheduler, and leave it and its workers as they are afterwards."""
    security = given_security(config)
    until = time.monotonic() + config.scheduler.wait
    address = scheduler_address(config)
    if address.startswith("tls://") and security is None:
        raise InputError(
            "the scheduler speaks TLS, and no certificates are given", place=f"{config.file}: security",
            value=address, expected="ca, cert and key, as the scheduler and its workers have them",
        )  # fmt: skip
    with join(config, address, security, until) as client:
        _check_listening(client, config)
        wait_for_workers(client, config, config.group.workers or 1, until)
        yield client


@contextmanager
def join(config: ClusterConfig, address: Any, security: Security | None, until: float) -> Iterator[Client]:
    """Give a client of a scheduler (an address or a cluster) that answers before `until` (monotonic)."""
    settings = dask_settings(config)
    left = max(0.5, until - time.monotonic())
    settings["distributed.comm.timeouts.connect"] = f"{left:g}s"
    with dask.config.set(settings):
        try:
            client = Client(address, security=security, timeout=left, set_as_default=False)
        except (OSError, TimeoutError, ValueError, RuntimeError, AssertionError) as error:
            # An assertion fails where this machine is so busy that a thread does not start in ten seconds.
            where = getattr(address, "scheduler_address", address)
            raise RunError(
                f"{config.file}: no scheduler can be joined at {where} within {config.scheduler.wait:g} s "
                f"({_first_line(error)}): start it, or look whether it has the same certificates "
                "(security.ca, cert, key)"
            ) from None
        with client:
            _no_endless_wait(client, config.scheduler.wait)
            yield client


def _no_endless_wait(client: Client, seconds: float) -> None:
    """Let a task that no worker can take fail after so many seconds, where the scheduler would wait for ever.

    The function is sent as it is, for a scheduler need not have this package.
    """

    def limit(dask_scheduler: Any) -> None:
        if dask_scheduler.no_workers_timeout is None:
            dask_scheduler.no_workers_timeout = seconds

    limit.__module__ = "__main__"
    client.run_on_scheduler(limit)


def _check_listening(client: Client, config: ClusterConfig) -> None:
    """Raise `InputError` for a scheduler that is open to others, by whichever address it was joined."""

    def listening(dask_scheduler: Any) -> str:
        return str(dask_scheduler.listen_address)

    listening.__module__ = "__main__"  # as in `_no_endless_wait`
    place = f"{config.file}: what the scheduler at {client.scheduler.address} listens on"
    config.check_address(client.run_on_scheduler(listening), place)


def scheduler_address(config: ClusterConfig) -> str:
    """Return the address of the scheduler, checked; a scheduler file that is not there yet is waited for.

    Raises
    ------
    InputError
        When the file is no scheduler file, or the address is refused (`ClusterConfig.check_address`).
    RunError
        When there is no file after ``scheduler.wait`` seconds.
    """
    if config.scheduler.address is not None:
        return config.scheduler.address
    file, place = Path(str(config.scheduler.scheduler_file)), f"{config.file}: scheduler.scheduler_file"
    until = time.monotonic() + config.scheduler.wait
    while not (file.is_file() and file.stat().st_size):
        if time.monotonic() > until:
            raise RunError(
                f"{place}: no scheduler wrote {file} within {config.scheduler.wait:g} s: start one with "
                f"`dask scheduler --scheduler-file {file}`, on a file system that this machine has too"
            )
        time.sleep(0.2)
    try:
        address = parse_json(file.read_text(encoding="utf-8"))["address"]
    except (ValueError, KeyError, TypeError, OSError):
        address = None
    if not isinstance(address, str):
        raise InputError(
            "is not a scheduler file", place=place, value=str(file),
            expected="the file of `dask scheduler --scheduler-file`",
        )  # fmt: skip
    config.check_address(address, str(file))
    return address


def wait_for_workers(client: Client, config: ClusterConfig, count: int, until: float) -> None:
    """Wait until so many workers are there; check where they listen.

    Raises
    ------
    RunError
        When fewer are there at `until` (monotonic): says how many, and what may be the reason.
    """
    left = max(0.5, until - time.monotonic())
    try:
        client.wait_for_workers(count, timeout=left)
    except TimeoutError:
        there = len(client.scheduler_info(n_workers=-1)["workers"])
        raise RunError(
            f"{config.file}: {there} of {count} workers joined within {config.scheduler.wait:g} s "
            f"(scheduler.wait): look at {WHY[config.kind]}"
        ) from None
    check_addresses(config, list(client.scheduler_info(n_workers=-1)["workers"]))


#: Where the reason may be found why workers do not join.
WHY = {
    "local": "what this process prints",
    "address": "the output of `dask worker`; it needs the scheduler's address and the same certificates",
    "slurm": "`squeue`: jobs that wait need a longer scheduler.wait or a smaller sim.minimum; the output of "
    "jobs that ended says why",
    "kubernetes": "`kubectl get pods`: pods that wait lack room or an image; `kubectl logs` says why others "
    "ended",
}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
