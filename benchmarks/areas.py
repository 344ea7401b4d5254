"""Cost of all area files of a run, and of the same areas with a Microsimulation each.

    python benchmarks/areas.py --run runs/demo [--workers 2] [--peer 6]
    python benchmarks/areas.py --run runs/national --keep 1000000

Writes the files of a run folder again into a folder of its own, on a local cluster as a run has it, and says
wall time, CPU seconds and the largest worker. The start of the workers is reported apart. With ``--keep`` a
synthetic weight vector is taken in place of the fitted one (seeded; so many columns, every district has one),
so the run need not be fitted; and US-50k is written too, of a 50,000th of such a vector.

With ``--peer N`` N districts and three states are made the way of a simulation an area: `Microsimulation` of
the donors, the area's weights and place set, `to_input_dataframe`, the households with weight written with
pandas' `to_hdf`. No clone is told from another there, and no county, block or take-up is drawn. Then the same
of the finished files, where nothing is to be placed or chosen: less than any such way can cost. CPU seconds
of all areas follow from a line over the households; the import of the rules engine is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from distcalib import ClusterConfig, RunConfig
from distcalib.config.settings import FitConfig
from distcalib.digest import code_digest
from distcalib.microdata import Microdata
from distcalib.runs.area_stage import area_work, files_of
from distcalib.runs.execute import DaskExecutor
from distcalib.runs.plan import ROOMS, Plan, microdata_path, read_source
from distcalib.runs.tasks import Inputs, read_assignment, write_areas
from distcalib.simulation.installed import RULES, rules_digest
from distcalib.targets.choose import rows_digest


def synthetic(geoid: np.ndarray, keep: int, seed: int = 0) -> np.ndarray:
    """Return weights of which `keep` are positive, in every district at least one."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(geoid))
    first = np.unique(geoid[order], return_index=True)[1]
    chosen = order[np.concatenate([first, np.setdiff1d(np.arange(len(geoid)), first)])[:keep]]
    weights = np.zeros(len(geoid))
    weights[chosen] = draw.gamma(1.0, 130e6 / keep, keep) + 0.1
    return weights.astype(np.float32).astype(np.float64)


def prepared(run: Path, folder: Path, keep: int | None):
    """Return plan, inputs and placement of the run, its tables and weights being in `folder`."""
    stored = json.loads((run / "plan.json").read_text())["run"]
    names = ("microdata", "households", "period", "n_clones", "seed")
    config = RunConfig(**{name: stored[name] for name in names})
    for name in ("columns.parquet", "targets.parquet"):
        os.link(run / name, folder / name) if run.stat().st_dev == folder.stat().st_dev else shutil.copy(
            run / name, folder / name
        )
    assignment = read_assignment(folder)
    vectors = {"fit": keep}
    if keep:
        vectors["fits/US-50k"] = min(50_000, keep)
        config = config.changed(fits={"US-50k": FitConfig()})
    for name, number in vectors.items():
        (folder / name).mkdir(parents=True)
        if number is None:
            shutil.copy(run / name / "weights.npy", folder / name)
        else:
            np.save(folder / name / "weights.npy", synthetic(assignment.cd_geoid, number))
    source, microdata = read_source(config), microdata_path(config)
    if config.households is not None:
        microdata = run / "microdata.h5"
    rows = rows_digest(pd.read_parquet(folder / "targets.parquet"))
    inputs = Inputs(
        str(folder), str(microdata.absolute()), source.digest(), rows, assignment.digest(), config.period,
        config.seed, config.simulation.take_up,
    )  # fmt: skip
    digests = {"microdata": inputs.microdata_digest, "assignment": inputs.assignment_digest}
    code = {"areas": code_digest(*ROOMS["areas"])}
    return Plan(config, digests, {RULES: rules_digest()}, code, {}, ()), inputs, assignment


def write_all(plan: Plan, inputs: Inputs, assignment, cluster: ClusterConfig) -> float:
    """Write every file, print what it took, and return the CPU seconds."""
    from distcalib.cluster.local import local_client

    began = time.perf_counter()
    with local_client(cluster) as client:
        print(f"workers ready after {time.perf_counter() - began:.0f} s; load {os.getloadavg()[0]:.1f}")
        began, cpu = time.perf_counter(), time.process_time()
        files = files_of(plan.run, assignment)
        work = area_work(plan, inputs, files, assignment)
        found = time.perf_counter() - began
        results = list(DaskExecutor(client).run(write_areas, work.tasks))
        wall, own = time.perf_counter() - began, time.process_time() - cpu
    facts = {name: one for r in results for name, one in r["facts"]["areas"].items()}
    by_worker = Counter[int]()
    for one in results:
        by_worker[one["process"]] += one["seconds"]
    seconds = sum(r["cpu_seconds"] for r in results)
    size = sum(one["bytes"] for one in facts.values())
    households = sum(one["households"] for one in facts.values())
    print(
        f"{len(facts)} files of {households:,} households, {size / 1e6:,.0f} MB, "
        f"in {len(results)} tasks: {wall:.1f} s (of it {found:.1f} s to find what is to do), "
        f"CPU {seconds:.1f} s in tasks, {own:.1f} s here; load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"largest worker {max(r['peak_bytes'] for r in results) / 2**30:.2f} GiB of {cluster.worker_memory}; "
        f"workers busy {', '.join(f'{s:.1f} s' for s in by_worker.values())}"
    )
    for name in ("US", "US-50k"):
        if name in facts:
            units = f"{facts[name]['households']:,} households, {facts[name]['persons']:,} persons"
            print(f"{name}: {units}, {facts[name]['bytes'] / 1e6:,.1f} MB")
    longest = sorted(results, key=lambda r: -r["seconds"])[:4]
    for one in longest:
        names = list(one["facts"]["areas"])
        print(f"  {one['seconds']:6.1f} s  {len(names)} files: {', '.join(names[:4])} ...")
    return seconds + own


def peer(plan: Plan, inputs: Inputs, number: int, ours: float) -> None:
    """Write some areas with a Microsimulation each, and print what all of them would take."""
    from policyengine_us import Microsimulation

    folder, period = Path(inputs.run), plan.run.period
    donors = Microdata.read(inputs.microdata, period)
    row = pd.Series(np.arange(donors.count()), index=donors.ids["household"])
    mappings = {p: pd.read_parquet(p) for p in sorted((folder / "areas/mappings").glob("*.parquet"))}
    size = {p: len(table) for p, table in mappings.items()}
    states = sorted((p for p in size if len(p.stem) == 2 and p.stem != "US"), key=lambda p: size[p])
    districts = [p for p in size if "-" in p.stem]
    chosen = [districts[i] for i in np.linspace(0, len(districts) - 1, number).astype(int)]
    chosen += [states[0], states[len(states) // 2], states[-1]]
    vector = np.load(folder / "fit" / "weights.npy")
    out = folder / "peer.h5"

    def from_source(path: Path) -> None:
        table = mappings[path]
        simulation = Microsimulation(dataset=str(inputs.microdata))
        weights = np.zeros(donors.count())
        at = row[table["original_household_id"]].to_numpy()
        np.add.at(weights, at, vector[table["column"]])
        simulation.set_input("household_weight", period, weights.astype(np.float32))
        for name in ("state_fips", "congressional_district"):
            place = np.zeros(donors.count(), dtype=np.int32)
            place[at] = table[name]
            variable = name if name == "state_fips" else "congressional_district_geoid"
            simulation.set_input(variable, period, place)
        frame = simulation.to_input_dataframe()
        frame[frame[f"household_weight__{period}"] > 0].to_hdf(out, key="data", mode="w")

    def from_file(path: Path) -> None:
        kind = "states" if path in states else "districts"
        simulation = Microsimulation(dataset=str(folder / "areas" / kind / f"{path.stem}.h5"))
        simulation.to_input_dataframe().to_hdf(out, key="data", mode="w")

    for words, write in (("donors", from_source), ("finished file", from_file)):
        costs = []
        for path in [chosen[0], *chosen]:  # the first twice: what is loaded once is not counted
            began = time.process_time()
            write(path)
            costs.append((size[path], time.process_time() - began))
            print(
                f"  peer from the {words}: {path.stem}, {size[path]:,} households, {costs[-1][1]:.2f} CPU s"
            )
        households, seconds = np.array(costs[1:]).T
        slope, fixed = np.polyfit(households, seconds, 1)
        total = fixed * len(size) + max(slope, 0) * sum(size.values())
        print(
            f"peer from the {words}: {fixed:.2f} CPU s a file, {1000 * slope:.2f} ms a household; all "
            f"{len(size)} files {total:,.0f} CPU s, against {ours:.1f}: {total / ours:.0f} times"
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--keep", type=int, help="columns with weight of a synthetic vector")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="4GiB", help="of a worker")
    parser.add_argument("--cold", action="store_true", help="workers without the rules engine")
    parser.add_argument("--peer", type=int, default=0, metavar="N", help="districts for the peer")
    parser.add_argument("--scratch", help="folder for what is written")
    asked = parser.parse_args()
    cluster = ClusterConfig(workers=asked.workers, memory_limit=asked.memory, warm=not asked.cold)
    with tempfile.TemporaryDirectory(prefix="areas-", dir=asked.scratch) as scratch:
        plan, inputs, assignment = prepared(asked.run, Path(scratch), asked.keep)
        ours = write_all(plan, inputs, assignment, cluster)
        if asked.peer:
            peer(plan, inputs, asked.peer, ours)


if __name__ == "__main__":
    main()
