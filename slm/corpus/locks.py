"""Runs on one folder: one alone, or several that each make a part of the shards.

The locks are those of the system (flock), which end with their process however that ends. They hold on one machine, and
on network disks that pass them on; for a URL, on one machine. Elsewhere two runs do the same work twice: what they
write is the same, and whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from slm.corpus.output import Output
from slm.corpus.part import Part
from slm.errors import UsageError

_LEAVING_S = 1.0
"""So long a part waits for a run that removes the folder where files for a URL were made."""


@contextmanager
def held(output: Output, part: Part | None) -> Iterator[Callable[[], bool]]:
    """Hold the folder of `output` (made if need be, and removed again if it stays empty) against other runs, or only
    against others of this part. A run alone clears what a killed one left half-written.

    Yields what tells whether no other run of this machine is at work there, and keeps others away from then on.
    UsageError where another run holds it.
    """
    out = output.folder
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            run = out / ".run.lock"
            handle = stack.enter_context(_patiently(run, output) if part else _lock(run, fcntl.LOCK_EX, output))
            if part:
                stack.enter_context(_lock(out / f".part-{part.file_name}.lock", fcntl.LOCK_EX, output))
            else:
                stack.callback(_remove, run)
                _clear(out)
            yield partial(_is_alone, run, handle)
    finally:
        if is_new:
            with suppress(OSError):  # not empty: the usual case
                out.rmdir()


def _remove(lock: Path) -> None:
    with suppress(OSError):  # of a disk that has become read-only: what ended the run is told
        lock.unlink()


@contextmanager
def planning(output: Output, part: Part | None) -> Iterator[None]:
    """One part makes the plan, while the others wait for it."""
    if part is None:
        yield
        return
    path = output.folder / ".plan.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(path, fcntl.LOCK_EX, output))
        except _HeldError:
            print("waiting for the run that makes the plan", file=sys.stderr, flush=True)
            stack.enter_context(_lock(path, fcntl.LOCK_EX, output, wait=True))
        yield


class _HeldError(UsageError):
    pass


@contextmanager
def _patiently(run: Path, output: Output) -> Iterator[int]:
    """The lock of a part, which shares it with others."""
    until = time.monotonic() + (_LEAVING_S if output.is_remote else 0)
    with ExitStack() as stack:
        while True:
            try:
                handle = stack.enter_context(_lock(run, fcntl.LOCK_SH, output))
                break
            except _HeldError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.05)
        yield handle


def _is_alone(run: Path, handle: int) -> bool:
    """Whether the lock that `handle` may share is its own from now on. Of several that end at once, one has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(run))
    except OSError:
        return False


@contextmanager
def _lock(path: Path, kind: int, output: Output, wait: bool = False) -> Iterator[int]:
    handle = _locked(path, kind if wait else kind | fcntl.LOCK_NB)
    if handle is None:
        raise _HeldError(f"another run is writing to {output.location}: wait for it, or give another --out")
    try:
        yield handle
    finally:
        os.close(handle)


def _locked(path: Path, kind: int) -> int | None:
    """An open file that holds the lock; None where another has it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileExistsError, FileNotFoundError):
            if not path.parent.is_dir() and os.path.lexists(path.parent):
                raise
            continue  # it is removed just now, by a run that leaves
        try:
            fcntl.flock(handle, kind)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                return None
            return handle  # some network file systems have no locks: go on without
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        os.close(handle)  # the run that held it has removed it: another file has its name by now


def _clear(out: Path) -> None:
    for stale in out.glob(f".*.tmp-{platform.node()}-*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
