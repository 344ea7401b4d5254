"""Publish, promote and roll back, in each kind of store: the pointer names a complete version, always."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_run import make_run
from odd_stores import Faulty, Killed, latest_of, s3_at, snapshot

from distcalib.cli import main
from distcalib.cli.publication import publications as publications_command
from distcalib.cli.publication import publish as publish_command
from distcalib.errors import InputError, RunError
from distcalib.publication.finished import finished_run
from distcalib.publication.pointer import POINTER, read_pointer
from distcalib.publication.publishing import promote, publications, publish, rollback
from distcalib.runs.manifest import read_manifest
from distcalib.storage.objects import MemoryStore, S3Store
from distcalib.storage.stores import LocalStore, open_store

H5 = "areas/districts/WY-01.h5"


def version_of(run: Path) -> str:
    return finished_run(run).version


def test_a_publication_is_complete_and_the_pointer_says_who_and_when(run, store):
    outcome = publish(run, store)
    version = version_of(run)
    assert (outcome.version, outcome.latest, outcome.moved) == (version, version, True)
    listed = read_manifest(run)["files"]
    assert (outcome.sent, outcome.kept) == (len(listed), 0)
    assert outcome.bytes == sum(f["bytes"] for f in listed.values())
    assert latest_of(store) == version
    there = store.sizes(f"versions/{version}")
    assert there.keys() == listed.keys() | {"manifest.json"}
    pointer = json.loads(store.read("latest.json"))
    assert store.read(pointer["manifest"]) == (run / "manifest.json").read_bytes()
    assert pointer["previous"] is None
    assert pointer["time"].endswith("Z")
    assert "@" in pointer["by"]


def test_publishing_again_is_no_work_and_says_so(run, store):
    publish(run, store)
    data, token = store.held(POINTER)
    again = publish(run, store)
    assert (again.sent, again.moved, again.latest) == (0, False, again.version)
    assert store.held(POINTER) == (data, token)


def test_stage_promote_and_roll_back_twice(run, other_run, tmp_path, store):
    third = make_run(tmp_path / "three", seed=3)
    one, two, three = (version_of(r) for r in (run, other_run, third))
    publish(run, store)
    staged = publish(other_run, store, stage_only=True)
    assert (staged.latest, staged.moved) == (one, False)
    assert latest_of(store) == one
    assert publications(store).versions.keys() == {one, two}
    assert promote(store, two).moved
    publish(third, store)
    assert json.loads(store.read("latest.json"))["previous"] == two
    assert [rollback(store).latest, rollback(store).latest] == [two, one]
    assert latest_of(store) == one
    with pytest.raises(InputError, match="no version before the latest"):
        rollback(store)
    # What is there is not sent again; and going back from it leads to where one was.
    back = publish(third, store)
    assert (back.sent, back.moved) == (0, True)
    assert rollback(store).latest == one
    history = publications(store).history
    assert [(e.act, e.version) for e in history] == [
        ("publish", one),
        ("promote", two),
        ("publish", three),
        ("rollback", two),
        ("rollback", one),
        ("publish", three),
        ("rollback", one),
    ]
    assert len({e.id for e in history}) == len(history)


def test_a_file_damaged_between_staging_and_promotion_is_found(run, other_run, store):
    publish(run, store)
    staged = publish(other_run, store, stage_only=True).version
    good = store.read(f"versions/{staged}/{H5}")
    for damage in (good[:-1], bytes([good[0] ^ 1]) + good[1:], b""):
        store.write(f"versions/{staged}/{H5}", damage)
        for full in (False, True):
            with pytest.raises(RunError, match=f"1 of the files of {staged}.*{H5}"):
                promote(store, staged, full=full)
        assert latest_of(store) == version_of(run)
    manifest = store.read(f"versions/{staged}/manifest.json")
    store.write(f"versions/{staged}/manifest.json", manifest.replace(b"demo", b"dema"))
    with pytest.raises(RunError, match=r"manifest of .* is damaged"):
        promote(store, staged)
    assert publications(store).versions[staged] is None
    # Publishing again mends what is damaged and sends no more.
    mended = publish(other_run, store)
    assert (mended.sent, mended.latest) == (1, staged)
    assert latest_of(store) == staged


def test_verify_full_mends_what_the_pointer_names(run, store):
    version = publish(run, store).version
    store.write(f"versions/{version}/{H5}", b"x" * read_manifest(run)["files"][H5]["bytes"])
    assert publish(run, store).sent == 0
    assert publish(run, store, full=True).sent == 1
    assert latest_of(store) == version


both = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@both
def test_interrupted_at_every_step_the_pointer_is_whole_and_the_rerun_finishes(
    run, other_run, tmp_path, store, after
):
    last = 1 if isinstance(store, S3Store) else None  # all of them below, as a request takes its time
    interrupt(run, other_run, tmp_path, store, after, last)


@pytest.mark.slow
@both
def test_interrupted_at_every_step_of_s3(run, other_run, tmp_path, s3_store, after):
    interrupt(run, other_run, tmp_path, s3_store, after)


@both
def test_a_promotion_and_a_rollback_interrupted_leave_the_old_or_the_new(run, other_run, store, after):
    publish(run, store)
    old, new = version_of(run), publish(other_run, store, stage_only=True).version
    acts = ((lambda s: promote(s, new), old, new), (rollback, new, old))
    for act, before, wanted in acts:
        faulty = Faulty(store, 1, after)
        with pytest.raises(Killed):
            act(faulty)
        assert [step.split()[0] for step in faulty.steps] == ["swap"]
        assert latest_of(store) == (wanted if after else before)
        if not after:
            assert act(store).moved
            assert latest_of(store) == wanted


def interrupt(run, other_run, tmp_path, store, after, last=None):
    publish(run, store)
    old, new = version_of(run), version_of(other_run)
    whole = Faulty(store, 0, after)
    publish(other_run, whole)
    steps = whole.steps
    assert steps[-1] == "swap latest.json"
    assert steps[-2].startswith("write versions/")
    assert len(steps) >= len(read_manifest(other_run)["files"]) + 2
    for at in range(len(steps) + 1 - (last or len(steps)), len(steps) + 1):
        fresh = _elsewhere(store, at, tmp_path)
        publish(run, fresh)
        with pytest.raises(Killed):
            publish(other_run, Faulty(fresh, at, after))
        moved = after and at == len(steps)
        assert latest_of(fresh) == (new if moved else old), steps[at - 1]
        rerun = publish(other_run, fresh)
        put = min(at - 1 + after, len(read_manifest(other_run)["files"]))
        assert rerun.kept >= put, "a file that was put was sent again"
        assert latest_of(fresh) == new


def _elsewhere(store, at, tmp_path):
    if isinstance(store, LocalStore):
        return LocalStore(tmp_path / f"public{at}")
    if isinstance(store, MemoryStore):
        return MemoryStore(f"{store.root}-{at}")
    return s3_at(store, f"{store.root}-{at}")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")]
)
def test_an_error_of_the_store_is_explained_and_the_old_pointer_stands(run, other_run, store, error):
    publish(run, store)
    with pytest.raises(RunError, match=f"{error.strerror}.*the pointer has not moved"):
        publish(other_run, Faulty(store, 4, False, error))
    assert latest_of(store) == version_of(run)
    assert publish(other_run, store).kept == 3


def test_a_file_that_changes_while_it_is_published(run, store):
    real = finished_run(run)

    class Late(Faulty):
        def staging(self, version):
            (run / H5).write_bytes(b"y" * real.files[H5]["bytes"])
            return self.store.staging(version)

    with pytest.raises(RunError, match=f"{H5}.*the pointer has not moved"):
        publish(run, Late(store, 0, False))
    assert store.held(POINTER)[0] is None
    assert publications(store).versions.get(real.version) is None


def test_two_publishers_at_once_one_wins_and_the_other_says_so(run, other_run, tmp_path, store):
    third = make_run(tmp_path / "three", seed=3)
    publish(run, store)
    versions = {version_of(r): r for r in (other_run, third)}
    meet = threading.Barrier(2)
    said: dict[str, object] = {}

    class Meeting(Faulty):
        """Both have read the pointer, and put everything, before either moves it."""

        def swap(self, path, data, token):
            meet.wait(timeout=60)
            return self.store.swap(path, data, token)

    def one(version):
        try:
            said[version] = publish(versions[version], Meeting(store, 0, False))
        except RunError as error:
            said[version] = error

    threads = [threading.Thread(target=one, args=(v,)) for v in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (loser,) = [v for v, s in said.items() if isinstance(s, RunError)]
    (winner,) = versions.keys() - {loser}
    assert said[winner].moved
    won = publications(store).latest
    assert f"was moved to {winner} by {won.by} at {won.time}" in str(said[loser])
    assert f"{loser} is complete and verified" in str(said[loser])
    assert latest_of(store) == winner
    assert [e.version for e in publications(store).history] == [version_of(run), winner]
    assert promote(store, loser).moved
    assert latest_of(store) == loser


def test_many_publishers_at_once_lose_no_move(run, store):
    publish(run, store)
    failed = []

    def one(seed: int) -> None:
        try:
            folder = make_run(run.with_name(f"run{seed}"), seed=seed)
            publish(folder, store)
        except RunError as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(10, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = publications(store).history
    assert len(history) == 1 + 4 - len(failed)
    assert all("while this was under way" in str(error) for error in failed)
    assert len(publications(store).versions) == 5
    assert latest_of(store) == history[-1].version


# ---- local folders, with processes


DIES = """
import os, shutil, signal, sys
from pathlib import Path
run, to, which = sys.argv[1:]
real = shutil.copyfile
def copy(source, target):
    if Path(source).name == which:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target)
shutil.copyfile = copy
from distcalib.publication.publishing import publish
publish(run, to)
"""


def test_killed_in_the_middle_of_a_file(run, other_run, tmp_path):
    store = LocalStore(tmp_path / "public")
    publish(run, store)
    dead = subprocess.run([sys.executable, "-c", DIES, str(other_run), store.shown, "plan.json"], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert latest_of(store) == version_of(run)
    folder = tmp_path / "public/versions" / version_of(other_run)
    assert [p.name.rpartition(".tmp.")[2] for p in folder.rglob(".*.tmp.*")] != []
    assert publications(store).versions[version_of(other_run)] is None
    assert publish(other_run, store).kept > 0
    assert latest_of(store) == version_of(other_run)
    assert list(folder.rglob(".*")) == []


def test_two_processes_one_wins(run, other_run, tmp_path):
    code = (
        "import sys, time; from distcalib.publication import publishing as p\n"
        "from distcalib.storage import stores as s\n"
        "real = s.LocalStore.swap\n"
        "def swap(self, path, data, token):\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    return real(self, path, data, token)\n"
        "s.LocalStore.swap = swap\n"
        "p.publish(*sys.argv[1:])"
    )
    public = tmp_path / "public"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(r), str(public)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for r in (run, other_run)
    ]  # fmt: skip
    assert [p.stdout.readline() for p in started] == ["ready\n", "ready\n"]
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in started]
    assert sorted(p.returncode for p in started) == [0, 1]
    loser = next(words for p, words in zip(started, said, strict=True) if p.returncode)
    assert "the pointer was moved to demo-" in loser
    won = (run, other_run)[[p.returncode for p in started].index(0)]
    assert latest_of(LocalStore(public)) == version_of(won)


def test_one_version_is_put_by_one_process_at_a_time(run, tmp_path):
    store = LocalStore(tmp_path / "public")
    with store.staging(version_of(run)), pytest.raises(RunError, match="another process is putting"):
        publish(run, store)
    assert publish(run, store).moved


def test_the_published_files_pass_sha256sum(run, tmp_path):
    version = publish(run, tmp_path / "public").version
    folder = tmp_path / "public" / "versions" / version
    said = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert said.returncode == 0, said.stdout
    copied = snapshot(folder)
    assert copied == {k: v for k, v in snapshot(run).items() if k not in ("events.ndjson", ".lock")}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(run, other_run, tmp_path):
    big = make_run(tmp_path / "big", seed=255)
    (big / "areas/big.bin").write_bytes(b"z" * 2_000_000)
    make_run(big, seed=255)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        store = LocalStore(disk / "public")
        publish(run, store)
        with pytest.raises(RunError, match=r"No space left on device.*the pointer has not moved"):
            publish(big, store)
        assert latest_of(store) == version_of(run)
        assert not list(disk.rglob("*.tmp.*"))
        publish(other_run, store)
        assert latest_of(store) == version_of(other_run)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(run, tmp_path):
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o500)
    with pytest.raises(InputError, match="no permission"):
        publish(run, public)


# ---- S3


def test_a_url_finds_the_server_and_credentials_in_the_environment(run, s3, capsys):
    to = "s3://calibrated/by/command"
    result = CliRunner().invoke(publish_command, [str(run), to])
    assert result.exit_code == 0, result.exception
    assert f"latest is now {version_of(run)}" in result.output
    again = CliRunner().invoke(publish_command, [str(run), to])
    assert again.output == f"latest is {version_of(run)} already; there was nothing to do\n"
    shown = CliRunner().invoke(publications_command, [to]).output
    assert f"-> {version_of(run)}  14 files" in shown
    for words in (
        result.output,
        again.output,
        shown,
        s3_at(s3, "calibrated/by/command").read("latest.json").decode(),
    ):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in words
        assert os.environ["AWS_ACCESS_KEY_ID"] not in words


def test_no_such_bucket(run, s3_store, s3):
    with pytest.raises(InputError, match="has no such bucket"):
        publish(run, s3_at(s3, "none-such/prefix"))


def test_no_credentials_and_no_server_are_explained(run, s3_environment, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(RunError, match="credentials"):
        publish(run, open_store("s3://calibrated/none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_store("s3://calibrated/none")
    store.fs.retries = 1
    with pytest.raises(RunError) as raised:
        publish(run, store)
    assert "hunter2" not in str(raised.value)


def test_a_lost_permission_leaves_the_pointer(run, other_run, s3_store):
    publish(run, s3_store)
    bucket, prefix = s3_store.root.split("/", 1)
    allowed = s3_store.fs.call_s3
    deny = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:PutObject",
                "Resource": f"arn:aws:s3:::{bucket}/{prefix}/versions/*/areas/*",
            }
        ],
    }
    allowed("put_bucket_policy", Bucket=bucket, Policy=json.dumps(deny))
    try:
        with pytest.raises(RunError, match="the pointer has not moved"):
            publish(other_run, s3_store)
    finally:
        allowed("delete_bucket_policy", Bucket=bucket)
    assert latest_of(s3_store) == version_of(run)
    assert publish(other_run, s3_store).kept > 0
    assert latest_of(s3_store) == version_of(other_run)


@pytest.mark.parametrize("ignored", ["IfNoneMatch", "IfMatch"])
def test_a_server_that_ignores_conditions_is_refused(run, s3_store, monkeypatch, ignored):
    real = s3_store.fs.pipe_file

    def pipe_file(path, data, **given):
        given.pop(ignored, None)
        return real(path, data, **given)

    monkeypatch.setattr(s3_store.fs, "pipe_file", pipe_file)
    with pytest.raises(InputError, match=f"ignores the condition {ignored}"):
        publish(run, s3_store)
    assert s3_store.held(POINTER)[0] is None


def test_an_answer_lost_on_its_way_is_a_move_of_ones_own(run, other_run, s3_store, monkeypatch):
    publish(run, s3_store)
    real = s3_store.fs.pipe_file

    def pipe_file(path, data, **given):
        result = real(path, data, **given)
        # The client did not hear of its success, tried again, and was refused by it.
        return real(path, data, **given) if path.endswith("latest.json") else result

    monkeypatch.setattr(s3_store.fs, "pipe_file", pipe_file)
    assert publish(other_run, s3_store).moved
    assert latest_of(s3_store) == version_of(other_run)


def test_large_files_go_in_parts_and_are_checked_by_their_marks(run, s3_store, monkeypatch):
    from distcalib.runs.manifest import write_manifest

    pattern = bytes(range(256)) * 4096  # 1 MiB
    (run / "areas/national/US-200k.h5").write_bytes(pattern * 17 + b"end")
    (run / "areas/national/US-50k.h5").write_bytes(pattern * 16)
    facts = read_manifest(run)
    write_manifest(run, {k: facts[k] for k in ("name", "plan", "weights", "versions", "verification")})
    read_back = []
    monkeypatch.setattr(s3_store, "sha256", lambda path: read_back.append(path) or "", raising=True)
    version = publish(run, s3_store).version
    assert read_back == []
    marks = {p: m for p, (_, m) in s3_store.sizes(f"versions/{version}").items()}
    assert marks["areas/national/US-200k.h5"].endswith("-3")
    assert marks["areas/national/US-50k.h5"].endswith("-2")
    monkeypatch.undo()
    assert latest_of(s3_store) == version
    # A store whose checksum is another: what it gives back is compared.
    monkeypatch.setattr(s3_store, "mark", lambda file, digest: "other")
    assert publish(run, s3_store, full=True).sent == 0


# ---- commands


def test_what_is_not_proven_is_said(tmp_path):
    proof = {"targets": 12, "proven": 9, "largest_difference": 1e-6}
    run, to = make_run(tmp_path / "part", verification=proof), tmp_path / "public"
    for _ in range(2):
        result = CliRunner().invoke(publish_command, [str(run), str(to)])
        assert result.exit_code == 0, result.output
        assert "3 of 12 targets are not proven" in result.stderr
    outcome = publish(run, to)
    assert (outcome.targets, outcome.proven) == (12, 9)


def test_the_commands_say_what_they_did(run, other_run, tmp_path):
    from distcalib.cli.publication import promote as promote_command
    from distcalib.cli.publication import rollback as rollback_command

    invoke, to = CliRunner().invoke, str(tmp_path / "public")
    one, two = version_of(run), version_of(other_run)
    said = invoke(publish_command, [str(run), to]).output
    assert f"{one}: 14 files put" in said
    assert said.endswith(f"latest is now {one}\n")
    staged = invoke(publish_command, [str(other_run), to, "--stage-only"]).output
    assert staged.endswith(f"`distcalib promote {to} {two}` points at it\n")
    assert f"   {two}  14 files, 0.0 MB, staged" in invoke(publications_command, [to]).output.splitlines()
    assert invoke(promote_command, [to, two, "--verify", "full"]).output == f"latest is now {two}\n"
    assert invoke(rollback_command, [to]).output == f"latest is now {one}\n"
    (tmp_path / "public/versions" / one / H5).write_bytes(b"damaged")
    assert "nothing to do" in invoke(publish_command, [str(run), to]).output
    mended = invoke(publish_command, [str(run), to, "--verify", "full"]).output.splitlines()
    assert mended[-3:] == [
        f"{one}: 1 files put (0.0 MB)",
        f"{one}: 13 files were there",
        f"latest is {one} already",
    ]
    (tmp_path / "public/versions" / two / "manifest.json").unlink()
    lines = invoke(publications_command, [to]).output.splitlines()
    assert lines[0].startswith(f"latest: {one} by ")
    assert f"-> {one}  14 files, 0.0 MB" in lines
    assert f"   {two}  incomplete; its publication was interrupted or is under way" in lines
    assert [line.split()[1] for line in lines[lines.index("history:") + 1 :]] == [
        "publish",
        "promote",
        "rollback",
    ]


def test_exit_codes(run, tmp_path):
    assert {"publish", "promote", "rollback", "publications"} <= main.commands.keys()
    invoke = CliRunner().invoke
    bad = invoke(main, ["publish", str(tmp_path / "none"), str(tmp_path / "public")])
    assert (bad.exit_code, bad.output.count("\n")) == (2, 1)
    store = LocalStore(tmp_path / "public")
    with store.staging(version_of(run)):
        held = invoke(main, ["publish", str(run), str(tmp_path / "public")])
    assert held.exit_code == 1
    assert held.output.startswith("error: ")


def test_the_pointer_of_a_user_without_a_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid")))
    publish(run, tmp_path / "public")
    (entry,) = read_pointer((tmp_path / "public/latest.json").read_bytes(), "")
    assert entry.by.startswith(f"{os.getuid()}@")
