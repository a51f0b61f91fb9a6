"""Audio that is no file on a local disk: in memory, a part of a larger file, on a server."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from slm._segment import Blocks
from slm.errors import AudioError, UnreadableError, UsageError


@dataclass(frozen=True)
class AudioStream:
    """An encoded audio file that `open` gives as a stream that can seek, anew each time. `name` tells the format by its
    suffix; without one the content does."""

    name: str
    open: Callable[[], BinaryIO]

    @classmethod
    def in_memory(cls, name: str, load: Callable[[], bytes]) -> AudioStream:
        """Of bytes that are loaded once, when they are first needed."""
        data = cache(load)
        return cls(name, lambda: io.BytesIO(data()))


@dataclass(frozen=True)
class DecodedAudio:
    """A recording that was decoded before: `blocks` gives (rate, mono float32 samples) block by block, each time."""

    blocks: Callable[[], Blocks]


AudioInput = Path | str | AudioStream
"""A path or a stream: whatever can be decoded."""


def open_input(source: AudioInput) -> BinaryIO:
    return source.open() if isinstance(source, AudioStream) else open(source, "rb")


def suffix_of(source: AudioInput) -> str:
    name = source.name if isinstance(source, AudioStream) else source
    return os.path.splitext(name)[1].lower()


@contextmanager
def watched(stream: AudioStream) -> Iterator[AudioStream]:
    """The same stream, whose faults do not get lost in a decoder, which takes them for the end of the file: they are
    raised as UnreadableError in place of what the decoder says."""
    faults: list[Exception] = []

    def open_watched() -> BinaryIO:
        try:
            return io.BufferedReader(_Watched(stream.open(), stream.name, faults), 1 << 16)
        except Exception as fault:
            raise _as_audio_error(fault) from None

    try:
        yield replace(stream, open=open_watched)
    except AudioError:
        if not faults:
            raise
    if faults:
        raise _as_audio_error(faults[0])


def _as_audio_error(fault: Exception) -> Exception:
    if isinstance(fault, (AudioError, UsageError)):
        return fault
    if isinstance(fault, FileNotFoundError):
        return UnreadableError("missing file")
    if isinstance(fault, PermissionError):
        return UnreadableError("no permission to read")
    said = (isinstance(fault, OSError) and fault.strerror) or " ".join(str(fault).split()) or type(fault).__name__
    return UnreadableError(f"unreadable: {said}")


@dataclass
class _Watched(io.RawIOBase):
    """Reads from `stream`; after a fault, which it keeps, there is no more."""

    stream: BinaryIO
    name: str
    faults: list[Exception] = field(default_factory=list)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = b"" if self.faults else self.stream.read(len(buffer))
        except Exception as fault:  # of whatever library brings the bytes
            self.faults.append(fault)
            return 0
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()
