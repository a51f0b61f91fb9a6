"""No process outlives whoever began it, nor keeps it from ending."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from slm.process_pool import ProcessPool

SCRIPT = """
import multiprocessing, os, signal, time
from slm.process_pool import ProcessPool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background of a shell
    with ProcessPool(2, multiprocessing.get_context("spawn")) as pool:
        pool.submit(time.sleep, 60)
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def _begin(*words):
    os.environ["BEGUN_WITH"] = " ".join(words)


def _pid(_):
    assert os.environ["BEGUN_WITH"] == "two words"
    time.sleep(0.02)
    return os.getpid()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_at_the_end_no_process_is_waited_for(method):
    """One that is held up (here: stopped; or killed with the lock that others wait for) would keep a run for ever."""
    pool = ProcessPool(2, multiprocessing.get_context(method), _begin, ("two", "words"))
    processes = [psutil.Process(pid) for pid in set(pool.map(_pid, range(40)))]
    blocked = [pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result() for _ in processes]
    assert all(signal.SIGINT in signals for signals in blocked), (
        "inherited: they do not yet ignore it while they import"
    )
    assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN, "of a fork server that ran before"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for process in processes:
        process.suspend()
    manager = pool._executor_manager_thread
    pool.shutdown(wait=False)
    assert manager is not None
    assert not manager.is_alive(), "or the interpreter, if it ends now, may write to the pipe that this closes"
    pool.shutdown()  # again: nothing is left to do
    _, left = psutil.wait_procs(processes, timeout=20)
    for process in left:
        process.kill()
    assert not left


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_none_outlives_the_one_that_began_it(tmp_path, signal_name):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.readline()
        children = psutil.Process(run.pid).children()
        assert len(children) >= 2
        for process in [*children, psutil.Process(run.pid)] if signal_name == "SIGINT" else [psutil.Process(run.pid)]:
            process.send_signal(getattr(signal, signal_name))
        _, left = psutil.wait_procs(children, timeout=20)
        for process in left:
            process.kill()
        assert not left
        assert run.stderr.read().count(b"Traceback") == (signal_name == "SIGINT")  # its own, not the processes'
