"""Whether the source of a corpus is still what it was when the corpus was begun."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from slm.corpus.plan import Plan, located, stored_path
from slm.corpus.sources.base import Source, SourceClip, readable

_END_BYTES = 1 << 12
_SMALL_BYTES = 1 << 20  # half a minute of plain speech; there may be a million such files, and reading is what costs
_ROWS = 10_000


class SourceHash:
    """A digest of all that a source lists, and in which order; not of where it lies, so that it may move."""

    def __init__(self, base: str):
        self.base, self._digest = base, hashlib.sha256()

    def add(self, clips: Iterable[SourceClip]) -> str:
        """Take in the next clips; a digest of these alone."""
        rows = b"".join(map(self._row, clips))
        self._digest.update(rows)
        return hashlib.sha256(rows).hexdigest()

    def _row(self, clip: SourceClip) -> bytes:
        metadata = json.dumps(dict(clip.metadata), sort_keys=True, default=str) if clip.metadata else ""
        row = f"{clip.id}\0{clip.member}\0{clip.start_s!r}\0{clip.end_s!r}\0{metadata}\0"
        return row.encode("utf-8", "surrogatepass") + stored_path(clip.path, self.base) + b"\n"

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def hash_source(source: Source) -> str:
    listed = SourceHash(source.base)
    for part in chunks(source.clips()):
        listed.add(part)
    return listed.hexdigest()


@dataclass(frozen=True)
class FileState:
    """What tells a local file from another: `digest` is of its size, its first 4 KiB and, above 1 MiB, its last, and no
    times are part of it, which copying changes. `head` is the first 4 KiB. Of a remote file, and one that cannot be
    read, nothing is known."""

    num_bytes: int = -1
    mtime_ns: int = -1
    digest: str = ""
    head: bytes = b""


def file_state(path: str) -> FileState:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe, which must not be waited for
    except (OSError, ValueError):
        return FileState()
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return FileState(found.st_size, found.st_mtime_ns)
        head = os.pread(handle, _END_BYTES, 0)
        tail = os.pread(handle, _END_BYTES, found.st_size - _END_BYTES) if found.st_size > _SMALL_BYTES else b""
    except OSError:
        return FileState()
    finally:
        os.close(handle)
    digest = f"{found.st_size}-{hashlib.blake2b(head + tail, digest_size=8).hexdigest()}"
    return FileState(found.st_size, found.st_mtime_ns, digest, head)


def describe_changed_list(plan: Plan, source: Source) -> str:
    """`""` where the source lists what it did, else how it differs."""
    if hash_source(source) == plan.head.source_hash:
        return ""
    then, now = set(plan.source_ids()), {clip.id for clip in source.clips()}
    if then == now:
        return "the same ids, but another order, or other paths, segments or metadata"
    examples = ", ".join(repr(id) for id in sorted(then ^ now)[:3])
    return f"{len(now - then)} new and {len(then - now)} gone, such as {examples}"


def describe_changed_files(plan: Plan) -> str:
    """`""` where the files hold what they did, else how many do not, and an example.

    A file of the same size and time is taken for the same; another time alone is looked into.
    """
    files = changed = gone = 0
    example = ""
    for stored, num_bytes, mtime_ns, digest in _files(plan.table):
        files += 1
        path = plan.path(stored)
        try:
            found = os.stat(path)
            same = (found.st_size, found.st_mtime_ns) == (num_bytes, mtime_ns)
        except (OSError, ValueError):
            same = False
        if same or (now := file_state(path).digest) == digest:
            continue
        changed, gone = changed + 1, gone + (not now)
        example = example or readable(os.fsdecode(stored))
    return f"{changed} of {files} files, {gone} of them gone or unreadable, such as {example!r}" if changed else ""


def are_as_found(rows: pa.Table, base: str) -> bool:
    """Whether the local files of these rows of a plan have the size and time that they had, or are missing still."""
    for stored, num_bytes, mtime_ns, _ in _files(rows):
        try:
            found = os.stat(located(stored, base))
            now = found.st_size, found.st_mtime_ns
        except (OSError, ValueError):
            now = -1, -1
        if now != (num_bytes, mtime_ns):
            return False
    return True


def _files(rows: pa.Table) -> Iterator[tuple[bytes, int, int, str]]:
    """Each local file of a plan once, where its rows follow each other."""
    columns = rows.select(["path", "num_bytes", "mtime_ns", "digest"])
    last = None
    for batch in columns.to_batches(_ROWS):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if row[0] != last and b"://" not in row[0]:
                last = row[0]
                yield row


def chunks(clips: Iterator[SourceClip], size: int = _ROWS) -> Iterator[list[SourceClip]]:
    while part := list(islice(clips, size)):
        yield part
