"""What the judgement of a run's fit shows: tables on the terminal, and the frontier as a picture."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from distcalib.report.charts import ticks
from distcalib.runs.judge import FoldsOfRun, TunedRun

# One panel of the picture: its outer size, and the margins left, top, right and bottom.
_WIDTH, _HEIGHT, _MARGINS = 360, 300, (64, 34, 16, 46)
_COLOURS = ("#2c6e9b", "#c05a1c")
#: Trials that are printed: the best of a search.
BEST = 5


def frontier_svg(table: pd.DataFrame, title: str) -> str:
    """Draw loss, effective sample size and held-out error over records, side by side.

    Parameters
    ----------
    table
        What `distcalib.runs.judge.judge_frontier` returns.
    title
        In words.

    Returns
    -------
    str
        An SVG document of its own; equal tables give equal text. Both axes of the losses are logarithmic,
        bars are one standard error over folds, the dashed line is the attainable loss.
    """
    table = table.dropna(subset="records").sort_values("records")
    low = np.log10(table["records"].min()) - 0.1
    high = np.log10(table["records"].max()) + 0.1
    size = {"by column": "effective_sample_size", "by donor": "effective_sample_size_by_donor"}
    held = {"held-out error": "held_out_error"} if table["held_out_error"].notna().any() else {}
    panels = [
        _panel(table, (low, high), "loss", {"reached": "loss"}, line="attainable_loss", logarithmic=True),
        _panel(table, (low, high), "effective sample size", size),
        *[_panel(table, (low, high), "held-out error", held, error="held_out_std_error") for _ in held],
    ]
    width = _WIDTH * len(panels)
    inner = "".join(
        f'<g transform="translate({i * _WIDTH},26)">{panel}</g>' for i, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT + 26}" '
        f'viewBox="0 0 {width} {_HEIGHT + 26}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="12" y="20" font-size="15">{escape(title)}</text>{inner}</svg>\n'
    )


def _panel(
    table: pd.DataFrame,
    range_x: tuple[float, float],
    title: str,
    lines: dict[str, str],
    *,
    line: str | None = None,
    error: str | None = None,
    logarithmic: bool = False,
) -> str:
    left, top, right, bottom = _MARGINS
    y = table[list(lines.values())].to_numpy(np.float64)
    spread = table[error].fillna(0).to_numpy()[:, None] if error else 0.0
    level = float(table[line].iloc[0]) if line else np.nan
    values = np.concatenate([(y - spread).ravel(), (y + spread).ravel(), [level]])
    values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    if not len(values):
        values = np.array([1.0])
    scale = np.log10 if logarithmic else np.asarray
    bounds = np.array([scale(values).min(), scale(values).max()])
    if not logarithmic:
        bounds[0] = min(bounds[0], 0.0)
    bounds += np.array([-0.05, 0.05]) * max(bounds[1] - bounds[0], 1e-9 + abs(bounds[1]) * 0.1)

    def place(records: Any, value: Any) -> tuple[Any, Any]:
        across = (np.log10(records) - range_x[0]) / (range_x[1] - range_x[0])
        with np.errstate(divide="ignore"):
            up = (scale(np.asarray(value, np.float64)) - bounds[0]) / (bounds[1] - bounds[0])
        return left + across * (_WIDTH - left - right), _HEIGHT - bottom - up * (_HEIGHT - top - bottom)

    out = [f'<text x="{left}" y="{top - 10}" font-weight="bold">{escape(title)}</text>']
    for tick in ticks(bounds, logarithmic):
        _, at = place(1.0, tick)
        out.append(f'<path d="M{left},{at:.1f}H{_WIDTH - right}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,.4g}</text>')
    base = _HEIGHT - bottom
    out.append(f'<path d="M{left},{base}H{_WIDTH - right}" stroke="#333"/>')
    for records in table["records"].tolist():
        at, _ = place(records, 1.0)
        out.append(f'<text x="{at:.1f}" y="{base + 16}" text-anchor="middle">{_short(records)}</text>')
    middle = left + (_WIDTH - left - right) / 2
    out.append(f'<text x="{middle:.1f}" y="{base + 36}" text-anchor="middle">records (log)</text>')
    if np.isfinite(level) and (level > 0 or not logarithmic):
        _, at = place(1.0, level)
        out.append(f'<path d="M{left},{at:.1f}H{_WIDTH - right}" stroke="#333" stroke-dasharray="5 4"/>')
        out.append(f'<text x="{left + 4}" y="{at - 5:.1f}">attainable</text>')
    for colour, name, column in zip(_COLOURS, lines, y.T, strict=False):
        good = np.isfinite(column) & ((column > 0) | (not logarithmic))
        x, at = place(table["records"].to_numpy()[good], column[good])
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, at, strict=True))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in zip(x, at, strict=True)
        ]
        if len(lines) > 1:
            out.append(f'<text x="{x[-1] - 4:.1f}" y="{at[-1] - 8:.1f}" text-anchor="end" '
                       f'fill="{colour}">{escape(name)}</text>')  # fmt: skip
        if error:
            for a, value, half in zip(x, column[good], np.ravel(spread)[good], strict=True):
                ends = [float(place(1.0, value + sign * half)[1]) for sign in (-1, 1)]
                out.append(f'<path d="M{a:.1f},{ends[0]:.1f}V{ends[1]:.1f}" stroke="{colour}"/>')
    return "".join(out)


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 1000 and number % 100 == 0 else f"{number:,.0f}"


def print_frontier(table: pd.DataFrame, console: Console) -> None:
    """Print a row a budget: what is reached, what is attainable, what held-out targets say."""
    shown = _table("Records against loss, effective sample size and held-out error")
    names = ("loss", "within tol.", "eff. size", "by donor", "least district", "ratio", "held-out error")
    for name in ("records", *names):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table[table["note"] == ""].itertuples(index=False):
        shown.add_row(
            f"{row.records:,.0f}", f"{row.loss:,.4g}", f"{row.within_tolerance:.1%}",
            f"{row.effective_sample_size:,.0f}", f"{row.effective_sample_size_by_donor:,.0f}",
            f"{row.least_effective_share:.0%}", f"{row.largest_ratio:.3g}",
            _error(row.held_out_error, row.held_out_std_error),
        )  # fmt: skip
    console.print(shown)
    best = table.iloc[0]
    if np.isfinite(best["attainable_loss"]):
        console.print(
            f"attainable with every column: loss {best['attainable_loss']:,.4g} (at least "
            f"{best['attainable_bound']:,.4g}), {best['attainable_within_tolerance']:.1%} of the fitted "
            "targets within tolerance",
            highlight=False,
        )


def print_robustness(found: FoldsOfRun, console: Console) -> None:
    """Print a row a fold, mean and standard error, and the held-out error by level and variable."""
    shown = _table("Error of targets that the fit had not seen")
    for name in ("fold", "targets", "error", "not calibrated", "difference", "records", "eff. size"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in found.folds.itertuples(index=False):
        shown.add_row(
            str(row.fold).replace("_", " "), f"{row.targets:,.0f}", f"{row.error:.4f}",
            f"{row.error_uncalibrated:.4f}", f"{row.difference:+.4f}", f"{row.records:,.0f}",
            f"{row.effective_sample_size:,.0f}",
        )  # fmt: skip
    console.print(shown)
    held = found.targets[found.targets["fold"] >= 0]
    capped = held.assign(
        error=held["rel_error"].abs().clip(upper=1.0),
        before=held["rel_error_uncalibrated"].abs().clip(upper=1.0),
    )
    by = _table("By level and variable")
    for name in ("targets of", "targets", "error", "not calibrated"):
        by.add_column(name, justify="left" if name == "targets of" else "right")
    for key, rows in capped.groupby(["geo_level", "variable"], sort=True):
        means = (f"{rows[name].mean():.4f}" for name in ("error", "before"))
        by.add_row(" ".join(map(str, key)), f"{len(rows):,}", *means)
    console.print(by)
    last = found.folds.set_index("fold")[["error", "error_uncalibrated", "difference"]]
    mean, of = last.loc["mean"], last.loc["std_error"]
    apart = abs(mean["difference"]) > of["difference"]
    verdict = ("better" if mean["difference"] < 0 else "worse") if apart else "no telling apart"
    console.print(
        f"held-out error {_error(mean['error'], of['error'])}, not calibrated "
        f"{_error(mean['error_uncalibrated'], of['error_uncalibrated'])}, difference "
        f"{_error(mean['difference'], of['difference'])} (one standard error over folds): {verdict}",
        highlight=False,
    )


def print_tuning(found: TunedRun, console: Console) -> None:
    """Print the run's own settings beside the best trials, and the lines of the chosen ones."""
    names = list(found.tuning.chosen)
    shown = _table("The run's own settings and the best trials, on the same folds")
    for name in ("trial", "held-out error", "records", *names, "state"):
        shown.add_column(name, justify="right", no_wrap=True)
    ended = found.trials[found.trials["state"] == "complete"]
    best = ended.sort_values(["error", "trial"]).head(BEST)
    chosen = ended[ended["chosen"] & ~ended["trial"].isin(best["trial"])]
    for row in pd.concat([found.trials.head(1), best, chosen]).to_dict("records"):
        mark = " chosen" if row["chosen"] else ""
        shown.add_row(
            "own" if row["state"] == "own" else str(row["trial"]),
            _error(row["error"], row["std_error"]), f"{row['records']:,.0f}",
            *(f"{row[name]:.3g}" for name in names), row["state"] + mark,
        )  # fmt: skip
    console.print(shown)
    console.print(found.yaml, highlight=False, markup=False)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _error(value: float, std_error: float) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.4f}" + (f" ± {std_error:.4f}" if np.isfinite(std_error) else "")
