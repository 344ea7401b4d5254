"""Bokeh plots of a run: what is drawn is what its tables hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import write_made_run

from distcalib import ClusterConfig, Run, RunConfig
from distcalib.errors import InputError
from distcalib.report.map_data import FILLS
from distcalib.report.run_tables import RunTables

pytest.importorskip("bokeh")

from distcalib.report import plots

GEOIDS = [201, 3301, 3302, 5001, 5601, 601]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("made") / "run", GEOIDS, name="six districts")


def sources(chart) -> list[dict]:
    return [renderer.data_source.data for renderer in chart.renderers]


def test_the_fit_is_drawn_by_level_and_by_group(made):
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    targets = pd.read_csv(made / "fit/diagnostics.csv", keep_default_na=False, na_values=[""])
    fitted = targets[targets["status"] == "fit"]
    chart = plots.fit(made)
    drawn = sources(chart)[0]
    at = {name.split(" ")[0]: i for i, name in enumerate(drawn["name"])}
    assert list(at) == ["district", "state", "all"]  # from the bottom
    own = fitted.loc[fitted["geo_level"] == "state", "abs_rel_error"]
    assert drawn["within_1"][at["state"]] == (own <= 0.01).mean()
    assert drawn["to_5"][at["state"]] == pytest.approx(((own > 0.01) & (own <= 0.05)).mean())
    assert drawn["beyond"][at["all"]] == pytest.approx((fitted["abs_rel_error"] > 0.1).mean())
    groups = sources(plots.fit(RunTables.read(made), by="group"))[0]
    assert len(set(groups["name"])) == targets.groupby(["status", "group_id"]).ngroups
    assert sum(groups["targets"]) == len(targets)
    assert "within 1 %" in file_html(chart, INLINE, "fit")
    with pytest.raises(InputError, match=r"'levels'.*level"):
        plots.fit(made, by="levels")


def test_errors_count_every_fitted_target_once(made):
    targets = RunTables.read(made).targets
    drawn = sources(plots.errors(targets))[0]
    fitted = targets[targets["status"] == "fit"]
    for level in ("state", "district"):
        assert drawn[level].sum() == (fitted["geo_level"] == level).sum()
    assert drawn["district"][-1] == (fitted.query("geo_level == 'district'")["rel_error"] >= 0.19).sum()


def test_the_loss_has_a_line_a_stage(made):
    table = pd.read_csv(made / "fit/epochs.csv")
    lines = sources(plots.loss(made))[::2]
    assert [set(line["stage"]) for line in lines] == [{"gates"}, {"refit"}]
    assert np.concatenate([line["loss"] for line in lines]).tolist() == table["loss"].tolist()
    assert len(plots.loss(table).renderers) == 4


def test_the_frontier_leaves_out_what_nobody_measured():
    table = pd.DataFrame({"records": [2000.0, 1000.0, np.nan], "loss": [1.0, 2.0, np.nan],
                          "attainable_loss": 0.5,
                          "effective_sample_size": [900.0, 500.0, np.nan], "held_out_error": np.nan,
                          "effective_sample_size_by_donor": [700.0, 400.0, np.nan],
                          "held_out_std_error": np.nan, "note": ["", "", "not possible"]})  # fmt: skip
    charts = plots.frontier(table).children
    assert [chart.title.text for chart in charts] == ["Loss", "Effective sample size"]
    assert sources(charts[0])[0]["loss"].tolist() == [2.0, 1.0]
    held = plots.frontier(table.assign(held_out_error=0.2)).children[2]
    assert sources(held)[0]["held_out_error"].tolist() == [0.2, 0.2]


def test_weights_are_counted_as_the_file_has_them(made):
    weights = np.load(made / "fit/weights.npy")
    charts = plots.weights(made).children
    assert charts[0].title.text == "Weight of a record"
    assert sources(charts[0])[0]["count"].sum() == (weights > 0).sum()
    assert sources(charts[2])[0]["count"].sum() == len(GEOIDS)
    assert sources(plots.weights(weights).children[0])[0]["count"].sum() == (weights > 0).sum()


def test_the_map_has_a_tile_a_district_with_its_figure(made):
    population = pd.read_csv(made / "verify/population.csv").set_index("district")["relative"]
    chart = plots.district_map(made, "Population error")
    (tiles,) = [r for r in chart.renderers if r.name == "districts"]
    drawn = pd.DataFrame(tiles.data_source.data).set_index("district")
    assert sorted(drawn["cd_geoid"]) == sorted(GEOIDS)
    assert drawn["value"].to_dict() == population.to_dict()
    for name, error in population.items():
        assert drawn.loc[name, "text"].startswith(f"{error:+.2%}")
        assert (drawn.loc[name, "fill"] in (FILLS["E"],)) == (abs(error) < 0.01)
    with pytest.raises(InputError, match="Population error"):
        plots.district_map(made, "Population eror")


def test_the_map_takes_figures_of_ones_own_in_any_spelling_of_districts():
    own = pd.Series({"CA-06": 1.0, "0606": 2.0, 5601: np.nan}, name="wages")
    with pytest.raises(InputError, match="twice"):
        plots.district_map(own)
    chart = plots.district_map(own.drop("0606"))
    drawn = next(r for r in chart.renderers if r.name == "districts").data_source.data
    assert dict(zip(drawn["district"], drawn["fill"], strict=True))["WY-01"] == FILLS["x"]
    table = pd.DataFrame({"cd_geoid": [601, 602], "error": [-0.3, 0.3]})
    signed = plots.district_map(table, "error", signed=True)
    drawn = next(r for r in signed.renderers if r.name == "districts").data_source.data
    assert drawn["fill"] == [FILLS["A"], FILLS["I"]]
    with pytest.raises(InputError, match="error"):
        plots.district_map(table, "eror")


def test_the_timeline_has_every_task(made):
    drawn = sources(plots.timeline(made))
    run = RunTables.read(made)
    words = [word for source in drawn for word in source["words"]]
    assert sum(word.startswith("simulate ") for word in words) == 5
    assert len({lane for source in drawn for lane in source["lane"]}) == 1 + 4
    assert max(source["end"].max() for source in drawn) <= run.attempts[-1].seconds


def test_official_figures_stand_beside_estimates(made):
    targets = RunTables.read(made).targets
    chart = plots.official(made)
    drawn = pd.concat([pd.DataFrame(source) for source in sources(chart)[1:]])
    positive = targets[(targets["target"] > 0) & (targets["estimate"] > 0)]
    assert sorted(drawn["estimate"]) == sorted(positive["estimate"])
    assert f"({len(targets) - len(positive)} not above zero are left out)" in chart.title.text


def test_a_run_is_taken_by_its_folder_its_value_or_its_tables(made):
    run = Run(RunConfig(), made, ClusterConfig())
    for one in (made, str(made), run, RunTables.read(made)):
        assert plots.fit(one).title.text == "Targets by absolute relative error"


@pytest.mark.parametrize("name", ["fit", "errors", "loss", "frontier", "weights", "official", "district_map"])
def test_a_run_that_has_not_got_so_far_says_what_it_lacks(name, tmp_path):
    half = write_made_run(tmp_path / "half", GEOIDS, failed=("fit", "no memory"))
    with pytest.raises(InputError, match=r"fit/\w+\.\w+.*is not there"):
        getattr(plots, name)(half)
    with pytest.raises(InputError, match=r"holds no plan\.json"):
        getattr(plots, name)(tmp_path)


def test_without_bokeh_an_error_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.models", None)
    with pytest.raises(InputError, match=r"pip install 'distcalib\[dashboard\]'"):
        plots.district_map(made)
