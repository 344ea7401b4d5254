"""Whether a cluster is fit for a run, asked of this process, the scheduler and every worker beforehand."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil

from distcalib.cluster import open_client
from distcalib.cluster.address import WHY
from distcalib.config import ClusterConfig
from distcalib.config.cluster import is_loopback
from distcalib.errors import InputError, RunError
from distcalib.runs.capacity import GPU_ENGINES, fit_resource, fit_takers, workers_of
from distcalib.runs.home import open_home
from distcalib.runs.remote import object_store
from distcalib.runs.workers import difference, identity
from distcalib.storage.stores import explained, of_store, without_credentials

if TYPE_CHECKING:
    from distcalib.runs.plan import Plan

FINE, NOTE, FAILS = "fine", "note", "fails"

#: Seconds that clocks may be apart: a new certificate holds from now on, by its maker's clock.
SKEW = 5.0
#: Pages of Dask's servers: of their own routes, and of Bokeh, which is another switch.
_PAGES = ("health", "metrics", "status")
#: Days before the end of a certificate that it is told.
DAYS_LEFT = 14


@dataclass(frozen=True)
class Check:
    """What was found at one place.

    Attributes
    ----------
    place
        ``here``, ``scheduler``, ``settings``, or ``worker ADDRESS``.
    name
        What was looked at.
    status
        ``fine``, ``note`` (works, but not as one may think) or ``fails``.
    found
        In words.
    mend
        What to do; empty where nothing is to do.
    """

    place: str
    name: str
    status: str
    found: str
    mend: str = ""


def examine(
    cluster: ClusterConfig, plan: Plan | None = None, folder: str | Path | None = None
) -> list[Check]:
    """Start or join a cluster, look at everything that a run needs, and leave it.

    Parameters
    ----------
    cluster
        Settings; for the kind ``local`` the rules engine is not loaded, for ``serial`` only this process is
        looked at.
    plan
        Memory and the fit's engine are held to it; None: these are not judged.
    folder
        Run folder, a path or ``s3://bucket/prefix``: every worker writes, reads, renames and deletes a file
        there, and nothing stays. None: storage is not looked at.

    Returns
    -------
    list of Check
        In the order in which they were made. A cluster that cannot be opened is a check that fails.
    """
    with _probe(folder) as (probe, checks):
        here = _inspect(probe)
        checks += _of_process("here", here, identity())
        checks += _of_certificate(cluster)
        if cluster.kind == "serial":
            return [*checks, _of_memory("here", 0, here, plan, fits=True)]
        try:
            with open_client(cluster.changed(warm=cluster.kind != "local")) as client:
                checks += _of_scheduler(client)
                checks.append(_of_number(client, cluster))
                checks += _of_workers(client, plan, probe)
        except RunError as error:
            mend = f"start scheduler and workers, or set a longer scheduler.wait; look at {WHY[cluster.kind]}"
            checks.append(Check("scheduler", "workers", FAILS, str(error), mend))
        except InputError as error:
            # Found only when it was joined: an address that is open, certificates of others.
            mend = "give scheduler, workers and cluster settings the same certificates, and tls:// addresses"
            checks.append(Check("scheduler", "TLS", FAILS, str(error), mend))
    return checks


def _of_number(client: Any, cluster: ClusterConfig) -> Check:
    """Wait for the workers that the settings name: one that has not joined is not looked at."""
    most = cluster.group.workers or cluster.group.bounds[0] or 1
    asked = most + (cluster.fit.workers or 0)
    with suppress(TimeoutError):
        client.wait_for_workers(asked, timeout=cluster.scheduler.wait)
    there = len(workers_of(client))
    words = f"{there} of {asked} workers" if there < asked else f"{there} workers"
    if there < asked:
        words += f" joined within {cluster.scheduler.wait:g} s; the others are not looked at"
        return Check("scheduler", "workers", FAILS, words, f"look at {WHY[cluster.kind]}")
    return Check("scheduler", "workers", FINE, words)


def _of_workers(client: Any, plan: Plan | None, probe: str | None) -> list[Check]:
    checks: list[Check] = []
    known = workers_of(client)
    takers = fit_takers(known)
    said = client.run(_answer, probe, on_error="return")
    for address, answer in sorted(said.items()):
        place = f"worker {address}"
        if not isinstance(answer, dict):
            mend = "install distcalib there, in the same environment or image"
            checks.append(Check(place, "versions", FAILS, f"cannot say what it is: {answer}", mend))
            continue
        # One after the other: the clock is compared with the middle of the question and its answer.
        asked = time.time()
        (clock,) = client.run(time.time, workers=[address]).values()
        checks += _of_process(place, answer, identity())
        checks.append(_of_memory(place, known[address]["memory_limit"], answer, plan, address in takers))
        checks.append(_of_threads(place, known[address], answer))
        checks.append(_of_clock(place, clock - (asked + time.time()) / 2))
        checks.append(_of_address(place, address))
        checks += _of_pages(place, address, known[address].get("services", {}))
    able = {a: answer for a, answer in said.items() if isinstance(answer, dict)}
    return checks + _of_fit(client, plan, able)


def _answer(probe: str | None) -> dict[str, Any] | str:
    """Inspect, or return the error in words, which always arrives."""
    try:
        return _inspect(probe)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _inspect(probe: str | None) -> dict[str, Any]:
    """Say what this process is and has, on whatever machine."""
    return {
        "identity": identity(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "available": psutil.virtual_memory().available,
        "gpus": _gpus(),
        "storage": None if probe is None else _try_storage(probe),
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []  # a driver that does not answer serves no fit
    return [line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")]


def _try_storage(probe: str) -> str:
    """Return what fails of reading a file from elsewhere, and writing, renaming and deleting one; or ''."""
    if "://" in probe:
        return _try_store(probe)
    folder, name = Path(probe), uuid4().hex
    step = f"{folder} is not the folder of this machine: reading what the coordinator wrote there"
    try:
        if (folder / _FROM_HERE).read_text(encoding="ascii") != folder.name:
            return step
        step = "writing"
        (folder / f".{name}.tmp").write_text(name, encoding="ascii")
        step = "renaming"
        os.replace(folder / f".{name}.tmp", folder / name)
        step = "reading"
        if (folder / name).read_text(encoding="ascii") != name:
            return "reading gives something else than was written"
        step = "deleting"
        (folder / name).unlink()
    except OSError as error:
        return f"{step} fails: {error.strerror or error}"
    return ""


def _try_store(url: str) -> str:
    """Return what fails of reading an object from elsewhere, and writing, reading and deleting one; or ''."""
    name, step = uuid4().hex, "reading what the coordinator wrote there"
    try:
        store = object_store(url)
        if store.read(_FROM_HERE) != url.encode():
            return f"{step} gives something else"
        step = "writing"
        store.write(name, url.encode())
        step = "reading"
        if store.read(name) != url.encode():
            return "reading gives something else than was written"
        step = "deleting"
        store.delete(name)
    except Exception as error:
        if not isinstance(error, InputError) and not of_store(error):
            raise
        return f"{step} fails: {without_credentials(str(error))}"
    return ""


_FROM_HERE = "from-coordinator"


@contextmanager
def _probe_store(url: str) -> Iterator[tuple[str | None, list[Check]]]:
    """Put an object of this process below a prefix for trials, and remove everything there."""
    store = object_store(f"{url.rstrip('/')}/.doctor-{uuid4().hex[:12]}")
    try:
        with explained(store, "writing", "nothing was replaced"):
            store.prepare()
            store.write(_FROM_HERE, store.shown.encode())
    except (InputError, RunError) as error:
        mend = "give credentials in the environment of this process, and a bucket that they may write in"
        yield None, [Check("here", "storage", FAILS, str(error), mend)]
        return
    try:
        yield store.shown, []
    finally:
        for name in store.sizes():
            store.delete(name)


@contextmanager
def _probe(folder: str | Path | None) -> Iterator[tuple[str | None, list[Check]]]:
    """Make a folder in the run folder for trials, and remove it with all folders that were made for it."""
    if folder is None:
        yield None, []
        return
    home = open_home(folder)
    if home.alone:
        with _probe_store(home.shown) as found:
            yield found
        return
    folder = home.folder
    probe = Path(folder).absolute() / f".doctor-{uuid4().hex[:12]}"
    missing = [p for p in (probe, *probe.parents) if not p.exists()]
    try:
        probe.mkdir(parents=True)
        (probe / _FROM_HERE).write_text(probe.name, encoding="ascii")
    except OSError as error:
        for made in missing:
            with suppress(OSError):
                made.rmdir()
        words = f"{folder} cannot be written in: {error.strerror}"
        yield None, [Check("here", "storage", FAILS, words, "choose a folder that you may write in")]
        return
    try:
        yield str(probe), []
    finally:
        shutil.rmtree(probe, ignore_errors=True)
        for made in missing[1:]:
            with suppress(OSError):
                made.rmdir()


def _of_process(place: str, answer: Mapping[str, Any], expected: Mapping[str, str]) -> list[Check]:
    found = answer["identity"]
    words = f"distcalib {found['distcalib']}, policyengine-us {found['policyengine-us']}"
    if refusal := difference(place, found, expected):
        mend = "install the same packages everywhere: one environment or one image"
        checks = [Check(place, "versions", FAILS, refusal, mend)]
    else:
        checks = [Check(place, "versions", FINE, words)]
    if answer["storage"]:
        mend = (
            "mount the same file system at the same path on all machines, writable by the user of workers; "
            "for an object store give workers its credentials in their environment"
        )
        checks.append(Check(place, "storage", FAILS, answer["storage"], mend))
    elif answer["storage"] is not None:
        checks.append(Check(place, "storage", FINE, "writing, reading and deleting"))
    return checks


def _of_memory(place: str, limit: int, answer: Mapping[str, Any], plan: Plan | None, fits: bool) -> Check:
    available = answer["available"]
    has = f"{limit / 2**30:.1f} GiB" if limit else "no limit"
    words = f"{has}, {available / 2**30:.1f} GiB free on the machine"
    if plan is not None:
        needs = {stage: n for stage, n in plan.facts["task_bytes"].items() if fits or stage != "fit"}
        stage, needed = max(needs.items(), key=lambda item: item[1])
        words = f"{words}; the largest task ({stage}) needs {needed / 2**30:.1f} GiB"
        if 0 < limit < needed:
            return Check(
                place, "memory", FAILS, words,
                f"give workers {needed / 2**30:.1f} GiB (memory_limit), or set smaller slice_households",
            )  # fmt: skip
        if not limit and available < needed:
            return Check(place, "memory", FAILS, words, "end what else runs there, or take another machine")
    if limit > available:
        mend = "fewer workers on that machine, or end what else runs there"
        return Check(place, "memory", NOTE, words, mend)
    return Check(place, "memory", FINE, words)


def _of_threads(place: str, known: Mapping[str, Any], answer: Mapping[str, Any]) -> Check:
    words = f"{known['nthreads']} task at once, {answer['processors']} processors"
    if known["nthreads"] != 1:
        words = f"{known['nthreads']} tasks at once in one process"
        return Check(
            place, "threads", FAILS, f"{words}: the rules engine takes one", "start it with --nthreads 1"
        )
    return Check(place, "threads", FINE, words)


def _of_clock(place: str, skew: float) -> Check:
    words = f"{abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) > SKEW:
        return Check(place, "clock", FAILS, words, "set its clock (chrony, ntp)")
    return Check(place, "clock", FINE, words)


def _of_address(place: str, address: str) -> Check:
    # An address that is open and plain never comes here, unless the settings allow it in so many words.
    parts = urlsplit(address)
    if parts.scheme == "tls":
        return Check(place, "TLS", FINE, f"{address}: encrypted, certificates on both sides")
    if is_loopback(str(parts.hostname)):
        return Check(place, "TLS", FINE, f"{address}: not encrypted, on the loopback interface")
    return Check(place, "TLS", NOTE, f"{address}: not encrypted, as the settings allow", "use tls://")


def _of_pages(place: str, address: str, services: Mapping[str, Any]) -> list[Check]:
    """Ask the HTTP servers of Dask, which know no authentication, for the pages that they may have."""
    host, checks = str(urlsplit(address).hostname), []
    shown = f"[{host}]" if ":" in host else host
    for port in sorted({port for port in services.values() if port}):
        words = f"http://{shown}:{port} shows tasks and logs"
        if not any(_answers(f"http://{shown}:{port}/{page}") for page in _PAGES):
            checks.append(Check(place, "pages", FINE, f"port {port} shows nothing"))
        elif is_loopback(host):
            checks.append(Check(place, "pages", FINE, f"{words}, on the loopback interface"))
        else:
            mend = (
                "start it with --no-dashboard --dashboard-address 127.0.0.1:0 and "
                f"DASK_DISTRIBUTED__{place.split()[0].upper()}__HTTP__ROUTES='[]'"
            )
            checks.append(Check(place, "pages", FAILS, f"{words} to everybody", mend))
    return checks


def _answers(url: str) -> bool:
    """Return whether an HTTP server gives this page; asked directly, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return True
    except (OSError, HTTPException):
        return False


def _of_scheduler(client: Any) -> list[Check]:
    def state(dask_scheduler: Any) -> dict[str, Any]:
        import time

        return {"time": time.time(), "failures": dask_scheduler.allowed_failures}

    # Sent as it is: a scheduler need not have this package.
    state.__module__ = "__main__"
    asked = time.time()
    found = client.run_on_scheduler(state)
    checks = [
        _of_clock("scheduler", found["time"] - (asked + time.time()) / 2),
        _of_address("scheduler", client.scheduler.address),
        *_of_pages("scheduler", client.scheduler.address, client.scheduler_info(n_workers=0)["services"]),
    ]
    if found["failures"]:
        words = f"a task is given up after {found['failures'] + 1} workers died of it, not after one"
        mend = "start it with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0: large slices are split sooner"
        checks.append(Check("scheduler", "deaths", NOTE, words, mend))
    return checks


def _of_fit(client: Any, plan: Plan | None, said: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    engines = set() if plan is None else {*plan.engines.values()}
    resource, words = fit_resource(client, engines)
    known = workers_of(client)
    holders = [a for a, w in known.items() if resource is None or w["resources"].get(resource)]
    on = f"resource {resource}, of {len(holders)} workers"
    mend = "start one with --resources FIT=1, or set fit.workers: 1" if words else ""
    checks = [Check("cluster", "fit", NOTE if words else FINE, words or on, mend)]
    bare = [a for a, w in known.items() if w["resources"].get("GPU") and a in said and not said[a]["gpus"]]
    if bare:
        words, mend = "has the resource GPU, and nvidia-smi lists none", "add a driver, or leave out GPU=1"
        checks.append(Check(f"worker {bare[0]}", "GPU", FAILS, words, mend))
    if resource != "GPU" and (on_gpu := engines & {*GPU_ENGINES}):
        words = f"the fit's engine is {min(on_gpu)}, and no worker has the resource GPU"
        mend = "start a worker with --resources FIT=1,GPU=1, or set fit.engine: cpu"
        checks.append(Check("cluster", "GPU", FAILS, words, mend))
    gpus = sorted({gpu for answer in said.values() for gpu in answer["gpus"]})
    checks.append(Check("cluster", "GPU", FINE, ", ".join(gpus) or "none; the fit needs none"))
    return checks


def _of_certificate(cluster: ClusterConfig) -> list[Check]:
    files = cluster.security
    if files.ca is None or files.cert is None or files.key is None:
        return []
    from cryptography import x509

    checks = []
    for name, file in (("ca", files.ca), ("cert", files.cert)):
        try:
            certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
        except (ValueError, OSError) as error:
            place = f"{cluster.file}: security.{name}"
            raise InputError(f"is no certificate ({error})", place=place, value=file) from None
        left = (certificate.not_valid_after_utc - datetime.now(UTC)).days
        status = FAILS if left < 0 else NOTE if left < DAYS_LEFT else FINE
        mend = "" if status == FINE else "make new certificates"
        checks.append(Check("settings", f"security.{name}", status, f"holds for {left} more days", mend))
    if Path(files.key).stat().st_mode & 0o077:
        found, mend = "other users can read it", f"chmod 600 {files.key}"
        checks.append(Check("settings", "security.key", NOTE, found, mend))
    return checks
