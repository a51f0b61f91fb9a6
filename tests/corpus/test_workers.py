"""Worker processes survive what decoders do: one crash or hang costs one clip."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slm.corpus import workers
from slm.corpus.plan import Reject
from slm.corpus.readers import read_all
from slm.corpus.reading import read_clip_blocks
from slm.corpus.sources import SourceClip
from slm.corpus.workers import CRASHED, Workers, sign_of_life
from slm.types import AudioClip
from tests.corpus.audio import write_clip


def work(items):
    for item in items:
        if item == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        while item == "hang":
            pass
        if item == "slow":
            for _ in range(12):
                sign_of_life()
                time.sleep(0.1)
    return [item.upper() for item in items]


def crashed(item):
    return f"no {item}"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 1)


def test_what_crashes_or_hangs_is_left_out_alone(impatient):
    made = Workers(work, crashed, num_workers=2, num_threads=1)
    parts = [made.start(items) for items in (["a", "crash"], ["b", "slow"], ["hang", "c"], ["d"])]
    assert [result() for result in parts] == [["A", "no crash"], ["B", "SLOW"], ["no hang", "C"], ["D"]]
    time.sleep(1.2)  # a process that waits for work is not ended
    assert made.start(["e"])() == ["E"]
    made.shutdown()


def read(clips):
    return read_all(clips, 8000)


def left_out(clip):
    return Reject(clip.id, clip.path, CRASHED)


def test_a_file_that_never_ends_is_left_out_alone(tmp_path, impatient):
    """A pipe to which nobody writes, taken for a part of a tar."""
    good = write_clip(tmp_path / "a.wav", 0.5)
    os.mkfifo(tmp_path / "pipe.tar")
    clips = [SourceClip("a", str(good)), SourceClip("b", str(tmp_path / "pipe.tar"), member="part:0:9:b.wav")]
    made = Workers(read, left_out, num_workers=1, num_threads=1)
    first, second = made.start(clips)()
    made.shutdown()
    assert isinstance(first, AudioClip)
    assert second == Reject("b", str(tmp_path / "pipe.tar"), CRASHED)


def test_a_script_without_a_guard_is_told_of_it_and_no_file_is_blamed(tmp_path):
    """Its processes read it anew, and die at the same call before there is work."""
    script = tmp_path / "script.py"
    script.write_text("from slm.corpus.workers import Workers\nWorkers(len, print, 2, 1).start([1, 2])()\n")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("slm.errors.UsageError: no process can be started beside this one")
    assert "below `if __name__ == '__main__':`" in last
    assert done.stdout == ""


def test_the_main_process_sets_itself_no_alarm(impatient):
    assert Workers(work, crashed, num_workers=0, num_threads=1).start(["a"])() == ["A"]
    sign_of_life()
    assert signal.alarm(0) == 0


def test_each_block_of_a_long_recording_is_a_sign_of_life(tmp_path, monkeypatch):
    from slm import _sndfile
    from slm.corpus import reading

    signs = []
    monkeypatch.setattr(reading, "sign_of_life", lambda: signs.append(1))
    monkeypatch.setattr(_sndfile, "_BLOCK_FRAMES", 1000)
    path = write_clip(tmp_path / "a.wav", 1.0)
    assert len(list(read_clip_blocks(SourceClip("a", str(path)), 8000))) == len(signs) == 8
