"""Area files and their checks as tasks of a run in an object store: what a task needs is all that it has."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from distcalib.runs import remote
from distcalib.runs.area_stage import area_work, files_of
from distcalib.runs.execute import SerialExecutor
from distcalib.runs.home import open_home
from distcalib.runs.tasks import write_areas
from distcalib.runs.verify import check_files
from distcalib.runs.verify_stage import proof_of
from distcalib.storage import sha256_file


def test_files_of_a_store_are_those_of_a_folder_and_their_checks_see_the_same(planned, carried):
    made, inputs = planned
    home = open_home(f"memory://areas/{uuid4().hex}")
    home.look()
    shutil.copytree(inputs.run, home.folder, dirs_exist_ok=True)
    shutil.copyfile(inputs.microdata, home.folder / "microdata.h5")
    home.keep(sorted(p.relative_to(home.folder).as_posix() for p in home.folder.rglob("*") if p.is_file()))
    mine = replace(inputs, run=str(home.folder))
    files = files_of(made.plan.run, made.assignment)
    work = area_work(made.plan, mine, files, made.assignment, home.verified)
    list(home.run(SerialExecutor(), write_areas, work.tasks, None, None))
    there = home.store.sizes("areas")
    assert len(there) == 3 * len(files.written)
    whole = Path(carried[1].run)
    assert {f"areas/{p}": home.store.sha256(f"areas/{p}") for p in there} == {
        p.relative_to(whole).as_posix(): sha256_file(p) for p in whole.glob("areas/*/*")
    }
    # Another host: its copy is empty, and there is nothing to write.
    remote._mine.clear()
    other = open_home(home.shown)
    other.look()
    mine = replace(inputs, run=str(home.folder))
    again = area_work(made.plan, mine, files, made.assignment, other.verified)
    assert (again.tasks, again.reused) == ([], len(files.written))
    written = {path: digest for r in work.receipts() for path, digest in r.outputs.items()}
    proof = proof_of(made.plan, mine, files, written, made.assignment)
    assert any(there is None for t in proof.checks for held in t.files for *_, there in held.within)
    results = list(home.run(SerialExecutor(), check_files, proof.checks, None, None))
    assert sum(len(r["facts"]["files"]) for r in results) == len(files.written)
