"""Census blocks of the districts, from a user's file, such as an equivalency file of the Census Bureau."""

from __future__ import annotations

import csv
import gzip
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from distcalib.errors import InputError
from distcalib.geography.district import CURRENT_CONGRESS, District
from distcalib.geography.draw import Parts
from distcalib.geography.states import STATE_CODES

BLOCK = ("block_geoid", "BLOCKID", "GEOID", "GEOID20", "BLOCKID20")
_POPULATION = ("population", "POP20", "POP100", "POP", "P1_001N")
# Spelled out (601, CA-06), or the two digits within the state, as the Census Bureau has them.
_DISTRICT = ("cd_geoid", "CDFP", f"CD{CURRENT_CONGRESS}", f"CD{CURRENT_CONGRESS}FP", "DISTRICT")

# Bytes of text parsed at once.
_CHUNK = 1 << 24

Opener = Callable[[], IO[bytes]]


def read_blocks(path: str | Path, population: str | Path | None = None) -> tuple[Parts, list[str]]:
    """Read which blocks make up each district, and their share of its population.

    Read are: a CSV file (``.gz`` or plain) with cd_geoid, block_geoid and population or probability (which
    may be normalised over the district or over the nation); the block equivalency file of the 119th Congress
    (``GEOID,CDFP`` or ``BLOCKID,CDFP``, as text or zip); and block assignment files of states
    (``BLOCKID|DISTRICT`` in ``BlockAssign_ST06_CA_CD.txt``, alone, in their zip, or a folder of either).
    Blocks of no district (``ZZ``) and of the territories are left out, as are those without population.

    Parameters
    ----------
    path
        File or folder.
    population
        CSV file with a column of block ids and one of residents (population, POP20, POP100 ...), for files
        that have none. Without it the blocks of a district are equally likely, and a note says so.

    Returns
    -------
    blocks : Parts
        Ready for `assign_geography`; the part is the 15-digit block as an integer.
    notes : list of str
        What an analyst should know.

    Raises
    ------
    InputError
        Names file, column and value: not a block id, an unknown district, a block that is in two districts or
        not in the state of its district, a share below 0, shares in some of several files only.
    """
    notes: list[str] = []
    sources = _sources(Path(path), notes)
    named = [(place, c) for place, opened in sources for c in _district_chunks(place, opened)]
    block, cds, share = (np.concatenate([c[i] for _, c in named]) for i in range(3))
    if population is None:
        _all_or_none([(place, c[2]) for place, c in named])
    order = np.argsort(block, kind="stable")
    block, cds, share = block[order], cds[order], share[order]
    twice = block[1:][block[1:] == block[:-1]]
    if twice.size:
        raise InputError(f"has {len(twice)} blocks twice", place=path, value=f"{twice[0]:015d}")
    if population is not None:
        people = _populations(population)
        at = np.searchsorted(people[0], block).clip(max=len(people[0]) - 1)
        found = people[0][at] == block
        if not found.any():
            raise InputError("has none of the blocks", place=population, expected=f"the blocks of {path}")
        if not found.all():
            notes.append(
                f"{(~found).sum()} of {len(block)} blocks are not in {population}: nobody lives there"
            )
        share = np.where(found, people[1][at], 0.0)
    elif np.isnan(share).all():
        notes.append(f"{path} has no population: the blocks of a district are equally likely")
        share = np.ones(len(block))
    lived = share > 0
    block, cds, share = block[lived], cds[lived], share[lived]
    if not len(block):
        raise InputError("has no block with population", place=path)
    total = np.bincount(cds, weights=share)
    return Parts.of("blocks", cds, block, share / total[cds]), notes


def read_columns(
    place: str, opened: Opener, wanted: Mapping[str, Any], needed: tuple[str, ...]
) -> Iterator[Any]:
    """Read some columns of a delimited text file in chunks.

    Parameters
    ----------
    place
        Name of the file for errors.
    opened
        Opens it anew, uncompressed.
    wanted
        Column -> pyarrow type; those that the file lacks are left out.
    needed
        Names of which the file must have one.

    Yields
    ------
    pyarrow.RecordBatch

    Raises
    ------
    InputError
        For a file that cannot be read, a missing column, or a value that is not of its type.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        with opened() as file:
            first = file.readline().decode("utf-8-sig", "replace")
        sign = "|" if "|" in first else "\t" if "\t" in first else ","
        names = [name.strip() for name in next(csv.reader([first], delimiter=sign), [])]
        held = [name for name in names if name in wanted]
        if not set(held) & set(needed):
            raise InputError(
                "lacks a column", place=place, value=" ".join(names), expected=f"one of {', '.join(needed)}"
            )
        with opened() as file:
            rows = 0
            for batch in arrow.open_csv(
                file,
                arrow.ReadOptions(block_size=_CHUNK, column_names=names, skip_rows=1, use_threads=False),
                arrow.ParseOptions(delimiter=sign),
                arrow.ConvertOptions(column_types=dict(wanted), include_columns=held, null_values=[""]),
            ):
                rows += batch.num_rows
                yield batch
        if not rows:
            raise InputError("has no rows", place=place)
    except pa.ArrowInvalid as error:
        words = str(error).splitlines()[0]
        column = re.search(r"column #(\d+)", words)
        where = f"{place}: {names[int(column[1])]}" if column else place
        value = re.search(r"invalid value '(.*)'", words)
        raise InputError(
            "is not a number" if value else f"cannot be read ({words})",
            place=where,
            value=value[1] if value else None,
        ) from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read ({error})", place=place) from None


def opener(path: str | Path) -> Opener:
    """Return what opens a plain or gzipped file."""
    file = Path(path)
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise InputError("no such file", place=file, value=file.name, choices=near)
    return lambda: cast(IO[bytes], gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb"))


def block_ids(batch: Any, place: str) -> NDArray[np.int64]:
    """Return the block ids of a batch of `read_columns`, checked."""
    name = next(n for n in BLOCK if n in batch.schema.names)
    column = batch.column(name)
    ids = column.fill_null(0).to_numpy(zero_copy_only=False)
    # A block has 15 digits; a state's FIPS code may begin with 0, so the number has 14 or 15.
    wrong = (ids < 10**13) | (ids >= 10**15)
    if wrong.any():
        raise InputError(
            "is not a census block", place=f"{place}: {name}", value=int(ids[wrong][0]), expected="15 digits"
        )
    return ids


def _sources(path: Path, notes: list[str]) -> list[tuple[str, Opener]]:
    """List the texts that assign blocks to districts in a file, a zip file or a folder."""
    if path.is_dir():
        files = sorted([*path.glob("*.zip"), *path.glob("*_CD*.txt")])
    else:
        opener(path)
        files = [path]
    found: list[tuple[str, Opener]] = []
    for file in files:
        if file.suffix != ".zip":
            found.append((str(file), opener(file)))
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                texts = sorted(n for n in archive.namelist() if n.lower().endswith((".txt", ".csv")))
        except zipfile.BadZipFile as error:
            raise InputError(f"cannot be read ({error})", place=file) from None
        members = texts if len(texts) == 1 else [n for n in texts if re.search(r"CD\d*\.(txt|csv)$", n, re.I)]
        found += [(f"{file}: {name}", partial(_open_member, file, name)) for name in members]
    if not found:
        raise InputError("has no file of blocks and districts", place=path, expected="such as ..._CD.txt")
    for place, _ in found:
        congress = re.search(r"CD(\d{3})\.\w+$", place)
        if congress and int(congress[1]) != CURRENT_CONGRESS:
            raise InputError(f"has districts of another Congress than the {CURRENT_CONGRESS}th", place=place)
    if any(re.search(r"_CD\.txt$", place) for place, _ in found):
        notes.append(
            f"{path} does not say of which Congress its districts are; the {CURRENT_CONGRESS}th is taken"
        )
    return found


def _open_member(file: Path, name: str) -> IO[bytes]:
    return zipfile.ZipFile(file).open(name)


def _district_chunks(place: str, opened: Opener) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Give block, district and weight (NaN where the file has none) of each chunk of one text."""
    import pyarrow as pa

    from distcalib.geography.sources import districts

    known = districts()["cd_geoid"].tolist()
    wanted = dict.fromkeys(BLOCK, pa.int64())
    wanted |= dict.fromkeys(_DISTRICT, pa.dictionary(pa.int32(), pa.string()))
    wanted |= dict.fromkeys((*_POPULATION, "probability"), pa.float64())
    for batch in read_columns(place, opened, wanted, _DISTRICT):
        names = batch.schema.names
        _need(names, BLOCK, place)
        block = block_ids(batch, place)
        name = next(n for n in _DISTRICT if n in names)
        words = [str(w) for w in batch.column(name).dictionary.to_pylist()]
        code = batch.column(name).indices.to_numpy()
        state = block // 10**13
        used = np.isin(state, list(STATE_CODES)) & ~np.isin(
            code, [i for i, w in enumerate(words) if w == "ZZ"]
        )
        block, state, code = block[used], state[used], code[used]
        # Few distinct pairs of state and spelling: each is read once.
        pairs, which = np.unique(state * len(words) + code, return_inverse=True)
        parsed = [_parse(words[p % len(words)], p // len(words), name, place, known) for p in pairs.tolist()]
        weight = next((n for n in (*_POPULATION, "probability") if n in names), None)
        share = np.full(len(block), np.nan)
        if weight is not None:
            share = batch.column(weight).to_numpy(zero_copy_only=False)[used]
            if not (np.isfinite(share) & (share >= 0)).all():
                bad = share[~(np.isfinite(share) & (share >= 0))][0]
                raise InputError(
                    "is not a share", place=f"{place}: {weight}", value=float(bad), expected="0 or more"
                )
        yield block, np.array(parsed, dtype=np.int64)[which], share


def _all_or_none(shares: list[tuple[str, NDArray[Any]]]) -> None:
    """Refuse files of which some have shares: the blocks of the others would count as uninhabited."""
    without = [place for place, share in shares if np.isnan(share).any()]
    having = [place for place, share in shares if np.isfinite(share).any()]
    if without and having:
        raise InputError(
            "lacks a column that another file has",
            place=without[0],
            expected=f"one of {', '.join(_POPULATION)}, probability, as in {having[0]}; or in no file",
        )


def _parse(word: str, state: int, column: str, place: str, known: list[int]) -> int:
    within = column != "cd_geoid" and re.fullmatch(r"\d{1,2}", word)
    try:
        found = District.parse(f"{state:02d}{int(word):02d}" if within else word, known=known)
    except InputError as error:
        raise InputError(str(error), place=f"{place}: {column}") from None
    if found.state_fips != state or found.congress != CURRENT_CONGRESS:
        raise InputError(
            f"has a block of state {state:02d} in a district of another state or Congress",
            place=f"{place}: {column}",
            value=word,
        )
    return found.geoid


def _populations(path: str | Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    import pyarrow as pa

    wanted = dict.fromkeys(BLOCK, pa.int64()) | dict.fromkeys(_POPULATION, pa.float64())
    ids, people = [], []
    for batch in read_columns(str(path), opener(path), wanted, _POPULATION):
        _need(batch.schema.names, BLOCK, str(path))
        ids.append(block_ids(batch, str(path)))
        name = next(n for n in _POPULATION if n in batch.schema.names)
        people.append(batch.column(name).to_numpy(zero_copy_only=False))
        if not (people[-1] >= 0).all():
            raise InputError(
                "is not a population", place=f"{path}: {name}", expected="0 or more in every row"
            )
    block, number = np.concatenate(ids), np.concatenate(people)
    order = np.argsort(block, kind="stable")
    if (block[order][1:] == block[order][:-1]).any():
        raise InputError("has a block twice", place=path)
    return block[order], number[order]


def _need(names: list[str], needed: tuple[str, ...], place: str) -> None:
    if not set(names) & set(needed):
        raise InputError(
            "lacks a column", place=place, value=" ".join(names), expected=f"one of {', '.join(needed)}"
        )
