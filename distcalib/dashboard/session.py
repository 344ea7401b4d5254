"""What one browser session holds: its tables, the problem they make, its calibrations; gone with it."""

from __future__ import annotations

import asyncio
import html
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import param

from distcalib.dashboard.problem import Problem, build, guess_weight
from distcalib.dashboard.run_problem import problem_of_run
from distcalib.errors import DistcalibError
from distcalib.runs.jobs import Job, Jobs


class Session(param.Parameterized):
    """Tables, problem and calibrations of a session; tabs watch its parameters.

    Attributes
    ----------
    survey, targets
        (what it is called, table), or None.
    weight
        Column of the design weights; empty: 1 each.
    problem
        What the two make, or that of a run; or None.
    trouble
        Why there is none.
    outcomes
        Label -> `distcalib.dashboard.work.Outcome`, of this problem.
    """

    survey = param.Parameter()
    targets = param.Parameter()
    weight = param.String()
    problem = param.Parameter()
    trouble = param.String()
    outcomes = param.Dict(default={})

    def __init__(self, jobs: Jobs, folder: Path, most_upload: int) -> None:
        super().__init__()
        self.jobs, self.most_upload = jobs, most_upload
        self.folder = Path(tempfile.mkdtemp(prefix="session-", dir=folder))
        self.problem_folder = self.folder
        self.mine: list[Job] = []
        self._made = self._asked = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Begin a job of this session on the saved problem."""
        job = self.jobs.submit(function, self.problem_folder, *arguments)
        self.mine.append(job)
        return job

    async def set_survey(self, name: str, table: pd.DataFrame) -> None:
        """Take a survey; the weight is guessed."""
        self.param.update(survey=(name, table), weight=guess_weight(table) or "")
        await self.join()

    async def set_run(self, folder: Path) -> None:
        """Take the fitted targets and the matrix of a run, instead of tables; workers read it themselves."""
        self.param.update(survey=None, targets=None, weight="")
        await self._make(lambda _: problem_of_run(folder), folder)

    async def set_targets(self, name: str, table: pd.DataFrame) -> None:
        """Take targets."""
        self.targets = (name, table)
        await self.join()

    async def join(self) -> None:
        """Make the problem of the tables that are there, and forget the calibrations of another."""
        if self.survey is None or self.targets is None:
            self._asked += 1
            self.param.update(problem=None, outcomes={}, trouble="")
            return
        (survey_name, survey), (targets_name, targets) = self.survey, self.targets

        def work(folder: Path) -> Problem:
            problem = build(survey, targets, self.weight or None, survey_name, targets_name)
            problem.save(folder)
            return problem

        await self._make(work)

    async def _make(self, work: Callable[[Path], Problem], run: Path | None = None) -> None:
        """Let `work` make the problem, and save it in the folder that it is given where it is of no run."""
        self._asked += 1
        made = self._asked
        self.param.update(problem=None, outcomes={}, trouble="")
        folder = self._folder_of(made)

        def checked() -> Problem:
            problem = work(folder)
            problem.calibration()
            return problem

        problem, trouble = await attempted(checked)
        if made != self._asked:  # other tables came meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            return
        shutil.rmtree(self._folder_of(self._made), ignore_errors=True)
        self._made, self.problem_folder = made, run or folder
        self.mine = [job for job in self.mine if not job.ended]
        self.param.update(problem=problem, outcomes={}, trouble=trouble)

    def _folder_of(self, number: int) -> Path:
        return self.folder / f"problem-{number}"

    def end(self) -> None:
        """Stop what runs, and remove every file."""
        for job in self.mine:
            self.jobs.cancel(job)
        shutil.rmtree(self.folder, ignore_errors=True)


def tried(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return what `work` gives, and what went wrong; the log has what nobody foresaw."""
    try:
        return work(), ""
    except DistcalibError as error:
        return None, str(error)
    except MemoryError:
        return None, "there is not enough memory for it"
    except Exception as error:
        logging.getLogger(__name__).exception("a session's work failed")
        return None, f"this failed for a reason that was not foreseen ({type(error).__name__}: {error})"


async def attempted(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return what `tried` does, of work in a thread of its own."""
    return await asyncio.to_thread(tried, work)


def alert(text: str, kind: str = "danger") -> Any:
    """Return a message; the text is shown as it is, never as markup."""
    return pn.pane.HTML(
        f'<div class="said {kind}" role="alert">{html.escape(text)}</div>', sizing_mode="stretch_width",
        stylesheets=[ALERTS],
    )  # fmt: skip


#: Blue, orange and vermilion of Okabe and Ito, told apart by the colour-blind; the sign before says it too.
ALERTS = """
.said { padding: .5rem .8rem; border-left: 4px solid #0072b2; background: #f0f6fb; overflow-wrap: anywhere;
  white-space: pre-line;  font: 14px/1.5 system-ui, sans-serif; }
.danger { border-color: #d55e00; background: #fdf3ec; }
.danger::before { content: "Error: "; font-weight: 600; }
.good::before { content: "Ready: "; font-weight: 600; }
.warning { border-color: #e69f00; background: #fdf8ea; }
.warning::before { content: "Note: "; font-weight: 600; }
"""
