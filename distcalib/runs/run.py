"""`Run`: carry a plan out in a run folder, from whatever is already there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distcalib.config import ClusterConfig, RunConfig
from distcalib.digest import digest_arrays, digest_of
from distcalib.errors import InputError
from distcalib.matrix.blocks import assemble, write_block
from distcalib.microdata.remote import local_file
from distcalib.runs.area_stage import AreaFiles, area_work, files_of
from distcalib.runs.events import Events, Subscriber
from distcalib.runs.execute import DaskExecutor, Executor, Instead, SerialExecutor
from distcalib.runs.fitting import FitTask, fit
from distcalib.runs.folder import (
    SAMPLE,
    STAGES,
    forget,
    keep_only,
    locked,
    require_same_plan,
    stored_plan,
    sweep,
    write_plan,
)
from distcalib.runs.manifest import MANIFEST, SUMS, TRACE, damaged, read_manifest, write_manifest
from distcalib.runs.plan import Plan, Prepared, make_plan, microdata_path
from distcalib.runs.receipts import Receipt, verified, write_receipt
from distcalib.runs.sizes import check_resources
from distcalib.runs.split import splitting, standing_tasks
from distcalib.runs.tasks import Inputs, simulate_slice, write_areas
from distcalib.runs.verdict import judge, not_proven
from distcalib.runs.verify import check_files, prove
from distcalib.runs.verify_stage import proof_of
from distcalib.storage import folder_bytes, need_space


@dataclass
class Run:
    """A run in its folder.

    Parameters
    ----------
    config
        Settings.
    folder
        The run folder; made when it is missing.
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
    folder: Path
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    subscribers: Sequence[Subscriber] = ()
    accept_code: bool = False
    force: str | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(self.folder)):
            raise InputError(
                "is a URL, and a run folder is a folder of a file system that all workers see",
                place="--output", value=str(self.folder),
                expected="a path; `distcalib publish` puts a finished run into an object store",
            )  # fmt: skip
        self._stack = ExitStack()
        self._executor: Executor | None = None
        self._used: set[str] = set()

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

        Raises
        ------
        InputError
            When inputs are wrong, the folder belongs to another plan, or disk or memory do not suffice.
        RunError
            When other code began the run.
        """
        if self.force is not None:
            _stage("--force", self.force)
        stored, anew = stored_plan(self.folder), self.force == STAGES[0]
        cuts = None
        if stored and not anew:
            cuts = [(s["state_fips"], s["start"], s["stop"]) for s in stored["slices"]]
        # The plan names the local file, so that no task goes to a network; its content digest tells a change.
        config = self.config.changed(microdata=str(local_file(self.config.microdata)))
        prepared = make_plan(config, cuts)
        if stored and not anew:
            require_same_plan(self.folder, stored, prepared.plan, self.accept_code, self.force)
        elif self.folder.exists() and not self.folder.is_dir():
            raise InputError("the output folder is a file", place=self.folder, expected="a folder")
        elif (
            not stored
            and self.folder.exists()
            and any(not p.name.startswith(".") for p in self.folder.iterdir())
        ):
            raise InputError(
                "the output folder is not empty and holds no plan",
                place=self.folder,
                expected="a new folder, or the folder of an earlier run",
            )
        if not self._finished(prepared):
            check_resources(prepared.plan, self.cluster)
            need_space(self.folder, prepared.plan.facts["bytes"] - folder_bytes(self.folder))
        return prepared

    def _finished(self, prepared: Prepared) -> bool:
        manifest, plan = read_manifest(self.folder), prepared.plan
        if manifest is None or manifest["plan"] != plan.digest() or damaged(self.folder, manifest):
            return False
        # The last call may have been for a part of the areas.
        wanted = files_of(plan.run, prepared.assignment).written
        return {area.file for area in wanted} <= set(manifest.get("areas", {}).get("proven", ()))

    def execute(self, prepared: Prepared | None = None, until: str | None = None) -> dict[str, Any]:
        """Carry the run out and return its summary, as the manifest holds it.

        Work whose receipt verifies is not done again. A failure raises `RunError`; what is finished stays.

        Parameters
        ----------
        prepared
            What `prepare` gave; None: prepare now.
        until
            One of `STAGES`, the last one to carry out; a later call goes on from there. The summary then says
            no more than ``until``, and no manifest is written. None: all stages.
        """
        if until is not None:
            _stage("until", until)
        prepared = prepared or self.prepare()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            words = error.strerror or str(error)
            raise InputError(
                f"cannot be made ({words})", place=self.folder, expected="a folder to write in"
            ) from None
        with locked(self.folder), ExitStack() as self._stack:
            # Another process may have been here since the plan was made.
            stored = stored_plan(self.folder)
            if stored is not None and self.force != STAGES[0]:
                require_same_plan(self.folder, stored, prepared.plan, self.accept_code, self.force)
            self._executor = None
            self.events = Events(self.folder / "events.ndjson", list(self.subscribers))
            self._stack.enter_context(self.events.beating())
            plan = prepared.plan
            if self.force is not None:
                forget(self.folder, self.force)
            elif self._finished(prepared):
                manifest = read_manifest(self.folder) or {}
                self.events.emit("nothing_to_do", files=len(manifest["files"]))
                return manifest
            for name in (MANIFEST, SUMS, TRACE):
                (self.folder / name).unlink(missing_ok=True)
            began = time.perf_counter()
            sweep(self.folder)
            write_plan(self.folder, prepared, self.accept_code or self.force is not None)
            self.events.emit("start", plan=plan.digest(), columns=plan.facts["columns"])
            summary = self._stages(prepared, until)
            if summary is None:
                self.events.emit("stopped", until=until, seconds=round(time.perf_counter() - began, 1))
                return {"name": plan.run.name, "plan": plan.digest(), "until": until}
            summary["seconds"] = round(time.perf_counter() - began, 1)
            keep_only(self.folder, self._used)
            write_manifest(self.folder, summary)
            self.events.emit("done", seconds=summary["seconds"])
            return read_manifest(self.folder) or {}

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
        weights = np.load(self.folder / "fit" / "weights.npy")
        weights_digest = digest_arrays({"weights": weights})
        files = files_of(plan.run, prepared.assignment)
        work = area_work(plan, inputs, files, prepared.assignment)
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
        tasks = standing_tasks(plan, inputs, self.folder)
        tasks.sort(key=lambda t: (t.start - t.stop, t.state_fips, t.start))
        in_two = splitting(plan, self.cluster, self.events)
        return self._stage("simulate", simulate_slice, tasks, instead=in_two)

    def _assemble(self, blocks: list[Receipt], code: str) -> str:
        """Sum the blocks into X in this process; equal blocks give equal bytes whatever their cut."""
        parts = sorted(digest for r in blocks for digest in r.outputs.values())
        task_id = digest_of({"stage": "assemble", "code": code, "blocks": parts})
        done = verified(self.folder, "assemble", task_id)
        with self._timed("assemble", 1, reused=int(done is not None)):
            if done is None:
                began = time.perf_counter()
                matrix = assemble([self.folder / path for r in blocks for path in r.outputs])
                digest = write_block(self.folder / "matrix.zarr" / "X", matrix)
                done = Receipt(
                    "assemble",
                    task_id,
                    {"matrix.zarr/X": digest},
                    {"nonzeros": int(matrix.nnz), "shape": list(matrix.shape)},
                    round(time.perf_counter() - began, 3),
                )
                write_receipt(self.folder, done)
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
                "initial_weights": plan.inputs["initial_weights"],
                "engine": engine,
                "settings": settings,
                "seed": plan.run.seed,
            }
            tasks.append(FitTask(inputs, digest_of(depends), engine, settings, name))
        receipts = self._stage("fit", fit, tasks, fit_resource=True)
        return {task.name: r.facts["summary"] for task, r in zip(tasks, receipts, strict=True)}

    def _verify(
        self, prepared: Prepared, inputs: Inputs, files: AreaFiles, areas: list[Receipt]
    ) -> dict[str, Any]:
        written = {path: digest for r in areas for path, digest in r.outputs.items()}
        proof = proof_of(prepared.plan, inputs, files, written, prepared.assignment)
        checks = self._stage("verify files", check_files, proof.checks)
        receipts = self._stage("verify", prove, proof.tasks)
        for old in (self.folder / "verify").rglob("*"):
            # Tables of an earlier attempt, which may have been of other files.
            if old.is_file() and old.relative_to(self.folder).as_posix() not in self._used:
                old.unlink()
        found = judge(self.folder, prepared.plan, proof, checks, receipts, prepared.assignment)
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
        found = {t.id: verified(self.folder, t.stage, t.id) for t in tasks}
        places = {t.id: getattr(t, "place", "") for t in tasks}
        open_tasks = [t for t in tasks if found[t.id] is None]
        executor = self._start_executor() if open_tasks else None
        reused += len(tasks) - len(open_tasks)
        with self._timed(name, len(open_tasks) + reused, reused=reused):
            if executor is not None:
                resource = self._fit_resource(executor) if fit_resource else None
                for result in executor.run(function, open_tasks, resource, instead):
                    receipt = Receipt(**result)
                    found[receipt.id] = receipt
                    self.events.emit(
                        "task",
                        stage=name,
                        id=receipt.id,
                        seconds=receipt.seconds,
                        peak_bytes=receipt.peak_bytes,
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
        except BaseException:
            self.events.emit("stage_failed", stage=stage, seconds=round(time.perf_counter() - began, 2))
            raise
        self.events.emit("stage_done", stage=stage, seconds=round(time.perf_counter() - began, 2))

    def _start_executor(self) -> Executor:
        if self._executor is None:
            if self.cluster.kind == "serial":
                self._executor = SerialExecutor()
            else:
                from distcalib.cluster import open_client
                from distcalib.cluster.local import warm_error
                from distcalib.runs.capacity import require_memory
                from distcalib.runs.workers import admitted, check

                with self._timed("start workers", self.workers):
                    client = self._stack.enter_context(open_client(self.cluster))
                    plan = stored_plan(self.folder) or {}
                    memory = check(client, plan)
                    needed = plan.get("facts", {}).get("task_bytes", {})
                    told = require_memory(client, needed, self.cluster.file)
                self.events.emit("workers", count=len(memory["addresses"]), **memory)
                for failure in {e for e in client.run(warm_error).values() if e}:
                    self.events.emit("warning", text=f"workers start cold, the warm-up failed: {failure}")
                for text in told:
                    self.events.emit("warning", text=text)
                self._executor = DaskExecutor(client, admitted, self._retried)
        return self._executor

    def _retried(self, task: Any, deaths: int) -> None:
        place = getattr(task, "place", "")
        self.events.emit("retry", stage=task.stage, id=task.id, place=place, deaths=deaths)

    def _fit_resource(self, executor: Executor) -> str | None:
        """Ask the workers that are there now: one with a GPU may have left its queue since the start."""
        if not isinstance(executor, DaskExecutor):
            return None
        from distcalib.runs.capacity import fit_resource

        resource, words = fit_resource(executor.client)
        if words:
            self.events.emit("warning", text=words)
        return resource

    def _inputs(self, plan: Plan) -> Inputs:
        microdata = microdata_path(plan.run) if plan.run.households is None else self.folder / SAMPLE
        return Inputs(
            run=str(self.folder.absolute()),
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
