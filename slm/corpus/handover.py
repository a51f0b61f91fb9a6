"""Clips on their way from the process that reads them to the one that encodes them: both map the same memory.

Sent through a pipe, samples would be copied again and again by a thread that keeps the one that encodes from its work.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from multiprocessing.reduction import DupFd
from typing import Any, BinaryIO, cast

import numpy as np

from slm.audio import joined
from slm.types import AudioClip

_SHARED_BYTES = 1 << 24  # a clip of more is read into memory of its own
_TOGETHER_BYTES = 1 << 20  # what takes less is sent as it is: a copy costs less than a mapping
_BYTES = np.dtype(np.float32).itemsize


class SharedSamples(np.ndarray):
    """Float32 samples `[N]` that are not copied where they are sent to another process: it gets the file of their
    memory, maps it, and sees a plain array. What is made of them (a part, a sum) is copied as ever."""

    _file: BinaryIO | None = None

    def __reduce__(self) -> Any:
        return super().__reduce__() if self._file is None else (_received, (DupFd(self._file.fileno()), len(self)))


class SentTogether(list[Any]):
    """Clips, and what stands for some of them, sent to another process with all their samples in one piece of memory.
    It gets a plain list."""

    def __reduce__(self) -> Any:
        short = [i for i, clip in enumerate(self) if _is_short(clip)]
        if sum(self[i].samples.nbytes for i in short) < _TOGETHER_BYTES:
            return list, (list(self),)
        bare = [replace(clip, samples=clip.samples[:0]) if _is_short(clip) else clip for clip in self]
        with _memory_file() as file:
            for i in short:
                file.write(np.ascontiguousarray(self[i].samples).data)
            file.flush()
            handle = DupFd(file.fileno())
        return _received_together, (bare, short, [len(self[i].samples) for i in short], handle)


def _is_short(clip: Any) -> bool:
    return isinstance(clip, AudioClip) and not isinstance(clip.samples, SharedSamples)


def _received_together(clips: list[Any], short: Sequence[int], lengths: Sequence[int], sent: Any) -> list[Any]:
    parts = np.split(_received(sent, sum(lengths)), np.cumsum(lengths)[:-1])
    for i, samples in zip(short, parts, strict=True):
        clips[i] = replace(clips[i], samples=samples)
    return clips


def gathered(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Float32 blocks as one array; as `SharedSamples` where they are long. Beside it one block at a time is held."""
    parts = iter(blocks)
    first: list[np.ndarray] = []
    num_bytes = 0
    for part in parts:
        first.append(part)
        num_bytes += part.nbytes
        if num_bytes > _SHARED_BYTES:
            return _shared(chain(first, parts))
    return joined(first)


def _shared(blocks: Iterable[np.ndarray]) -> np.ndarray:
    file = _memory_file()
    try:
        for block in blocks:
            file.write(block.data)
        file.flush()
        samples = _mapped(file.fileno(), file.tell() // _BYTES).view(SharedSamples)
    except BaseException:
        file.close()
        raise
    samples._file = file
    return samples


def _memory_file() -> BinaryIO:
    """A file without a name, which is gone with the last that holds it: in memory, or where the system has no such
    files (macOS) or forbids them, on disk."""
    with suppress(AttributeError, OSError):
        return os.fdopen(os.memfd_create("slm-samples", os.MFD_CLOEXEC), "w+b")
    return cast(BinaryIO, tempfile.TemporaryFile())


def _mapped(handle: int, num_samples: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(handle, num_samples * _BYTES), np.float32)


def _received(sent: Any, num_samples: int) -> np.ndarray:
    """In the other process: `sent` gives a file descriptor that is now its own."""
    handle = sent.detach()
    try:
        return _mapped(handle, num_samples)
    finally:
        os.close(handle)
