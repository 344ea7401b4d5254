"""Mutual TLS: certificates that are given, or made for one run, in files that their owner alone can read."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from distributed.security import Security

from distcalib.config import ClusterConfig
from distcalib.errors import InputError

FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def given_security(config: ClusterConfig) -> Security | None:
    """Return what the settings give: certificates that load; None where none are given.

    Raises
    ------
    InputError
        When a file is no certificate or key, or certificate and key do not belong together.
    """
    files = config.security
    if files.ca is None or files.cert is None or files.key is None:
        return None
    security = _of_files({"ca": files.ca, "cert": files.cert, "key": files.key})
    try:
        ssl.create_default_context(cafile=files.ca)
    except (ssl.SSLError, OSError) as error:
        raise _unusable(config, "ca", files.ca, error) from None
    try:
        security.get_connection_args("client")
    except (ssl.SSLError, OSError) as error:
        raise _unusable(config, "cert and key", f"{files.cert}, {files.key}", error) from None
    return security


def _unusable(config: ClusterConfig, name: str, value: str, error: OSError) -> InputError:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return InputError(
        f"cannot be used for TLS ({reason})", place=f"{config.file}: security.{name}", value=value,
        expected="PEM files that belong together",
    )  # fmt: skip


@contextmanager
def certificates(config: ClusterConfig) -> Iterator[tuple[Security | None, Path]]:
    """Give certificates as files that workers elsewhere can read, and a private folder beside them.

    They are those of the settings or made for this run; None where the settings allow to go without. The
    folder, and in it what was made, is of mode 0700, its files 0600, and gone afterwards.
    """
    security = given_security(config)
    base = Path(config.security.folder or "~/.distcalib").expanduser()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="run-", dir=base)
    except OSError as error:
        raise InputError(
            f"no folder can be made in it ({error.strerror})", place=f"{config.file}: security.folder",
            value=str(base), expected="a folder that you may write in and workers can read",
        ) from None  # fmt: skip
    with folder as name:
        if security is None and not config.security.allow_unencrypted_and_unauthenticated:
            security = make_certificates(Path(name))
        yield security, Path(name)


def make_certificates(folder: Path) -> Security:
    """Make a key and a certificate that signs itself, put them in `folder` with mode 0600, and use those.

    Who holds the files is one of the run: scheduler, workers and client have the same.
    """
    made = Security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in texts.items():
        descriptor = os.open(folder / FILES[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    return _of_files({name: str(folder / file) for name, file in FILES.items()})


def _of_files(files: dict[str, str]) -> Security:
    roles = {f"tls_{role}_{part}": files[part] for role in _ROLES for part in ("cert", "key")}
    return Security(tls_ca_file=files["ca"], require_encryption=True, **roles)


_ROLES = ("client", "scheduler", "worker")


def tls_options(security: Security | None) -> list[str]:
    """Return the options of ``dask worker`` and ``dask scheduler`` for these certificates."""
    if security is None:
        return []
    ca, cert, key = security.tls_ca_file, security.tls_worker_cert, security.tls_worker_key
    files = {"ca-file": ca, "cert": cert, "key": key}
    return [word for name, file in files.items() for word in (f"--tls-{name}", str(file))]


def check_addresses(config: ClusterConfig, addresses: list[str]) -> None:
    """Raise `InputError` when a worker has an address that is open to others and not encrypted."""
    for address in addresses:
        config.check_address(address, f"worker {urlsplit(address).netloc} of {config.file}")
