"""What people upload: read by content, or refused with a word on what is wrong and what would be right."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distcalib.dashboard.problem import COUNT, Problem, build, guess_weight, id_columns, template
from distcalib.dashboard.tables import household_table, read_table
from distcalib.dashboard.upload import _Taken
from distcalib.errors import InputError
from distcalib.microdata import Microdata

SURVEY = pd.DataFrame(
    {"weight": [10.0, 20.0, 30.0, 40.0], "state": ["CA", "NY", "CA", "TX"], "age_group": [1, 2, 2, 1],
     "persons": [1, 2, 3, 4], "income": [5.0, 0.0, 7.0, np.nan]}
)  # fmt: skip


def of(content: bytes, tmp_path: Path, name: str = "mine.csv") -> pd.DataFrame:
    file = tmp_path / "upload-1"
    file.write_bytes(content)
    return read_table(file, name)


def parquet(table: pd.DataFrame | pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.Table.from_pandas(table), out)
    return out.getvalue()


def test_csv_and_parquet_give_the_same_table(tmp_path):
    text = SURVEY.to_csv(index=False).encode()
    pd.testing.assert_frame_equal(of(text, tmp_path), of(parquet(SURVEY), tmp_path, "mine.parquet"))
    pd.testing.assert_frame_equal(of(b"\xef\xbb\xbf" + text, tmp_path), of(text, tmp_path))
    assert of(text, tmp_path)["state"].tolist() == ["CA", "NY", "CA", "TX"]


def test_what_is_written_is_what_is_read(tmp_path):
    assert of(b"region,people\nNA,1\nNone,2\n,3\n", tmp_path)["region"].tolist()[:2] == ["NA", "None"]
    assert of(b"region,people\nNA,1\n,3\n", tmp_path)["region"].isna().tolist() == [False, True]
    table = of(
        parquet(pd.DataFrame({"money": [Decimal("1.5"), None], "day": [date(2024, 1, 2), None],
                              "id": np.array([2**63, 1], dtype=np.uint64), "yes": [True, False]})),
        tmp_path,
    )  # fmt: skip
    assert table["money"].tolist()[0] == 1.5
    assert table["day"].tolist()[0] == "2024-01-02"
    assert table["id"].tolist() == [2.0**63, 1.0]
    assert table["yes"].tolist() == [1, 0]


def hostile(tmp_path: Path, kind: str) -> bytes:
    """A file that would have another one read: what it refers to is not its owner's to see."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(4, dtype="<f4").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["household_weight/2024"] = np.ones(4, dtype="<f4")
    with h5py.File(tmp_path / "hostile.h5", "w") as h5:
        group = h5.create_group("household_weight")
        if kind == "external storage":
            group.create_dataset("2024", shape=(4,), dtype="<f4", external=[(str(secret), 0, 16)])
        elif kind == "external link":
            group["2024"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "household_weight/2024")
        elif kind == "external group":
            del h5["household_weight"]
            h5["household_weight"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "household_weight")
        elif kind == "soft link":
            group["2024"] = h5py.SoftLink("/elsewhere")
        else:
            layout = h5py.VirtualLayout(shape=(4,), dtype="<f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "household_weight/2024", shape=(4,))
            group.create_virtual_dataset("2024", layout)
    return (tmp_path / "hostile.h5").read_bytes()


@pytest.mark.parametrize(
    "kind", ["external storage", "external link", "external group", "soft link", "virtual dataset"]
)
def test_an_upload_has_no_other_file_read(kind, tmp_path):
    with pytest.raises(InputError, match=r"theirs\.h5: refers to another file"):
        of(hostile(tmp_path, kind), tmp_path, "theirs.h5")


def test_policyengine_files_give_a_row_a_household(small: Microdata, small_file: Path, tmp_path):
    table = of(small_file.read_bytes(), tmp_path, "small.h5")
    assert len(table) == small.count()
    assert table["persons"].sum() == small.count("person")
    assert (
        table[["persons_under_20", "persons_20_to_64", "persons_65_plus"]]
        .sum(axis=1)
        .eq(table["persons"])
        .all()
    )
    assert table["state_fips"].tolist() == small.column("state_fips").tolist()
    rent = small.column("pre_subsidy_rent").sum(dtype=np.float64)
    assert household_table(small)["pre_subsidy_rent"].sum() == pytest.approx(rent)
    assert guess_weight(table) == "household_weight"


def peak_while(work: str, *arguments: object) -> tuple[str, int]:
    """What a process of its own says of a file, and the MiB that it took for that."""
    # Not ru_maxrss: a new process begins with that of pytest, so that nothing would ever seem to be taken.
    script = f"""
import sys
from pathlib import Path
from distcalib.dashboard.tables import read_table
from distcalib.errors import InputError
import pyarrow.parquet, pyarrow.compute, h5py
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
Path("/proc/self/clear_refs").write_text("5")
before = peak()
try:
    {work}
except InputError as error:
    print(error)
print((peak() - before) // 1024)
"""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    words, _, taken = ended.stdout.strip().rpartition("\n")
    return words, int(taken)


def test_what_a_process_takes_is_seen_from_a_large_one():
    ballast = np.ones(1 << 26)  # 512 MiB, more than the process that is measured ever has
    _, taken = peak_while("bytearray(200 << 20)")
    assert ballast.size
    assert 190 < taken < 300


def test_a_text_that_is_repeated_is_refused_before_it_is_written_out(tmp_path):
    text = pa.array(["x" * 10_000]).dictionary_encode().take(pa.array([0] * 2_000_000))
    pq.write_table(pa.table({"id": np.zeros(2_000_000, np.int8), "note": text}), tmp_path / "f")
    assert (tmp_path / "f").stat().st_size < 20_000
    said, taken = peak_while("read_table(Path(sys.argv[1]), 'theirs.parquet')", tmp_path / "f")
    assert said.startswith("theirs.parquet: note: is too large once it is read; got '1,")
    assert "expected at most 1,600,000,000 bytes" in said
    assert taken < 400


def test_what_a_dataset_only_claims_is_refused_before_it_is_read(small_file, tmp_path):
    claims = tmp_path / "f"
    shutil.copy(small_file, claims)
    with h5py.File(claims, "a") as h5:
        h5.create_dataset("note/2024", shape=(20_000_000_000,), dtype="f8", chunks=(1_000_000,))
    assert claims.stat().st_size < small_file.stat().st_size + 50_000
    said, taken = peak_while("read_table(Path(sys.argv[1]), 'theirs.h5')", claims)
    assert said.startswith("theirs.h5: note/2024: holds too much to be read here; got '160,000,000,000 bytes")
    assert "expected at most 1,600,000,000 bytes" in said
    assert taken < 400


def test_one_long_text_that_many_units_refer_to_is_refused(small_file, tmp_path):
    long = tmp_path / "f"
    shutil.copy(small_file, long)
    with h5py.File(long, "a") as h5:
        # A heap object of 20 MB that every entry refers to: copied at the level of the file's own bytes.
        texts = h5.create_dataset("note/2024", shape=(4_000,), dtype=h5py.string_dtype())
        texts[0] = "x" * 20_000_000
        at = texts.id.get_offset()
    with long.open("r+b") as raw:
        raw.seek(at)
        first = raw.read(16)
        raw.seek(at)
        raw.write(first * 4_000)
    with h5py.File(long) as h5:
        assert len(h5["note/2024"][3_999]) == 20_000_000
    said, taken = peak_while("read_table(Path(sys.argv[1]), 'theirs.h5')", long)
    assert said.startswith("theirs.h5: note/2024: holds too much to be read here; got '80,000,000,000 bytes")
    assert taken < 800


def test_texts_of_variable_length_are_read_and_other_objects_refused(small_file, tmp_path):
    mine = tmp_path / "mine"
    shutil.copy(small_file, mine)
    with h5py.File(mine, "a") as h5:
        tenure = h5["tenure_type/2024"][:]
        del h5["tenure_type/2024"]
        h5["tenure_type"].create_dataset("2024", data=[t.decode() for t in tenure], dtype=h5py.string_dtype())
    read = read_table(mine, "mine.h5")
    pd.testing.assert_frame_equal(read, read_table(small_file, "small.h5"))
    with h5py.File(mine, "a") as h5:
        h5.create_dataset("note/2024", shape=(3,), dtype=h5py.vlen_dtype(np.int32))
    with pytest.raises(InputError, match=r"mine\.h5: note/2024: is no column of numbers or texts"):
        read_table(mine, "mine.h5")


ARCHIVE = io.BytesIO()
np.savez(ARCHIVE, weight=np.ones(3))
XLSX = io.BytesIO()
zipfile.ZipFile(XLSX, "w").close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"weight": [1]}), "pickle"),
        (ARCHIVE.getvalue(), "zip archive"),
        (XLSX.getvalue(), "zip archive"),
        (b"", "is empty"),
        (b"\x1f\x8b\x08\x00\x00", "gzip"),
        (b"\x00\x01\x02\x03\x04", "is not text"),
        ("a,b\n1,é\n".encode("latin-1"), "UTF-8"),
        (b"weight,weight\n1,2\n", "names two columns; got 'weight'"),
        (b"weight,\n1,2\n", "column 2 has no name"),
        (b"weight;state\n1;CA\n", "commas"),
        (b"weight,state\n", "has no rows"),
        (b"a,b\n1,2,3\n4,5,6\n", "more cells than the header"),
        (b"a,b\n1,2\n4,5,6\n", "cannot be read as CSV"),
        (b"PAR1 and then nothing", "cannot be read as Parquet"),
        (b"\x89HDF\r\n\x1a\n and then nothing", "cannot be read as HDF5"),
        (parquet(pd.DataFrame({"x": [[1, 2], [3]]})), "the column is of the type list"),
        (parquet(pd.DataFrame({"x": [b"\x80\x04N."]})), "the column is of the type"),
        (parquet(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])), "names two columns; got 'a'"),
        (parquet(pa.table({"x": pa.array([b"\xff"]).dictionary_encode()})), "the column is of the type"),
        (parquet(pa.table({"x": pa.array([2**55], type=pa.timestamp("ms"))})), "the column is of the type"),
        (b"\na,b\n1,2\n", "first line: is empty"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_by_name(content, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        of(content, tmp_path, "theirs.csv")
    assert "theirs.csv" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_targets_are_sums_over_the_rows_that_meet_every_condition():
    targets = pd.DataFrame(
        {"variable": ["persons", "persons", "count", "count", "income"],
         "state": [None, "CA", "CA", None, "CA"],
         "age_group": [np.nan, np.nan, 2, 1, np.nan],
         "value": [1000, 200, 50, 60, 300], "group": ["a", "a", None, "b", "b"]}
    )  # fmt: skip
    problem = build(SURVEY, targets, "weight", "s.csv", "t.csv")
    expected = [[1, 2, 3, 4], [1, 0, 3, 0], [0, 0, 1, 0], [1, 0, 0, 1], [5, 0, 7, 0]]
    assert problem.X.toarray().tolist() == expected
    assert problem.names == ["persons", "persons state=CA", "count state=CA age_group=2", "count age_group=1",
                             "income state=CA"]  # fmt: skip
    assert problem.targets["group"].tolist() == ["a", "a", "count", "b", "b"]
    assert problem.weights.tolist() == [10, 20, 30, 40]
    assert build(SURVEY, targets, None, "s.csv", "t.csv").weights.tolist() == [1, 1, 1, 1]


def test_conditions_on_long_codes_yes_and_a_text_called_count():
    survey = pd.DataFrame({"code": [12345671, 12345672, 5], "owner": [1, 0, 1], "count": ["x", "y", "z"]})
    targets = pd.DataFrame(
        {"variable": [COUNT] * 4, "code": [12345671, 12345672, None, None],
         "owner": [None, None, "True", None], "value": 1.0}
    )  # fmt: skip
    problem = build(survey, targets, None, "s.csv", "t.csv")
    assert problem.X.toarray().tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]]
    assert problem.names[:2] == ["count code=12345671", "count code=12345672"]


def test_too_many_pairs_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("distcalib.dashboard.problem.MOST_PAIRS", 5)
    for rows in (
        {"variable": ["persons", COUNT]},
        {"variable": ["persons", COUNT, COUNT], "state": ["CA"] * 3},
    ):
        targets = pd.DataFrame(rows).assign(value=1.0, name=range(len(rows["variable"])))
        with pytest.raises(InputError, match="too many records count for too many targets"):
            build(SURVEY, targets, "weight", "s.csv", "t.csv")


def test_ids_are_told_from_amounts():
    survey = pd.DataFrame({"hh_id": [1], "medicaid": [1.0], "paid": [2.0]})
    assert id_columns(survey) == ["hh_id"]
    assert template(survey, None)["variable"].tolist() == [COUNT, "medicaid", "paid"]


def test_a_problem_is_the_same_in_another_process(tmp_path):
    targets = pd.DataFrame({"variable": ["persons", COUNT], "value": [100.0, 10.0]})
    problem = build(SURVEY, targets, "weight", "s.csv", "t.csv")
    problem.save(tmp_path / "p")
    loaded = Problem.load(tmp_path / "p")
    assert (loaded.X != problem.X).nnz == 0
    assert loaded.weights.tolist() == problem.weights.tolist()
    pd.testing.assert_frame_equal(loaded.targets, problem.targets)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"variable": ["persns"], "value": [1]}, "t.csv: variable, row 2: is no column of s.csv.*'persons'"),
        ({"variable": ["state"], "value": [1]}, "is a column of text; got 'state'"),
        ({"variabel": ["persons"], "value": [1]}, "lacks the column 'variable'; .*it has variabel, value"),
        ({"variable": ["persons"], "value": ["many"]}, "t.csv: value, row 2: is no number; got 'many'"),
        ({"variable": ["persons"], "value": [1], "stat": ["CA"]}, "got 'stat'.*did you mean 'state'"),
        ({"variable": ["persons"], "value": [1], "state": ["CAL"]}, "t.csv: state, row 2: .*got 'CAL'.*'CA'"),
        ({"variable": ["persons"], "value": [1], "age_group": [7]}, "no record of the survey.*one of 1, 2"),
        ({"variable": ["persons", "persons"], "value": [1, 2]}, "row 3: is the same target"),
        ({"variable": ["income"], "value": [1]}, "s.csv: income, row 5: 1 values are missing"),
    ],
)  # fmt: skip
def test_wrong_targets_get_the_place_the_value_and_the_nearest_choice(rows, words):
    with pytest.raises(InputError, match=words):
        build(SURVEY, pd.DataFrame(rows), "weight", "s.csv", "t.csv")


def test_all_that_is_wrong_with_targets_is_said_at_once():
    rows = {"variable": ["persns", "state", *["persons"] * 9], "value": ["x", *range(10)],
            "state": [None, None, "CAL", *["ZZ"] * 8], "age_group": [*[np.nan] * 10, 9]}  # fmt: skip
    with pytest.raises(InputError) as caught:
        build(SURVEY, pd.DataFrame(rows), "weight", "s.csv", "t.csv")
    said = str(caught.value).splitlines()
    assert said[0] == "9 things are wrong"
    assert said[1].startswith("1. t.csv: value, row 2: is no number; got 'x'")
    assert "variable, row 2: is no column of s.csv; got 'persns'" in said[2]
    assert "variable, row 3: is a column of text" in said[3]
    assert [line.split("row ")[1][:1] for line in said[4:9]] == ["4", "5", "6", "7", "8"]
    assert "(4 more rows like it); got 'ZZ'" in said[8]
    assert "age_group, row 12" in said[9]
    with pytest.raises(InputError, match=r"3 things are wrong\n1. s.csv: cannot be the weight(.|\n)*'stat'"):
        build(SURVEY, pd.DataFrame({"variable": ["persons"], "stat": "CA"}), "income", "s.csv", "t.csv")
    with pytest.raises(InputError, match=r"variable, row 3: .*got 'an empty cell'"):
        build(SURVEY, pd.DataFrame({"variable": ["persons", None], "value": 1}), "weight", "s.csv", "t.csv")


def test_a_weight_must_be_one():
    targets = pd.DataFrame({"variable": ["persons"], "value": [1.0]})
    for column in ("income", "state"):
        with pytest.raises(InputError, match="cannot be the weight"):
            build(SURVEY, targets, column, "s.csv", "t.csv")


def test_a_table_to_start_from_has_the_totals_that_the_survey_has():
    start = template(SURVEY, "weight")
    assert dict(zip(start["variable"], start["value"], strict=True)) == {
        "count": 100, "age_group": 150, "persons": 300, "income": 260
    }  # fmt: skip
    assert build(SURVEY.fillna(0), start, "weight", "s.csv", "t.csv").X.shape == (4, 4)


def parts(name: str, content: bytes, size: int, number: int = 1) -> list[dict]:
    return [
        {"id": number, "name": name, "start": at, "size": len(content), "data": content[at : at + size]}
        for at in range(0, len(content), size)
    ]


def test_a_file_in_parts_is_whole_in_a_place_of_our_own(tmp_path):
    taken = _Taken(tmp_path, 100)
    answers = [taken.take(part) for part in parts("../../etc/passwd", b"x" * 95, 10)]
    assert answers[:-1] == [None] * 9
    assert answers[-1].parent == tmp_path
    assert answers[-1].read_bytes() == b"x" * 95
    assert [file.name for file in tmp_path.iterdir()] == [answers[-1].name]


@pytest.mark.parametrize("claimed", [95, 1000])
def test_more_than_allowed_is_refused_whatever_the_browser_claims(claimed, tmp_path):
    taken = _Taken(tmp_path, 100)
    said = [{**part, "size": claimed} for part in parts("big.csv", b"x" * 1000, 30)]
    with pytest.raises(InputError, match=r"big.csv: is too large.*at most 0.0 MiB"):
        list(map(taken.take, said))
    assert list(tmp_path.iterdir()) == []


def test_parts_in_another_order_are_refused(tmp_path):
    taken = _Taken(tmp_path, 100)
    first, second, third = parts("a.csv", b"x" * 30, 10)
    taken.take(first)
    with pytest.raises(InputError, match="another order"):
        taken.take(third)
    with pytest.raises(InputError, match="another order"):
        taken.take(second)
    with pytest.raises(InputError, match="no part"):
        taken.take({"name": "a.csv"})
    for data in (10**9, "text", None):
        with pytest.raises(InputError, match="no part"):
            taken.take({"id": 1, "name": "a.csv", "start": 0, "size": 3, "data": data})
    assert list(tmp_path.iterdir()) == []
