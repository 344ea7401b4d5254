"""Microdata that lie elsewhere: a file of a Hugging Face repository, by its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distcalib.errors import InputError

ADDRESS = "hf://OWNER/REPOSITORY/PATH.h5[@REVISION]"


def local_file(named: str | Path) -> Path:
    """Return the file on this machine that a path or an address means; download it if it is not there.

    A file of Hugging Face lands in its cache (``HF_HOME``), under the commit that it is of. Each call asks
    whether the file has changed; what is in the cache is not downloaded again and serves without a network.

    Parameters
    ----------
    named
        A path, returned as it stands, or ``hf://OWNER/REPOSITORY/PATH[@REVISION]``
        (``hf://datasets/OWNER/...`` for a repository of type dataset).

    Raises
    ------
    InputError
        For an address of another form, when there is neither network nor copy, when the repository does not
        exist or needs a token, and when it has no such revision or file; names the nearest files.
    """
    text = str(named)
    if "://" not in text:
        return Path(named)
    scheme, _, rest = text.partition("://")
    rest, _, revision = rest.partition("@")
    kind = "dataset" if rest.startswith("datasets/") else "model"
    parts = rest.removeprefix("datasets/").split("/", 2)
    if scheme != "hf" or len(parts) < 3 or not all(parts):
        raise InputError("is not an address of microdata", place="microdata", value=text, expected=ADDRESS)
    repository, path = f"{parts[0]}/{parts[1]}", parts[2]

    import huggingface_hub
    from huggingface_hub import errors

    def refused(message: str, expected: str, choices: list[str] | None = None) -> InputError:
        return InputError(message, place=text, value=path, expected=expected, choices=choices or ())

    where: dict[str, Any] = {"repo_id": repository, "repo_type": kind, "revision": revision or None}
    try:
        return Path(huggingface_hub.hf_hub_download(filename=path, **where))
    except errors.RepositoryNotFoundError:
        words = "does not exist, or is private or gated: Hugging Face does not say which"
        token = (
            "the name of a repository, and for a private or gated one HF_TOKEN with a token that may read it"
        )
        raise refused(f"the repository {repository} {words}", token) from None
    except errors.RevisionNotFoundError:
        words = f"the repository {repository} has no revision {revision!r}"
        raise refused(words, "a branch, tag or commit of it") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        words = "Hugging Face cannot be reached, and no copy is in the cache"
        raise refused(words, "a network, or the path of a local file") from None
    except errors.EntryNotFoundError:
        files = huggingface_hub.HfApi().list_repo_files(**where)
        data = [f for f in files if f.endswith(".h5")]
        words = (
            f"one of {', '.join(data[:8])}" if data else "a file of the repository, which has no .h5 at all"
        )
        raise refused(f"the repository {repository} has no such file", words, data) from None
    except (OSError, ValueError) as error:
        raise refused(f"cannot be downloaded ({error})", ADDRESS) from error
