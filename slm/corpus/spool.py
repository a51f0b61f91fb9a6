"""Tables that are costly to make or fetch, kept on disk for a while, for all processes of this machine.

Clips of a batch have about one length, so they lie all over a shard: of Parquet files, whose row groups are read as a
whole (100 MB, often), each would be read for every clip, and a recording that is decoded from its start on (M4A, WebM)
would be so for every segment.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from slm.corpus.workers import sign_of_life
from slm.errors import UsageError, disk_is_full
from slm.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_BYTES = 8 << 30  # in use are the row groups, or the decoded hours, of a shard or two
_KEPT_S = 24 * 3600


def spooled(key: str, batches: Callable[[], Iterator[pa.RecordBatch]]) -> pa.Table:
    """The table of `batches` (one or more), mapped from disk: made by the first process that asks for `key`, while
    others wait.

    It lies in `slm-USERID` in the folder for temporary files (`TMPDIR`), where at most 8 GB are kept, those that were
    used last, and none that was not used for a day. UsageError where that folder is full or cannot be written to.
    To make a table others may be asked for, as long as none of them asks for this one.
    """
    path, lock = _files(key)
    with lock:
        _wait_for(lock)
        while True:
            with suppress(FileNotFoundError):  # not made yet, or others made room
                return _mapped(path)
            _write(path, batches())
            _make_room(path)


def _files(key: str) -> tuple[Path, TextIO]:
    """Where the table lies, and what is to be locked: one file for each, so that whoever makes a table waits for none
    but those that it is made of."""
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        folder = _folder()
        return folder / f"{name}.arrow", open(folder / f"{name}.lock", "w")
    except OSError as error:
        raise UsageError(f"no folder for temporary files: {error}: set TMPDIR to one that can be written to") from None


def _folder() -> Path:
    """Ours, and closed to others: they could put in audio."""
    folder = Path(tempfile.gettempdir(), f"slm-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise UsageError(f"{folder} is not a folder of yours alone: remove it, or set TMPDIR to another folder")
    return folder


def _wait_for(lock: TextIO) -> None:
    """Who waits for another to be done is alive."""
    while True:
        sign_of_life()
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)


def _write(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    import pyarrow as pa

    try:
        first = next(batches)
        # Arrow itself opens no file whose name is not UTF-8.
        with (
            atomic_file(path) as temporary,
            open(temporary, "wb") as sink,
            pa.ipc.new_file(sink, first.schema) as writer,
        ):
            for batch in chain([first], batches):
                sign_of_life()
                writer.write_batch(batch)
    except OSError as error:
        if disk_is_full(error):
            raise UsageError(
                f"{path.parent}, where what is read more than once is kept for a while, is full: set TMPDIR to a "
                f"folder with {_MOST_BYTES >> 30} GB"
            ) from None
        raise


def _make_room(new: Path) -> None:
    """Remove what was not used for long, also what killed processes left, and for the rest to be little enough the
    tables that were not used for longest. A file that others have mapped lives on for them."""
    found = []
    for path in new.parent.iterdir():
        with suppress(FileNotFoundError):  # others make room, too
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    left = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        too_much = left > _MOST_BYTES and path.suffix == ".arrow"
        if path != new and (too_much or used < time.time() - _KEPT_S):
            path.unlink(missing_ok=True)
            left -= size


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    with open(path, "rb") as file:
        os.utime(path)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
