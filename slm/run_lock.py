"""Alone in a folder: of two commands that would write to one --out, the second is refused.

The lock is one of the system, held by the main process for its life. It is a record lock (POSIX), which ends with its
process however that ends, and which processes that it starts do not hold on for it. Network disks pass it on where they
know locks at all.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from slm.errors import UsageError, disk_is_full
from slm.files import check_local, clear_half_written

NAME = ".run.lock"
HERE_S = 5.0
"""How long a lock that is held on this machine is waited for: a process that was killed takes a while to end."""
ELSEWHERE_S = 120.0
"""And on another: that a machine has died, the server of a network disk finds out after 90 s (the lease of NFS 4)."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the folder, made if need be (and removed again if it stays empty), against every other process.

    UsageError names the process that has it, or says why the folder cannot be made.
    """
    check_local(out, f"--out {out}")
    if out.is_file():
        raise UsageError(f"--out {out} is a file; give a folder")
    new, path, handle = [folder for folder in (out, *out.parents) if not folder.exists()], out / NAME, None
    try:
        try:
            handle = _hold(path)
        except OSError as error:
            if disk_is_full(error):
                raise
            raise UsageError(f"--out {out} cannot be written to: {error.strerror}") from error
        clear_half_written(out, below=True)
        yield
    finally:
        if handle is not None:
            with suppress(OSError):  # of a disk that has become read-only: it may tell of what ended the run
                if _is_at(path, handle):
                    path.unlink()
            os.close(handle)
        for folder in new:
            with suppress(OSError):  # not empty: the usual case
                folder.rmdir()


def _hold(path: Path) -> int:
    """An open file that holds the lock, and says whose it is; UsageError where another keeps it."""
    begun, told = time.monotonic(), False
    while (handle := _locked(path)) is None:
        owner = _owner(path)
        if _is_of_this_job_before(owner):
            # Slurm queues a job again once its processes are gone: a server that has their lock still is mistaken.
            path.unlink(missing_ok=True)
            continue
        waits_s = HERE_S if owner.get("host") == platform.node() else ELSEWHERE_S
        if time.monotonic() - begun >= waits_s:
            raise UsageError(
                f"{path.parent} is being written to by {_named(owner)}: wait until it has ended, end it, or give "
                f"another --out; if its machine is gone, delete {path}"
            )
        if not told:
            print(f"waiting {waits_s:g} s for {_named(owner)} to leave {path.parent}", file=sys.stderr, flush=True)
        told = True
        time.sleep(min(0.5, waits_s))
    me = {"host": platform.node(), "pid": os.getpid(), "job": _job()}
    with suppress(OSError):  # a full disk: it only tells less
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me).encode(), 0)
    return handle


def _locked(path: Path) -> int | None:
    """An open file that holds the lock; None where another has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # also of who has left it, and removed it since it stayed empty
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(handle)
                return None
            told = f"the disk of {path.parent} has no locks ({error.strerror}): start no second command on this folder"
            print(f"warning: {told}", file=sys.stderr, flush=True)
            return handle
        if _is_at(path, handle):
            return handle
        os.close(handle)  # the process that held it has removed it: another file has its name by now


def _is_at(path: Path, handle: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _owner(path: Path) -> dict[str, Any]:
    """What the process that holds the lock says of itself; nothing in the moment before it has."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _named(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}" if {"pid", "host"} <= owner.keys() else "another process"


def _job() -> list[str] | None:
    """Slurm's job, and how often it was queued again."""
    job = os.environ.get("SLURM_JOB_ID")
    return [job, os.environ.get("SLURM_RESTART_COUNT", "0")] if job else None


def _is_of_this_job_before(owner: dict[str, Any]) -> bool:
    now, then = _job() or [], owner.get("job") or []
    return len(now) == len(then) == 2 and then[0] == now[0] and then[1] != now[1]
