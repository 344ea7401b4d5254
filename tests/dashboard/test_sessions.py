"""What a session shows when things come in another order than they were asked for, or fail unforeseen."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distcalib.dashboard import session as sessions
from distcalib.dashboard.app import runs_tab
from distcalib.dashboard.running import Runner
from distcalib.dashboard.session import Session, attempted
from distcalib.runs.jobs import DONE, Job

TARGETS = pd.DataFrame({"variable": ["count"], "value": [10.0]})


def test_a_page_that_went_away_is_no_failure_of_the_server_and_others_are(caplog):
    from tornado.websocket import WebSocketClosedError

    from distcalib.dashboard.server import _unless_gone

    async def say(error: Exception) -> None:
        _unless_gone(asyncio.get_running_loop(), {"message": "a task failed", "exception": error})

    asyncio.run(say(WebSocketClosedError()))
    assert caplog.text == ""
    asyncio.run(say(ValueError("x")))
    assert "a task failed" in caplog.text


class NoJobs:
    """Stands for the queue where no job is begun."""

    def cancel(self, job: Job) -> None:
        pass

    def ahead(self, job: Job) -> int:
        return 0


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(NoJobs(), tmp_path, 1 << 20)


def survey(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"people": [1] * rows})


def test_of_two_joins_under_way_the_one_asked_for_last_holds(session, monkeypatch):
    late, build = threading.Event(), sessions.build

    def slow(table: pd.DataFrame, *rest: Any) -> Any:
        if len(table) == 1:
            late.wait(10)
        return build(table, *rest)

    monkeypatch.setattr(sessions, "build", slow)

    async def both() -> None:
        session.targets = ("t.csv", TARGETS)
        first = asyncio.create_task(session.set_survey("one.csv", survey(1)))
        await asyncio.sleep(0.1)
        await session.set_survey("three.csv", survey(3))
        late.set()
        await first

    asyncio.run(both())
    assert session.problem.X.shape == (1, 3)
    assert sessions.Problem.load(session.problem_folder).X.shape == (1, 3)
    assert len(list(session.folder.iterdir())) == 1


def test_a_problem_that_cannot_be_made_leaves_no_old_one(session, monkeypatch, caplog):
    async def give(rows: int) -> None:
        await session.set_survey("s.csv", survey(rows))
        await session.set_targets("t.csv", TARGETS)

    asyncio.run(give(3))
    assert session.problem is not None
    monkeypatch.setattr(sessions, "build", lambda *_: 1 / 0)
    asyncio.run(give(4))
    assert session.problem is None
    assert "not foreseen (ZeroDivisionError" in session.trouble
    assert "Traceback" in caplog.text


def test_what_nobody_foresaw_is_said_and_logged(caplog):
    assert asyncio.run(attempted(lambda: 3)) == (3, "")
    assert asyncio.run(attempted(lambda: [].index(1)))[1].startswith("this failed for a reason")

    def none_left() -> None:
        raise MemoryError

    assert asyncio.run(attempted(none_left)) == (None, "there is not enough memory for it")


def test_a_job_of_the_problem_before_delivers_nothing(session):
    came: list[Any] = []
    runner = Runner(session, "Go", Job, came.append, came.append)
    job = Job()
    job.state, job.result, job.said = DONE, "weights of another survey", [{"step": 1}]
    runner.job = job
    session.problem = object()
    runner._poll()
    assert came == []
    assert not runner.start.disabled
    assert runner.stop.disabled


def test_the_run_shown_is_the_one_chosen_last(monkeypatch):
    late = threading.Event()

    def view(folder: Path) -> str:
        if folder.name == "a":
            late.wait(10)
        return f"view of {folder.name}"

    monkeypatch.setattr("distcalib.dashboard.app.run_view", view)
    tab = runs_tab({name: Path(name) for name in ("first", "a", "b")})
    menu, shown = tab[0][0], tab[1]

    async def choose() -> None:
        menu.value = "a"
        await asyncio.sleep(0.1)
        menu.value = "b"
        await asyncio.sleep(0.1)
        late.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(choose())
    assert [part.object for part in shown] == ["view of b"]
