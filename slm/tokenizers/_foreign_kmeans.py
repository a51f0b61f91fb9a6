"""Centroids out of the k-means files of fairseq, textlesslib and SpeechBrain, without executing their pickles.

Those files (`.bin`, `.km`, `.pt`) are scikit-learn objects dumped with joblib or pickle. joblib writes an array as a
record in the pickle stream, followed by the bytes of the array, inline: an ordinary unpickler loses its way there.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._checkpoints import Inert, InertUnpickler, read_tensors

if TYPE_CHECKING:
    import torch

_NAMES = ("cluster_centers_", "centroids", "cluster_centers")
_MAX_BYTES = 4 * 2**30  # of a file, unpacked: a k-means holds a few MB


def read_foreign_centroids(path: Path) -> torch.Tensor:
    """Centroids `[k, d]`, in the precision of the file: a scikit-learn k-means or array (joblib, also compressed, or
    pickle), a torch file of a tensor, or an array of NumPy (`.npy`, `.npz`). Nothing in the file is executed.
    UsageError where there are none."""
    import torch

    found = _centers(_read(path))
    if found is None:
        raise UsageError(
            f"{path} holds no centroids: expected a k-means of scikit-learn (joblib or pickle), or a file of torch or "
            f"NumPy with an array [k, d], bare or as {' or '.join(_NAMES)}"
        )
    centroids = torch.as_tensor(found).contiguous()
    if not torch.isfinite(centroids).all():
        raise UsageError(f"{path}: its centroids hold NaN or infinity")
    return centroids


def _read(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        return _read_numpy(path) if _is_npz(path) else read_tensors(path)
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            return _read_numpy(path)
    try:
        found = _ArrayUnpickler(io.BytesIO(_unpacked(path))).load()
    except Exception as error:  # whatever a stream of bytes that is no pickle leads to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} is neither safetensors nor a k-means file that can be read: {reason}") from error
    # A torch file of before 2020 starts with a number.
    return read_tensors(path) if isinstance(found, int) else found


def _is_npz(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _read_numpy(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no array of NumPy that can be read: {error}") from error


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, uncompressed where joblib compressed it."""
    import bz2
    import gzip
    import lzma
    import zlib

    packed = path.read_bytes()
    if packed[:1] == b"\x78":
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, _MAX_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError("it unpacks to more than 4 GB")
        return data
    openers: dict[bytes, Any] = {
        b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7zXZ": lzma.open, b"\x5d\x00": lzma.open
    }  # fmt: skip
    for magic, opener in openers.items():
        if packed.startswith(magic):
            with opener(io.BytesIO(packed)) as file:
                return bytes(file.read(_MAX_BYTES))
    return packed


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickles arrays, also those that joblib writes inline, and plain containers; all else becomes `Inert`.

    In Python, not C: it must read the stream itself, exactly where an array's record is finished.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    find_class = InertUnpickler.find_class  # type: ignore[assignment]

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream)
        self._stream = stream

    def load_build(self) -> None:
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]
        record = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(record, Inert) and record.name.endswith(".NumpyArrayWrapper"):
            self.stack[-1] = self._array(record.state)  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, record: Any) -> Any:
        """The array that follows its record: an alignment (one byte says how long, from joblib 1.2 on), its bytes."""
        dtype = record["dtype"]
        if dtype.hasobject:
            return type(self)(self._stream).load()
        if record.get("numpy_array_alignment_bytes") is not None:
            self._stream.read(self._stream.read(1)[0])
        size = int(np.prod(record["shape"], dtype=np.int64)) * dtype.itemsize
        data = self._stream.read(size)
        if len(data) < size:
            raise ValueError("the file ends within an array")
        return (
            np.frombuffer(data, dtype).reshape(record["shape"], order=record["order"]).astype(dtype.newbyteorder("="))
        )


def _centers(found: Any) -> Any:
    """The array or tensor `[k, d]` in what a file holds, or None."""
    if isinstance(found, Inert):
        found = vars(found).get("state")
    if isinstance(found, dict):
        for name in _NAMES:
            if name in found:
                return _centers(found[name])
        return None
    if isinstance(found, np.ndarray) and found.dtype.kind == "f":  # also in the byte order of another machine
        found = found.astype(np.float32 if found.dtype.itemsize <= 4 else np.float64)
    if getattr(found, "ndim", 0) != 2 or 0 in found.shape or "float" not in str(found.dtype):
        return None
    return found
