"""`Run`: carry a plan out in a run folder, from whatever is already there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distcalib.config import ClusterConfig, RunConfig
from distcalib.digest import digest_arrays, digest_of
from distcalib.errors import DistcalibError, InputError
from distcalib.matrix.blocks import assemble, write_block
from distcalib.microdata.remote import local_file
from distcalib.runs.area_stage import AreaFiles, area_work, files_of
from distcalib.runs.events import INTERRUPTED, Events, Subscriber
from distcalib.runs.execute import Executor, Instead
from distcalib.runs.fitting import FitTask, fit
from distcalib.runs.folder import PROOF, STAGES, require_same_plan, sweep, write_plan
from distcalib.runs.home import EVENTS, open_home
from distcalib.runs.manifest import FRONTIER, MANIFEST, REPORT, SUMS, TRACE, read_manifest, write_manifest
from distcalib.runs.plan import Plan, Prepared, make_plan, microdata_path
from distcalib.runs.receipts import Receipt, write_receipt
from distcalib.runs.sizes import check_resources
from distcalib.runs.split import longest_first, splitting, standing_tasks
from distcalib.runs.starting import resource_of_fit, start_executor
from distcalib.runs.tasks import MICRODATA, Inputs, simulate_slice, write_areas
from distcalib.runs.verdict import judge, not_proven
from distcalib.runs.verify import check_files, prove
from distcalib.runs.verify_stage import proof_of

_START = "start workers"


@dataclass
class Run:
    """A run in its folder.

    Parameters
    ----------
    config
        Settings.
    folder
        The run folder: a path that all workers see, made when it is missing, or ``s3://bucket/prefix``.
    cluster
        Where to run.
    subscribers
        Called with every event.
    accept_code
        Go on with a folder that other code began.
    force
        One of `STAGES`: do it and all that follow again, also where the folder was begun with other settings
        of theirs; what they depend on stands. None: nothing twice.
    """

    config: RunConfig
    folder: str | Path
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    subscribers: Sequence[Subscriber] = ()
    accept_code: bool = False
    force: str | None = None

    def __post_init__(self) -> None:
        self.home = open_home(self.folder)
        self.folder = self.home.shown if self.home.alone else self.home.folder
        self._stack = ExitStack()
        self._executor: Executor | None = None
        self._used: set[str] = set()
        # The error of the stage that failed, for the last event names the stage.
        self._failed: tuple[BaseException | None, str] = None, ""

    def _repr_html_(self) -> str:
        from distcalib.runs.status import run_html

        return run_html(self.config.name, self.folder, f"{self.cluster.kind}, {self.workers} workers")

    @property
    def workers(self) -> int:
        """Number of worker processes that the run will use."""
        if self.cluster.kind == "serial":
            return 1
        from distcalib.cluster.local import worker_count

        return worker_count(self.cluster)

    def prepare(self) -> Prepared:
        """Make the plan, or take up the stored one of the folder. Nothing is written.

        Returns
        -------
        Prepared
            plan, and the tables that it was made from: targets, columns, assignment, rates.

        Raises
        ------
        InputError
            When inputs are wrong, the folder belongs to another plan, or disk or memory do not suffice.
        RunError
            When other code began the run.
        """
        if self.force is not None:
            _stage("--force", self.force)
        self.home.look()
        stored, anew = self.home.plan(), self.force == STAGES[0]
        cuts = None
        if stored and not anew:
            cuts = [(s["state_fips"], s["start"], s["stop"]) for s in stored["slices"]]
        # The plan names the local file, so that no task goes to a network; its content digest tells a change.
        config = self.config.changed(microdata=str(local_file(self.config.microdata)))
        prepared = make_plan(config, cuts)
        if stored and not anew:
            require_same_plan(self.home.shown, stored, prepared.plan, self.accept_code, self.force)
        elif not stored:
            self.home.require_empty()
        if not self._finished(prepared):
            check_resources(prepared.plan, self.cluster)
            self.home.need_space(prepared.plan)
        return prepared

    def _finished(self, prepared: Prepared) -> bool:
        manifest, plan = read_manifest(self.home.folder), prepared.plan
        if manifest is None or manifest["plan"] != plan.digest() or self.home.damaged(manifest):
            return False
        # The last call may have been for a part of the areas.
        wanted = files_of(plan.run, prepared.assignment).written
        return {area.file for area in wanted} <= set(manifest.get("areas", {}).get("proven", ()))

    def execute(
        self,
        prepared: Prepared | None = None,
        until: str | None = None,
        planned: Callable[[Prepared], object] = lambda prepared: None,
    ) -> dict[str, Any]:
        """Carry the run out and return its summary, as the manifest holds it.

        Work whose receipt verifies is not done again. A failure raises `RunError`; what is finished stays.
        A folder that was begun is held before anything is planned, and `distcalib status` sees that; a new
        one is made when all input is checked. What is refused leaves no event in the folder.

        Parameters
        ----------
        prepared
            What `prepare` gave; None: prepare now.
        until
            One of `STAGES`, the last one to carry out; a later call goes on from there. The summary then says
            no more than ``until``, and no manifest is written. None: all stages.
        planned
            Called with what is carried out, before it is.
        """
        if until is not None:
            _stage("until", until)
        home, self.events = self.home, Events(None, list(self.subscribers))
        self._executor, self._failed = None, (None, "")
        with ExitStack() as self._stack:
            try:
                with self.events.beating():  # a lease may have to be waited for
                    if begun := home.begun():
                        self._stack.enter_context(home.held())
                    prepared = prepared or self.prepare()
                planned(prepared)
                if not begun:
                    with self.events.beating():
                        self._stack.enter_context(home.held())
                # Another process may have been here since the plan was made.
                stored = home.plan()
                if stored is not None and self.force != STAGES[0]:
                    require_same_plan(home.shown, stored, prepared.plan, self.accept_code, self.force)
                # From now on the folder keeps the events.
                self.events = Events(home.folder / EVENTS, [*self.subscribers, home.heard])
                self._stack.enter_context(self.events.beating())
                return self._carry_out(prepared, until)
            except BaseException as error:
                failed, stage = self._failed
                with suppress(OSError, DistcalibError):  # what cannot be told is raised all the same
                    self.events.emit("failed", **self._told(error, stage if failed is error else ""))
                raise

    def _undecided(self, error: BaseException) -> bool:
        """Say whether an error says nothing of the files: an interruption, workers that did not start."""
        return isinstance(error, KeyboardInterrupt) or self._failed == (error, _START)

    def _carry_out(self, prepared: Prepared, until: str | None) -> dict[str, Any]:
        home, plan = self.home, prepared.plan
        sweep(home.folder)
        manifest = read_manifest(home.folder)
        if self.force is None and self._finished(prepared):
            self.events.emit("nothing_to_do", files=len((manifest or {})["files"]))
            return manifest or {}
        began, known = time.perf_counter(), home.plan() is not None
        start = partial(self.events.emit, "start", plan=plan.digest(), columns=plan.facts["columns"])
        if known:  # what was finished is so no longer
            start()
        if self.force is not None:
            if self.force == "verify" and manifest is not None and manifest["plan"] == plan.digest():
                # Until the files are judged again, what was proven of them stands.
                self._stack.enter_context(home.aside(PROOF, self._undecided))
            home.forget(self.force)
        home.remove([MANIFEST, SUMS, TRACE, REPORT])
        names = write_plan(home.folder, prepared, self.accept_code or self.force is not None, self._elsewhere)
        home.keep(names[:1])  # the plan first: a run that has one can be taken up
        home.keep(names[1:])
        if not known:
            start()
        summary = self._stages(prepared, until)
        if summary is None:
            self.events.emit("stopped", until=until, seconds=round(time.perf_counter() - began, 1))
            return {"name": plan.run.name, "plan": plan.digest(), "until": until}
        summary["seconds"] = round(time.perf_counter() - began, 1)
        home.keep_only(self._used)
        home.remove([REPORT])  # one that was made while the run went on is not that of the finished run
        write_manifest(home.folder, summary, home.files(), home.facts)
        home.keep([MANIFEST])
        self.events.emit("done", seconds=summary["seconds"])
        return read_manifest(home.folder) or {}

    def _stages(self, prepared: Prepared, until: str | None) -> dict[str, Any] | None:
        """Carry the stages out; return the summary, or None where `until` ends them earlier."""
        plan, inputs = prepared.plan, self._inputs(prepared.plan)
        blocks = self._simulate(plan, inputs)
        if until == "simulate":
            return None
        matrix_digest = self._assemble(blocks, plan.code["assemble"])
        if until == "assemble":
            return None
        fits = self._fit(plan, inputs, matrix_digest)
        if until == "fit":
            return None
        weights = np.load(self.home.folder / "fit" / "weights.npy")
        weights_digest = digest_arrays({"weights": weights})
        files = files_of(plan.run, prepared.assignment)
        work = area_work(plan, inputs, files, prepared.assignment, self.home.verified)
        self._stage("areas", write_areas, work.tasks, reused=work.reused)
        areas = work.receipts()
        self._used |= work.used()
        if until == "areas":
            return None
        verification = self._verify(prepared, inputs, files, areas)
        return {
            "name": plan.run.name,
            "plan": plan.digest(),
            "matrix": matrix_digest,
            "weights": weights_digest,
            "versions": plan.versions,
            "code": plan.code,
            "fit": fits[""],
            "fits": {name: summary for name, summary in fits.items() if name},
            "verification": verification,
            "warnings": list(plan.warnings),
            "areas": work.summary(),
        }

    def _simulate(self, plan: Plan, inputs: Inputs) -> list[Receipt]:
        tasks = longest_first(plan, standing_tasks(plan, inputs, self.home.folder, self.home.verified))
        in_two = splitting(plan, self.cluster, self.events)
        return self._stage("simulate", simulate_slice, tasks, instead=in_two)

    def _assemble(self, blocks: list[Receipt], code: str) -> str:
        """Sum the blocks into X in this process; equal blocks give equal bytes whatever their cut."""
        parts = sorted(digest for r in blocks for digest in r.outputs.values())
        task_id = digest_of({"stage": "assemble", "code": code, "blocks": parts})
        folder = self.home.folder
        done = self.home.verified(folder, "assemble", task_id)
        with self._timed("assemble", 1, reused=int(done is not None)):
            if done is None:
                began = time.perf_counter()
                self.home.fetch(path for r in blocks for path in r.outputs)
                matrix = assemble([folder / path for r in blocks for path in r.outputs])
                digest = write_block(folder / "matrix.zarr" / "X", matrix)
                done = Receipt(
                    "assemble",
                    task_id,
                    {"matrix.zarr/X": digest},
                    {"nonzeros": int(matrix.nnz), "shape": list(matrix.shape)},
                    round(time.perf_counter() - began, 3),
                )
                write_receipt(folder, done)
                self.home.finish(done)
        self._used |= {f"receipts/assemble/{task_id}.json"}
        return done.outputs["matrix.zarr/X"]

    def _fit(self, plan: Plan, inputs: Inputs, matrix_digest: str) -> dict[str, dict[str, Any]]:
        """Fit, and carry the further fits out; return the summary of each by name, the first one's ''."""
        tasks = []
        for name, config in {"": plan.run.fit, **plan.run.fits}.items():
            settings = {k: v for k, v in asdict(config).items() if k != "engine"}
            engine = plan.engines[name]
            depends = {
                "stage": "fit",
                "name": name,
                "code": plan.code["fit"],
                "matrix": matrix_digest,
                "values": plan.inputs["values"],
                "labels": plan.inputs["labels"],
                "initial_weights": plan.inputs["initial_weights"],
                "engine": engine,
                "settings": settings,
                "seed": plan.run.seed,
            }
            tasks.append(FitTask(inputs, digest_of(depends), engine, settings, name))
        if self.home.verified(self.home.folder, "fit", tasks[0].id) is None:
            self.home.remove([FRONTIER])  # it judged another fit
        receipts = self._stage("fit", fit, tasks, fit_resource=True)
        self.home.fetch(f"{task.folder}/weights.npy" for task in tasks)
        return {task.name: r.facts["summary"] for task, r in zip(tasks, receipts, strict=True)}

    def _verify(
        self, prepared: Prepared, inputs: Inputs, files: AreaFiles, areas: list[Receipt]
    ) -> dict[str, Any]:
        written = {path: digest for r in areas for path, digest in r.outputs.items()}
        proof = proof_of(prepared.plan, inputs, files, written, prepared.assignment)
        checks = self._stage("verify files", check_files, proof.checks)
        receipts = self._stage("verify", prove, proof.tasks)
        # Tables of an earlier attempt may have been of other files.
        self.home.clear("verify", self._used)
        self.home.fetch(["matrix.zarr/X", *(path for r in receipts for path in r.outputs)])
        folder = self.home.folder
        try:
            with self._timed("judge", 1):
                found = judge(folder, prepared.plan, proof, checks, receipts, prepared.assignment)
        finally:
            tables = (p.relative_to(folder).as_posix() for p in (folder / "verify").rglob("*") if p.is_file())
            self.home.keep(sorted(set(tables) - self._used))
        for text in not_proven(found):
            self.events.emit("warning", text=text)
        return found

    def _stage(
        self,
        name: str,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        fit_resource: bool = False,
        instead: Instead | None = None,
        reused: int = 0,
    ) -> list[Receipt]:
        """Run what has no verified receipt; return the receipts of all tasks, or of what replaced them."""
        found = {t.id: self.home.verified(self.home.folder, t.stage, t.id) for t in tasks}
        places = {t.id: getattr(t, "place", "") for t in tasks}
        open_tasks = [t for t in tasks if found[t.id] is None]
        executor = self._start_executor() if open_tasks else None
        reused += len(tasks) - len(open_tasks)
        with self._timed(name, len(open_tasks) + reused, reused=reused):
            if executor is not None:
                resource = None
                if fit_resource:
                    engines = (task.engine for task in open_tasks)
                    resource = resource_of_fit(executor, self.cluster, engines, self.events)
                for result in self.home.run(executor, function, open_tasks, resource, instead):
                    receipt = Receipt(**result)
                    found[receipt.id] = receipt
                    self.events.emit(
                        "task",
                        stage=name,
                        id=receipt.id,
                        seconds=receipt.seconds,
                        cpu_seconds=receipt.cpu_seconds,
                        peak_bytes=receipt.peak_bytes,
                        process=receipt.process,
                        place=places.get(receipt.id, ""),
                    )
        receipts = [r for r in found.values() if r is not None]
        self._used |= {f"receipts/{r.stage}/{r.id}.json" for r in receipts}
        self._used |= {path for r in receipts for path in r.outputs}
        return receipts

    @contextmanager
    def _timed(self, stage: str, tasks: int, reused: int = 0) -> Iterator[None]:
        began = time.perf_counter()
        self.events.emit("stage", stage=stage, tasks=tasks, reused=reused)
        try:
            yield
        except BaseException as error:
            self._failed = error, stage
            seconds = round(time.perf_counter() - began, 2)
            self.events.emit("stage_failed", seconds=seconds, **self._told(error, stage))
            raise
        self.events.emit("stage_done", stage=stage, seconds=round(time.perf_counter() - began, 2))

    def _told(self, error: BaseException, stage: str) -> dict[str, str]:
        # An error of the start may name a key or certificate, and no event does.
        cause = "" if stage == _START else str(error) or type(error).__name__
        if isinstance(error, KeyboardInterrupt):
            cause = INTERRUPTED
        return {"stage": stage, "cause": cause.replace(str(self.home.folder), self.home.shown)}

    def _start_executor(self) -> Executor:
        if self._executor is None:
            timed = partial(self._timed, _START, self.workers)
            self._executor = start_executor(self.cluster, self.home, self.events, self._stack, timed)
        return self._executor

    @property
    def _elsewhere(self) -> bool:
        """Whether workers may be on other machines, which have nothing of this one but the run folder."""
        return self.home.alone or self.cluster.kind not in ("serial", "local")

    def _inputs(self, plan: Plan) -> Inputs:
        folder = self.home.folder
        own = self._elsewhere or plan.run.households is not None
        microdata = folder / MICRODATA if own else microdata_path(plan.run)
        return Inputs(
            run=str(folder.absolute()),
            microdata=str(microdata.absolute()),
            microdata_digest=plan.inputs["microdata"],
            rows_digest=plan.inputs["rows"],
            assignment_digest=plan.inputs["assignment"],
            period=plan.run.period,
            seed=plan.run.seed,
            take_up=plan.run.simulation.take_up,
            rates_digest=plan.inputs.get("take_up", ""),
        )


def _stage(place: str, name: str) -> None:
    if name not in STAGES:
        raise InputError(
            "is no stage of a run", place=place, value=name, expected=f"one of {', '.join(STAGES)}",
            choices=STAGES,
        )  # fmt: skip
