"""One file of a tokenized corpus, mapped: an Arrow stream as `datasets` writes it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm.errors import UsageError


class Shard:
    """`table` views the file in place. UsageError where it is not there or cannot be read."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise UsageError(f"a shard is missing: {path}; run the tokenize_corpus.py command that made it again")
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.table = pa.ipc.open_stream(pa.py_buffer(self._map)).read_all()
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise UsageError(
                f"{path} is damaged ({error}); delete it and run the command that made it again"
            ) from error
        seal = (self.table.schema.metadata or {}).get(b"sha256")
        about = path.stat()
        self.content = seal.decode() if seal else f"{path.name} {about.st_size} {about.st_mtime_ns}"
        """What changes with its bytes: its seal, or of one that another program wrote size and time of change."""
        self.forget()

    def forget(self) -> None:
        """Give back the memory of pages that were read; they are read again where they are needed."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def frames(self, num_codebooks: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each record batch the codes `[sum T, K]`, not copied, and where its clips begin and end `[rows + 1]`.

        `.values` ignores an array's own slice, so both offsets (of the list and of the fixed-size list) are applied.
        """
        for column in self.table.column("codes").chunks:
            frames = column.values
            flat = numbers(frames.values)[frames.offset * num_codebooks :]
            yield flat[: len(frames) * num_codebooks].reshape(-1, num_codebooks), numbers(column.offsets)

    def num_samples(self) -> Iterator[np.ndarray]:
        for column in self.table.column("num_samples").chunks:
            yield numbers(column)


def numbers(array: pa.Array) -> np.ndarray:
    """An array of whole numbers, viewed. (`to_numpy` does the same, and imports pandas for it.)"""
    buffer = array.buffers()[1]
    dtype = array.type.to_pandas_dtype()
    return np.frombuffer(buffer, dtype, array.offset + len(array))[array.offset :] if buffer else np.zeros(0, dtype)
