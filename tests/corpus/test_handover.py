"""Long clips reach the process that encodes them in the memory that they were read into."""

from __future__ import annotations

import os
import pickle
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from slm.audio import read_audio
from slm.corpus import handover
from slm.corpus.handover import SharedSamples, gathered
from slm.corpus.plan import PlannedClip, PlannedShard, Reject
from slm.corpus.readers import Readers, make_batches, read_all
from slm.corpus.sources import SourceClip
from slm.corpus.workers import CRASHED, Workers
from tests.corpus.audio import write_clip

linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="mappings are read from /proc")
LONG_S = 600.0  # 19 MB at 8 kHz


def blocks(count=5, length=1000):
    return list(np.random.default_rng(0).standard_normal((count, length)).astype(np.float32))


def test_blocks_become_one_array(monkeypatch):
    short = gathered(iter(blocks()))
    assert type(short) is np.ndarray
    for least in (0, 4000, 6000, 19_999):
        monkeypatch.setattr(handover, "_SHARED_BYTES", least)
        shared = gathered(iter(blocks()))
        assert isinstance(shared, SharedSamples)
        assert shared.dtype == np.float32
        assert np.array_equal(shared, np.concatenate(blocks()))
    part = pickle.loads(pickle.dumps(shared[10:20]))  # a part is a value as any other
    assert np.array_equal(part, shared[10:20])


def test_a_fault_behind_the_first_blocks_leaves_no_file_open(monkeypatch):
    monkeypatch.setattr(handover, "_SHARED_BYTES", 0)

    def broken():
        yield from blocks()
        raise ValueError("here")

    before = os.listdir("/dev/fd")
    with pytest.raises(ValueError, match="here"):
        gathered(broken())
    assert os.listdir("/dev/fd") == before


def read_long(folder: Path, num_workers: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    paths = [write_clip(folder / f"{i}.wav", LONG_S, seed=i) for i in range(2)]
    clips = [PlannedClip(SourceClip(str(i), str(path)), LONG_S) for i, path in enumerate(paths)]
    shard = PlannedShard(0, 0, 2, 2, 2 * LONG_S)
    with Readers(8000, num_workers) as made:
        read = [
            clip.samples for _, clips in made.read_ahead(make_batches(shard, clips, 100.0), 5000.0) for clip in clips
        ]
    return read, [read_audio(path, 8000) for path in paths]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_long_clips_come_as_they_were_read(tmp_path, num_workers):
    read, expected = read_long(tmp_path, num_workers)
    for samples, whole in zip(read, expected, strict=True):
        assert np.array_equal(samples, whole)


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("slm-samples")


@linux
def test_they_are_not_copied_and_leave_nothing_behind(tmp_path):
    read, _ = read_long(tmp_path, 1)
    assert mapped() == len(read) == 2
    del read
    assert mapped() == 0
    handles = [f"/proc/self/fd/{handle}" for handle in os.listdir("/proc/self/fd")]
    assert not [handle for handle in handles if os.path.exists(handle) and "slm-samples" in os.readlink(handle)]


def forbidden(*_):
    raise PermissionError


@pytest.mark.parametrize("there", [True, False])
def test_without_files_in_memory_they_go_by_the_disk(monkeypatch, there):
    if there:
        monkeypatch.setattr(os, "memfd_create", forbidden, raising=False)
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(handover, "_SHARED_BYTES", 0)
    assert np.array_equal(gathered(iter(blocks())), np.concatenate(blocks()))


def read_short(folder: Path, lengths_s: list[float], num_workers: int):
    paths = [write_clip(folder / f"{i}.wav", length, seed=i) for i, length in enumerate(lengths_s)]
    clips = [SourceClip(str(i), str(path)) for i, path in enumerate(paths)]
    clips.insert(1, SourceClip("text", __file__))
    made = Workers(partial(read_all, sample_rate_hz=8000), left_out, num_workers, 1)
    try:
        return made.start(clips)(), [read_audio(path, 8000) for path in paths]
    finally:
        made.shutdown()


@linux
@pytest.mark.parametrize("lengths_s", [[1.0, 0.001, 2.0], [20.0, 0.001, 30.0], [20.0, LONG_S, 30.0]])
def test_short_clips_come_together_as_they_were_read(tmp_path, lengths_s):
    (first, rejected, *rest), expected = read_short(tmp_path, lengths_s, 1)
    assert isinstance(rejected, Reject)
    assert mapped() == {3.0: 0, 50.0: 1, 50.0 + LONG_S: 2}[round(sum(lengths_s))]
    for i, (clip, samples) in enumerate(zip([first, *rest], expected, strict=True)):
        assert clip.id == str(i)
        assert clip.samples.dtype == np.float32
        assert np.array_equal(clip.samples, samples)
    del first, rest, clip
    assert mapped() == 0


def read_or_die(clips):
    if clips[0].id == "deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    return read_all(clips, 8000)


def left_out(clip):
    return Reject(clip.id, clip.path, CRASHED)


def test_what_was_received_outlives_the_process_that_read_it(tmp_path):
    path = write_clip(tmp_path / "a.wav", LONG_S)
    made = Workers(read_or_die, left_out, num_workers=1, num_threads=1)
    parts = [made.start([SourceClip(id, str(path))]) for id in ("a", "deadly", "b")]
    (first,), (dead,), (last,) = (part() for part in parts)
    made.shutdown()
    assert dead == Reject("deadly", str(path), CRASHED)
    assert np.array_equal(first.samples, read_audio(path, 8000))
    assert np.array_equal(last.samples, first.samples)
