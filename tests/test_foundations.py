"""Random numbers, digests, errors and storage: what everything else stands on."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcalib.digest import canonical_json, code_digest, digest_arrays, digest_of
from distcalib.errors import DistcalibWarning, InputError, warn
from distcalib.random import stream_key, uniform
from distcalib.storage import need_space, publish, sha256_file, write_json, write_text


def test_a_draw_depends_on_its_key_alone():
    ids = np.arange(10_000)
    together = uniform(7, "snap", ids, 2)
    order = np.random.default_rng(0).permutation(len(ids))
    apart = np.concatenate([uniform(7, "snap", part, 2) for part in np.array_split(ids[order], 13)])
    np.testing.assert_array_equal(together[order], apart)


def by_hand(seed: int, name: str, *ids: int) -> float:
    """The same draw in plain integers, one id after the other."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden, state = 0x9E3779B97F4A7C15, int(stream_key(seed, name))
    for part in ids:
        state = mix(((state ^ mix((part + golden) % 2**64)) + golden) % 2**64)
    return ((state >> 11) + 0.5) * 2.0**-53


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.text(max_size=8),
    st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), min_size=1, max_size=40),
)
def test_draws_are_those_of_plain_integers(seed, name, keys):
    ids, clones = np.array(keys, dtype=np.int64).T
    assert uniform(seed, name, ids, clones).tolist() == [by_hand(seed, name, *key) for key in keys]
    assert uniform(seed, name, *keys[0]) == by_hand(seed, name, *keys[0])
    assert uniform(seed, name) == by_hand(seed, name)


def test_shape_and_layout_of_ids_never_matter():
    # More draws than one piece of the walk holds, in every layout.
    ids, clones = np.arange(300), np.arange(211)
    grid = uniform(1, "x", ids[:, None], clones)
    assert grid.shape == (300, 211)
    flat = uniform(1, "x", np.repeat(ids, 211), np.tile(clones, 300))
    np.testing.assert_array_equal(grid.reshape(-1), flat)
    np.testing.assert_array_equal(uniform(1, "x", ids, clones[:, None]), grid.T)
    turned = np.asfortranarray(np.broadcast_to(ids[:, None], grid.shape)).astype(np.int32)
    np.testing.assert_array_equal(uniform(1, "x", turned, clones), grid)
    np.testing.assert_array_equal(uniform(1, "x", ids[::-7], 3), grid[::-7, 3])
    assert uniform(1, "x", np.zeros((0, 4), dtype=int), np.arange(4)).shape == (0, 4)


@pytest.mark.parametrize("other", [(8, "snap", 2), (7, "tanf", 2), (7, "snap", 3)])
def test_seed_name_and_id_each_make_another_stream(other):
    ids = np.arange(50_000)
    a, b = uniform(7, "snap", ids, 2), uniform(other[0], other[1], ids, other[2])
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(b.mean() - 0.5) < 0.01
    assert abs(b.var() * 12 - 1) < 0.02


def test_neighbouring_ids_are_independent():
    u = uniform(0, "x", np.arange(200_000))
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    counts, _ = np.histogram(u, 100, (0, 1))
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert 50 < chi_square < 170  # 99 degrees of freedom


def test_canonical_json_has_one_text():
    @dataclass
    class Spec:
        b: int
        a: tuple[float, ...]

    assert canonical_json(Spec(1, (0.5,))) == '{"a":[0.5],"b":1}'
    assert digest_of({"x": np.int64(3)}) == digest_of({"x": 3})
    with pytest.raises(ValueError, match="non-finite"):
        canonical_json({"x": float("nan")})


def test_array_digest_sees_value_dtype_and_shape_but_not_text_width():
    base = {"a": np.array([1, 2], dtype=np.int32)}
    assert digest_arrays(base) != digest_arrays({"a": np.array([1, 2], dtype=np.int64)})
    assert digest_arrays(base) != digest_arrays({"a": np.array([[1, 2]], dtype=np.int32)})
    assert digest_arrays(base) != digest_arrays({"b": np.array([1, 2], dtype=np.int32)})
    assert digest_arrays({"t": np.array(["ab"], dtype="U2")}) == digest_arrays(
        {"t": np.array(["ab"], dtype="U9")}
    )


def test_code_digest_ignores_wording_and_sees_behaviour(monkeypatch, tmp_path):
    from distcalib import digest

    def of(source: str) -> str:
        return digest._tree_digest(source)

    assert of('def f():\n    """One."""\n    return 1\n') == of("def f():\n    # two\n    return 1\n")
    assert of("def f():\n    return 1\n") != of("def f():\n    return 2\n")
    assert code_digest("random") != code_digest("storage")
    assert code_digest("runs/verify") != code_digest("runs/plan")


def test_an_error_names_place_value_and_nearest_choice():
    error = InputError("unknown setting", place="run.yaml: fit", value="epoch", choices=["epochs", "seed"])
    assert str(error) == "run.yaml: fit: unknown setting; got 'epoch'; did you mean 'epochs'?"
    assert error.exit_code == 2


def test_publish_leaves_nothing_behind_when_the_writer_fails(tmp_path: Path):
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    before = sha256_file(target)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(target, fail)
    assert sha256_file(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    """A worker that was taken for dead may write what another now writes, and their process ids be equal."""
    target = tmp_path / "x.txt"

    def slow(path: Path) -> None:
        path.write_text("first")
        write_text(target, "second, which is longer")

    publish(target, slow, lambda path: path.read_text() == "first" or pytest.fail(path.read_text()))
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_need_space_says_both_numbers(tmp_path: Path):
    need_space(tmp_path, 1)
    with pytest.raises(InputError, match=r"MB free.*expected at least 1,000,000,000,000 MB"):
        need_space(tmp_path / "not" / "there", 10**18)


def test_importing_the_package_is_fast_and_loads_no_engine():
    code = (
        "import sys, time; t = time.perf_counter(); import distcalib; s = time.perf_counter() - t;"
        "heavy = {'torch', 'pandas', 'policyengine_us', 'distributed', 'zarr'} & set(sys.modules);"
        "print(s, sorted(heavy))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(" ", 1)
    assert float(out[0]) < 1
    assert out[1].strip() == "[]"


def test_every_public_name_can_be_had():
    import distcalib

    for name in distcalib.__all__:
        assert getattr(distcalib, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Plann'"):
        distcalib.Plann  # noqa: B018


def test_warnings_are_heard_after_the_rules_engine_hushed_them_and_other_filters_hold(monkeypatch):
    monkeypatch.setitem(sys.modules, "policyengine_us", ModuleType("policyengine_us"))

    def heard(*filters: tuple[str, type[Warning]]) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.resetwarnings()
            for action, category in filters:
                warnings.filterwarnings(action, category=category)  # type: ignore[arg-type]
            warn("something")
        return [str(one.message) for one in caught]

    assert heard() == heard(("ignore", Warning)) == ["something"]
    assert heard(("ignore", Warning), ("default", DeprecationWarning)) == ["something"]
    assert heard(("ignore", DistcalibWarning)) == []
    with pytest.raises(DistcalibWarning, match="something"):
        heard(("ignore", Warning), ("error", DistcalibWarning))
    monkeypatch.delitem(sys.modules, "policyengine_us")
    assert heard(("ignore", Warning)) == []
