"""Arrow streams, as `datasets` saves tables in: batch by batch, and where in the file the audio of each row lies.

Format: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from slm.corpus.containers import arrow_member, part_member
from slm.corpus.remote import is_remote, open_binary

if TYPE_CHECKING:
    import pyarrow as pa

_MARKER = 0xFFFFFFFF  # before the length of each message's metadata
_HEAD = struct.Struct("<Ii")
_HEADER, _BODY_LENGTH, _COMPRESSION = 2, 3, 3  # fields of a Message, and of a RecordBatch

MemberOf = Callable[[int, str | None], str]
"""Row of a batch, name of its audio -> member (see `slm.corpus.containers`)."""


class ArrowStream(Protocol):
    @property
    def schema(self) -> pa.Schema: ...

    def batches(self, audio: str, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, MemberOf]]:
        """Each batch, of which only `columns` and what is not bytes in the column `audio` may be looked at. It holds
        no longer than until the next is asked for."""


@contextmanager
def open_arrow(path: str) -> Iterator[ArrowStream]:
    """OSError or ArrowInvalid, also by `batches`, for what cannot be read."""
    import pyarrow as pa

    if is_remote(path):
        with open_binary(path) as raw:
            yield _Remote(raw)
    else:
        with pa.memory_map(path) as source, pa.ipc.open_stream(source) as reader:
            yield _Mapped(reader)


class _Mapped:
    def __init__(self, reader: pa.RecordBatchStreamReader):
        self._reader, self.schema = reader, reader.schema

    def batches(self, audio: str, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, MemberOf]]:
        first = 0
        for batch in self._reader:
            batch.validate()  # lengths that make no sense end the process
            yield batch, _rows(first, audio)
            first += batch.num_rows


def _rows(first: int, audio: str) -> MemberOf:
    return lambda row, name: arrow_member(first + row, audio, name)


class _Remote:
    """Fetches all of a stream but the bytes of audio, and columns that nobody asked for: these stay zeros, in memory
    that is never touched and so takes none. The bytes of a row are a part of the file."""

    def __init__(self, raw: BinaryIO):
        import pyarrow as pa

        self._raw, self._size = raw, raw.seek(0, io.SEEK_END)
        self._start = 0
        if (found := self._message()) is None:
            raise pa.ArrowInvalid("it is empty")
        self.schema = pa.ipc.read_schema(pa.py_buffer(found[0]))
        self._start += len(found[0])

    def batches(self, audio: str, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, MemberOf]]:
        import pyarrow as pa

        while (found := self._message()) is not None:
            memory, body = found
            message = pa.ipc.read_message(pa.py_buffer(memory))
            if message.type != "record batch":
                raise pa.ArrowInvalid(f"a {message.type} in it is not read from afar")
            batch = pa.ipc.read_record_batch(message, self.schema)  # its buffers have their places, but are empty
            batch.validate()
            self._fetch(memory, body, [_place(buffer, memory) for buffer in _unwanted(batch, audio, columns)])
            batch.select([audio, *columns]).validate(full=True)  # offsets that were damaged lead anywhere
            yield batch, _parts(batch.column(audio).field("bytes"), self._start - memory.ctypes.data)
            self._start += len(memory)

    def _message(self) -> tuple[np.ndarray, int] | None:
        """The next message (uint8), whose body is zeros as yet, and where in it that begins; None at the end."""
        import pyarrow as pa

        self._raw.seek(self._start)
        head = self._raw.read(_HEAD.size)
        if not head or head == _HEAD.pack(_MARKER, 0):
            return None
        try:
            marker, length = _HEAD.unpack(head)
            is_head = marker == _MARKER and 0 < length <= self._size - self._start
            metadata = self._raw.read(length) if is_head else b""
            body = len(head) + len(metadata)
            size = body + _body_length(metadata)
        except struct.error:
            raise pa.ArrowInvalid("it is no Arrow stream, or it was cut") from None
        if not body <= size <= self._size - self._start:
            raise pa.ArrowInvalid("it was cut")
        memory = np.zeros(size, np.uint8)
        memory[:body] = np.frombuffer(head + metadata, np.uint8)
        return memory, body

    def _fetch(self, memory: np.ndarray, position: int, unwanted: Sequence[tuple[int, int]]) -> None:
        """The body of a message, from `position` on, but for those parts."""
        for begin, end in [*sorted(unwanted), (len(memory), len(memory))]:
            if begin > position:
                self._raw.seek(self._start + position)
                memory[position:begin] = np.frombuffer(self._raw.read(begin - position), np.uint8)
            position = max(position, end)


def _unwanted(batch: pa.RecordBatch, audio: str, columns: Sequence[str]) -> list[pa.Buffer]:
    others = [name for name in batch.schema.names if name not in (audio, *columns)]
    buffers = [buffer for name in others for buffer in batch.column(name).buffers()]
    return [buffer for buffer in (*buffers, batch.column(audio).field("bytes").buffers()[2]) if buffer and buffer.size]


def _place(buffer: pa.Buffer, memory: np.ndarray) -> tuple[int, int]:
    import pyarrow as pa

    begin = buffer.address - memory.ctypes.data
    if not 0 <= begin <= begin + buffer.size <= len(memory):
        raise pa.ArrowInvalid("it is laid out in a way that is not read from afar")
    return begin, begin + buffer.size


def _parts(cells: pa.Array, shift: int) -> MemberOf:
    """Where the bytes of each cell lie, whose address in memory is `shift` before their place in the file."""
    import pyarrow.types as types

    _, offsets, data = cells.buffers()
    width = np.int64 if types.is_large_binary(cells.type) else np.int32
    bounds = np.frombuffer(offsets, width)[cells.offset :] if offsets is not None and offsets.size else np.zeros(0)
    first = shift + (0 if data is None else data.address)
    return lambda row, name: part_member(first + int(bounds[row]), int(bounds[row + 1] - bounds[row]), name or "")


def _body_length(metadata: bytes) -> int:
    """Bytes behind the metadata of a message; ArrowInvalid where they are compressed. Of flatbuffers, see
    https://flatbuffers.dev/internals; struct.error where the metadata is none."""
    import pyarrow as pa

    (message,) = struct.unpack_from("<I", metadata)
    if header := _field(metadata, message, _HEADER):
        is_batch = _at(metadata, "<B", _field(metadata, message, _HEADER - 1)) == 3
        table = header + struct.unpack_from("<I", metadata, header)[0]
        if is_batch and _field(metadata, table, _COMPRESSION):
            raise pa.ArrowInvalid("it is compressed, so that no audio in it can be read alone")
    return int(_at(metadata, "<q", _field(metadata, message, _BODY_LENGTH)))


def _at(data: bytes, kind: str, position: int) -> Any:
    """A number, or where there is none its default."""
    return struct.unpack_from(kind, data, position)[0] if position else 0


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 where it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0
