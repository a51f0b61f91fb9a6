"""Recordings within files, and the tables that are kept on disk on the way to them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.audio import read_audio
from slm.corpus import spool
from slm.corpus.containers import arrow_member, channel_member, open_member, parquet_member, part_member, refused_member
from slm.corpus.plan import Plan
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.reading import read_clip
from slm.corpus.sources import SourceClip, open_source
from slm.errors import AudioError, UsageError
from tests.corpus.audio import write_clip
from tests.corpus.test_webdataset import write_tar
from tests.fakes import ArithmeticTokenizer

FILES = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SCHEMA = pa.schema([("x", pa.int64())])


@pytest.fixture(autouse=True)
def own_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("column", ["audio", "a:b%3Ac"])
@pytest.mark.parametrize("name", ["a.wav", "12:30 o'clock.wav", None])
def test_a_member_is_found_whatever_it_is_called(tmp_path, column, name):
    data = [write_clip(tmp_path / f"{i}.wav", 0.1 * (i + 1), seed=i).read_bytes() for i in range(4)]
    table = pa.table({column: pa.array([{"bytes": cell, "path": name} for cell in data], FILES)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    (tmp_path / "x.bin").write_bytes(b"".join(data))
    members = {
        "x.parquet": parquet_member(1, 0, column, name),
        "x.arrow": arrow_member(3, column, name),
        "x.bin": part_member(sum(map(len, data[:3])), len(data[3]), name or ""),
    }
    expected = read_audio(tmp_path / "3.wav", 8000)
    for file, member in members.items():
        assert open_member(str(tmp_path / file), member).open().read() == data[3]
        assert np.array_equal(read_clip(SourceClip("x", str(tmp_path / file), member=member), 8000), expected)
        part = read_clip(SourceClip("x", str(tmp_path / file), 0.1, 0.2, member=member), 8000)
        assert np.array_equal(part, expected[800:1600])


def test_channels_and_refusals(tmp_path):
    path = write_clip(tmp_path / "a.wav", 0.1, channels=2)
    assert len(read_clip(SourceClip("x", str(path), member=channel_member(1)), 8000)) == 800
    with pytest.raises(AudioError, match="no channel 2: it has 2, counted from 0"):
        read_clip(SourceClip("x", str(path), member=channel_member(2)), 8000)
    with pytest.raises(AudioError, match=r"^because: of this$"):
        read_clip(SourceClip("x", str(path), member=refused_member("because: of this")), 8000)


def test_prompts_and_fits_read_members_too(tmp_path):
    from types import SimpleNamespace

    from eval.benchmarks.base import Generation, Setup
    from eval.benchmarks.continuation import Continuation
    from slm.tokenizers._fit import clip_features

    data = write_clip(tmp_path / "a.wav", 0.5, seed=1).read_bytes()
    path = write_tar(tmp_path / "x.tar", {"a.wav": data})
    setup = Setup(tmp_path, prompts=str(path), generation=Generation(prompt_s=0.3))
    (prompt,) = (made := Continuation(setup)).prompts
    expected = read_audio(tmp_path / "a.wav", 8000)
    read = made._read(prompt, SimpleNamespace(spec=ArithmeticTokenizer().spec))
    assert np.array_equal(read.samples, expected[:2400])

    encoder = SimpleNamespace(sample_rate_hz=8000, num_frames=int, windows=iter)
    job = SimpleNamespace(encoder=encoder, report=pytest.fail)
    ((_, clip, _),) = clip_features(job, [prompt], 0)
    assert np.array_equal(clip.samples, expected)


def test_a_parquet_file_that_is_written_anew_is_read_anew(tmp_path):
    for seed in range(2):
        path = write_clip(tmp_path / "a.wav", 0.1, seed=seed)
        table = pa.table({"audio": pa.array([{"bytes": path.read_bytes(), "path": None}], FILES)})
        pq.write_table(table, tmp_path / "x.parquet")
        member = parquet_member(0, 0, "audio", "a.wav")
        assert open_member(str(tmp_path / "x.parquet"), member).open().read() == path.read_bytes()


def _spool_slowly(folder, started):
    """In a process of its own: the number in the table, after a note that it was made."""
    tempfile.tempdir = str(folder)

    def batches():
        with open(Path(folder) / "made", "a") as notes:
            notes.write("x")
        yield pa.record_batch([pa.array([7])], schema=SCHEMA)

    started.wait()
    return spool.spooled("key", batches)["x"].to_pylist()


def _collect(folder, started, found):
    found.put(_spool_slowly(folder, started))


def test_what_several_processes_ask_for_is_made_once(tmp_path):
    context = multiprocessing.get_context("fork")
    started, found = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_collect, args=(tmp_path, started, found)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [found.get(timeout=60) for _ in processes] == [[7]] * 4
    for process in processes:
        process.join()
    assert (tmp_path / "made").read_text() == "x"


def numbers(*values):
    return lambda: (pa.record_batch([pa.array([value] * 1000)], schema=SCHEMA) for value in values)


def _ask_for_many(folder, seed, found):
    tempfile.tempdir, spool._MOST_BYTES = str(folder), 20_000  # two tables of 8 kB
    wrong = []
    for key in np.random.default_rng(seed).integers(4, size=150).tolist():
        try:
            wrong += [value for value in spool.spooled(str(key), numbers(key))["x"].to_pylist() if value != key]
        except Exception as error:
            wrong.append(repr(error))
    found.put(wrong)


def test_room_that_is_made_by_others_takes_no_table_away(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=_ask_for_many, args=(tmp_path, seed, found)) for seed in range(4)]
    for process in processes:
        process.start()
    assert [found.get(timeout=60) for _ in processes] == [[]] * 4
    for process in processes:
        process.join()


def test_a_table_that_vanishes_is_made_again(monkeypatch):
    """Between its making and its mapping others made room for theirs."""
    made, real = [], spool._make_room
    monkeypatch.setattr(spool, "_make_room", lambda new: (real(new), made.append(new), made[1:] or new.unlink()))
    assert spool.spooled("key", numbers(7))["x"][0].as_py() == 7
    assert len(made) == 2


def _make_of_another(outer, inner):
    spool.spooled(outer, lambda: iter(spool.spooled(inner, numbers(1)).to_batches()))


def test_a_table_made_of_another_never_waits_for_itself():
    """Whatever their keys, also where names of locks would begin alike."""
    start = hashlib.sha256(b"outer").hexdigest()[:2]
    alike = (f"inner {i}" for i in itertools.count())
    inner = next(key for key in alike if hashlib.sha256(key.encode()).hexdigest()[:2] == start)
    process = multiprocessing.get_context("fork").Process(target=_make_of_another, args=("outer", inner))
    process.start()
    process.join(timeout=30)
    stuck = process.is_alive()
    process.kill()
    assert not stuck
    assert process.exitcode == 0


def test_what_was_not_used_for_longest_makes_room(monkeypatch):
    monkeypatch.setattr(spool, "_MOST_BYTES", 20_000)  # two tables of 8 kB
    clock, real, made = itertools.count(time.time()), os.utime, []
    monkeypatch.setattr(os, "utime", lambda path: real(path, (now := next(clock), now)))

    def get(key):
        def batches():
            made.append(key)
            return numbers(key)()

        return spool.spooled(str(key), batches)["x"]

    first = get(1)
    for key in (2, 1, 3, 1, 2):
        assert get(key)[0].as_py() == key
    assert made == [1, 2, 3, 2]
    assert first.to_pylist() == [1] * 1000


def test_what_was_not_used_for_a_day_goes_with_what_killed_processes_left(monkeypatch):
    spool.spooled("old", numbers(1))
    folder = spool._folder()
    (folder / ".x.arrow.tmp-host-1").write_bytes(b"half")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 90_000,) * 2)
    (folder / ".y.arrow.tmp-host-2").write_bytes(b"half")  # being written
    monkeypatch.setattr(spool, "_MOST_BYTES", 1)
    spool.spooled("new", numbers(2))
    assert sorted(path.suffix for path in folder.iterdir()) == [".arrow", ".lock", ".tmp-host-2"]
    assert spool.spooled("new", lambda: pytest.fail("made anew"))["x"][0].as_py() == 2


def test_a_full_disk_and_a_folder_of_others_are_told_with_the_remedy():
    def full():
        yield pa.record_batch([pa.array([1])], schema=SCHEMA)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UsageError, match="is full: set TMPDIR to a folder with 8 GB"):
        spool.spooled("key", full)
    assert spool.spooled("key", numbers(1)).num_rows == 1000  # nothing half was left
    spool._folder().chmod(0o755)
    with pytest.raises(UsageError, match="is not a folder of yours alone: remove it, or set TMPDIR"):
        spool.spooled("key", numbers(1))


def test_folders_for_temporary_files_of_any_kind(tmp_path, monkeypatch):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(odd)
    monkeypatch.setattr(tempfile, "tempdir", odd)
    assert spool.spooled("key", numbers(1)).num_rows == 1000
    for unfit in ("absent", "a file"):
        (tmp_path / "a file").touch()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / unfit))
        with pytest.raises(UsageError, match=r"no folder for temporary files: .*: set TMPDIR to one that can be"):
            spool.spooled("key", numbers(1))


@pytest.mark.parametrize("change", ["another file", "another length", "the same again"])
def test_a_container_that_changed_since_the_plan_is_seen(tmp_path, change):
    from slm.corpus.changes import describe_changed_files, describe_changed_list

    def write(seed, seconds=0.3):
        clip = write_clip(tmp_path / "clip.wav", seconds, seed=seed).read_bytes()
        return write_tar(tmp_path / "x.tar", {"a.wav": clip, "b.wav": clip})

    (tmp_path / "out").mkdir()
    source = open_source(write(1))
    plan = make_plan(tmp_path / "out", source, ArithmeticTokenizer().spec, PlanSettings(1), 0)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["num_rows"] == 2
    assert len({plan.table["digest"][i].as_py() for i in range(2)}) == 1
    write(1 if change == "the same again" else 2, 0.4 if change == "another length" else 0.3)
    plan = Plan(tmp_path / "out", source.base)
    list_changed, files_changed = describe_changed_list(plan, source), describe_changed_files(plan)
    if change == "the same again":
        assert not list_changed
        assert not files_changed
    else:
        assert bool(list_changed) == (change == "another length")  # offsets are part of what is listed
        assert files_changed == "1 of 1 files, 0 of them gone or unreadable, such as 'x.tar'"
