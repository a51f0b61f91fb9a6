"""The engine: batches, reading ahead, and what it makes of failures."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from pathlib import Path
from traceback import walk_tb

import numpy as np
import pytest

from slm.corpus import encoding, readers
from slm.corpus.encoding import encode_shards
from slm.corpus.plan import PlannedClip, PlannedShard
from slm.corpus.readers import Readers, make_batches
from slm.corpus.sources import SourceClip, list_clips
from slm.errors import StoppedError, UsageError
from slm.types import AudioClip
from tests.corpus.audio import good_folder, write_clip
from tests.fakes import ArithmeticTokenizer


def planned(durations):
    clips = [PlannedClip(SourceClip(str(i), f"{i}.wav"), duration_s) for i, duration_s in enumerate(durations)]
    return PlannedShard(0, 0, len(clips), len(clips), sum(durations)), clips


def test_batches_hold_clips_of_about_one_length_within_the_limit():
    shard, clips = planned([3.0, 1.0, 20.0, 2.0, 3.0, 1.0, 1.0])
    batches = list(make_batches(shard, clips, 6.0))
    assert [[clip.id for clip in batch.clips] for batch in batches] == [["2"], ["0", "4"], ["3", "1", "5"], ["6"]]
    assert [batch.padded_s for batch in batches] == [20.0, 6.0, 6.0, 1.0]
    assert sum(batch.duration_s for batch in batches) == 31.0


def test_reading_runs_ahead_but_not_further_than_it_may(monkeypatch):
    reading, most = set(), []
    lock = threading.Lock()

    def slow_read(clips, sample_rate_hz):
        with lock:
            reading.update(clip.id for clip in clips)
            most.append(len(reading))
        time.sleep(0.001)
        return [clip.id for clip in clips]

    monkeypatch.setattr(readers, "read_all", slow_read)
    shard, clips = planned([1.0] * 40)
    for batch, results in Readers(8000, 0).read_ahead(make_batches(shard, clips, 2.0), ahead_s=6.0):
        assert results == [clip.id for clip in batch.clips]
        with lock:
            reading.difference_update(results)
    assert 2 < max(most) <= 8  # three batches ahead and the one that is given out


def test_the_audio_of_a_batch_is_gone_when_the_next_long_one_is_read(monkeypatch):
    read, alive = [], []

    def long_read(clips, sample_rate_hz):
        alive.append(sum(samples() is not None for samples in read))
        made = [AudioClip(clip.id, np.ones(8000, np.float32), sample_rate_hz) for clip in clips]
        read.extend(weakref.ref(clip.samples) for clip in made)
        return made

    monkeypatch.setattr(readers, "read_all", long_read)
    shard, clips = planned([100.0] * 5)
    (made,) = encode_shards([(shard, clips)], ArithmeticTokenizer(), 20.0, 0)
    assert [codes.id for codes in made.codes] == list("01234")
    assert alive == [0] * 5
    read.clear(), alive.clear()
    list(encode_shards([(shard, clips)], RunsAhead(), 20.0, 0))
    assert alive == [0, 1, 1, 1, 1], "a device is at work on one batch while the next is read, not on more"


class Moody(ArithmeticTokenizer):
    """Fails on every batch that holds one of `hated`."""

    def __init__(self, hated, error=None):
        super().__init__()
        self.hated, self.error = hated, error or IndexError("no such\nentry")

    def encode(self, clips):
        if any(clip.id in self.hated for clip in clips):
            raise self.error
        return super().encode(clips)


def run(folder, tokenizer, **kwargs):
    clips = [PlannedClip(clip, 1.0) for clip in list_clips(folder)]
    shard = PlannedShard(0, 0, len(clips), len(clips), float(len(clips)))
    (made,) = encode_shards([(shard, clips)], tokenizer, 3.0, 0, **kwargs)
    return made


def test_a_clip_that_makes_the_tokenizer_fail_is_left_out_alone(tmp_path):
    good_folder(tmp_path)
    made = run(tmp_path, Moody({"clip-2", "clip-3"}))
    assert [c.id for c in made.codes] == [f"clip-{i}" for i in (0, 1, 4, 5, 6)]
    assert [(r.id, r.reason) for r in made.rejects] == [
        ("clip-2", "tokenizer failed: IndexError: no such entry"),
        ("clip-3", "tokenizer failed: IndexError: no such entry"),
    ]


def test_a_tokenizer_that_always_fails_ends_the_run(tmp_path, monkeypatch):
    good_folder(tmp_path)
    everything = {f"clip-{i}" for i in range(7)}
    with pytest.raises(RuntimeError, match="failed on every clip; the last time: IndexError: no such") as told:
        run(tmp_path, Moody(everything))
    where = list(walk_tb(told.value.__cause__.__traceback__))
    assert where[-1][0].f_code is Moody.encode.__code__  # whose line is printed
    assert not any(frame.f_locals for frame, _ in where), "they hold the clip"
    assert not run(tmp_path, Moody(everything), proven=True).codes  # earlier shards showed that it works
    monkeypatch.setattr(encoding, "_FAILURES_IN_A_ROW", 3)
    with pytest.raises(RuntimeError, match="3 clips in a row"):
        run(tmp_path, Moody(everything - {"clip-0"}), proven=True)


@pytest.mark.parametrize(
    "error", [UsageError("x"), OSError(28, "full"), RuntimeError("CUDA error: device-side assert")]
)
def test_errors_that_are_not_the_clips_fault_end_the_run(tmp_path, error):
    with pytest.raises(type(error)):
        run(good_folder(tmp_path), Moody({"clip-2"}, error), proven=True)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_tried_clip_by_clip_and_then_stops_the_run(tmp_path, error):
    """It may pass: the clip must not be left out for ever."""

    class Cramped(Moody):
        def encode(self, clips):
            return ArithmeticTokenizer.encode(self, clips) if len(clips) == 1 else super().encode(clips)

    good_folder(tmp_path)
    assert len(run(tmp_path, Cramped({"clip-2"}, error)).codes) == 7
    with pytest.raises(StoppedError, match=r"no memory to encode .*clip-2\.wav \(0\.7 s\): lower --batch_seconds"):
        run(tmp_path, Moody({"clip-2"}, error), proven=True)


class RunsAhead(Moody):
    """Codes come when they are asked for, as from a device; what is begun and asked for is noted down."""

    runs_ahead = True

    def __init__(self, hated=()):
        super().__init__(hated)
        self.events = []

    def start(self, clips):
        ids = [clip.id for clip in clips]
        self.events.append(("begun", ids))

        def finish():
            self.events.append(("asked for", ids))
            return self.encode(clips)

        return finish


def test_a_device_is_given_the_next_batch_before_it_is_asked_for_this_one(tmp_path):
    good_folder(tmp_path)
    clips = [PlannedClip(clip, 1.0) for clip in list_clips(tmp_path)]
    shards = [
        (PlannedShard(i, 0, len(part), len(part), float(len(part))), part)
        for i, part in enumerate((clips[:4], clips[4:]))
    ]
    ahead = RunsAhead()
    made = list(encode_shards(shards, ahead, 3.0, 0))
    assert [(what, ids[0]) for what, ids in ahead.events] == [
        ("begun", "clip-0"),
        ("begun", "clip-3"),
        ("asked for", "clip-0"),
        ("begun", "clip-4"),
        ("asked for", "clip-3"),
        ("asked for", "clip-4"),
    ]
    plain = list(encode_shards(shards, ArithmeticTokenizer(), 3.0, 0))
    assert [[(c.id, c.codes.tolist()) for c in each.codes] for each in made] == [
        [(c.id, c.codes.tolist()) for c in each.codes] for each in plain
    ]


def test_a_clip_that_fails_at_once_does_not_lose_what_was_begun(tmp_path):
    class Early(RunsAhead):
        def start(self, clips):
            if any(clip.id in self.hated for clip in clips):
                raise self.error
            return super().start(clips)

    good_folder(tmp_path)
    made = run(tmp_path, Early({"clip-3"}))
    assert [c.id for c in made.codes] == [f"clip-{i}" for i in (0, 1, 2, 4, 5, 6)]
    assert [r.id for r in made.rejects] == ["clip-3"]


def test_a_failure_that_shows_late_is_that_of_its_clip_alone(tmp_path):
    good_folder(tmp_path)
    made = run(tmp_path, RunsAhead({"clip-2"}))
    assert [c.id for c in made.codes] == [f"clip-{i}" for i in (0, 1, 3, 4, 5, 6)]
    assert [(r.id, r.reason) for r in made.rejects] == [("clip-2", "tokenizer failed: IndexError: no such entry")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_went_away_since_the_plan_ends_the_run(tmp_path, num_workers):
    clips = [PlannedClip(clip, 1.0) for clip in list_clips(good_folder(tmp_path))]
    Path(clips[3].clip.path).unlink()
    shard = PlannedShard(0, 0, len(clips), len(clips), float(len(clips)))
    with pytest.raises(StoppedError, match=r"clip-3\.wav could be read .* but not now \(missing file\): .* to go on"):
        list(encode_shards([(shard, clips)], ArithmeticTokenizer(), 3.0, num_workers))


def test_a_fault_of_the_disk_while_encoding_ends_the_run(tmp_path, monkeypatch):
    real = os.stat

    def failing(path, *args, **kwargs):
        if str(path).endswith("clip-2.wav"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **kwargs)

    good_folder(tmp_path)
    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(StoppedError, match=r"clip-2\.wav .* not now \(unreadable: Input/output error\)"):
        run(tmp_path, ArithmeticTokenizer())


def test_a_clip_that_resampling_makes_too_short_is_left_out_when_read(tmp_path):
    write_clip(tmp_path / "a.wav", 0.5)
    write_clip(tmp_path / "b.wav", 0.0199)
    made = run(tmp_path, ArithmeticTokenizer())
    assert [r.reason for r in made.rejects] == ["too short: 159 samples at 8000 Hz are less than one frame"]
