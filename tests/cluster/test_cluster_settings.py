"""`cluster.yaml`: every default stated, every mistake named, and nothing of it that can do harm."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from distcalib import ClusterConfig
from distcalib.cli import main
from distcalib.config import cluster as module
from distcalib.errors import InputError

ROOT = Path(__file__).parents[2]
SLURM = "kind: slurm\nsim: {workers: 2}\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "cluster.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def keys(raw: dict[str, Any], above: str = "") -> set[str]:
    inside = (
        keys(value, f"{above}{key}.") for key, value in raw.items() if isinstance(value, dict) and value
    )
    return {above + key for key in raw}.union(*inside)


def test_the_file_at_the_top_states_every_key_with_its_default():
    file = ROOT / "cluster.yaml"
    assert ClusterConfig.load(file) == ClusterConfig()
    nested = dataclasses.asdict(ClusterConfig())
    assert keys(yaml.safe_load(file.read_text())) == keys(nested)
    packaged = resources.files("distcalib.config").joinpath("presets/cluster.yaml")
    assert file.read_text() == packaged.read_text(encoding="utf-8")


def test_every_setting_has_a_comment_in_the_file():
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    settings = [
        line for line in lines if ":" in line and not line.startswith("#") and line.lstrip()[0] != "#"
    ]
    fit = next(i for i, line in enumerate(settings) if line.startswith("fit:"))
    after = next(i for i, line in enumerate(settings) if line.startswith("scheduler:"))
    # Those of `fit` are explained where `sim` has them; `kind` above itself.
    explained = [
        s
        for i, s in enumerate(settings)
        if not fit + 1 < i < after and s not in ("kind: local", "scheduler:", "kubernetes:")
    ]
    assert [line for line in explained if "#" not in line] == []


def test_what_is_said_at_the_top_is_said_of_the_sim_workers(tmp_path):
    config = ClusterConfig.load(write(tmp_path, "workers: 3\nsim: {workers: 2, memory_limit: 6GiB}"))
    assert (config.group.workers, config.group.memory_limit) == (3, "6GiB")
    assert config.worker_memory == "6GiB"
    assert ClusterConfig(memory_limit="2GiB").worker_memory == "2GiB"


def test_paths_of_a_file_are_relative_to_it(tmp_path):
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    text = (
        "kind: address\nscheduler: {scheduler_file: s.json}\n"
        "security: {ca: ca.pem, cert: cert.pem, key: key.pem}"
    )
    config = ClusterConfig.load(write(tmp_path, text))
    assert config.scheduler.scheduler_file == str(tmp_path / "s.json")
    assert config.security.key == str(tmp_path / "key.pem")


# Ten lines that stand for a list of a billion.
LEVELS = [f"&{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)]
BOMB = "a: &a [x]\n" + "\n".join(f"x{number}: {level}" for number, level in enumerate(LEVELS))

# Each file, and words of its error.
BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "unknown kind": ("kind: slrum", ["kind", "'slrum'", "'slurm'"]),
    "unknown key": ("worker: 2", ["'worker'", "'workers'"]),
    "unknown key of a group": ("sim: {memory: 2GiB}", ["sim", "'memory'", "memory_limit"]),
    "unknown section": ("securty: {ca: x}", ["'securty'", "'security'"]),
    "no workers": ("workers: 0", ["workers", "at least 1"]),
    "no workers of the group": ("sim: {workers: 0}", ["sim.workers", "at least 1"]),
    "a word for a number": ("sim: {workers: many}", ["sim.workers", "'many'", "a whole number"]),
    "true for a number": ("sim: {threads: true}", ["sim.threads", "a whole number"]),
    "no memory": ("memory_limit: 0GiB", ["memory_limit", "more than 0"]),
    "no amount of memory": ("fit: {memory_limit: large}\nkind: slurm", ["fit.memory_limit", "'large'"]),
    "endless memory": ("memory_limit: infGiB", ["memory_limit", "infGiB"]),
    "a list for a section": ("sim: [1, 2]", ["sim", "key: value"]),
    "a file that is a list": ("- kind: local", ["key: value"]),
    "a file that is no YAML": ("kind: [local", ["is not YAML"]),
    "tabs": ("sim:\n\tworkers: 2", ["is not YAML", "line 2"]),
    "a key twice": ("kind: local\nkind: slurm", ["'kind' occurs twice, in lines 1 and 2"]),
    "an octal number": ("kind: slurm\nworkers: 010", ["octal", "line 2"]),
    "no text": (b"kind: \xff\xfe", ["not text in UTF-8"]),
    "a NUL": (b"kind: lo\0cal", ["is not YAML"]),
    "an object of Python": ("kind: !!python/object/apply:os.system ['touch HERE']", ["is not YAML"]),
    "a module of Python": ("kind: !!python/module:antigravity", ["is not YAML"]),
    "a bomb of references": (BOMB + "\nkind: *j", ["'a'", "unknown setting"]),
    "a bomb as a value": ("kind: [&a [x], " + ", ".join(LEVELS) + "]", ["kind", "the wrong type"]),
    "a list in itself": ("kind: &a [*a]", ["kind", "the wrong type"]),
    "a thousand levels": ("kind: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
    "time as YAML reads it": (SLURM[:-2] + ", walltime: 12:00:00}", ["sim.walltime", "43200", "in quotes"]),
    "a short walltime": (SLURM[:-2] + ', walltime: "00:02:00"}', ["sim.walltime", "more than two minutes"]),
    "no time": (SLURM[:-2] + ", walltime: soon}", ["sim.walltime", "'soon'"]),
    "a second directive": (
        SLURM[:-2] + ', directives: ["--x=1\\nrm -rf ~"]}', ["sim.directives", "one line"],
    ),
    "a command for a directive": (SLURM[:-2] + ", directives: [rm -rf ~]}", ["directives", "a hyphen"]),
    "a command for a queue": (SLURM[:-2] + ", queue: 'a; rm -rf ~'}", ["sim.queue", "is not a name"]),
    "a line in an account": (SLURM[:-2] + ', account: "a\\n#SBATCH -x"}', ["sim.account"]),
    "a variable that is none": (SLURM[:-2] + ", environment: {A-B: x}}", ["sim.environment", "A-B"]),
    "two lines of a variable": (SLURM[:-2] + ', environment: {A: "x\\ny"}}', ["sim.environment"]),
    "half of the bounds": ("kind: slurm\nsim: {minimum: 2}", ["half said", "maximum"]),
    "bounds the wrong way": ("kind: slurm\nsim: {minimum: 5, maximum: 2}", ["sim.minimum", "at most 2"]),
    "bounds and a number": ("kind: slurm\nworkers: 2\nsim: {minimum: 1, maximum: 2}", ["cannot both"]),
    "a batch without a number": ("kind: slurm", ["sim.workers", "how many"]),
    "two workers of the fit": ("kind: slurm\nfit: {workers: 2}", ["fit.workers", "at most 1"]),
    "a GPU without a meaning": ("fit: {gpu: 1}", ["fit.gpu", "no meaning for kind: local", "slurm"]),
    "an address of the wrong kind": ("scheduler: {address: 'tls://h:1'}", ["no meaning", "kind: address"]),
    "no address": ("kind: address", ["either address or scheduler_file"]),
    "both addresses": (
        "kind: address\nscheduler: {address: 'tls://h:1', scheduler_file: f}", ["either address"],
    ),
    "an open address": (
        "kind: address\nscheduler: {address: 'tcp://10.0.0.7:8786'}",
        ["scheduler.address", "refused", "neither encrypted nor authenticated", "tls://"],
    ),
    "an open name": ("kind: address\nscheduler: {address: 'tcp://node1:8786'}", ["refused"]),
    "an open address of IPv6": ("kind: address\nscheduler: {address: 'tcp://[2001:db8::1]:1'}", ["refused"]),
    "a name that looks like loopback": (
        "kind: address\nscheduler: {address: 'tcp://127.0.0.1.example.org:8786'}", ["refused"],
    ),
    "all interfaces": ("kind: address\nscheduler: {address: 'tcp://0.0.0.0:8786'}", ["refused"]),
    "an address hidden by a user": (
        "kind: address\nscheduler: {address: 'tcp://127.0.0.1@10.0.0.7:8786'}", ["is not an address"],
    ),
    "no protocol": ("kind: address\nscheduler: {address: '10.0.0.7:8786'}", ["is not an address"]),
    "another protocol": ("kind: address\nscheduler: {address: 'ws://h:8786'}", ["is not an address"]),
    "no port": ("kind: address\nscheduler: {address: 'tls://h'}", ["is not an address", "HOST:PORT"]),
    "a port too large": ("kind: address\nscheduler: {address: 'tls://h:99999'}", ["is not an address"]),
    "half of the certificates": (
        "kind: address\nscheduler: {address: 'tls://h:1'}\nsecurity: {ca: x.pem}", ["cert and key missing"],
    ),
    "certificates that are not there": (
        "kind: address\nscheduler: {address: 'tls://h:1'}\nsecurity: {ca: x, cert: y, key: z}",
        ["security.ca", "no such file"],
    ),
    "no certificates at all": (SLURM + "security: {temporary: false}", ["none may be made"]),
    "no wait": ("scheduler: {wait: 0}", ["scheduler.wait", "more than 0"]),
    "an endless wait": ("scheduler: {wait: .inf}", ["scheduler.wait", "finite"]),
    "a path for a namespace": (
        "kind: kubernetes\nsim: {workers: 1, image: a}\nkubernetes: {namespace: ../kube-system}",
        ["kubernetes.namespace"],
    ),
    "workers of a single process": ("kind: serial\nworkers: 2", ["workers", "no meaning for kind: serial"]),
    "memory of a single process": ("kind: serial\nsim: {memory_limit: 9GiB}", ["no meaning"]),
    "a wait for nobody": ("kind: serial\nscheduler: {wait: 9}", ["no meaning for kind: serial"]),
    "certificates of one machine": ("security: {temporary: false}", ["no meaning for kind: local"]),
    "a fit without a worker": (SLURM + "fit: {gpu: 1}", ["fit.gpu", "fit.workers: 1"]),
    "a variable unset in a pod": (
        "kind: kubernetes\nsim: {workers: 1, image: a, environment: {X: null}}",
        ["sim.environment", "none can be unset"],
    ),
    "no image": ("kind: kubernetes\nsim: {workers: 1}", ["sim.image"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_ends_in_an_error_that_names_the_place(tmp_path, name):
    text, words = BAD[name]
    file = write(tmp_path, text)
    before = sorted(tmp_path.iterdir())
    arguments = ["plan", "tiny", "--output", str(tmp_path / "run"), "--cluster", str(file)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith(f"error: {file}"), result.output
    for word in words:
        assert word in result.output
    assert len(result.output) < 1500
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="no such preset or file"):
            ClusterConfig.load(path)


def test_a_check_that_is_left_out_lets_a_file_through(tmp_path, monkeypatch):
    # The table above would not notice if errors came from somewhere else.
    monkeypatch.setattr(ClusterConfig, "check_address", lambda self, address, place: None)
    text, _ = BAD["an open address"]
    assert ClusterConfig.load(write(tmp_path, text)).scheduler.address == "tcp://10.0.0.7:8786"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_needs_no_certificates(tmp_path, host):
    config = ClusterConfig.load(
        write(tmp_path, f"kind: address\nscheduler: {{address: 'tcp://{host}:8786'}}")
    )
    assert config.scheduler.address == f"tcp://{host}:8786"


def test_an_open_address_has_to_be_allowed_in_so_many_words(tmp_path):
    text, _ = BAD["an open address"]
    with pytest.raises(InputError, match="allow_unencrypted_and_unauthenticated: true"):
        ClusterConfig.load(write(tmp_path, str(text)))
    said = f"{text}\nsecurity: {{allow_unencrypted_and_unauthenticated: true}}"
    assert ClusterConfig.load(write(tmp_path, said)).scheduler.address == "tcp://10.0.0.7:8786"


def test_every_setting_of_one_kind_only_is_a_setting():
    for path, kinds in module._ONLY.items():
        owner: Any = ClusterConfig()
        for part in path.split("."):
            owner = getattr(owner, part)
        assert set(kinds) < set(module.KINDS)


def said_by(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys\n"
        "from distcalib.cluster import load_cluster\n"
        "from distcalib.errors import DistcalibError\n"
        "try: c = load_cluster(*sys.argv[1:])\n"
        "except DistcalibError as e: sys.exit(str(e))\n"
        "print(c.kind, c.group.workers, c.group.memory_limit, c.group.threads, c.warm, c.sim.environment)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=clean | environment, capture_output=True, text=True
    )


def test_the_environment_wins_over_the_file_and_that_over_the_defaults(tmp_path):
    file = write(tmp_path, "kind: slurm\nsim: {workers: 2, memory_limit: 3GiB}")
    over = {"DASK_DISTCALIB__SIM__MEMORY_LIMIT": "8GiB", "DASK_CONFIG": str(tmp_path / "dask")}
    assert said_by(over, str(file)).stdout.split() == ["slurm", "2", "8GiB", "1", "True", "{}"]
    assert said_by({}, str(file)).stdout.split()[2] == "3GiB"
    # Dask's own files lie between: the environment wins over them, they over cluster.yaml.
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "mine.yaml").write_text("distcalib: {sim: {memory-limit: 5GiB, threads: 4}}")
    assert said_by(over, str(file)).stdout.split()[2:4] == ["8GiB", "4"]
    del over["DASK_DISTCALIB__SIM__MEMORY_LIMIT"]
    assert said_by(over, str(file)).stdout.split()[2:4] == ["5GiB", "4"]


def test_the_short_names_of_the_file_lose_against_the_long_ones_of_the_environment(tmp_path):
    file = write(tmp_path, "kind: slurm\nworkers: 2\nmemory_limit: 7GiB\nsim: {memory_limit: 1GiB}")
    assert said_by({}, str(file)).stdout.split()[1:3] == ["2", "7GiB"]
    over = {"DASK_DISTCALIB__SIM__MEMORY_LIMIT": "8GiB"}
    assert said_by(over, str(file)).stdout.split()[1:3] == ["2", "8GiB"]
    over["DASK_DISTCALIB__SIM__WORKERS"] = "9"
    assert said_by(over, str(file)).stdout.split()[1:3] == ["9", "8GiB"]
    assert said_by(over | {"DASK_DISTCALIB__WORKERS": "3"}, str(file)).stdout.split()[1:3] == ["3", "8GiB"]


def test_a_whole_table_can_be_given_by_the_environment():
    over = {
        "DASK_DISTCALIB__KIND": "slurm",
        "DASK_DISTCALIB__WORKERS": "2",
        "DASK_DISTCALIB__SIM__ENVIRONMENT": "{'SCRATCH': '/x'}",
    }
    assert said_by(over).stdout.strip().endswith("{'SCRATCH': '/x'}")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SIM__WORKER", "2", ["'worker'", "'workers'"]),
        ("SIM__WORKERS", "two", ["sim.workers", "'two'", "a whole number"]),
        ("KIND", "adress", ["kind", "'adress'", "'address'"]),
        ("SCHEDULER__ADDRESS", "tcp://10.0.0.7:8786", ["scheduler.address", "no meaning for kind: local"]),
        ("SIM", "3", ["sim", "key: value"]),
    ],
)
def test_a_mistake_in_the_environment_is_named(name, value, words):
    done = said_by({f"DASK_DISTCALIB__{name}": value})
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr, done.stderr


def test_the_environment_cannot_open_an_address_by_halves(tmp_path):
    file = write(tmp_path, "kind: address\nscheduler: {address: 'tcp://127.0.0.1:8786'}")
    done = said_by({"DASK_DISTCALIB__SCHEDULER__ADDRESS": "tcp://10.0.0.7:8786"}, str(file))
    assert "refused" in done.stderr
