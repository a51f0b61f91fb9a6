"""Tables that are costly to make or fetch, kept on disk for a while, for all processes of this machine.

Clips of a batch have about one length, so they lie all over a shard: of Parquet files, whose row groups are read as a
whole (100 MB, often), each would be read for every clip, and a recording that is decoded from its start on (M4A, WebM)
would be so for every segment.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from slm.corpus.workers import sign_of_life
from slm.errors import UsageError
from slm.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_BYTES = 8 << 30  # in use are the row groups, or the decoded hours, of a shard or two


def spooled(key: str, schema: pa.Schema, batches: Callable[[], Iterable[pa.RecordBatch]]) -> pa.Table:
    """The table of `batches`, mapped from disk: made by the first process that asks for `key`, while others wait.

    It lies in the folder for temporary files (`TMPDIR`), where at most 8 GB are kept, those that were used last.
    UsageError where that is full.
    """
    folder = _folder()
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    with open(folder / f"lock-{path.name[:2]}", "w") as lock:
        _wait_for(lock)
        if not path.is_file():
            _write(path, schema, batches)
            _make_room(folder, path)
        os.utime(path)
        return _mapped(path)


def _wait_for(lock: TextIO) -> None:
    """Who waits for another to be done is alive."""
    while True:
        sign_of_life()
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)


def _folder() -> Path:
    """Ours, and closed to others: they could put in audio."""
    folder = Path(tempfile.gettempdir(), f"slm-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise UsageError(f"{folder} is not a folder of yours alone: remove it, or set TMPDIR to another folder")
    return folder


def _write(path: Path, schema: pa.Schema, batches: Callable[[], Iterable[pa.RecordBatch]]) -> None:
    import pyarrow as pa

    try:
        with atomic_file(path) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
            for batch in batches():
                sign_of_life()
                writer.write_batch(batch)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(
                f"{path.parent}, where what is read more than once is kept for a while, is full: set TMPDIR to a "
                f"folder with {_MOST_BYTES >> 30} GB"
            ) from None
        raise


def _make_room(folder: Path, new: Path) -> None:
    """Remove what was not used for longest. A file that others have mapped lives on for them."""
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.arrow")]
    left = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if left > _MOST_BYTES and path != new:
            path.unlink(missing_ok=True)
            left -= size


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
