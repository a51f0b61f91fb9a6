"""Ids of clips as Arrow holds them: text in one buffer, places in another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

_AT_ONCE = 1 << 16


class Ids(Sequence[str]):
    """A sequence of ids over Arrow columns of strings; a Python string is made only where one is asked for."""

    def __init__(self, columns: Iterable[pa.ChunkedArray], forget: Sequence[Callable[[], None]] = ()):
        """`forget` is called, for each of the columns, once `spans` is through with it."""
        self._columns = list(columns)
        self._forget = forget
        self._firsts = np.cumsum([0, *map(len, self._columns)])

    @classmethod
    def of(cls, ids: Sequence[str]) -> Ids:
        return ids if isinstance(ids, Ids) else cls([pa.chunked_array([pa.array(ids, pa.large_string())])])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        column = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return self._columns[column][index - int(self._firsts[column])].as_py()

    def __iter__(self) -> Iterator[str]:
        for column in self._columns:
            for start in range(0, len(column), _AT_ONCE):
                yield from column.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def spans(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A few ids at a time, viewed: their UTF-8 bytes, uint8, and where each begins and the last ends, int64."""
        for column, forget in zip_longest(self._columns, self._forget):
            for array in column.chunks:
                for start in range(0, len(array), _AT_ONCE):
                    yield _span(array.slice(start, _AT_ONCE))
            if forget is not None:
                forget()


def _span(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    _, places, text = array.buffers()
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    offsets = np.frombuffer(places, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    whole = np.frombuffer(text, np.uint8) if text is not None else np.zeros(0, np.uint8)
    return whole[offsets[0] : offsets[-1]], offsets - offsets[0]
