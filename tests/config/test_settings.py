"""Settings files: defaults, presets, and errors that name file, field, value and nearest choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcalib import ClusterConfig, RunConfig
from distcalib.config import FitConfig, memory_bytes, presets
from distcalib.errors import InputError
from distcalib.runs import make_plan


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_demo_preset_states_every_default():
    demo = RunConfig.load("demo")
    other = FitConfig(records=0.5, weight_ratio=10.0, effective_share=0.5, group_power=0.5)
    assert demo == RunConfig(name="demo", fit=other)
    assert "demo" in presets()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_clone: 3", ["run.yaml", "n_clone", "did you mean 'n_clones'"]),
        ("fit: {epoch: 3}", ["run.yaml: fit", "'epoch'", "'epochs'"]),
        ("n_clones: three", ["run.yaml: n_clones", "'three'", "a whole number"]),
        ("n_clones: 0", ["run.yaml: n_clones", "0", "at least 1"]),
        ("fit: {engine: torhc}", ["run.yaml: fit.engine", "'torhc'", "'torch'"]),
        ("fit: 3", ["run.yaml: fit", "key: value"]),
        ("seed: true", ["run.yaml: seed", "True", "a whole number"]),
        ("geography: {districts: CA-06}", ["run.yaml: geography.districts"]),
        ("a: [1", ["run.yaml", "is not YAML"]),
        ("fit: {upper_bound: .inf}", ["fit.upper_bound", "not a finite number"]),
        ("fit: {records: 1.5}", ["run.yaml: fit.records", "1.5", "a share between 0 and 1"]),
        ("fit: {records: -0.5}", ["run.yaml: fit.records", "-0.5", "a whole number"]),
        ("fit: {records: half}", ["run.yaml: fit.records", "'half'", "a share between 0 and 1"]),
        ("verify: {tolerance: 0}", ["verify.tolerance", "more than 0"]),
        ("targets: {variables: snap}", ["targets.variables", "one value where a list is wanted", "[snap]"]),
        ("targets: {variables: [1]}", ["targets.variables", "a list, each a text"]),
        ("seed: 1\nname: a\nseed: 2", ["run.yaml", "'seed' occurs twice, in lines 1 and 3"]),
        ("fit:\n  epochs: 1\n  epochs: 1", ["'epochs' occurs twice, in lines 2 and 3"]),
        (
            "geography:\n  districts: [0601]",
            ["run.yaml, line 2", "reads 0601 as the octal number 385", '"0601" in quotes'],
        ),
    ],
)
def test_a_typo_in_run_yaml_is_named(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        RunConfig.load(write(tmp_path, text))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: locl", ["cluster.yaml: kind", "'locl'", "'local'"]),
        ("worker: 2", ["cluster.yaml", "'worker'", "'workers'"]),
        ("memory_limit: 4GX", ["cluster.yaml: memory_limit", "4GX", "4GiB"]),
        ("memory_limit: nanGiB", ["cluster.yaml: memory_limit", "nanGiB"]),
        ("workers: 0", ["cluster.yaml: workers", "at least 1"]),
    ],
)
def test_a_typo_in_cluster_yaml_is_named(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        ClusterConfig.load(write(tmp_path, text, "cluster.yaml"))
    for word in words:
        assert word in str(error.value)


def test_a_missing_file_names_presets():
    with pytest.raises(InputError, match="did you mean 'demo'"):
        RunConfig.load("dema")


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    assert RunConfig.load(write(tmp_path, "fit: {lambda_l0: 1e-8}")).fit.lambda_l0 == 1e-8


def test_a_district_may_be_written_as_a_number(tmp_path):
    assert RunConfig.load(write(tmp_path, "geography: {districts: [601, CA-07]}")).geography.districts == (
        601,
        "CA-07",
    )


def test_a_relative_path_is_relative_to_its_file(tmp_path):
    assert RunConfig.load(write(tmp_path, "microdata: a.h5")).microdata == str(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 2**32), ("800 MB", 8 * 10**8), ("1e9", 10**9), ("2.5 KiB", 2560)]
)
def test_memory_is_read(text, size):
    assert memory_bytes(text) == size


def test_numbers_that_are_no_octal_are_left_alone(tmp_path):
    text = 'seed: 0\ngeography: {districts: ["0601", 0608, 601]}'
    config = RunConfig.load(write(tmp_path, text))
    assert config.seed == 0
    assert config.geography.districts == ("0601", "0608", 601)


def test_settings_know_their_file_and_are_equal_without_it(tmp_path):
    a = RunConfig.load(write(tmp_path, "seed: 4", "a.yaml"))
    b = RunConfig.load(write(tmp_path, "seed: 4", "b.yaml"))
    assert a == b
    assert a.file == str(tmp_path / "a.yaml")
    assert a.changed(seed=5).file == a.file
    assert a.changed(seed=5).seed == 5
    assert RunConfig.load("demo").file == "preset demo"


def test_errors_of_the_plan_name_the_file_of_the_settings(tmp_path, small_file):
    text = f"microdata: {small_file}\ngeography: {{districts: [ZZ-01]}}"
    config = RunConfig.load(write(tmp_path, text, "mine.yaml"))
    with pytest.raises(InputError, match=r"mine\.yaml: geography\.districts.*ZZ-01"):
        make_plan(config)
