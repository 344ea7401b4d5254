"""The parts of a run's report: tables as texts, and pictures, of what is there."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from distcalib.config import FitConfig, RunConfig
from distcalib.config.settings import GEOGRAPHY_FILES
from distcalib.fit.consistency import FEW_DONORS
from distcalib.report import figures
from distcalib.report.charts import dots, histogram
from distcalib.report.map_data import district_table
from distcalib.report.pages import (
    Section,
    amount_text,
    area_name,
    change_text,
    count_text,
    figure_text,
    ratio_text,
    section,
    share_text,
)
from distcalib.report.run_tables import RunTables
from distcalib.report.timeline import COLOURS, costs
from distcalib.report.wording import measures, quantity
from distcalib.runs.gates import sentence

#: Rows of the table of worst targets.
WORST = 60
#: What the causes of misses mean; ``distcalib.fit.diagnostics.explain`` has the rules.
CAUSES = {
    "support": f"no weights within their limits give the figure, fewer than {FEW_DONORS:g} effective donors "
    "carry it, or no weights within their limits meet all targets of its area at once",
    "sampling error of the source": "the miss is within the published margin of error of the figure itself",
    "contradiction": "official figures of parts and whole disagree, and the miss is on the other one's side",
    "not judged": "whether all targets of its area can be met at once was not found out: they are too many",
    "compromise": "traded against other targets of the same households, or against even weights",
}
_BUNDLED = {
    "microdata": "bundled: public-use March CPS of 2013 to 2015, as taxcalc 6.8.0 has it, aged and raked "
    "to 2024 (docs/data_microdata.md)",
    "targets": "bundled: statistics of US government agencies, each with its table and vintage "
    "(docs/data_targets.md)",
}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level of dotted names."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {k: v for key in value for k, v in flat(value[key], f"{prefix}.{key}" if prefix else key).items()}


def asked(tables: RunTables) -> dict[str, Any]:
    """What the run was to do: sizes, settings that differ from their defaults, all settings."""
    run, facts = tables.plan["run"], tables.plan.get("facts", {})
    sizes = []
    if facts:
        n = {k: v for k, v in facts.items() if isinstance(v, int | float)}
        sizes = [
            ("Households", f"{n['households']:,} ({n['persons']:,} persons) of {_microdata(run)}"),
            ("Places", f"{n['districts']:,} districts of {n['states']:,} states; {run['n_clones']} clones of "
                       f"each household, {n['columns']:,} columns"),
            ("Targets", f"{n['targets_fit']:,} to fit, {n['targets_check']:,} to compare, "
                        f"{n['targets_excluded']:,} not used; {n['measures']:,} different measures"),
        ]  # fmt: skip
    sizes += [("Target database", str(run["targets"]["database"])), ("Period", str(run["period"]))]
    sizes += [("Seed", str(run["seed"]))]
    defaults = json.loads(json.dumps(asdict(RunConfig())))
    # A further fit has the defaults of any fit.
    plain = flat({**defaults, "fits": dict.fromkeys(run.get("fits", {}), asdict(FitConfig()))})
    own = flat(run)
    changed = {k: v for k, v in own.items() if k not in plain or plain[k] != v}
    for name in ("name", "file"):
        changed.pop(name, None)
        own.pop(name, None)
    far = pd.DataFrame(facts.get("far", []), columns=["measure", "targets", "reason"])
    return {
        "sizes": sizes,
        "changed": [(k, json.dumps(v)) for k, v in sorted(changed.items())],
        "settings": [(k, json.dumps(v)) for k, v in sorted(own.items())],
        "far": section("Measured but not fitted", far,
                       (("measure", "measure", str), ("reason", "reason", str),
                        ("targets", "targets", count_text)), numbers=2),
    }  # fmt: skip


def _microdata(run: dict[str, Any]) -> str:
    return "the bundled microdata" if run["microdata"] == "bundled" else str(run["microdata"])


def fit(tables: RunTables) -> dict[str, Any] | None:
    """How the targets are met, by level and by group; None before the fit."""
    if tables.targets is None or not tables.fitted:
        return None
    found, table = figures.levels(tables.targets), figures.groups(tables.targets, tables.groups)
    shares = found[list(figures.SHARES)].to_numpy().tolist()
    heads = found[["level", "targets", "within_tolerance", "median"]].itertuples(index=False, name=None)
    levels = [(*head, share) for head, share in zip(heads, shares, strict=True)]
    columns = (
        ("level", "geo_level", str), ("targets of", "group", str), ("", "status", str),
        ("causes of misses", "causes", str), ("targets", "targets", count_text),
        ("within 1 %", "within_1", _whole), ("5 %", "within_5", _whole), ("10 %", "within_10", _whole),
        ("tolerance", "within_tolerance", _whole), ("median error", "median", share_text),
        ("missed", "missed", count_text),
    )  # fmt: skip
    return {"levels": levels, "groups": section("Groups", table, columns, numbers=4)}


def worst(tables: RunTables) -> dict[str, Any] | None:
    """The fitted targets that are missed most, and how often each cause stands; None before the fit.

    Targets that nobody in the data counts toward, which no fit could change, stand apart by quantity.
    """
    if tables.targets is None or not tables.fitted:
        return None
    fitted = tables.targets[tables.targets["status"] == "fit"]
    missed = fitted[~fitted["within_tolerance"].astype(bool)]
    missed = missed.assign(
        quantity=quantity(missed), area=missed["geographic_id"].map(area_name),
        margins=pd.to_numeric(missed["margins"], errors="coerce"),
    ).sort_values("abs_rel_error", ascending=False, kind="stable")  # fmt: skip
    columns = (
        ("area", "area", str), ("target", "quantity", str), ("reason", "cause", str),
        ("error", "rel_error", change_text), ("estimate", "estimate", amount_text),
        ("official", "target", amount_text), ("tolerance", "tolerance", share_text),
        ("donors", "donors", count_text), ("effective", "effective_donors", count_text),
        ("margins", "margins", ratio_text),
    )  # fmt: skip
    counts = missed["cause"].value_counts()
    nobody = (missed["donors"] == 0) & ~missed["achievable"].astype(bool)
    by = (
        missed[nobody]
        .sort_values(["geo_level", "area"])
        .groupby(["geo_level", "quantity"], sort=True)["area"]
    )
    empty = by.agg(areas="size", which=", ".join).reset_index()
    empty_columns = (
        ("level", "geo_level", str), ("target", "quantity", str), ("in", "which", str),
        ("areas", "areas", count_text),
    )  # fmt: skip
    return {
        "missed": len(missed),
        "fitted": len(fitted),
        "causes": [(name, int(counts.get(name, 0)), words) for name, words in CAUSES.items()],
        "nobody": int(nobody.sum()),
        "empty": section("Targets of nobody", empty, empty_columns, WORST, numbers=3),
        "table": section("Worst targets", missed[~nobody], columns, WORST, numbers=3),
    }


def weights(tables: RunTables) -> dict[str, Any] | None:
    """Distribution of the weights, and what carries them by area; None before the fit."""
    found, areas = tables.weights, tables.areas
    if found is None or areas is None:
        return None
    weight, _ = found
    at = areas[areas["geo_level"] == "district"]
    plots = [histogram(*shown) for shown in figures.distributions(tables)]
    above = areas[areas["geo_level"] != "district"]
    named = above.assign(
        name=above["area"].map(area_name).where(above["geo_level"] != "national", "all areas"),
        bounds=above["at_lower"] + above["at_upper"],
    )
    columns = (
        ("area", "name", str), ("records", "records", count_text), ("donors", "donors", count_text),
        ("households", "weight", amount_text),
        ("effective size", "effective_sample_size", count_text),
        ("by donor", "effective_sample_size_by_donor", count_text),
        ("of records", "effective_share", share_text), ("at lower bound", "at_lower", share_text),
        ("at upper bound", "at_upper", share_text), ("largest donor", "largest_donor_share", share_text),
    )  # fmt: skip
    records = at["records"].to_numpy(np.float64)
    at_bounds = {
        side: float((at[f"at_{side}"].fillna(0) * records).sum() / max(records.sum(), 1.0))
        for side in ("upper", "lower")
    }
    return {
        "plots": [Markup(plot) for plot in plots],
        "records": int((weight > 0).sum()),
        "columns": len(weight),
        "at": at_bounds,
        "least": _least(at),
        "table": section("All areas and states", named, columns, numbers=1),
    }


def _least(at: pd.DataFrame) -> list[tuple[str, float]]:
    """Return the districts with the least effective sample size by donor."""
    few = at.sort_values("effective_sample_size_by_donor", kind="stable").head(5)
    sizes = few["effective_sample_size_by_donor"].tolist()
    return list(zip(few["area"].map(area_name), sizes, strict=True))


def further_fits(tables: RunTables) -> Section:
    """A row a further fit of a finished run."""
    fits = (tables.manifest or {}).get("fits") or {}
    rows = [
        {"name": name, **{k: facts.get(k) for k in ("records_kept", "effective_sample_size_by_donor")},
         **{f"within_{p}": facts.get("fitted", {}).get(f"within_{p}") for p in (5, 10)}}
        for name, facts in sorted(fits.items())
    ]  # fmt: skip
    names = ["name", "records_kept", "effective_sample_size_by_donor", "within_5", "within_10"]
    table = pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[1:], np.float64))
    columns = (
        ("fit", "name", str), ("records", "records_kept", count_text),
        ("effective, by donor", "effective_sample_size_by_donor", count_text),
        ("within 5 %", "within_5", share_text), ("10 %", "within_10", share_text),
    )  # fmt: skip
    return section("Further fits", table, columns, numbers=1)


def frontier(tables: RunTables) -> Section | None:
    """Records against loss, effective sample size and held-out error; None where nobody asked for it."""
    table = tables.frontier
    if table is None:
        return None
    columns = (
        ("records", "records", count_text), ("loss", "loss", figure_text),
        ("attainable", "attainable_loss", figure_text),
        ("effective size", "effective_sample_size", count_text),
        ("by donor", "effective_sample_size_by_donor", count_text),
        ("held-out error", "held_out_error", figure_text), ("std error", "held_out_std_error", figure_text),
    )  # fmt: skip
    return section("Frontier", table.dropna(subset="records").sort_values("records"), columns, numbers=0)


def districts(tables: RunTables) -> Section:
    """A row a district."""
    columns = (
        ("district", "district", str), ("largest miss", "worst", str), ("by", "worst_error", change_text),
        ("targets", "targets", count_text), ("within tolerance", "within_tolerance", share_text),
        ("median error", "median", share_text), ("population", "population", change_text),
        ("records", "records", count_text), ("donors", "donors", count_text),
        ("effective, by donor", "effective_sample_size_by_donor", count_text),
        ("at upper bound", "at_upper", share_text), ("largest donor", "largest_donor_share", share_text),
    )  # fmt: skip
    return section("Districts", district_table(tables), columns, numbers=2)


def checks(tables: RunTables) -> dict[str, Any] | None:
    """The files beside official figures that were not targets; None where nothing is proven."""
    if tables.checks is None:
        return None
    table = tables.checks[tables.checks["status"] == "check"]
    if table.empty:
        return None
    table = table.assign(reform_id=0, ratio=table["from_files"] / table["value"].where(table["value"] != 0))
    table["what"] = measures(table, "area")
    rows = []
    for (level, what), own in table.groupby(["geo_level", "what"], sort=True):
        ratio = own["ratio"].dropna()
        judged = own["within_moe"][own["within_moe"] != ""]
        rows.append(
            {
                "level": level, "what": what, "areas": len(own), "ratio": ratio.median(),
                "low": ratio.min() if len(own) > 1 else np.nan,
                "high": ratio.max() if len(own) > 1 else np.nan,
                "margin": (judged == "yes").mean() if len(judged) else np.nan,
                "files": own["from_files"].sum(min_count=len(own)), "official": own["value"].sum(),
                "note": own["note"].iloc[0],
                "order": figures.LEVELS.index(level) if level in figures.LEVELS else 9,
            }
        )  # fmt: skip
    summed = pd.DataFrame(rows).sort_values(["order", "what"], kind="stable")
    columns = (
        ("level", "level", str), ("figure", "what", str), ("note", "note", str),
        ("areas", "areas", count_text), ("files", "files", amount_text),
        ("official", "official", amount_text),
        ("ratio (median)", "ratio", ratio_text), ("lowest", "low", ratio_text),
        ("highest", "high", ratio_text),
        ("within margin", "margin", _whole),
    )  # fmt: skip
    places: dict[str, list[tuple[str, float, str]]] = {}
    for row in table[table["geo_level"] != "district"].sort_values(["what", "area"]).itertuples():
        kind = "before" if row.geo_level == "national" else "now"
        places.setdefault(row.what, []).append((row.area, row.ratio, kind))
    # The nation last, above the states.
    lines = [
        (_cut(name), sorted(marks, key=lambda m: m[2] == "before"))
        for name, marks in sorted(places.items())
        if any(np.isfinite(m[1]) for m in marks)
    ]
    return {
        "count": len(table),
        "plot": Markup(dots(lines, 0.25, 4.0, "Files over official figure, by quantity", 330))
        if lines
        else "",
        "table": section("Figures", summed, columns, numbers=3),
    }


def cost_table(tables: RunTables) -> Section:
    """What each stage cost."""
    table = costs(tables.attempts, tables.receipts)
    columns = (
        ("stage", "stage", str), ("longest task", "place", str), ("tasks", "tasks", count_text),
        ("wall", "wall_hours", _hours), ("tasks' time", "task_hours", _hours),
        ("core-hours", "core_hours", figure_text), ("longest", "longest", _seconds),
        ("memory", "peak_bytes", _gib),
    )  # fmt: skip
    return section("Cost", table, columns, numbers=2)


def legend_of_stages(tables: RunTables) -> list[tuple[str, str]]:
    """Name and colour of each stage that ran."""
    ran = {stage[0] for attempt in tables.attempts for stage in attempt.stages}
    ran |= {task.stage for attempt in tables.attempts for task in attempt.tasks}
    return [(name, colour) for name, colour in COLOURS.items() if name in ran]


def provenance(tables: RunTables) -> dict[str, Any]:
    """Versions, digests, inputs, and the sources of the official figures."""
    plan, manifest = tables.plan, tables.manifest or {}
    digests = [("plan", plan["digest"])]
    digests += [(name, manifest[name]) for name in ("matrix", "weights") if name in manifest]
    if tables.summary is not None and "weights" not in manifest:
        digests.append(("weights", str(tables.summary.get("weights_sha256", ""))))
    digests += [(f"input: {name}", digest) for name, digest in sorted(plan["inputs"].items())]
    digests += [(f"code: {name}", digest) for name, digest in sorted(plan["code"].items())]
    run = plan["run"]
    files = {f"geography: {k}": v for k, v in run["geography"].items() if k in GEOGRAPHY_FILES and v}
    inputs = [
        ("microdata", _BUNDLED["microdata"] if run["microdata"] == "bundled" else str(run["microdata"]))
    ]
    named = str(run["targets"]["database"])
    inputs += [("official figures", _BUNDLED["targets"] if named == "bundled" else named)]
    inputs += [(k, str(v)) for k, v in sorted(files.items())]
    versions = sorted(plan["versions"].items())
    versions += [(f"engine of the fit {name}".strip(), e) for name, e in sorted(plan["engines"].items())]
    sources = None
    if tables.checks is not None:
        named = tables.checks[tables.checks["source"] != ""]
        by = named.groupby(["source", "table", "vintage"], sort=True).size().reset_index(name="targets")
        columns = (
            ("source", "source", str), ("table", "table", str), ("vintage", "vintage", str),
            ("figures", "targets", count_text),
        )  # fmt: skip
        sources = section("Sources", by, columns, numbers=3)
    return {
        "inputs": inputs,
        "digests": digests,
        "versions": versions,
        "sources": sources,
        "totals": manifest.get("totals"),
    }


def warnings(tables: RunTables) -> dict[str, Any]:
    """What was said before and while it ran, what looks wrong in the files, and what was left out."""
    said = [str(text) for text in tables.plan.get("warnings", [])]
    attempt = tables.attempts[-1] if tables.attempts else None
    said += [text for text in (attempt.warnings if attempt else []) if text not in said]
    gates = [] if tables.gates is None else [sentence(row) for _, row in tables.gates.iterrows()]
    people = tables.population
    off = []
    if people is not None and "listed" in people:
        off = [f"{row.district} {change_text(row.relative)}" for row in people[people["listed"]].itertuples()]
    left_out = None
    if tables.excluded is not None and len(tables.excluded):
        by = tables.excluded.groupby(["reason", "geo_level"], sort=True).size().reset_index(name="figures")
        by = by.sort_values("figures", ascending=False, kind="stable")
        columns = ("reason", "reason", str), ("level", "geo_level", str), ("figures", "figures", count_text)
        left_out = section("Not used", by, columns, numbers=2)
    return {"said": said, "gates": gates, "population": off, "excluded": left_out}


def _whole(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else ""


def _hours(value: float) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.2f} h" if value >= 1 else f"{value * 60:.1f} min"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if np.isfinite(value) else ""


def _gib(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if np.isfinite(value) and value > 0 else ""


def _cut(words: str, most: int = 52) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
