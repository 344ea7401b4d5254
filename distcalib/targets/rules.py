"""Rules: a YAML file that says which targets of a database a run uses, and which it fits or checks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib.config.yaml_text import parse_yaml
from distcalib.errors import InputError, nearest

# What a rule may ask of a target.
KEYS = (
    "variable", "geo_level", "domain_variable", "geographic_id", "constraints", "reform_id", "period",
    "source", "name",
)  # fmt: skip
LISTS = ("include", "exclude", "fit", "check")
_BY_RULE = "by the rules of targets.rules"


@dataclass(frozen=True)
class Rule:
    """One line of a rules file.

    Attributes
    ----------
    asks
        Pairs of a key and a pattern, in which ``*`` stands for any text and ``?`` for one character.
    place
        File and position, for errors.
    """

    asks: tuple[tuple[str, str], ...]
    place: str

    def __str__(self) -> str:
        return ", ".join(f"{key}: {pattern}" for key, pattern in self.asks)

    def matches(self, table: pd.DataFrame) -> np.ndarray:
        """Return which targets the rule means, bool, shape (n targets,)."""
        out = np.ones(len(table), dtype=bool)
        for key, pattern in self.asks:
            out &= _fits(table[key], pattern)
        return out


@dataclass(frozen=True)
class Rules:
    """What a run uses: what `include` matches (all, where it is empty), less what `exclude` matches.

    What `fit` and then `check` match gets that status, whatever it had in the database, excluded too.
    """

    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()
    fit: tuple[Rule, ...] = ()
    check: tuple[Rule, ...] = ()

    def with_statuses(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return targets with the statuses that `fit` and `check` give.

        Parameters
        ----------
        table
            Targets with the columns `KEYS`, status and reason. A rule that matches nothing is left to `keep`.
        """
        table = table.copy()
        for status in ("fit", "check"):
            for rule in getattr(self, status):
                table.loc[rule.matches(table), ["status", "reason"]] = [status, _BY_RULE]
        return table

    def keep(self, table: pd.DataFrame, usable: np.ndarray, warnings: list[str] | None = None) -> np.ndarray:
        """Return which targets are used.

        Parameters
        ----------
        table
            Targets with the columns `KEYS`.
        usable
            Which of them are not excluded anyway, bool; a rule of any list must match one of these.
        warnings
            If given, rules that match none are told here instead.

        Returns
        -------
        ndarray of bool, shape (n targets,)

        Raises
        ------
        InputError
            When rules match no target; names the first ones and the nearest targets.
        """
        judged = (*self.fit, *self.check)
        hits = {rule: rule.matches(table) for rule in (*self.include, *self.exclude, *judged)}
        idle = [rule for rule, hit in hits.items() if not hit[usable].any()]
        if idle and warnings is not None:
            some = "; ".join(f"{rule.place.rpartition(': ')[2]} ({rule})" for rule in idle[:5])
            more = f" and {len(idle) - 5} more" if len(idle) > 5 else ""
            warnings.append(
                f"{len(idle)} of {len(hits)} rules of targets.rules match no target: {some}{more}"
            )
        elif idle:
            first = idle[0]
            expected = _nearest(first, table if first in judged else table[usable])
            if hits[first].any():
                expected += f"; it matches excluded targets ({table['reason'][hits[first]].iloc[0]})"
            others = f"; {len(idle) - 1} more match nothing: " if len(idle) > 1 else ""
            raise InputError(
                f"this rule matches no target{others}" + "; ".join(f"({rule})" for rule in idle[1:6]),
                place=first.place,
                value=str(first),
                expected=expected,
            )
        kept = np.ones(len(table), dtype=bool)
        if self.include:
            kept = np.logical_or.reduce([hits[rule] for rule in self.include])
        for rule in self.exclude:
            kept &= ~hits[rule]
        return kept


def read_rules(path: str | Path) -> Rules:
    """Read a rules file: lists `include`, `exclude`, `fit` and `check` of rules, ``{variable: snap}``.

    A key that a rule leaves out matches everything; ``domain_variable: ""`` matches targets of whole areas.

    Raises
    ------
    InputError
        For a missing file, text that is not YAML, an unknown key (with the nearest), a rule that asks
        nothing, and a file without a rule.
    """
    file = Path(path)
    if not file.is_file():
        near = [str(p) for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise InputError("no such file", place="targets.rules", value=str(path), choices=near)
    try:
        raw = parse_yaml(file.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8", place=path) from None
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise InputError(
            "is not a file of rules", place=path, value=raw, expected="lists " + ", ".join(LISTS)
        )
    _known_keys(raw, LISTS, str(path))
    found = {name: _read_list(raw.get(name), name, str(path)) for name in LISTS}
    if not any(found.values()):
        raise InputError("has no rule", place=path, expected="a list " + " or ".join(LISTS))
    return Rules(**found)


def _read_list(raw: object, name: str, file: str) -> tuple[Rule, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise InputError(
            "is not a list of rules", place=f"{file}: {name}", value=raw, expected="- variable: ..."
        )
    rules = []
    for number, entry in enumerate(raw, 1):
        place = f"{file}: {name}, rule {number}"
        if not isinstance(entry, dict) or not entry:
            raise InputError("is not a rule", place=place, value=entry, expected="such as {variable: snap}")
        _known_keys(entry, KEYS, place)
        for key, value in entry.items():
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise InputError("is not a pattern", place=f"{place}: {key}", value=value, expected="a text")
        rules.append(Rule(tuple((key, str(value)) for key, value in entry.items()), place))
    return tuple(rules)


def _known_keys(mapping: dict, known: tuple[str, ...], place: str) -> None:
    for key in mapping:
        if key not in known:
            raise InputError(
                "unknown key",
                place=place,
                value=str(key),
                choices=known,
                expected=f"one of {', '.join(known)}",
            )


def _fits(column: pd.Series, pattern: str) -> np.ndarray:
    """Return where a column reads like a pattern; only ``*`` and ``?`` are special."""
    words = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    codes, distinct = pd.factorize(column.astype(str), use_na_sentinel=False)
    hit = [re.fullmatch(words, value, re.DOTALL) is not None for value in distinct]
    return np.array(hit, dtype=bool)[codes]


def _nearest(rule: Rule, table: pd.DataFrame) -> str:
    """Say what the targets nearest to a rule would ask: those that meet most of it, then by spelling."""
    meets = np.sum([_fits(table[key], pattern) for key, pattern in rule.asks], axis=0)
    best = table[meets == meets.max()] if meets.max() else table
    keys = [key for key, _ in rule.asks]
    labels = best[keys].astype(str).drop_duplicates()
    texts = [", ".join(f"{k}: {v}" for k, v in zip(keys, row, strict=True)) for row in labels.to_numpy()]
    return "such as " + " or ".join(f"({t})" for t in (nearest(rule, texts) or texts[:3]))
