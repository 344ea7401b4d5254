"""The server: who may reach it, what it opens, and how it ends."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distcalib.errors import InputError


def check_address(address: str, allow_others: bool) -> None:
    """Refuse an address that others can reach, unless that was said.

    Raises
    ------
    InputError
        When `address` is no address of this machine, or not a loopback one and `allow_others` is not set.
    """
    try:
        found = {info[4][0] for info in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        raise InputError(
            "is no address",
            place="--address",
            value=address,
            expected="127.0.0.1",
            choices=["127.0.0.1", "localhost"],
        ) from None
    if allow_others or all(ipaddress.ip_address(one).is_loopback for one in found):
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
    runs: dict[str, Path], *, address: str, port: int, show: bool, told: Callable[[str], object] = print
) -> None:
    """Serve until SIGINT or SIGTERM.

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
    from distcalib.dashboard.app import page

    pn.extension("tabulator")
    try:
        port = port or _free_port(address)
        server: Any = pn.serve(
            {"/": lambda: page(runs)}, address=address, port=port, title="distcalib", show=show, start=False,
            verbose=False, websocket_origin=[f"{address}:{port}", f"localhost:{port}"],
        )  # fmt: skip
    except OSError as error:
        raise InputError(
            f"cannot be listened on ({error.strerror})",
            place="--port",
            value=port,
            expected="a free port; 0: any",
        ) from None
    loop = server.io_loop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
    server.start()
    told(f"http://{address}:{server.port}/ (Ctrl-C ends it)")
    loop.start()
    server.stop()


def _free_port(address: str) -> int:
    # Asked for first, because pages of other addresses and ports are refused the session's web socket.
    with socket.create_server((address, 0)) as found:
        return int(found.getsockname()[1])
