"""The weights in an ONNX file, without another package: the file is a protocol buffer, of which little is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_GRAPH, _TENSOR = 7, 5  # fields of ModelProto and GraphProto
_DIMS, _TYPE, _FLOATS, _NAME, _RAW = 1, 2, 4, 8, 9  # of TensorProto
_FLOAT32 = 1


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> float32 array of every initializer of that type. ValueError for a file that is none of ONNX."""
    made = {}
    for _, graph in (field for field in _fields(memoryview(path.read_bytes())) if field[0] == _GRAPH):
        for _, tensor in (field for field in _fields(_bytes(graph)) if field[0] == _TENSOR):
            parts = list(_fields(_bytes(tensor)))
            if (_TYPE, _FLOAT32) not in parts:
                continue
            name = next(bytes(_bytes(value)).decode() for number, value in parts if number == _NAME)
            shape = [int(value) for number, value in parts if number == _DIMS and isinstance(value, int)]
            raw = b"".join(_bytes(value) for number, value in parts if number in (_RAW, _FLOATS))
            made[name] = np.frombuffer(raw, "<f4").reshape(shape)
    if not made:
        raise ValueError(f"{path} holds no weights")
    return made


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a message, in its order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if key & 7 not in (1, 2, 5):
            raise ValueError("this is no ONNX file")
        size, at = _varint(data, at) if key & 7 == 2 else (8 if key & 7 == 1 else 4, at)
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, lowest first, and where the next thing begins."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 128:
            return value, at
    raise ValueError("this is no ONNX file, or only a part of one")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("this is no ONNX file")
    return value
