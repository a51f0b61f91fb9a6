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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from slm.corpus.output import Output
from slm.corpus.part import Part
from slm.errors import UsageError


@contextmanager
def held(output: Output, part: Part | None) -> Iterator[None]:
    """Hold the folder of `output` (made if need be, and removed again if it stays empty) against other runs, or only
    against others of this part. A run alone clears what a killed one left half-written.

    UsageError where another run holds it.
    """
    out = output.folder
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            run = out / ".run.lock"
            stack.enter_context(_lock(run, fcntl.LOCK_SH if part else fcntl.LOCK_EX, output))
            if part:
                stack.enter_context(_lock(out / f".part-{part.file_name}.lock", fcntl.LOCK_EX, output))
            else:
                stack.callback(run.unlink, missing_ok=True)
                _clear(out)
            yield
    finally:
        if is_new:
            with suppress(OSError):  # not empty: the usual case
                out.rmdir()


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
def _lock(path: Path, kind: int, output: Output, wait: bool = False) -> Iterator[None]:
    handle = _locked(path, kind if wait else kind | fcntl.LOCK_NB)
    if handle is None:
        raise _HeldError(f"another run is writing to {output.location}: wait for it, or give another --out")
    try:
        yield
    finally:
        os.close(handle)


def _locked(path: Path, kind: int) -> int | None:
    """An open file that holds the lock; None where another has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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
