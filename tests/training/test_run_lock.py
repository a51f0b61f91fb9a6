"""Two commands on one folder: the second is refused, a killed one leaves nothing that refuses, signals at the start."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import train_lm
from slm import run_lock
from slm.errors import UsageError
from slm.files import temporary_name
from slm.training import setup
from slm.training.checkpoint import list_checkpoints
from tests.training.runs import ENV, ROOT, as_arguments, config

HOLD = """
import sys, time
from pathlib import Path
from slm.run_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@contextmanager
def another_process(out: Path, **environment: str):
    """One that holds the folder until it is killed."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], cwd=ROOT, env={**ENV, **environment},
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
    finally:
        other.kill()
        other.communicate()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(run_lock, "HERE_S", 0.0)


def test_a_folder_that_who_held_it_has_removed_is_made_again(tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(run_lock, "HERE_S", 5.0)
    with another_process(out) as other:

        def leave(_seconds: float) -> None:
            other.kill()
            other.wait()
            shutil.rmtree(out)

        monkeypatch.setattr("time.sleep", leave)
        with run_lock.held(out):
            assert (out / run_lock.NAME).exists()


def test_a_second_command_is_refused_until_the_first_is_killed(corpora, tmp_path):
    out = tmp_path / "new" / "run"
    with another_process(out) as other:
        refusal = rf"new/run is being written to by process {other.pid} on .*give another --out"
        with pytest.raises(UsageError, match=refusal):
            train_lm.main(config(corpora["two"], out, steps=2))
        assert [path.name for path in out.iterdir()] == [run_lock.NAME]  # nothing was written
    assert (out / run_lock.NAME).exists()  # as kill -9 leaves it
    (out / temporary_name("results.md").replace(f"-{os.getpid()}", f"-{other.pid}")).touch()
    train_lm.main(config(corpora["two"], out, steps=2))
    assert [step for step, _ in list_checkpoints(out)] == [2]
    assert not list(out.glob(".*"))


def test_a_process_that_is_ending_is_waited_for(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(run_lock, "HERE_S", 60.0)
    with another_process(tmp_path) as other:
        original = time.sleep

        def sleep(seconds: float) -> None:
            other.kill()
            original(0.05)

        monkeypatch.setattr(run_lock.time, "sleep", sleep)
        with run_lock.held(tmp_path):
            assert f"process {os.getpid()} " in run_lock._named(run_lock._owner(tmp_path / run_lock.NAME))
        monkeypatch.undo()
    assert f"waiting 60 s for process {other.pid}" in capfd.readouterr().err


def test_a_job_that_slurm_has_queued_again_is_not_refused_by_what_it_was(tmp_path, monkeypatch):
    """A server of a network disk may hold the lock of a machine that has died: played by a process that lives."""
    with another_process(tmp_path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="0"):
        for job, count, refused in [("8", "1", True), ("7", "0", True), ("7", "1", False)]:
            monkeypatch.setenv("SLURM_JOB_ID", job)
            monkeypatch.setenv("SLURM_RESTART_COUNT", count)
            if refused:
                with pytest.raises(UsageError, match="is being written to"), run_lock.held(tmp_path):
                    pass
            else:
                with run_lock.held(tmp_path), another_is_refused(tmp_path):
                    pass


@contextmanager
def another_is_refused(out: Path):
    code = HOLD.replace("with held", "import slm.run_lock as a; a.HERE_S = 0.0\nwith held")
    made = subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert f"process {os.getpid()} on" in made.stderr
    yield


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch, capfd):
    def no_locks(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with run_lock.held(tmp_path / "run"):
        pass
    assert "has no locks (No locks available): start no second command" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []  # what was made and stayed empty is gone again


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out, message in [("file", "is a file; give a folder"), ("file/run", "cannot be written to: Not a directory")]:
        with pytest.raises(UsageError, match=message), run_lock.held(tmp_path / out):
            pass
    with pytest.raises(UsageError, match="--out s3:/bucket/run is a URL"), run_lock.held(Path("s3://bucket/run")):
        pass
    with pytest.raises(UsageError, match="a name that is not UTF-8"), run_lock.held(tmp_path / os.fsdecode(b"\xe9")):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_it_starts_ends_it_with_143(corpora, tmp_path, monkeypatch, capfd, number):
    before = signal.getsignal(number)

    def load_data(c):
        os.kill(os.getpid(), number)
        raise AssertionError("goes on")

    monkeypatch.setattr(setup, "load_data", load_data)
    with pytest.raises(SystemExit) as left:
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=2))
    assert left.value.code == 143
    assert "asked to leave before the first step" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(number) is before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_signal_is_heard_before_anything_heavy_is_imported(corpora, tmp_path):
    arguments = as_arguments(config(corpora["two"], tmp_path / "run"), tmp_path / "c.yaml")
    process = subprocess.Popen([sys.executable, "train_lm.py", *arguments], cwd=ROOT, env=ENV, stderr=subprocess.PIPE)
    status, deadline = Path(f"/proc/{process.pid}/status"), time.monotonic() + 60
    while not caught(status.read_text()) and time.monotonic() < deadline:
        time.sleep(0.001)
    with open(f"/proc/{process.pid}/maps") as maps:
        assert "libtorch" not in maps.read()
    process.send_signal(signal.SIGUSR1)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.decode().count("\n")) == (143, 1)


def caught(status: str) -> bool:
    """Whether a process has a handler for SIGUSR1, from its /proc/PID/status."""
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(mask, 16) >> (signal.SIGUSR1 - 1) & 1)
