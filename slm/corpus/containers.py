"""Files that hold many recordings. `SourceClip.member` says where in its file a recording lies:

    part:OFFSET:SIZE:NAME       bytes of any file, such as a tar
    parquet:GROUP:ROW:COLUMN:NAME   a row of a row group, in a column of Hugging Face's Audio type
    arrow:ROW:COLUMN:NAME       a row of an Arrow file, likewise
    channel:NUMBER              one channel of a file of audio, from 0
    refused:REASON              nowhere: a source lists it so that it is left out, with the reason

NAME, often empty, is that of the recording: its suffix tells the format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from slm._stream import AudioStream
from slm.corpus.remote import file_info, is_remote, open_binary, open_part
from slm.corpus.spool import spooled
from slm.errors import AudioError

_OPEN = 4  # columns, mapped, in each process: their disk is not free before
_ROWS = 16  # held while a row group is fetched
_FETCHED_BYTES = 8 << 20  # at once


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


Identity = tuple[str, ...]
"""A path, and what changes when the file is written anew."""


def identity(path: str) -> Identity:
    if is_remote(path):
        return _remote_identity(path)
    found = os.stat(path)
    return path, str(found.st_ino), str(found.st_size), str(found.st_mtime_ns)


@lru_cache(1024)
def _remote_identity(path: str) -> Identity:
    about = file_info(path)
    return path, *(str(about.get(name)) for name in ("size", "ETag", "mtime", "LastModified"))


def _parquet_bytes(path: str, group: int, row: int, column: str) -> bytes:
    return _bytes_of(_parquet_column(identity(path), group, column)[row])


@lru_cache(_OPEN)
def _parquet_column(identity: Identity, group: int, column: str) -> Any:
    def batches() -> Iterator[Any]:
        import pyarrow.parquet as pq

        with open_binary(identity[0]) as raw, pq.ParquetFile(raw, buffer_size=_FETCHED_BYTES) as file:
            yield from file.iter_batches(_ROWS, [group], [f"{column}.bytes"])

    return spooled(json.dumps([*identity, group, column]), batches).column(column)


def _arrow_bytes(path: str, row: int, column: str) -> bytes:
    return _bytes_of(_arrow_column(identity(path), column)[row])


@lru_cache(_OPEN)
def _arrow_column(identity: Identity, column: str) -> Any:
    import pyarrow as pa

    with pa.memory_map(identity[0]) as source:
        return pa.ipc.open_stream(source).read_all().column(column)


def _bytes_of(cell: Any) -> bytes:
    """Of a row `{"bytes": ..., "path": ...}`."""
    data = cell["bytes"] if cell.is_valid else None
    if data is None or not data.is_valid:
        raise AudioError("empty: no audio in this row")
    return data.as_buffer().to_pybytes()
