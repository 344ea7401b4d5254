"""What may go wrong in a task: each fault ends in the right matrix, or names state, slice and cause."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from chaos import different, done_again
from click.testing import CliRunner, Result
from faults import MISSING, TABLE, Fates, Home, preload

from distcalib import ClusterConfig, RunConfig
from distcalib.cli import main
from distcalib.cluster import local
from distcalib.config import memory_bytes
from distcalib.runs.manifest import read_manifest
from distcalib.runs.plan import Slice, make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# SNAP is decided by most of the rules; seven slices, of two states.
SETTINGS = """
microdata: {microdata}
n_clones: 1
seed: 3
geography: {{districts: [WY-01, NH-01, 3302]}}
targets: {{variables: [snap, person_count]}}
simulation: {{slice_households: 50}}
fit: {{epochs: 5, refit_epochs: 50}}
fits: {{few: {{records: 60}}}}
verify: {{plain: 0}}
"""


class Workers(Home):
    """Worker processes that serve one run after another, and what befalls which task in them."""

    def __init__(self, folder: Path, client: Any = None) -> None:
        super().__init__(folder)
        self.client = client
        self.meet()


@contextmanager
def started(folder: Path, workers: int) -> Iterator[Workers]:
    mine = Workers(folder)
    with (
        dask.config.set({"distributed.worker.preload": [preload(folder)]}),
        local.local_client(ClusterConfig(workers=workers)) as client,
    ):
        mine.client = client
        yield mine


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[Workers]:
    with started(tmp_path_factory.mktemp("faults"), 2) as workers:
        yield workers


@pytest.fixture(scope="module")
def run_file(small_file, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "faults.yaml"
    file.write_text(SETTINGS.format(microdata=small_file))
    return file


@pytest.fixture(scope="module")
def slices(run_file) -> list[Slice]:
    """In the order in which a run begins them."""
    found = make_plan(RunConfig.load(run_file)).plan.slices
    assert len(found) == 7
    return sorted(found, key=lambda s: (-s.seconds, -s.size, s.state_fips, s.start))


def run(workers: Workers, run_file: Path, folder: Path) -> Result:
    @contextmanager
    def those(config: ClusterConfig) -> Iterator[Any]:
        assert memory_bytes(config.worker_memory) > 0
        yield workers.client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "local_client", those)
        return CliRunner().invoke(main, ["run", str(run_file), "--output", str(folder), "--workers", "2"])


@pytest.fixture(scope="module")
def reference(workers, run_file, tmp_path_factory) -> Path:
    """The run where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    workers.meet()
    result = run(workers, run_file, folder)
    assert result.exit_code == 0, result.output
    assert Counter(workers.ids("begun")) == dict.fromkeys(workers.ids("begun"), 1)
    return folder


def receipts(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("receipts/simulate/*.json")}


def test_every_step_of_every_stage_loses_its_worker_once_and_no_task_is_done_more_than_that(
    workers, run_file, reference, tmp_path
):
    folder = tmp_path / "out"
    # A slice that died twice would be halved; of other tasks four deaths would end the run.
    table = [(stage, step, "kill") for stage, step in TABLE]
    workers.meet(Fates(table=table, most={"fit": 3, "areas": 3, "verify": 3}))
    result = run(workers, run_file, folder)
    assert result.exit_code == 0, result.output
    struck = workers.said("struck")
    assert len(struck) == len(TABLE), "every fault of the table, once"
    assert Counter(line.split(maxsplit=1)[1] for line in struck) == Counter(
        f"{step}: kill" for _, step in TABLE
    )
    assert different(reference, folder) == []
    assert done_again(workers) == []
    assert set(Counter(workers.ids("receipt")).values()) == {1}, "each receipt is written once"
    # Each death has its task begun once more, every other task is begun once. What comes after a task was
    # done is a result that died with a worker before it was fetched; the receipt answers for it.
    begun: Counter[str] = Counter()
    done: set[str] = set()
    for line in workers.lines():
        word, one, *_ = line.split()
        done |= {one} if word == "done" else set()
        begun[one] += word == "begun" and one not in done
    deaths = Counter(workers.ids("struck"))
    assert {one: n for one, n in begun.items() if n} == {one: 1 + deaths[one] for one in done}


def test_a_slice_short_of_memory_is_done_in_halves(workers, run_file, slices, reference, tmp_path):
    folder, ids, large = tmp_path / "out", [s.id for s in slices], slices[0]
    workers.meet(Fates(tasks={large.id: ("simulating", "memory")}))
    result = run(workers, run_file, folder)
    assert result.exit_code == 0, result.output
    assert workers.said("struck") == [f"{large.id} simulating: memory"]
    assert different(reference, folder) == []
    # The whole is begun once and never again, the halves and all others once.
    parts = receipts(folder) - set(ids)
    assert receipts(folder) & set(ids) == set(ids) - {large.id}
    assert len(parts) == 2
    begun = Counter(line.split()[0] for line in workers.said("begun") if line.split()[1] == "simulate")
    assert begun == dict.fromkeys([*ids, *parts], 1)
    assert {p.name for p in (folder / "matrix.zarr" / "blocks").iterdir()} == receipts(folder)
    events = [json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()]
    (split,) = [e for e in events if e["event"] == "split"]
    assert split["id"] == large.id
    assert "9 GiB" in split["why"]


def named(result: Result, at: Slice, *words: str) -> None:
    """Check that a run ended in an error that names state, slice and cause, and nothing else."""
    assert result.exit_code == 1, result.output
    state = {33: "NH", 56: "WY"}[at.state_fips]
    place = f"simulate {at.id[:12]} ({state}, columns {at.start} to {at.stop} of the state): "
    error = result.output.split("error: ")[-1]
    assert error.startswith(place), result.output
    for word in words:
        assert word in error
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", ["ZeroDivisionError: a fault of the test"]),
        ("parameter", ["policyengine-us failed on snap", "ParameterNotFoundError", "2024-01-01"]),
    ],
)
def test_a_slice_that_fails_is_named_and_the_next_start_goes_on(
    workers, run_file, slices, reference, tmp_path, fault, words
):
    folder, (at,) = tmp_path / "out", [s for s in slices if (s.state_fips, s.start) == (56, 0)]
    step = "parameter" if fault == "parameter" else "simulating"
    workers.meet(Fates(tasks={at.id: (step, fault)}))
    result = run(workers, run_file, folder)
    named(result, at, *words, *([MISSING.rsplit(".", 1)[-1]] if fault == "parameter" else []))
    assert workers.said("struck") == [f"{at.id} {step}: {fault}"]
    # Not tried again, for it would raise again; nothing of it is left, and no matrix.
    assert workers.ids("begun").count(at.id) == 1
    finished = receipts(folder)
    assert at.id not in finished
    assert not (folder / "matrix.zarr" / "blocks" / at.id).exists()
    assert not (folder / "matrix.zarr" / "X").exists()
    assert read_manifest(folder) is None

    workers.meet()
    result = run(workers, run_file, folder)
    assert result.exit_code == 0, result.output
    assert different(reference, folder) == []
    assert at.id in workers.ids("begun")
    assert not finished & set(workers.ids("begun"))


def test_a_worker_that_comes_back_with_another_version_ends_the_run(
    run_file, slices, reference, workers, tmp_path
):
    first = slices[0]
    with started(tmp_path, 1) as alone:
        (tmp_path / "another version").touch()
        alone.meet(Fates(tasks={first.id: ("simulating", "kill")}))
        result = run(alone, run_file, tmp_path / "out")
        named(result, first, "worker tcp://127.0.0.1:", "policyengine-us is 2.0.0 there", "in the plan")
        assert alone.said("receipt") == []
        assert receipts(tmp_path / "out") == set()
    workers.meet()
    result = run(workers, run_file, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert different(reference, tmp_path / "out") == []
