"""Ids of clips as Arrow holds them: text in one buffer, places in another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_AT_ONCE = 1 << 16


class Ids(Sequence[str]):
    """A sequence of ids over Arrow arrays of strings; a Python string is made only where one is asked for."""

    def __init__(self, arrays: Sequence[pa.Array]):
        self._column = pa.chunked_array(arrays, arrays[0].type if arrays else pa.string())

    @classmethod
    def of(cls, ids: Sequence[str]) -> Ids:
        return ids if isinstance(ids, Ids) else cls([pa.array(ids, pa.large_string())])

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._column.take(pa.array(range(*index.indices(len(self))), pa.int64())).to_pylist()
        return self._column[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for array in self._column.chunks:
            for start in range(0, len(array), _AT_ONCE):
                yield from array.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def spans(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A few ids at a time, viewed: their UTF-8 bytes, uint8, and where each begins and the last ends, int64."""
        for array in self._column.chunks:
            for start in range(0, len(array), _AT_ONCE):
                part = array.slice(start, _AT_ONCE)
                _, places, text = part.buffers()
                width = np.int64 if pa.types.is_large_string(part.type) else np.int32
                offsets = np.frombuffer(places, width)[part.offset : part.offset + len(part) + 1].astype(np.int64)
                whole = np.frombuffer(text, np.uint8) if text is not None else np.zeros(0, np.uint8)
                yield whole[offsets[0] : offsets[-1]], offsets - offsets[0]
