"""The server: who may reach it, what it opens, and how it ends."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from distcalib.errors import InputError


def check_address(address: str, allow_others: bool) -> None:
    """Refuse an address that others can reach, unless that was said.

    Raises
    ------
    InputError
        When `address` is no address of this machine, or not a loopback one and `allow_others` is not set.
    """
    try:
        loopback = _loopback(address)
    except (OSError, UnicodeError):
        raise InputError(
            "is no address",
            place="--address",
            value=address,
            expected="127.0.0.1",
            choices=["127.0.0.1", "localhost"],
        ) from None
    if allow_others or loopback:
        return
    raise InputError(
        "can be reached from other machines, and the dashboard has neither passwords nor encryption",
        place="--address", value=address,
        expected="127.0.0.1 (from elsewhere: ssh -L 5006:127.0.0.1:5006 HOST), or "
        "--allow-unencrypted-and-unauthenticated",
    )  # fmt: skip


def find_runs(folders: Sequence[Path], parents: Sequence[Path]) -> dict[str, Path]:
    """Return label -> run folder: those named, and the children of `parents` that are runs.

    Raises
    ------
    InputError
        When a folder is no run folder, or a parent holds none.
    """
    found = []
    for folder in folders:
        if not (folder / "plan.json").is_file():
            raise InputError(
                "is no run folder", place="RUN", value=str(folder), expected="a folder with plan.json"
            )
        found.append(folder)
    for parent in parents:
        children = sorted(file.parent for file in parent.glob("*/plan.json"))
        if not children:
            raise InputError("holds no run folders", place="--runs", value=str(parent))
        found += children
    paths = dict.fromkeys(folder.resolve() for folder in found)
    names = [path.name for path in paths]
    return {path.name if names.count(path.name) == 1 else str(path): path for path in paths}


def serve(
    runs: dict[str, Path],
    *,
    address: str,
    port: int,
    show: bool,
    most_upload: int,
    workers: int,
    memory: str,
    told: Callable[[str], object] = print,
) -> None:
    """Serve until SIGINT or SIGTERM, then end the workers too.

    Parameters
    ----------
    runs
        Label -> run folder; see `find_runs`.
    address, port, show
        Where to listen (0: any free port), and whether to open a browser.
    most_upload
        Bytes of an uploaded file.
    workers, memory
        Processes that calibrate, and the memory of each.
    told
        Called with the address once it answers.

    Raises
    ------
    InputError
        When the port cannot be listened on.
    """
    try:
        import panel as pn
    except ImportError:
        raise InputError(
            "needs panel and bokeh, which are not installed", place="distcalib dashboard",
            expected="pip install 'distcalib[dashboard]'",
        ) from None  # fmt: skip
    from distcalib.dashboard.app import STYLE, page
    from distcalib.dashboard.hosts import KnownHosts
    from distcalib.dashboard.upload import LARGEST_MESSAGE
    from distcalib.runs.jobs import open_jobs

    pn.extension("tabulator", raw_css=[STYLE])
    port = _checked_port(address, port)
    told(f"starting {workers} worker{'s' if workers > 1 else ''}")
    with (
        tempfile.TemporaryDirectory(prefix="distcalib-dashboard-") as folder,
        open_jobs(workers, memory) as jobs,
    ):
        server: Any = pn.serve(
            {"/": lambda: page(runs, jobs, Path(folder), most_upload)}, address=address, port=port,
            title="distcalib", show=show, start=False, verbose=False,
            websocket_max_message_size=LARGEST_MESSAGE, websocket_origin=origins(address, port),
            auth_provider=KnownHosts(origins(address, port)),
        )  # fmt: skip
        loop = server.io_loop
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
        loop.asyncio_loop.set_exception_handler(_unless_gone)
        server.start()
        told(f"http://{_host(address)}:{port}/  (Ctrl-C ends it)")
        loop.start()
        server.stop()
    told("ended")


def _unless_gone(loop: Any, context: dict[str, Any]) -> None:
    """Report what failed on the loop, except that a page was closed while something was sent to it."""
    from tornado.websocket import WebSocketClosedError

    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def origins(address: str, port: int) -> list[str]:
    """Return the hosts whose pages may open a session: what a browser calls this machine, and no other."""
    names = {address, "localhost"}
    if not _loopback(address):
        names |= {socket.gethostname(), socket.getfqdn()}
        names |= {one.address.split("%")[0] for found in psutil.net_if_addrs().values() for one in found
                  if one.family in (socket.AF_INET, socket.AF_INET6)}  # fmt: skip
    return sorted(f"{_host(name).lower()}:{port}" for name in names)


def _loopback(address: str) -> bool:
    return all(ipaddress.ip_address(info[4][0]).is_loopback for info in socket.getaddrinfo(address, None))


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _checked_port(address: str, port: int) -> int:
    """Return the port, or a free one for 0; `InputError` where it cannot be listened on."""
    family = socket.getaddrinfo(address, port)[0][0]
    try:
        with socket.create_server((address, port), family=family) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"cannot be listened on ({os.strerror(error.errno or 0)})", place="--port", value=port,
            expected="a free port; 0: any",
        ) from None  # fmt: skip
