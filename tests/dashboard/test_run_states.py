"""Every page of a run, however far it got: made in this process, without a browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import panel as pn
import pytest
from bokeh.document import Document
from made_tables import STAGES, write_made_matrix, write_made_run
from panel.io.state import set_curdoc

from distcalib.dashboard.run_view import PAGES, run_view
from distcalib.errors import InputError
from distcalib.report.run_tables import RunTables

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:pandas.errors.Pandas4Warning")

GEOIDS = [201, 3301, 3302, 5601]


def texts(view: Any) -> str:
    """Return the HTML of a view."""
    return "\n".join(str(part.object) for part in view.select() if hasattr(part, "object"))


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_every_page_shows_what_is_there(stage, tmp_path):
    failed = None if stage is None else (stage, "no memory")
    folder = write_made_run(tmp_path / "run", GEOIDS, failed=failed)
    if stage not in ("simulate", "assemble"):
        write_made_matrix(folder)
    tables = RunTables.read(folder)
    shown = {}
    for name, page in PAGES.items():
        try:
            shown[name] = texts(page(tables))
        except InputError as error:
            shown[name] = f"error: {error}"
    assert shown["Overview"] in texts(run_view(folder))
    assert ("failed in" in shown["Overview"]) == (stage is not None)
    assert ("no fit yet" in shown["Fit"]) == (stage in ("simulate", "assemble", "fit"))
    assert shown["Weights"].startswith("error: ") == (stage in ("simulate", "assemble", "fit"))
    assert "figures compared, not fitted" in shown["Other figures"]
    assert "Not there" in shown["Downloads"]
    assert {name for name, text in shown.items() if text.startswith("error: ")} <= {"Weights"}


def test_a_run_that_is_planned_and_one_without_targets_are_shown(tmp_path):
    folder = write_made_run(tmp_path / "run", GEOIDS, failed=("simulate", "no memory"))
    (folder / "events.ndjson").unlink()
    for receipts in folder.glob("receipts"):
        shutil.rmtree(receipts)
    assert "planned, not begun" in texts(run_view(folder)[0])
    (folder / "targets.parquet").unlink()
    (folder / "columns.parquet").unlink()
    tables = RunTables.read(folder)
    assert "its districts are not known" in texts(PAGES["Districts"](tables))
    assert "not begun" in texts(PAGES["Timeline"](tables))
    with pytest.raises(InputError, match=r"targets\.parquet"):
        PAGES["Fit"](tables)


def test_a_run_that_goes_on_is_no_longer_looked_at_when_another_is_shown(tmp_path):
    from distcalib.dashboard.run_view import _drawn

    folder = write_made_run(tmp_path / "run", GEOIDS, failed=("fit", "no memory"))
    page, view = Document(), run_view(folder)
    place = pn.Column(view)
    place.server_doc(page)
    with set_curdoc(page):
        assert _drawn(view)
        place[:] = [pn.pane.HTML("another")]
        assert not _drawn(view)


def test_a_folder_of_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"plan\.json"):
        run_view(Path(tmp_path))
