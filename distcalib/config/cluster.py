"""`ClusterConfig`: where a run is executed, every setting with its default, meaning and allowed values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from distcalib.config.schema import read_settings, section, setting, table
from distcalib.config.settings import FromFile, memory_bytes, of_file, read_yaml
from distcalib.errors import InputError

KINDS = ("serial", "local", "address", "slurm", "kubernetes")

#: Kinds that start their workers on other machines.
_AWAY = ("slurm", "kubernetes")
_OF_JOBS = ("walltime", "queue", "account", "directives")
# Settings that mean something for some kinds only; elsewhere they are refused, not overlooked.
_ONLY: dict[str, tuple[str, ...]] = {
    "workers": ("local", "address", *_AWAY),
    "memory_limit": ("local", "address", *_AWAY),
    "warm": ("local",),
    "sim.workers": ("local", "address", *_AWAY),
    "sim.memory_limit": ("local", "address", *_AWAY),
    "sim.threads": _AWAY,
    "sim.minimum": ("slurm",),
    "sim.maximum": ("slurm",),
    "sim.gpu": _AWAY,
    "sim.image": ("kubernetes",),
    "sim.environment": _AWAY,
    "fit.workers": _AWAY,
    "fit.memory_limit": _AWAY,
    "fit.threads": _AWAY,
    "fit.gpu": _AWAY,
    "fit.image": ("kubernetes",),
    "fit.environment": _AWAY,
    **{f"{group}.{key}": ("slurm",) for group in ("sim", "fit") for key in _OF_JOBS},
    "scheduler.address": ("address",),
    "scheduler.scheduler_file": ("address",),
    "scheduler.interface": ("slurm",),
    "scheduler.port": ("slurm",),
    "scheduler.wait": ("local", "address", *_AWAY),
    "kubernetes.name": ("kubernetes",),
    "kubernetes.namespace": ("kubernetes",),
    "security.ca": ("address", *_AWAY),
    "security.cert": ("address", *_AWAY),
    "security.key": ("address", *_AWAY),
    "security.temporary": _AWAY,
    "security.folder": ("slurm",),
    "security.allow_unencrypted_and_unauthenticated": ("address", "slurm"),
}

# What is written into the text of a batch job or a manifest, and what it may look like.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+,=-]*")
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")
_WALLTIME = re.compile(r"(\d+-)?\d{1,3}:[0-5]\d(:[0-5]\d)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIRECTIVE = re.compile(r"--?[A-Za-z][^\n\r\0]*")


# Seconds before the end of its job that a worker leaves, and the shortest life of a job.
_LEAVE, _SHORTEST = 60, 120


@dataclass(frozen=True)
class _Group:
    workers: int | None = setting(None, "how many worker processes", least=0)
    threads: int = setting(1, "processors of each; a simulation uses one, a fit all", least=1)
    memory_limit: str = setting("4GiB", "memory of each")
    gpu: int = setting(0, "GPUs of each", least=0)
    walltime: str | int | None = setting(None, 'longest life of a job, "HH:MM:SS" in quotes')
    queue: str | None = setting(None, "queue or partition; null: the default one")
    account: str | None = setting(None, "account that is charged")
    image: str | None = setting(None, "container image")
    environment: dict[str, str | None] = table("environment variables; null: unset. No place for secrets")
    directives: tuple[str, ...] = setting((), "more options of a job: ['--constraint=avx2']")

    @property
    def lifetime(self) -> int | None:
        """Seconds after which a worker leaves, a minute before the end of its job; None: it stays."""
        return None if self.walltime is None else walltime_seconds(str(self.walltime)) - _LEAVE


@dataclass(frozen=True)
class SimWorkersConfig(_Group):
    """Workers of all tasks; of the fit too, where `fit.workers` is 0."""

    minimum: int | None = setting(None, "at least so many, with `maximum` in place of `workers`", least=0)
    maximum: int | None = setting(None, "at most so many: workers come and go with the tasks", least=1)

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the most workers; 1 and 1 where nothing is said."""
        if self.maximum is not None:
            return self.minimum or 0, self.maximum
        return (self.workers or 1,) * 2


@dataclass(frozen=True)
class FitWorkersConfig(_Group):
    """Workers of the fit."""

    workers: int | None = setting(0, "0: sim workers do the fit; 1: a worker of its own", least=0, most=1)


@dataclass(frozen=True)
class SchedulerConfig:
    """The Dask scheduler."""

    address: str | None = setting(None, "of a running scheduler: tls://HOST:PORT")
    scheduler_file: str | None = setting(None, "file that a running scheduler wrote its address to")
    interface: str | None = setting(None, "network interface that the scheduler listens on, such as ib0")
    port: int = setting(0, "port that the scheduler listens on; 0: a free one", least=0, most=65535)
    wait: float = setting(
        300, "seconds to wait for a scheduler, for the first workers, and for one that a task needs", above=0
    )


@dataclass(frozen=True)
class KubernetesConfig:
    """Where the operator makes the cluster."""

    name: str = setting("distcalib", "name of the DaskCluster")
    namespace: str = setting("default", "namespace")


@dataclass(frozen=True)
class SecurityConfig:
    """Mutual TLS: always where an address is not of the loopback interface."""

    ca: str | None = setting(None, "PEM file of the authority that signed all certificates")
    cert: str | None = setting(None, "PEM file of the certificate of scheduler, workers and client")
    key: str | None = setting(None, "PEM file of its key")
    temporary: bool = setting(True, "make certificates for this run where none are given")
    folder: str | None = setting(
        None, "folder that workers share, for temporary certificates; null: ~/.distcalib"
    )
    allow_unencrypted_and_unauthenticated: bool = setting(
        False, "true: whoever reaches the port reads everything and runs programs as you"
    )


@dataclass(frozen=True)
class ClusterConfig(FromFile):
    """Where a run is executed; nothing here changes what it produces.

    Read one with `ClusterConfig.load`. The fields are the settings of a cluster file; ``cluster.yaml`` has
    each with its default and meaning.
    """

    file: ClassVar[str] = "cluster settings"
    kind: str = setting("local", "kind of cluster", choices=KINDS)
    workers: int | None = setting(None, "short for sim.workers; said here it wins", least=1)
    memory_limit: str | None = setting(None, "short for sim.memory_limit; said here it wins")
    warm: bool = setting(True, "load the rules engine once and fork workers from it")
    sim: SimWorkersConfig = section(SimWorkersConfig, "workers of all tasks")
    fit: FitWorkersConfig = section(FitWorkersConfig, "workers of the fit")
    scheduler: SchedulerConfig = section(SchedulerConfig, "the scheduler")
    kubernetes: KubernetesConfig = section(KubernetesConfig, "where the operator makes the cluster")
    security: SecurityConfig = section(SecurityConfig, "encryption and authentication")

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        over: object = None,
        said_by: str = "DASK_DISTCALIB__... (dask's configuration)",
    ) -> ClusterConfig:
        """Read a cluster file; without one, a local cluster with the defaults.

        Parameters
        ----------
        path
            YAML file; paths in it are relative to it.
        over
            Settings that win over those of the file, nested as there (`distcalib.cluster.load_cluster`
            gives what dask's configuration says); None: nothing.
        said_by
            What errors call the place of `over`.

        Raises
        ------
        InputError
            Names the file, the field, the value and the nearest valid choice.
        """
        raw, place = (None, cls.file) if path is None else read_yaml(path, {})
        config: ClusterConfig = read_settings(cls, raw, place)
        if path is not None:
            config = _relative_to(Path(path).parent, config)
        if over not in (None, {}):
            read_settings(cls, over, said_by)
            # Of both: what one says has a meaning only beside the other. Types of the file are checked above.
            below, sim = _said(config), over.get("sim") if isinstance(over, Mapping) else None
            # What the file says at the top in short wins over its own `sim`, not over that of `over`.
            below |= {name: None for name in ("workers", "memory_limit") if name in (sim or {})}
            config = read_settings(cls, _merged(below, over), place)
        config = of_file(config, place)
        config.check()
        return config

    @property
    def group(self) -> SimWorkersConfig:
        """The workers of all tasks, with what is said at the top."""
        workers = self.sim.workers if self.workers is None else self.workers
        return replace(self.sim, workers=workers, memory_limit=self.worker_memory)

    @property
    def worker_memory(self) -> str:
        """Memory of one worker of all tasks."""
        return self.memory_limit or self.sim.memory_limit

    def check(self) -> None:
        """Raise `InputError` for settings that contradict each other or that a kind has no use for."""
        for path, kinds in _ONLY.items():
            *section_name, name = path.split(".")
            owner: Any = getattr(self, section_name[0]) if section_name else self
            default = getattr(type(owner)(), name)
            if self.kind not in kinds and getattr(owner, name) != default:
                raise InputError(
                    f"has no meaning for kind: {self.kind}",
                    place=f"{self.file}: {path}",
                    value=getattr(owner, name),
                    expected=f"{default!r}, or kind: {' or '.join(kinds)}",
                )
        if self.memory_limit is not None:
            memory_bytes(self.memory_limit, f"{self.file}: memory_limit")
        _check_group(self.sim, f"{self.file}: sim")
        _check_group(self.fit, f"{self.file}: fit")
        for field in fields(self.fit):
            value = getattr(self.fit, field.name)
            if not self.fit.workers and value != getattr(FitWorkersConfig(), field.name):
                raise InputError(
                    "has no meaning without a worker of the fit's own",
                    place=f"{self.file}: fit.{field.name}", value=value,
                    expected="fit.workers: 1 beside it, or the setting under sim",
                )  # fmt: skip
        for name, environment in (("sim", self.sim.environment), ("fit", self.fit.environment)):
            if self.kind == "kubernetes" and None in environment.values():
                raise InputError(
                    "a container begins with no variables, so none can be unset",
                    place=f"{self.file}: {name}.environment", value=environment, expected="texts",
                )  # fmt: skip
        self._check_count()
        self._check_scheduler()
        self._check_security()
        for name in ("name", "namespace"):
            value = getattr(self.kubernetes, name)
            if not _LABEL.fullmatch(value):
                raise InputError(
                    "is not a name of Kubernetes", place=f"{self.file}: kubernetes.{name}", value=value,
                    expected="small letters, digits and hyphens, at most 42",
                )  # fmt: skip

    def _check_count(self) -> None:
        sim, place = self.sim, f"{self.file}: sim"
        if (sim.minimum is None) != (sim.maximum is None):
            raise InputError("is half said", place=place, expected="minimum and maximum, or neither")
        if sim.maximum is not None:
            if self.group.workers is not None:
                raise InputError(
                    "workers and maximum cannot both be said", place=place, value=self.group.workers,
                    expected="workers, or minimum and maximum",
                )  # fmt: skip
            if (sim.minimum or 0) > sim.maximum:
                raise InputError(
                    "is more than maximum", place=f"{place}.minimum", value=sim.minimum,
                    expected=f"at most {sim.maximum}",
                )  # fmt: skip
        elif self.kind in _AWAY and not self.group.workers:
            raise InputError(
                f"kind: {self.kind} has to know how many workers to start", place=f"{place}.workers",
                value=self.group.workers, expected="a whole number, at least 1",
            )  # fmt: skip
        if self.kind == "kubernetes" and self.sim.image is None:
            raise InputError(
                "kind: kubernetes has to know the image", place=f"{place}.image", expected="REGISTRY/NAME:TAG"
            )
        if self.group.workers == 0:
            raise InputError("is too small", place=f"{place}.workers", value=0, expected="at least 1")

    def _check_scheduler(self) -> None:
        scheduler, place = self.scheduler, f"{self.file}: scheduler"
        if self.kind == "address" and (scheduler.address is None) == (scheduler.scheduler_file is None):
            raise InputError(
                "kind: address joins one scheduler", place=place,
                expected="either address or scheduler_file",
            )  # fmt: skip
        if scheduler.address is not None:
            self.check_address(scheduler.address, f"{place}.address")
        if scheduler.interface is not None and not _WORD.fullmatch(scheduler.interface):
            raise InputError("is not a name", place=f"{place}.interface", value=scheduler.interface)

    def _check_security(self) -> None:
        security, place = self.security, f"{self.file}: security"
        given = {name: getattr(security, name) for name in ("ca", "cert", "key")}
        missing = [name for name, file in given.items() if file is None]
        if 0 < len(missing) < 3:
            raise InputError(
                f"{' and '.join(missing)} missing", place=place, expected="ca, cert and key, or none of them"
            )
        if security.allow_unencrypted_and_unauthenticated and not missing:
            raise InputError(
                "certificates are given, and a connection without is allowed", place=place,
                expected="one of them",
            )  # fmt: skip
        away = self.kind in _AWAY
        if away and missing and not security.temporary and not security.allow_unencrypted_and_unauthenticated:
            raise InputError(
                "no certificates, and none may be made", place=place, value=False,
                expected="ca, cert and key, or temporary: true",
            )  # fmt: skip
        for name, file in given.items():
            if file is not None and not Path(file).is_file():
                raise InputError("no such file", place=f"{place}.{name}", value=file, expected="a PEM file")

    def check_address(self, address: str, place: str) -> None:
        """Raise `InputError` for an address that is not encrypted and can be reached from elsewhere.

        Of the loopback interface are ``localhost``, 127.0.0.0/8 and ::1. Other names are not looked up: what
        they stand for may change.
        """
        try:
            parts = urlsplit(address)
            complete = bool(parts.scheme and parts.hostname and parts.port)
        except ValueError:
            complete = False
        if not complete or parts.scheme not in ("tls", "tcp") or parts.username is not None:
            raise InputError(
                "is not an address of a scheduler", place=place, value=address, expected="tls://HOST:PORT"
            )
        if parts.scheme == "tls" or is_loopback(str(parts.hostname)):
            return
        if not self.security.allow_unencrypted_and_unauthenticated:
            raise InputError(
                "is refused: neither encrypted nor authenticated, and not of the loopback interface",
                place=place,
                value=address,
                expected="tls://HOST:PORT with security.ca, cert and key; on one machine `--host 127.0.0.1` "
                "where Dask is started; or, in a network where you trust everybody, "
                "security.allow_unencrypted_and_unauthenticated: true",
            )


def is_loopback(host: str) -> bool:
    """Return whether a host is written as one of the loopback interface.

    >>> is_loopback("127.0.0.1"), is_loopback("10.0.0.1"), is_loopback("localhost")
    (True, False, True)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def walltime_seconds(text: str) -> int:
    """Return the seconds of a time as SLURM reads it: MM:SS, HH:MM:SS, D-HH:MM or D-HH:MM:SS.

    >>> walltime_seconds("01:30:00"), walltime_seconds("10:00"), walltime_seconds("1-12:00")
    (5400, 600, 129600)
    """
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days or len(parts) == 3:
        hours, minutes, seconds = (*parts, 0)[:3]
    else:
        hours, (minutes, seconds) = 0, parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _check_group(group: _Group, place: str) -> None:
    memory_bytes(group.memory_limit, f"{place}.memory_limit")
    if group.walltime is not None and not _WALLTIME.fullmatch(str(group.walltime)):
        raise InputError(
            "is not a time", place=f"{place}.walltime", value=group.walltime,
            expected='"HH:MM:SS" or "DAYS-HH:MM:SS" in quotes (YAML reads 12:00:00 as the number 43200)',
        )  # fmt: skip
    if group.walltime is not None and walltime_seconds(str(group.walltime)) <= _SHORTEST:
        raise InputError(
            "is too short, for a worker leaves a minute before", place=f"{place}.walltime",
            value=group.walltime, expected="more than two minutes, and more than the longest task",
        )  # fmt: skip
    for name in ("queue", "account", "image"):
        value = getattr(group, name)
        if value is not None and not _WORD.fullmatch(value):
            raise InputError(
                "is not a name", place=f"{place}.{name}", value=value,
                expected="letters, digits and . _ - / : @ + , =",
            )  # fmt: skip
    for name, value in group.environment.items():
        if not _VARIABLE.fullmatch(name) or "\0" in (value or "") or "\n" in (value or ""):
            raise InputError(
                "is not an environment variable", place=f"{place}.environment", value=f"{name}={value}",
                expected="NAME: text in one line",
            )  # fmt: skip
    for line in group.directives:
        if not _DIRECTIVE.fullmatch(line):
            raise InputError(
                "is not an option of a job", place=f"{place}.directives", value=line,
                expected="one line that begins with a hyphen, such as --constraint=avx2",
            )  # fmt: skip


def _relative_to(base: Path, config: ClusterConfig) -> ClusterConfig:
    """Take paths of a file as relative to it; ~ is the home folder."""
    security, scheduler = config.security, config.scheduler
    files = {name: getattr(security, name) for name in ("ca", "cert", "key", "folder")}
    found = {name: str(base / Path(f).expanduser()) for name, f in files.items() if f is not None}
    file = scheduler.scheduler_file
    if file is not None:
        scheduler = replace(scheduler, scheduler_file=str(base / Path(file).expanduser()))
    return config.changed(security=replace(security, **found), scheduler=scheduler)  # type: ignore[arg-type]


def _said(settings: Any) -> dict[str, Any]:
    """Return settings as a nested mapping."""
    return {
        f.name: _said(value) if hasattr(value := getattr(settings, f.name), "__dataclass_fields__") else value
        for f in fields(settings)
    }


def _merged(below: Mapping[str, Any], over: Any) -> dict[str, Any]:
    merged = dict(below)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
