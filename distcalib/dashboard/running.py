"""A button that begins a job, one that cancels it, and a line that says how it stands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import panel as pn

from distcalib.dashboard.session import Session, alert
from distcalib.errors import InputError
from distcalib.runs.jobs import CANCELLED, FAILED, WAITING, Job

#: Milliseconds between looks at a job.
PERIOD = 250


class Runner:
    """The buttons of one kind of job, of one session.

    Parameters
    ----------
    session
        Whose job it is.
    label
        Of the button.
    begin
        Begins the job; `InputError` says what is wrong instead.
    heard
        Called with what the job said since the last time.
    done
        Called with the result.
    """

    def __init__(
        self,
        session: Session,
        label: str,
        begin: Callable[[], Job],
        heard: Callable[[list[dict[str, Any]]], None],
        done: Callable[[Any], None],
    ) -> None:
        self.session, self.begin, self.heard, self.done = session, begin, heard, done
        self.job: Job | None = None
        self._read = 0
        self.start = pn.widgets.Button(label=label, color="primary")
        self.stop = pn.widgets.Button(label="Cancel", disabled=True)
        self.status = pn.widgets.StaticText(value="")
        self.progress = pn.indicators.Progress(
            label="Progress", value=0, max=100, sizing_mode="stretch_width", visible=False
        )
        self.trouble = pn.Column(sizing_mode="stretch_width")
        self.start.on_click(self._start)
        self.stop.on_click(self._stop)
        self._look = pn.state.add_periodic_callback(self._poll, period=PERIOD, start=False)
        session.param.watch(self._anew, "problem")
        self._enable()

    @property
    def view(self) -> Any:
        """The buttons, the line, how far it is, and errors beneath them."""
        buttons = pn.FlexBox(self.start, self.stop, self.status, align_items="center")
        return pn.Column(buttons, self.progress, self.trouble, sizing_mode="stretch_width")

    def _anew(self, _: Any) -> None:
        if self.job is not None:  # also one that is done and was not fetched: it is of another problem
            self.session.jobs.cancel(self.job)
            self._look.stop()
            self.job = None
        self.progress.visible = False
        self.status.value = ""
        self.trouble.clear()
        self._enable()

    def _enable(self) -> None:
        going = self.job is not None
        self.start.disabled = going or self.session.problem is None
        self.stop.disabled = not going

    def _start(self, _: Any) -> None:
        self.trouble.clear()
        try:
            self.job = self.begin()
        except InputError as error:
            self.trouble[:] = [alert(str(error))]
            return
        self._read = 0
        self.status.value = "starting"
        self._enable()
        self._look.start()

    def _stop(self, _: Any) -> None:
        if self.job is not None:
            self.session.jobs.cancel(self.job)
        self._poll()

    def _poll(self) -> None:
        job = self.job
        if job is None:
            return
        new = job.said[self._read :]
        self._read += len(new)
        if new:
            self.heard(new)
        if not job.ended:
            ahead = self.session.jobs.ahead(job)
            if job.state == WAITING and ahead > 0:
                self.status.value = (
                    f"waiting: {ahead} {'job' if ahead == 1 else 'jobs'} of others before yours"
                )
            elif job.state == WAITING:
                self.status.value = "starting"
            return
        self._look.stop()
        self.job = None
        self.progress.visible = False
        if job.state == CANCELLED:
            self.status.value = "cancelled; nothing was kept"
        elif job.state == FAILED:
            self.status.value = "failed"
            self.trouble[:] = [alert(str(job.error))]
        self._enable()  # whatever comes of showing it
        if job.state not in (CANCELLED, FAILED):
            try:
                self.done(job.result)
            except Exception as error:
                logging.getLogger(__name__).exception("a result could not be shown")
                self.trouble[:] = [alert(f"the result cannot be shown ({type(error).__name__}: {error})")]
