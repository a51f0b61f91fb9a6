"""Files that hold many recordings. `SourceClip.member` says where in its file a recording lies:

    part:OFFSET:SIZE:NAME       bytes of any file, such as a tar
    parquet:GROUP:ROW:COLUMN:NAME   a row of a row group, in a column of Hugging Face's Audio type
    arrow:ROW:COLUMN:NAME       a row of an Arrow file, likewise
    channel:NUMBER              one channel of a file of audio, from 0
    refused:REASON              nowhere: a source lists it so that it is left out, with the reason

NAME, often empty, is that of the recording: its suffix tells the format.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from slm._stream import AudioStream
from slm.corpus.remote import is_remote, open_binary, open_part
from slm.errors import AudioError

_CACHE_BYTES = 256 << 20  # in each process; one row group is kept, however large


def part_member(offset: int, size: int, name: str) -> str:
    return f"part:{offset}:{size}:{name}"


def parquet_member(group: int, row: int, column: str, name: str | None) -> str:
    return f"parquet:{group}:{row}:{_quoted(column)}:{name or ''}"


def arrow_member(row: int, column: str, name: str | None) -> str:
    return f"arrow:{row}:{_quoted(column)}:{name or ''}"


def channel_member(channel: int) -> str:
    return f"channel:{channel}"


def refused_member(reason: str) -> str:
    return f"refused:{reason}"


def open_member(path: str, member: str) -> AudioStream:
    """The recording as a stream, read when it is opened. AudioError for one that was refused."""
    kind, _, rest = member.partition(":")
    if kind == "refused":
        raise AudioError(rest)
    if kind == "part":
        offset, size, name = rest.split(":", 2)
        return AudioStream(name, lambda: open_part(path, int(offset), int(size)))
    if kind == "parquet":
        group, row, column, name = rest.split(":", 3)
        return AudioStream.in_memory(name, lambda: _parquet_bytes(path, int(group), int(row), _unquoted(column)))
    if kind == "arrow":
        row, column, name = rest.split(":", 2)
        return AudioStream.in_memory(name, lambda: _arrow_bytes(path, int(row), _unquoted(column)))
    raise ValueError(f"no such kind of member: {member}")


def _quoted(column: str) -> str:
    return column.replace("%", "%25").replace(":", "%3A")


def _unquoted(column: str) -> str:
    return column.replace("%3A", ":").replace("%25", "%")


class _Recent:
    """What was loaded last, up to `max_bytes`; shared by the threads of a process, and loaded once for all of them."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, load: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            self._kept[key] = loaded = load()
            while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > self.max_bytes:
                self._kept.popitem(last=False)
            return loaded


_recent = _Recent(_CACHE_BYTES)


def _identity(path: str) -> tuple[Any, ...]:
    """A file that was written anew is another."""
    if is_remote(path):
        return (path,)
    found = os.stat(path)
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def _parquet_bytes(path: str, group: int, row: int, column: str) -> bytes:
    def load() -> Any:
        import pyarrow.parquet as pq

        with open_binary(path) as raw, pq.ParquetFile(raw) as file:
            return file.read_row_group(group, columns=[f"{column}.bytes"]).column(column)

    return _bytes_of(_recent.get((*_identity(path), group, column), load)[row])


def _arrow_bytes(path: str, row: int, column: str) -> bytes:
    def load() -> Any:
        import pyarrow as pa

        with pa.memory_map(path) as source:
            return _Mapped(pa.ipc.open_stream(source).read_all().column(column))

    return _bytes_of(_recent.get((*_identity(path), column), load)[row])


class _Mapped:
    """A column that lies on disk: many of them cost no memory."""

    nbytes = 1 << 20  # for the description of its batches

    def __init__(self, column: Any):
        self.column = column

    def __getitem__(self, row: int) -> Any:
        return self.column[row]


def _bytes_of(cell: Any) -> bytes:
    """Of a row `{"bytes": ..., "path": ...}`."""
    data = cell["bytes"] if cell.is_valid else None
    if data is None or not data.is_valid:
        raise AudioError("empty: no audio in this row")
    return data.as_buffer().to_pybytes()
